//! Sums of many vectors in one pass over memory.
//!
//! Aggregation is bound by memory: adding one input at a time reads and writes the accumulator once per
//! input, which halves the speed. So a sum takes all inputs of a call at once, in blocks small enough
//! that the block of the accumulator stays in the first-level cache, and in each block up to four inputs
//! per turn, whose weights fit into the sixteen registers beside the sums. The accumulator's memory is
//! read once (the previous partial) and written once (the new one).
//!
//! Updates may be written in any encoding, and each in its own: see `updates`.
//!
//! Every element is summed on its own, in the order of the inputs: where an element lies, how long the
//! vector is, how many inputs are taken per turn and which encodings stand beside each other change no
//! bit of the result.
//!
//! [`single`] sums in `f32`, [`double`] in `f64`, [`exact`] in fixed point. The vector instructions are
//! in `lanes`; without `simd128` and `relaxed-simd` the same code runs on plain Rust.

mod lanes;
mod source;
mod updates;

pub mod double;
pub mod exact;
pub mod single;

use bytemuck::{Pod, Zeroable};
use core::array;
use core::ptr;

/// Elements of a block: the accumulator's part of it is 8 or 16 KiB. A turn reads as much of each input in a row, and
/// longer rows are read ahead better; twice as much would not leave room in a cache of 32 KiB.
const BLOCK: usize = 2048;
/// The most inputs that one turn takes. Eight would spill weights: measured a third slower on sums in
/// `f64` and fixed point.
const TURN: usize = 4;
/// The most elements that a step takes.
const STEP_MAX: usize = 8;
/// Steps between two looks at the end of a run.
const STRIDE: usize = 4;

/// Why a sum could not be formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A term or a sum is not within -2^62..2^62. Of exact sums alone.
    Overflow {
        /// The first element concerned.
        element: usize,
    },
    /// A value is infinite or not a number. Of exact sums alone.
    NotFinite {
        /// The first element concerned.
        element: usize,
        /// Which input.
        input: usize,
    },
    /// The scale runs or coordinates of an input do not ascend, or not all of them lie in the range.
    Table {
        /// Which input.
        input: usize,
    },
}

/// How a kind of sum adds inputs of one type to an accumulator.
trait Rule {
    /// An element of an input.
    type Input: Pod;
    /// An element of the accumulator.
    type Output: Pod;
    /// What an input is multiplied by; the unit where it is not.
    type Weight: Copy;
    /// What is learnt on the way, such as whether a number left its range.
    type State: Copy;
    /// Elements per step; it divides [`BLOCK`] and is at most [`STEP_MAX`].
    const STEP: usize;

    /// Writes `STEP` elements: `place.source` (zero if not `FROM`) plus the weighted inputs, in their
    /// order.
    ///
    /// # Safety
    /// `place` and every input must have `STEP` elements.
    unsafe fn step<const K: usize, const FROM: bool>(
        state: Self::State,
        place: Place<Self::Output>,
        inputs: [*const Self::Input; K],
        weights: &[Self::Weight; K],
    ) -> Self::State;
}

/// Where elements of the accumulator are read and written.
///
/// A place *has* `n` elements if as many are valid for writes at `output`, and for reads at `source`
/// where that is read. The source is the output itself once something has been summed there.
struct Place<T> {
    output: *mut T,
    /// Null: zeros.
    source: *const T,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Place<T> {}

impl<T> Place<T> {
    /// The place of the elements from `elements` on.
    fn skip(self, elements: usize) -> Self {
        if self.source.is_null() {
            let output = self.output.wrapping_add(elements);
            return Self { output, ..self };
        }
        self.step(elements)
    }

    /// As [`Place::skip`], where the source is known to be there or not to be read.
    #[inline(always)]
    fn step(self, elements: usize) -> Self {
        Self {
            output: self.output.wrapping_add(elements),
            source: self.source.wrapping_add(elements),
        }
    }
}

/// Sums inputs of the accumulator's kind, unweighted, block by block. `judge` sees each block's first
/// element, its place in the output and what was learnt of it.
fn plain_sum<R: Rule<Weight = ()>, E>(
    output: &mut [R::Output],
    previous: Option<&[R::Output]>,
    inputs: &[&[R::Input]],
    begin: R::State,
    mut judge: impl FnMut(usize, &mut [R::Output], R::State) -> Result<(), E>,
) -> Result<(), E> {
    let len = output.len();
    assert!(
        inputs.iter().all(|input| input.len() == len)
            && previous.is_none_or(|previous| previous.len() == len),
        "vectors are of one length"
    );
    let mut start = 0;
    for block in output.chunks_mut(BLOCK) {
        let mut place = Place {
            output: block.as_mut_ptr(),
            source: previous.map_or(ptr::null(), |previous| previous[start..].as_ptr()),
        };
        let mut state = begin;
        for inputs in inputs.chunks(TURN) {
            let pointers = inputs.iter().map(|input| input[start..].as_ptr());
            // SAFETY: every vector is as long as the output, so `block.len()` elements lie at `start`.
            state = unsafe { turn::<R>(state, place, pointers, &[(); TURN], block.len()) };
            place.source = place.output;
        }
        judge(start, block, state)?;
        start += block.len();
    }
    Ok(())
}

/// Adds 1 to [`TURN`] inputs.
///
/// # Safety
/// `place` and every input must have `len` elements. There must be a weight for each input.
unsafe fn turn<R: Rule>(
    state: R::State,
    place: Place<R::Output>,
    inputs: impl ExactSizeIterator<Item = *const R::Input>,
    weights: &[R::Weight],
    len: usize,
) -> R::State {
    // SAFETY: passed on.
    unsafe {
        match inputs.len() {
            1 => run_with::<R, 1>(state, place, inputs, weights, len),
            2 => run_with::<R, 2>(state, place, inputs, weights, len),
            3 => run_with::<R, 3>(state, place, inputs, weights, len),
            _ => run_with::<R, 4>(state, place, inputs, weights, len),
        }
    }
}

/// # Safety
/// As for [`turn`], with `K` inputs.
unsafe fn run_with<R: Rule, const K: usize>(
    state: R::State,
    place: Place<R::Output>,
    mut inputs: impl Iterator<Item = *const R::Input>,
    weights: &[R::Weight],
    len: usize,
) -> R::State {
    let inputs = array::from_fn(|_| inputs.next().unwrap_or(ptr::null()));
    let weights: [R::Weight; K] = array::from_fn(|input| weights[input]);
    // SAFETY: passed on.
    unsafe {
        if place.source.is_null() {
            run::<R, K, false>(state, place, inputs, &weights, len)
        } else {
            run::<R, K, true>(state, place, inputs, &weights, len)
        }
    }
}

/// A function of its own for each kind, number and source, so that each has all registers.
///
/// # Safety
/// `place` and every input must have `len` elements; the source is read if `FROM`.
#[inline(never)]
unsafe fn run<R: Rule, const K: usize, const FROM: bool>(
    mut state: R::State,
    place: Place<R::Output>,
    inputs: [*const R::Input; K],
    weights: &[R::Weight; K],
    len: usize,
) -> R::State {
    let step = |state, at| {
        let inputs = inputs.map(|input| input.wrapping_add(at));
        // SAFETY: `STEP` elements from `at` on are within the `len` that the caller promises, see below.
        unsafe { R::step::<K, FROM>(state, place.step(at), inputs, weights) }
    };
    let mut at = 0;
    while at + STRIDE * R::STEP <= len {
        // Several steps, because the host looks at the clock once in every turn of a loop, and for that
        // the compiler puts all vectors aside. One after another: what one stores stands before what the
        // next one loads, so that no more is loaded at a time than there are registers.
        state = step(state, at);
        state = step(state, at + R::STEP);
        state = step(state, at + 2 * R::STEP);
        state = step(state, at + 3 * R::STEP);
        at += STRIDE * R::STEP;
    }
    if at < len {
        let inputs = inputs.map(|input| input.wrapping_add(at));
        // SAFETY: `len - at` elements are left of the `len` that the caller promises.
        state = unsafe { rest::<R, K, FROM>(state, place.step(at), inputs, weights, len - at) };
    }
    state
}

/// The elements that no stride divides.
///
/// # Safety
/// As for [`run`].
#[cold]
#[inline(never)]
unsafe fn rest<R: Rule, const K: usize, const FROM: bool>(
    mut state: R::State,
    place: Place<R::Output>,
    inputs: [*const R::Input; K],
    weights: &[R::Weight; K],
    len: usize,
) -> R::State {
    let mut at = 0;
    while at < len {
        let inputs = inputs.map(|input| input.wrapping_add(at));
        let left = R::STEP.min(len - at);
        // SAFETY: `left` elements from `at` on are within the `len` that the caller promises.
        state = unsafe { padded::<R, K, FROM>(state, place.step(at), inputs, weights, left) };
        at += left;
    }
    state
}

/// At most one step, on copies that are padded with zeros: the same instructions round these elements as
/// all the others.
///
/// # Safety
/// As for [`run`], with a `len` of at most `STEP`.
unsafe fn padded<R: Rule, const K: usize, const FROM: bool>(
    state: R::State,
    place: Place<R::Output>,
    inputs: [*const R::Input; K],
    weights: &[R::Weight; K],
    len: usize,
) -> R::State {
    let mut input_copies = [[R::Input::zeroed(); STEP_MAX]; K];
    let mut copy = [R::Output::zeroed(); STEP_MAX];
    // SAFETY: `len` is at most `STEP_MAX`, and valid at the sources as the caller promises.
    unsafe {
        for (copy, input) in input_copies.iter_mut().zip(inputs) {
            ptr::copy_nonoverlapping(input, copy.as_mut_ptr(), len);
        }
        if FROM {
            ptr::copy_nonoverlapping(place.source, copy.as_mut_ptr(), len);
        }
    }
    let inputs = input_copies.each_ref().map(|copy| copy.as_ptr());
    let output = copy.as_mut_ptr();
    let padded = Place {
        output,
        source: output,
    };
    // SAFETY: the copies hold `STEP_MAX` elements, at least `STEP`.
    let state = unsafe { R::step::<K, FROM>(state, padded, inputs, weights) };
    // SAFETY: `len` elements are valid at `output` as the caller promises.
    unsafe { ptr::copy_nonoverlapping(copy.as_ptr(), place.output, len) };
    state
}
