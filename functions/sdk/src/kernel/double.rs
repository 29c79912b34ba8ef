//! Sums in `f64`: eight bytes per element, about sixteen digits.
//!
//! Each term is rounded once, with its addition. The weight of bytes is `weight · scale`, rounded to an
//! `f64` first.

use super::lanes::F64x2;
use super::source::{LOAD, Source};
use super::updates::{Kind, Terms};
use super::{Fault, Place, Rule};
use crate::values::Values;
use core::convert::Infallible;
use core::marker::PhantomData;

struct Double;

/// Adds the elements of a dense encoding.
struct Dense<S>(PhantomData<S>);

/// Adds sums.
struct Plain;

/// Vectors of sums in a step.
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

impl<S: Source> Rule for Dense<S> {
    type Input = S::Element;
    type Output = f64;
    type Weight = f64;
    type State = ();
    const STEP: usize = STEP;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        (): (),
        place: Place<f64>,
        inputs: [*const S::Element; K],
        weights: &[f64; K],
    ) {
        const { assert!(STEP == LOAD) };
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(place.source);
            for (input, weight) in inputs.iter().zip(weights) {
                let weight = F64x2::splat(*weight);
                let values = S::load(*input);
                for (sums, values) in sums.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    for (sum, values) in sums.iter_mut().zip(F64x2::widen(values)) {
                        *sum = sum.madd(values, weight);
                    }
                }
            }
            end(sums, place.output);
        }
    }
}

impl Kind for Double {
    type Output = f64;
    type Weight = f64;
    type State = ();
    type Dense<S: Source> = Dense<S>;

    fn scale(weight: f64, scale: f32) -> f64 {
        weight * f64::from(scale)
    }

    fn is_finite(weight: f64) -> bool {
        weight.is_finite()
    }

    #[inline(always)]
    fn add((): &mut (), sum: f64, value: f32, weight: f64) -> f64 {
        let [sum, value, weight] = [sum, f64::from(value), weight].map(F64x2::splat);
        sum.madd(value, weight).first()
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
        place: Place<f64>,
        inputs: [*const f64; K],
        _: &[(); K],
    ) {
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(place.source);
            for input in inputs {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(F64x2::load(input.add(vector * F64x2::LANES)));
                }
            }
            end(sums, place.output);
        }
    }
}

/// `output = previous + Σ weight · input`. Coordinate `first_element` of the model is the output's first
/// element.
///
/// # Errors
/// The table of an input is broken. The output is undefined then.
///
/// # Panics
/// If the vectors differ in length, or the inputs and weights in number.
pub fn weighted_sum(
    output: &mut [f64],
    previous: Option<&[f64]>,
    inputs: &[Values<'_>],
    weights: &[f64],
    first_element: u64,
) -> Result<(), Fault> {
    let terms = Terms::<Double> {
        previous,
        inputs,
        weights,
        first_element,
    };
    terms.sum(output, (), |_, _, ()| Ok(()))
}

/// `output = previous + Σ input`, of inputs in `f64`.
///
/// # Panics
/// If the vectors differ in length.
pub fn plain_sum(output: &mut [f64], previous: Option<&[f64]>, inputs: &[&[f64]]) {
    let Ok(()) = super::plain_sum::<Plain, _>(output, previous, inputs, (), |_, _, ()| {
        Ok::<(), Infallible>(())
    });
}
