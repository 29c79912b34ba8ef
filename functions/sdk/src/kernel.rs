//! Sums of many vectors in one pass over memory.
//!
//! Aggregation is bound by memory: adding one input at a time reads and writes the accumulator once per
//! input, which halves the speed. So a sum takes all inputs of a call at once, in blocks small enough
//! that the block of the accumulator stays in the first-level cache, and in each block up to four inputs
//! per turn, whose weights fit into the sixteen registers beside the sums. The accumulator's memory is read once (the
//! previous partial) and written once (the new one).
//!
//! Every element is summed on its own, in the order of the inputs: where an element lies, how long the
//! vector is and how many inputs are taken per turn change no bit of the result.
//!
//! [`single`] sums in `f32`, [`double`] in `f64`, [`exact`] in fixed point. The vector instructions are
//! in `lanes`; without `simd128` and `relaxed-simd` the same code runs on plain Rust.

mod lanes;

pub mod double;
pub mod exact;
pub mod single;

use bytemuck::{Pod, Zeroable};
use core::array;
use core::ptr;

/// Elements of a block: the accumulator's part of it is 4 or 8 KiB.
const BLOCK: usize = 1024;
/// The most inputs that one turn takes. Eight would spill weights: measured a third slower on sums in
/// `f64` and fixed point.
const TURN: usize = 4;
/// The most elements that a step takes.
const STEP_MAX: usize = 16;

/// How a kind of sum adds inputs to an accumulator.
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

    /// Writes `STEP` elements: `source` (zero if not `FROM`) plus the weighted inputs, in their order.
    ///
    /// # Safety
    /// `output` must be valid for writes, the inputs, and `source` if `FROM`, for reads of `STEP`
    /// elements. `source` may be `output`.
    unsafe fn step<const K: usize, const FROM: bool>(
        state: Self::State,
        output: *mut Self::Output,
        source: *const Self::Output,
        inputs: [*const Self::Input; K],
        weights: &[Self::Weight; K],
    ) -> Self::State;
}

/// What a sum is made of.
struct Terms<'a, R: Rule> {
    previous: Option<&'a [R::Output]>,
    inputs: &'a [&'a [R::Input]],
    weights: &'a [R::Weight],
}

impl<R: Rule> Terms<'_, R> {
    /// Every vector has `len` elements and every input has a weight.
    fn check(&self, len: usize) {
        assert_eq!(self.inputs.len(), self.weights.len(), "a weight per input");
        let whole = |input: &&[R::Input]| input.len() == len;
        assert!(self.inputs.iter().all(whole), "vectors are of one length");
        assert!(self.previous.is_none_or(|previous| previous.len() == len));
    }
}

/// Sums the blocks of `output` one after another. `judge` sees each block's first element, its place
/// in the output and what was learnt of it.
fn sum<R: Rule, E>(
    output: &mut [R::Output],
    terms: &Terms<'_, R>,
    begin: R::State,
    mut judge: impl FnMut(usize, &mut [R::Output], R::State) -> Result<(), E>,
) -> Result<(), E> {
    terms.check(output.len());
    let mut start = 0;
    for block in output.chunks_mut(BLOCK) {
        // SAFETY: every vector is as long as the output, so `block.len()` elements lie at `start`.
        let state = unsafe { sum_block(begin, block, terms, start) };
        judge(start, block, state)?;
        start += block.len();
    }
    Ok(())
}

/// # Safety
/// Every vector of `terms` must have `block.len()` elements from `start` on.
unsafe fn sum_block<R: Rule>(
    mut state: R::State,
    block: &mut [R::Output],
    terms: &Terms<'_, R>,
    start: usize,
) -> R::State {
    let len = block.len();
    let output = block.as_mut_ptr();
    let mut source = match terms.previous {
        // SAFETY: in bounds, as the caller promises.
        Some(previous) => unsafe { previous.as_ptr().add(start) },
        None => ptr::null(),
    };
    let turns = terms.inputs.chunks(TURN).zip(terms.weights.chunks(TURN));
    for (inputs, weights) in turns {
        // SAFETY: as the caller promises; a turn has 1 to `TURN` inputs, and as many weights.
        state = unsafe {
            match inputs.len() {
                1 => turn::<R, 1>(state, output, source, inputs, weights, start, len),
                2 => turn::<R, 2>(state, output, source, inputs, weights, start, len),
                3 => turn::<R, 3>(state, output, source, inputs, weights, start, len),
                _ => turn::<R, 4>(state, output, source, inputs, weights, start, len),
            }
        };
        source = output;
    }
    state
}

/// # Safety
/// There must be `K` inputs and weights; `len` elements must be valid at `output`, at `source` unless
/// it is null, and at `start` of every input.
unsafe fn turn<R: Rule, const K: usize>(
    state: R::State,
    output: *mut R::Output,
    source: *const R::Output,
    inputs: &[&[R::Input]],
    weights: &[R::Weight],
    start: usize,
    len: usize,
) -> R::State {
    let inputs: [*const R::Input; K] =
        // SAFETY: in bounds, as the caller promises.
        array::from_fn(|input| unsafe { inputs[input].as_ptr().add(start) });
    let weights: [R::Weight; K] = array::from_fn(|input| weights[input]);
    // SAFETY: passed on.
    unsafe {
        if source.is_null() {
            run::<R, K, false>(state, output, source, inputs, &weights, len)
        } else {
            run::<R, K, true>(state, output, source, inputs, &weights, len)
        }
    }
}

/// # Safety
/// `len` elements must be valid at `output`, at every input, and at `source` if `FROM`.
#[inline(always)]
unsafe fn run<R: Rule, const K: usize, const FROM: bool>(
    mut state: R::State,
    output: *mut R::Output,
    source: *const R::Output,
    inputs: [*const R::Input; K],
    weights: &[R::Weight; K],
    len: usize,
) -> R::State {
    let mut at = 0;
    while at + R::STEP <= len {
        let inputs = inputs.map(|input| input.wrapping_add(at));
        // SAFETY: `STEP` elements from `at` on are within the `len` that the caller promises.
        state = unsafe {
            R::step::<K, FROM>(
                state,
                output.wrapping_add(at),
                source.wrapping_add(at),
                inputs,
                weights,
            )
        };
        at += R::STEP;
    }
    if at < len {
        let inputs = inputs.map(|input| input.wrapping_add(at));
        let (output, source) = (output.wrapping_add(at), source.wrapping_add(at));
        // SAFETY: `len - at` elements are left of the `len` that the caller promises.
        state = unsafe { tail::<R, K, FROM>(state, output, source, inputs, weights, len - at) };
    }
    state
}

/// The elements that no step divides take a step on copies, padded with zeros: the same instructions
/// round them as all the others.
///
/// # Safety
/// As for [`run`], with a `len` below `STEP`.
#[cold]
unsafe fn tail<R: Rule, const K: usize, const FROM: bool>(
    state: R::State,
    output: *mut R::Output,
    source: *const R::Output,
    inputs: [*const R::Input; K],
    weights: &[R::Weight; K],
    len: usize,
) -> R::State {
    let mut input_copies = [[R::Input::zeroed(); STEP_MAX]; K];
    let mut copy = [R::Output::zeroed(); STEP_MAX];
    // SAFETY: `len` is below `STEP_MAX`, and valid at the sources as the caller promises.
    unsafe {
        for (copy, input) in input_copies.iter_mut().zip(inputs) {
            ptr::copy_nonoverlapping(input, copy.as_mut_ptr(), len);
        }
        if FROM {
            ptr::copy_nonoverlapping(source, copy.as_mut_ptr(), len);
        }
    }
    let inputs = input_copies.each_ref().map(|copy| copy.as_ptr());
    let place = copy.as_mut_ptr();
    // SAFETY: the copies hold `STEP_MAX` elements, at least `STEP`.
    let state = unsafe { R::step::<K, FROM>(state, place, place, inputs, weights) };
    // SAFETY: `len` elements are valid at `output` as the caller promises.
    unsafe { ptr::copy_nonoverlapping(copy.as_ptr(), output, len) };
    state
}
