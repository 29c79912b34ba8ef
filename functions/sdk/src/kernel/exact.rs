//! Sums in 64-bit fixed point: eight bytes per element, the same bits in any order and any tree.
//!
//! Each input contributes an integer that depends on nothing but its value and its weight:
//! `round(value · weight)`, to the nearest and of two to the even one, where the weight is an integer
//! already (see [`quantise`]). Integers add up to the same sum in any order. A term or a sum that is not
//! within -2^62..2^62 is an error, never a wrong number: sums of two that are do not wrap around, so no
//! overflow goes unseen.
//!
//! WASM has no vector instruction that turns `f64` into `i64`. But adding 1.5·2^52 to a number below
//! 2^51 leaves its rounded integer in the low bits of the sum, so a block is first summed that way
//! while the largest value is watched; a block with a value too large is summed again one by one.

use super::lanes::{F64x2, I64x2, Magnitude};
use super::{Rule, Terms, sum};
use alloc::vec::Vec;

/// Terms and sums lie within `-LIMIT..LIMIT`.
const LIMIT: i64 = 1 << 62;
/// The first magnitude that the fast way cannot round.
const FAST_LIMIT: f64 = (1_u64 << 51) as f64;
/// Adding it shifts the integer part of a small number into the low bits.
const MAGIC: f64 = (3_u64 << 51) as f64;

const VECTORS: usize = 4;
const STEP: usize = VECTORS * I64x2::LANES;

/// Why a sum could not be formed: the place of the first element concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A term or a sum is not within -2^62..2^62.
    Overflow {
        /// The element.
        element: usize,
    },
    /// An input is infinite or not a number.
    NotFinite {
        /// The element.
        element: usize,
        /// Which input.
        input: usize,
    },
}

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

struct Weighted;
struct Plain;

/// What is learnt of a block.
#[derive(Clone, Copy)]
struct Seen {
    inputs: Magnitude,
    /// Negative in a lane where a sum left its range.
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

impl Rule for Weighted {
    type Input = f32;
    type Output = i64;
    type Weight = f64;
    type State = Seen;
    const STEP: usize = STEP;

    #[inline(always)]
    unsafe fn step<const K: usize, const FROM: bool>(
        mut seen: Seen,
        output: *mut i64,
        source: *const i64,
        inputs: [*const f32; K],
        weights: &[f64; K],
    ) -> Seen {
        // Each of the `K` terms brings the bits of `MAGIC` along: take them away beforehand.
        let correction = (MAGIC.to_bits() as i64).wrapping_mul(K as i64);
        let correction = I64x2::splat(correction.wrapping_neg());
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(source).map(|sum| sum.add(correction));
            for (input, weight) in inputs.iter().zip(weights) {
                for at in (0..STEP).step_by(Magnitude::LANES) {
                    seen.inputs = seen.inputs.see(input.add(at));
                }
                let weight = F64x2::splat(*weight);
                for (pair, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let values = F64x2::load_f32(input.add(pair * 2 * F64x2::LANES));
                    for (sum, values) in sums.iter_mut().zip(values) {
                        let shifted = values.mul(weight).add(F64x2::splat(MAGIC));
                        *sum = sum.add(shifted.bits());
                    }
                }
            }
            for sum in sums {
                seen.note(sum);
            }
            end(sums, output);
        }
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
        output: *mut i64,
        source: *const i64,
        inputs: [*const i64; K],
        _: &[(); K],
    ) -> Seen {
        // SAFETY: `VECTORS` vectors are the `STEP` elements that the caller promises.
        unsafe {
            let mut sums = begin::<FROM>(source);
            for input in inputs {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(I64x2::load(input.add(vector * I64x2::LANES)));
                    seen.note(*sum);
                }
            }
            end(sums, output);
        }
        seen
    }
}

/// `output = previous + Σ round(weight · input)`, of inputs in `f32` and weights from [`quantise`].
///
/// # Errors
/// Names the first element whose sum cannot be formed. The output is undefined then.
///
/// # Panics
/// If the vectors differ in length, or the inputs and weights in number.
pub fn weighted_sum(
    output: &mut [i64],
    previous: Option<&[i64]>,
    inputs: &[&[f32]],
    weights: &[i64],
) -> Result<(), Fault> {
    let weights: Vec<f64> = weights.iter().map(|weight| *weight as f64).collect();
    let heaviest = weights
        .iter()
        .fold(0.0_f64, |most, weight| most.max(weight.abs()));
    // Rounded down twice over: a value below it times any weight is below the fast way's limit.
    let fast_below = (FAST_LIMIT / heaviest * 0.999) as f32;
    let terms = Terms::<Weighted> {
        previous,
        inputs,
        weights: &weights,
    };
    sum(output, &terms, Seen::nothing(), |start, block, seen| {
        if seen.inputs.below(fast_below) && !seen.range.any_negative() {
            return Ok(());
        }
        one_by_one(start, block, &terms, |input, element| {
            let value = inputs[input][element];
            if !value.is_finite() {
                return Err(Fault::NotFinite { element, input });
            }
            round(f64::from(value) * weights[input]).ok_or(Fault::Overflow { element })
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
    let terms = Terms::<Plain> {
        previous,
        inputs,
        weights: &alloc::vec![(); inputs.len()],
    };
    sum(output, &terms, Seen::nothing(), |start, block, seen| {
        if !seen.range.any_negative() {
            return Ok(());
        }
        one_by_one(start, block, &terms, |input, element| {
            Ok(inputs[input][element])
        })
    })
}

/// Sums a block again, looking at every term and every sum.
#[cold]
fn one_by_one<R: Rule<Output = i64>>(
    start: usize,
    block: &mut [i64],
    terms: &Terms<'_, R>,
    term: impl Fn(usize, usize) -> Result<i64, Fault>,
) -> Result<(), Fault> {
    for (element, place) in (start..).zip(block) {
        let mut sum = terms.previous.map_or(0, |previous| previous[element]);
        for input in 0..terms.inputs.len() {
            sum = add(sum, term(input, element)?).ok_or(Fault::Overflow { element })?;
        }
        *place = sum;
    }
    Ok(())
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
