//! Sums in `f32`: four bytes per element, about seven digits.

use super::lanes::F32x4;
use super::{Rule, Terms, sum};
use core::convert::Infallible;

struct Single;

const VECTORS: usize = 4;

impl Rule for Single {
    type Input = f32;
    type Output = f32;
    type Weight = f32;
    type State = ();
    const STEP: usize = VECTORS * F32x4::LANES;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        (): (),
        output: *mut f32,
        source: *const f32,
        inputs: [*const f32; K],
        weights: &[f32; K],
    ) {
        let mut sums = [F32x4::splat(0.0); VECTORS];
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            if FROM {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = F32x4::load(source.add(vector * F32x4::LANES));
                }
            }
            for (input, weight) in inputs.iter().zip(weights) {
                let weight = F32x4::splat(*weight);
                for (vector, sum) in sums.iter_mut().enumerate() {
                    let values = F32x4::load(input.add(vector * F32x4::LANES));
                    *sum = sum.madd(values, weight);
                }
            }
            for (vector, sum) in sums.iter().enumerate() {
                sum.store(output.add(vector * F32x4::LANES));
            }
        }
    }
}

/// `output = previous + Σ weight · input`.
///
/// # Panics
/// If the vectors differ in length, or the inputs and weights in number.
pub fn weighted_sum(
    output: &mut [f32],
    previous: Option<&[f32]>,
    inputs: &[&[f32]],
    weights: &[f32],
) {
    let terms = Terms::<Single> {
        previous,
        inputs,
        weights,
    };
    let Ok(()) = sum(output, &terms, (), |_, _, ()| Ok::<(), Infallible>(()));
}
