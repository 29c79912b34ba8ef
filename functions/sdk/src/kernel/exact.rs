//! Sums in 64-bit fixed point: eight bytes per element, the same bits in any order and any tree.
//!
//! Each input contributes an integer that depends on nothing but its value and its weight:
//! `round(value · weight)`, to the nearest and of two to the even one, where the weight is an integer
//! already (see [`quantise`]); of bytes, the weight is `weight · scale`, rounded to an `f64`. Integers add up to the same sum in any order. A term or a sum that is not
//! within -2^62..2^62 is an error, never a wrong number: sums of two that are do not wrap around, so no
//! overflow goes unseen.
//!
//! WASM has no vector instruction that turns `f64` into `i64`. But adding 1.5·2^52 to a number below
//! 2^51 leaves its rounded integer in the low bits of the sum, so a block is first summed that way
//! while the largest value is watched; a block with a value too large is summed again one by one.

use super::lanes::{F64x2, I64x2, Magnitude, half};
use super::source::{LOAD, Source};
use super::updates::{Kind, Terms};
use super::{Fault, Place, Rule};
use crate::values::Values;
use alloc::vec::Vec;
use core::marker::PhantomData;

/// Terms and sums lie within `-LIMIT..LIMIT`.
const LIMIT: i64 = 1 << 62;
/// The first magnitude that the fast way cannot round.
const FAST_LIMIT: f64 = (1_u64 << 51) as f64;
/// Adding it shifts the integer part of a small number into the low bits.
const MAGIC: f64 = (3_u64 << 51) as f64;

const VECTORS: usize = 4;
const STEP: usize = VECTORS * I64x2::LANES;

/// `value · 2^bits`, rounded to the nearest integer, of two to the even one; `None` if that is 2^62 or
/// more in absolute value or no number.
#[must_use]
pub fn quantise(value: f64, bits: u32) -> Option<i64> {
    debug_assert!(bits < 1023);
    let scale = f64::from_bits(u64::from(1023 + bits) << 52);
    round(value * scale)
}

/// The sum of two numbers in fixed point; `None` if it is not within -2^62..2^62.
#[must_use]
pub fn add(left: i64, right: i64) -> Option<i64> {
    let sum = left.checked_add(right)?;
    (-LIMIT..LIMIT).contains(&sum).then_some(sum)
}

/// Rounds to the nearest integer, of two to the even one.
fn round(value: f64) -> Option<i64> {
    /// From here on every `f64` is an integer.
    const WHOLE: f64 = (1_u64 << 52) as f64;
    if value.is_nan() || value.abs() >= LIMIT as f64 {
        return None;
    }
    let whole = if value.abs() >= WHOLE {
        value
    } else if value < 0.0 {
        (value - WHOLE) + WHOLE
    } else {
        (value + WHOLE) - WHOLE
    };
    Some(whole as i64)
}

struct Exact;

/// Adds the elements of a dense encoding.
struct Dense<S>(PhantomData<S>);

/// Adds sums.
struct Plain;

/// What is learnt of a block.
#[derive(Clone, Copy)]
struct Seen {
    inputs: Magnitude,
    /// Negative in a lane where a sum left its range, or where a value was too large for the fast way.
    range: I64x2,
}

impl Seen {
    fn nothing() -> Self {
        Self {
            inputs: Magnitude::none(),
            range: I64x2::splat(0),
        }
    }

    /// Takes note of a sum that has not wrapped around: in range, the sum plus 2^62 is not negative
    /// as a 64-bit number.
    #[inline(always)]
    fn note(&mut self, sum: I64x2) {
        self.range = self.range.or(sum.add(I64x2::splat(LIMIT)));
    }

    /// Has the block summed one by one.
    fn doubt(&mut self) {
        self.range = I64x2::splat(-1);
    }
}

/// # Safety
/// `STEP` elements must be valid at `source` if `FROM`.
#[inline(always)]
unsafe fn begin<const FROM: bool>(source: *const i64) -> [I64x2; VECTORS] {
    let mut sums = [I64x2::splat(0); VECTORS];
    if FROM {
        for (vector, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `VECTORS` vectors are the elements that the caller promises.
            *sum = unsafe { I64x2::load(source.add(vector * I64x2::LANES)) };
        }
    }
    sums
}

/// # Safety
/// `STEP` elements must be valid for writes at `output`.
#[inline(always)]
unsafe fn end(sums: [I64x2; VECTORS], output: *mut i64) {
    for (vector, sum) in sums.iter().enumerate() {
        // SAFETY: `VECTORS` vectors are the elements that the caller promises.
        unsafe { sum.store(output.add(vector * I64x2::LANES)) };
    }
}

impl<S: Source> Rule for Dense<S> {
    type Input = S::Element;
    type Output = i64;
    type Weight = f64;
    type State = Seen;
    const STEP: usize = STEP;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        mut seen: Seen,
        place: Place<i64>,
        inputs: [*const S::Element; K],
        weights: &[f64; K],
    ) -> Seen {
        const { assert!(STEP == LOAD) };
        // Each of the `K` terms brings the bits of `MAGIC` along: take them away beforehand.
        let correction = (MAGIC.to_bits() as i64).wrapping_mul(K as i64);
        let correction = I64x2::splat(correction.wrapping_neg());
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(place.source).map(|sum| sum.add(correction));
            for (input, weight) in inputs.iter().zip(weights) {
                let weight = F64x2::splat(*weight);
                let values = S::load(*input);
                for (sums, values) in sums.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    seen.inputs = seen.inputs.see(values);
                    for (sum, values) in sums.iter_mut().zip(F64x2::widen(values)) {
                        let shifted = values.mul(weight).add(F64x2::splat(MAGIC));
                        *sum = sum.add(shifted.bits());
                    }
                }
            }
            for sum in sums {
                seen.note(sum);
            }
            end(sums, place.output);
        }
        seen
    }
}

impl Kind for Exact {
    type Output = i64;
    type Weight = f64;
    type State = Seen;
    type Dense<S: Source> = Dense<S>;

    fn scale(weight: f64, scale: f32) -> f64 {
        weight * f64::from(scale)
    }

    fn is_finite(weight: f64) -> bool {
        weight.is_finite()
    }

    fn add(seen: &mut Seen, sum: i64, value: f32, weight: f64) -> i64 {
        match round(f64::from(value) * weight).and_then(|term| add(sum, term)) {
            Some(sum) => sum,
            None => {
                seen.doubt();
                sum
            }
        }
    }

    fn judge(mut seen: Seen, weights: &[f64]) -> Seen {
        let heaviest = weights
            .iter()
            .fold(0.0_f64, |most, weight| most.max(weight.abs()));
        // Rounded down twice over: a value below it times any weight is below the fast way's limit.
        let below = (FAST_LIMIT / heaviest * 0.999) as f32;
        // The largest of numbers leaves out what is no number.
        let weighable = weights.iter().all(|weight| weight.is_finite());
        if !weighable || !seen.inputs.below(below) {
            seen.doubt();
        }
        seen.inputs = Magnitude::none();
        seen
    }
}

impl Rule for Plain {
    type Input = i64;
    type Output = i64;
    type Weight = ();
    type State = Seen;
    const STEP: usize = STEP;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        mut seen: Seen,
        place: Place<i64>,
        inputs: [*const i64; K],
        _: &[(); K],
    ) -> Seen {
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(place.source);
            for input in inputs {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(I64x2::load(input.add(vector * I64x2::LANES)));
                    seen.note(*sum);
                }
            }
            end(sums, place.output);
        }
        seen
    }
}

/// `output = previous + Σ round(weight · input)`, with weights from [`quantise`]. Coordinate
/// `first_element` of the model is the output's first element.
///
/// # Errors
/// Names the first element whose sum cannot be formed, or an input whose table is broken. The output is
/// undefined then.
///
/// # Panics
/// If the vectors differ in length, or the inputs and weights in number.
pub fn weighted_sum(
    output: &mut [i64],
    previous: Option<&[i64]>,
    inputs: &[Values<'_>],
    weights: &[i64],
    first_element: u64,
) -> Result<(), Fault> {
    let weights: Vec<f64> = weights.iter().map(|weight| *weight as f64).collect();
    let terms = Terms::<Exact> {
        previous,
        inputs,
        weights: &weights,
        first_element,
    };
    let factors = |element, input| factors(&inputs[input], element, first_element);
    terms.sum(output, Seen::nothing(), |start, block, seen| {
        if !seen.range.any_negative() {
            return Ok(());
        }
        one_by_one(start, block, previous, inputs.len(), |input, element| {
            let (value, scale) = factors(element, input);
            if !(value * scale).is_finite() {
                return Err(Fault::NotFinite { element, input });
            }
            round(value * (weights[input] * scale)).ok_or(Fault::Overflow { element })
        })
    })
}

/// `output = previous + Σ input`, of inputs in fixed point.
///
/// # Errors
/// Names the first element whose sum cannot be formed. The output is undefined then.
///
/// # Panics
/// If the vectors differ in length.
pub fn plain_sum(
    output: &mut [i64],
    previous: Option<&[i64]>,
    inputs: &[&[i64]],
) -> Result<(), Fault> {
    let seen = Seen::nothing();
    super::plain_sum::<Plain, _>(output, previous, inputs, seen, |start, block, seen| {
        if !seen.range.any_negative() {
            return Ok(());
        }
        one_by_one(start, block, previous, inputs.len(), |input, element| {
            Ok(inputs[input][element])
        })
    })
}

/// Sums a block again, looking at every term and every sum.
#[cold]
fn one_by_one(
    start: usize,
    block: &mut [i64],
    previous: Option<&[i64]>,
    inputs: usize,
    term: impl Fn(usize, usize) -> Result<i64, Fault>,
) -> Result<(), Fault> {
    for (element, place) in (start..).zip(block) {
        let mut sum = previous.map_or(0, |previous| previous[element]);
        for input in 0..inputs {
            sum = add(sum, term(input, element)?).ok_or(Fault::Overflow { element })?;
        }
        *place = sum;
    }
    Ok(())
}

/// An element of an update, as what its bits say and what that is multiplied by.
fn factors(values: &Values<'_>, element: usize, first_element: u64) -> (f64, f64) {
    let coordinate = first_element + element as u64;
    match values {
        Values::F32(values) => (f64::from(values[element]), 1.0),
        Values::F16(values) => (f64::from(half::widen(values[element])), 1.0),
        Values::Bf16(values) => {
            let bits = u32::from(values[element]) << 16;
            (f64::from(f32::from_bits(bits)), 1.0)
        }
        Values::I8 { values, runs } => {
            let begun = runs.partition_point(|run| u64::from(run.start) <= coordinate);
            let scale = begun.checked_sub(1).map_or(0.0, |run| runs[run].scale);
            (f64::from(values[element]), f64::from(scale))
        }
        Values::Sparse {
            coordinates,
            values,
        } => {
            let pair = coordinates.binary_search_by_key(&coordinate, |at| u64::from(*at));
            (pair.map_or(0.0, |pair| f64::from(values[pair])), 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_to_the_even_one() {
        let cases = [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (0.499_999_999_999_999_94, 0),
            (4_503_599_627_370_495.5, 4_503_599_627_370_496),
            (-4_503_599_627_370_494.5, -4_503_599_627_370_494),
            (9_007_199_254_740_993.0, 9_007_199_254_740_992),
        ];
        for (value, expected) in cases {
            assert_eq!(round(value), Some(expected), "{value}");
        }
        for value in [f64::NAN, f64::INFINITY, 4.7e18, -4.7e18, LIMIT as f64] {
            assert_eq!(round(value), None, "{value}");
        }
    }

    #[test]
    fn the_range_of_a_sum_excludes_its_limit_on_both_sides() {
        let at = |value: i64| {
            let mut seen = Seen::nothing();
            seen.note(I64x2::splat(value));
            seen.range.any_negative()
        };
        assert!(!at(LIMIT - 1) && !at(-LIMIT) && !at(0));
        assert!(at(LIMIT) && at(-LIMIT - 1) && at(i64::MAX) && at(i64::MIN));
    }
}
