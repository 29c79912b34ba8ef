//! Weighted sums of updates in any encoding.
//!
//! In each block, turns of up to [`TURN`] inputs that follow each other in one encoding: dense ones are
//! widened in registers, bytes are summed run by run, sparse ones are scattered into the block while it
//! lies in the cache. Nothing of a decoded update is ever written to memory.

use super::lanes::half;
use super::source::{AnyF16, Bf16, F16, F32, I8, Source, finite_halves};
use super::{BLOCK, Fault, Place, Rule, TURN, turn};
use crate::values::{Encoding, Run, Values};
use alloc::vec::Vec;
use bytemuck::Pod;
use core::ptr;

/// A kind of sum: its arithmetic in every encoding.
pub(super) trait Kind {
    /// An element of the accumulator.
    type Output: Pod;
    /// What an input is multiplied by.
    type Weight: Copy;
    /// What is learnt on the way.
    type State: Copy;
    /// How it adds the elements of a dense encoding.
    type Dense<S: Source>: Rule<Input = S::Element, Output = Self::Output, Weight = Self::Weight, State = Self::State>;

    /// The weight of bytes that have a scale: rounded once, to what weights are.
    fn scale(weight: Self::Weight, scale: f32) -> Self::Weight;

    /// Whether a weight is a number.
    fn is_finite(weight: Self::Weight) -> bool;

    /// The sum and one more value; the same instructions round it as a dense one.
    fn add(
        state: &mut Self::State,
        sum: Self::Output,
        value: f32,
        weight: Self::Weight,
    ) -> Self::Output;

    /// What a turn with these weights means for what has been learnt.
    fn judge(state: Self::State, _weights: &[Self::Weight]) -> Self::State {
        state
    }
}

/// What a sum is made of.
pub(super) struct Terms<'a, K: Kind> {
    pub(super) previous: Option<&'a [K::Output]>,
    pub(super) inputs: &'a [Values<'a>],
    pub(super) weights: &'a [K::Weight],
    /// The coordinate of the output's first element in the model.
    pub(super) first_element: u64,
}

/// How the binary16 of a block are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Halves {
    /// In the quick way, which is right for finite ones alone.
    Finite,
    /// In the quick way, which turned out to be wrong.
    NotAllFinite,
    /// In the way that is right for all.
    Any,
}

/// Inputs that are added together.
struct Turn {
    encoding: Encoding,
    first: usize,
    count: usize,
}

impl<K: Kind> Terms<'_, K> {
    /// Sums block by block. `judge` sees each block's first element, its place in the output and what
    /// was learnt of it.
    pub(super) fn sum(
        &self,
        output: &mut [K::Output],
        begin: K::State,
        mut judge: impl FnMut(usize, &mut [K::Output], K::State) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.check(output.len())?;
        let turns = self.turns();
        // How far each input's table has been read.
        let mut read = alloc::vec![0; self.inputs.len()];
        let mut read_before = read.clone();
        let mut start = 0;
        for block in output.chunks_mut(BLOCK) {
            read_before.copy_from_slice(&read);
            let mut halves = Halves::Finite;
            let mut state = self.block(begin, block, start, &turns, &mut read, &mut halves)?;
            if halves == Halves::NotAllFinite {
                // Once more, from the previous sum.
                read.copy_from_slice(&read_before);
                halves = Halves::Any;
                state = self.block(begin, block, start, &turns, &mut read, &mut halves)?;
            }
            judge(start, block, state)?;
            start += block.len();
        }
        self.check_pairs(&read)
    }

    /// Every vector has `len` elements, every input a weight and every table an entry to begin with.
    fn check(&self, len: usize) -> Result<(), Fault> {
        assert_eq!(self.inputs.len(), self.weights.len(), "a weight per input");
        assert!(
            self.inputs
                .iter()
                .all(|values| dense_len(values).is_none_or(|found| found == len))
                && self.previous.is_none_or(|previous| previous.len() == len),
            "vectors are of one length"
        );
        let broken = self.inputs.iter().position(|values| match values {
            Values::I8 { runs, .. } => {
                let begun = runs
                    .first()
                    .is_some_and(|run| u64::from(run.start) <= self.first_element);
                len > 0 && !begun
            }
            Values::Sparse {
                coordinates,
                values,
            } => coordinates.len() != values.len(),
            _ => false,
        });
        broken.map_or(Ok(()), |input| Err(Fault::Table { input }))
    }

    /// Every pair has found its block.
    fn check_pairs(&self, read: &[usize]) -> Result<(), Fault> {
        let left = self
            .inputs
            .iter()
            .zip(read)
            .position(|(values, read)| match values {
                Values::Sparse { coordinates, .. } => *read < coordinates.len(),
                _ => false,
            });
        left.map_or(Ok(()), |input| Err(Fault::Table { input }))
    }

    fn turns(&self) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::with_capacity(self.inputs.len());
        for (first, values) in self.inputs.iter().enumerate() {
            let encoding = values.encoding();
            let open = turns.last_mut().filter(|turn| {
                turn.encoding == encoding && turn.count < TURN && encoding != Encoding::Sparse
            });
            match open {
                Some(turn) => turn.count += 1,
                None => turns.push(Turn {
                    encoding,
                    first,
                    count: 1,
                }),
            }
        }
        turns
    }

    fn block(
        &self,
        mut state: K::State,
        block: &mut [K::Output],
        start: usize,
        turns: &[Turn],
        read: &mut [usize],
        halves: &mut Halves,
    ) -> Result<K::State, Fault> {
        let mut part = Part {
            place: Place {
                output: block.as_mut_ptr(),
                source: self
                    .previous
                    .map_or(ptr::null(), |previous| previous[start..].as_ptr()),
            },
            start,
            len: block.len(),
        };
        for turn in turns {
            let inputs = turn.first..turn.first + turn.count;
            let read = &mut read[inputs.clone()];
            let group = Group::<K> {
                inputs: &self.inputs[inputs.clone()],
                weights: &self.weights[inputs],
                first: turn.first,
            };
            // SAFETY: every vector is as long as the output (see `check`), so `block.len()` elements lie
            // at `start`; the inputs of a turn are of its encoding.
            state = unsafe {
                match turn.encoding {
                    Encoding::F32 => group.dense::<F32>(state, part, group.weights),
                    Encoding::F16 => group.halves(state, part, halves),
                    Encoding::Bf16 => group.dense::<Bf16>(state, part, group.weights),
                    Encoding::I8 => group.runs(state, part, self.first_element, read)?,
                    Encoding::Sparse => group.pairs(state, part, self.first_element, read),
                }
            };
            part.place.source = part.place.output;
        }
        Ok(state)
    }
}

/// Elements in a row: those of a block, or some of them.
struct Part<T> {
    place: Place<T>,
    /// The first one's place in the output.
    start: usize,
    len: usize,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

/// The inputs of a turn.
struct Group<'a, K: Kind> {
    inputs: &'a [Values<'a>],
    weights: &'a [K::Weight],
    /// Which input of the call the first one is.
    first: usize,
}

impl<K: Kind> Group<'_, K> {
    /// # Safety
    /// The part's place and every input, from the part's start on, must have `part.len` elements, and
    /// the inputs be encoded as `S` says.
    #[inline]
    unsafe fn dense<S: Source>(
        &self,
        state: K::State,
        part: Part<K::Output>,
        weights: &[K::Weight],
    ) -> K::State {
        let pointers = self
            .inputs
            .iter()
            .map(|values| S::elements(values)[part.start..].as_ptr());
        // SAFETY: passed on.
        let state = unsafe { turn::<K::Dense<S>>(state, part.place, pointers, weights, part.len) };
        K::judge(state, weights)
    }

    /// Adds binary16: as a rule in the quick way, which takes finite values and weights that can be
    /// multiplied by 2^112.
    ///
    /// # Safety
    /// As for [`Group::dense`], with binary16.
    unsafe fn halves(
        &self,
        state: K::State,
        part: Part<K::Output>,
        halves: &mut Halves,
    ) -> K::State {
        let count = self.inputs.len();
        let mut weights = [self.weights[0]; TURN];
        for (scaled, weight) in weights.iter_mut().zip(self.weights) {
            *scaled = K::scale(*weight, half::REBIAS);
        }
        let weights = &weights[..count];
        if *halves == Halves::Any || !weights.iter().all(|weight| K::is_finite(*weight)) {
            // SAFETY: passed on.
            return unsafe { self.dense::<AnyF16>(state, part, self.weights) };
        }
        // SAFETY: passed on.
        let state = unsafe { self.dense::<F16>(state, part, weights) };
        // Afterwards, because the values lie in the cache then: beforehand was measured to take twice as
        // long.
        let range = part.start..part.start + part.len;
        if !self
            .inputs
            .iter()
            .all(|values| finite_halves(values, range.clone()))
        {
            *halves = Halves::NotAllFinite;
        }
        state
    }

    /// Adds bytes, from one end of a run to the next.
    ///
    /// # Safety
    /// As for [`Group::dense`], with bytes.
    unsafe fn runs(
        &self,
        mut state: K::State,
        part: Part<K::Output>,
        first_element: u64,
        read: &mut [usize],
    ) -> Result<K::State, Fault> {
        let mut weights = [self.weights[0]; TURN];
        let mut done = 0;
        while done < part.len {
            let at = first_element + (part.start + done) as u64;
            let mut len = part.len - done;
            for (input, read) in read.iter_mut().enumerate() {
                let (scale, left) = run_at(&self.inputs[input], at, read).ok_or(Fault::Table {
                    input: self.first + input,
                })?;
                weights[input] = K::scale(self.weights[input], scale);
                len = left.map_or(len, |left| len.min(left));
            }
            let piece = Part {
                place: part.place.skip(done),
                start: part.start + done,
                len,
            };
            // SAFETY: the piece lies in the part.
            state = unsafe { self.dense::<I8>(state, piece, &weights[..self.inputs.len()]) };
            done += len;
        }
        Ok(state)
    }

    /// Adds pairs, where they belong in the part.
    ///
    /// # Safety
    /// The part's place must have `part.len` elements.
    unsafe fn pairs(
        &self,
        mut state: K::State,
        part: Part<K::Output>,
        first_element: u64,
        read: &mut [usize],
    ) -> K::State {
        // SAFETY: the place has `part.len` elements, and its source is the output or disjoint from it. The
        // output is not read before it has been written.
        let sums = unsafe {
            if part.place.source.is_null() {
                part.place.output.write_bytes(0, part.len);
            } else if !ptr::eq(part.place.source, part.place.output) {
                ptr::copy_nonoverlapping(part.place.source, part.place.output, part.len);
            }
            core::slice::from_raw_parts_mut(part.place.output, part.len)
        };
        let start = first_element + part.start as u64;
        for ((values, weight), read) in self.inputs.iter().zip(self.weights).zip(read) {
            let Values::Sparse {
                coordinates,
                values,
            } = values
            else {
                continue;
            };
            let left = *read..;
            for (coordinate, value) in coordinates[left.clone()].iter().zip(&values[left]) {
                // One before the part, as of a table that does not ascend, is beyond it as well.
                let place = u64::from(*coordinate).wrapping_sub(start);
                let Some(sum) = usize::try_from(place).ok().and_then(|at| sums.get_mut(at)) else {
                    break;
                };
                *sum = K::add(&mut state, *sum, *value, *weight);
                *read += 1;
            }
        }
        state
    }
}

/// The scale at a coordinate, and the elements left to where it ends: none if it is the last. `read` is
/// the run it was found in before. `None` if the runs do not ascend.
fn run_at(values: &Values<'_>, at: u64, read: &mut usize) -> Option<(f32, Option<usize>)> {
    let Values::I8 { runs, .. } = values else {
        return None;
    };
    let mut run: &Run = runs.get(*read)?;
    loop {
        let Some(next) = runs.get(*read + 1) else {
            return Some((run.scale, None));
        };
        if next.start <= run.start {
            return None;
        }
        if u64::from(next.start) > at {
            return Some((run.scale, Some((u64::from(next.start) - at) as usize)));
        }
        *read += 1;
        run = next;
    }
}

fn dense_len(values: &Values<'_>) -> Option<usize> {
    match values {
        Values::F32(values) => Some(values.len()),
        Values::F16(values) | Values::Bf16(values) => Some(values.len()),
        Values::I8 { values, .. } => Some(values.len()),
        Values::Sparse { .. } => None,
    }
}
