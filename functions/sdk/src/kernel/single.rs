//! Sums in `f32`: four bytes per element, about seven digits.
//!
//! Each term is rounded once, with its addition. The weight of bytes is `weight · scale`, rounded to an
//! `f32` first.

use super::lanes::F32x4;
use super::source::{LOAD, Source};
use super::updates::{Kind, Terms};
use super::{Fault, Place, Rule};
use crate::values::Values;
use core::marker::PhantomData;

struct Single;

/// Adds the elements of a dense encoding.
struct Dense<S>(PhantomData<S>);

/// Vectors of sums in a step.
const VECTORS: usize = LOAD / F32x4::LANES;

impl<S: Source> Rule for Dense<S> {
    type Input = S::Element;
    type Output = f32;
    type Weight = f32;
    type State = ();
    const STEP: usize = LOAD;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        (): (),
        place: Place<f32>,
        inputs: [*const S::Element; K],
        weights: &[f32; K],
    ) {
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = [F32x4::splat(0.0); VECTORS];
            if FROM {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = F32x4::load(place.source.add(vector * F32x4::LANES));
                }
            }
            for (input, weight) in inputs.iter().zip(weights) {
                let weight = F32x4::splat(*weight);
                for (sum, values) in sums.iter_mut().zip(S::load(*input)) {
                    *sum = sum.madd(values, weight);
                }
            }
            for (vector, sum) in sums.iter().enumerate() {
                sum.store(place.output.add(vector * F32x4::LANES));
            }
        }
    }
}

impl Kind for Single {
    type Output = f32;
    type Weight = f32;
    type State = ();
    type Dense<S: Source> = Dense<S>;

    fn scale(weight: f32, scale: f32) -> f32 {
        weight * scale
    }

    fn is_finite(weight: f32) -> bool {
        weight.is_finite()
    }

    #[inline(always)]
    fn add((): &mut (), sum: f32, value: f32, weight: f32) -> f32 {
        let [sum, value, weight] = [sum, value, weight].map(F32x4::splat);
        sum.madd(value, weight).first()
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
    output: &mut [f32],
    previous: Option<&[f32]>,
    inputs: &[Values<'_>],
    weights: &[f32],
    first_element: u64,
) -> Result<(), Fault> {
    let terms = Terms::<Single> {
        previous,
        inputs,
        weights,
        first_element,
    };
    terms.sum(output, (), |_, _, ()| Ok(()))
}
