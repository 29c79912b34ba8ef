//! Sums in `f64`: eight bytes per element, about sixteen digits.

use super::lanes::F64x2;
use super::{Rule, Terms, sum};
use core::convert::Infallible;

struct Weighted;
struct Plain;

const VECTORS: usize = 4;
const STEP: usize = VECTORS * F64x2::LANES;

/// # Safety
/// `STEP` elements must be valid at `source` if `FROM`.
#[inline(always)]
unsafe fn begin<const FROM: bool>(source: *const f64) -> [F64x2; VECTORS] {
    let mut sums = [F64x2::splat(0.0); VECTORS];
    if FROM {
        for (vector, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `VECTORS` vectors are the elements that the caller promises.
            *sum = unsafe { F64x2::load(source.add(vector * F64x2::LANES)) };
        }
    }
    sums
}

/// # Safety
/// `STEP` elements must be valid for writes at `output`.
#[inline(always)]
unsafe fn end(sums: [F64x2; VECTORS], output: *mut f64) {
    for (vector, sum) in sums.iter().enumerate() {
        // SAFETY: `VECTORS` vectors are the elements that the caller promises.
        unsafe { sum.store(output.add(vector * F64x2::LANES)) };
    }
}

impl Rule for Weighted {
    type Input = f32;
    type Output = f64;
    type Weight = f64;
    type State = ();
    const STEP: usize = STEP;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        (): (),
        output: *mut f64,
        source: *const f64,
        inputs: [*const f32; K],
        weights: &[f64; K],
    ) {
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(source);
            for (input, weight) in inputs.iter().zip(weights) {
                let weight = F64x2::splat(*weight);
                for (pair, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let values = F64x2::load_f32(input.add(pair * 2 * F64x2::LANES));
                    for (sum, values) in sums.iter_mut().zip(values) {
                        *sum = sum.madd(values, weight);
                    }
                }
            }
            end(sums, output);
        }
    }
}

impl Rule for Plain {
    type Input = f64;
    type Output = f64;
    type Weight = ();
    type State = ();
    const STEP: usize = STEP;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        (): (),
        output: *mut f64,
        source: *const f64,
        inputs: [*const f64; K],
        _: &[(); K],
    ) {
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(source);
            for input in inputs {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(F64x2::load(input.add(vector * F64x2::LANES)));
                }
            }
            end(sums, output);
        }
    }
}

/// `output = previous + Σ weight · input`, of inputs in `f32`.
///
/// # Panics
/// If the vectors differ in length, or the inputs and weights in number.
pub fn weighted_sum(
    output: &mut [f64],
    previous: Option<&[f64]>,
    inputs: &[&[f32]],
    weights: &[f64],
) {
    let terms = Terms::<Weighted> {
        previous,
        inputs,
        weights,
    };
    let Ok(()) = sum(output, &terms, (), |_, _, ()| Ok::<(), Infallible>(()));
}

/// `output = previous + Σ input`, of inputs in `f64`.
///
/// # Panics
/// If the vectors differ in length.
pub fn plain_sum(output: &mut [f64], previous: Option<&[f64]>, inputs: &[&[f64]]) {
    let terms = Terms::<Plain> {
        previous,
        inputs,
        weights: &alloc::vec![(); inputs.len()],
    };
    let Ok(()) = sum(output, &terms, (), |_, _, ()| Ok::<(), Infallible>(()));
}
