//! How far means may be off, in every arithmetic: against sums without any rounding, on values that
//! are chosen to round badly. docs/functions/fedavg.md derives the bounds.

#![allow(clippy::unwrap_used)] // The helpers of tests, too, are tests.

use fedavg::{Config, FedAvg};
use proptest::collection::vec;
use proptest::prelude::*;
use tributary_sdk::testing::{OwnedPartial, finish, fold, merge};
use tributary_sdk::{Error, Function};

/// A sum of products without rounding: digits of 32 bits, each with its own sign, the lowest worth
/// 2^-`POINT`.
#[derive(Clone)]
struct Sum([i128; 40]);

/// The product of the smallest numbers, 2^-149 and 2^-1074, is a multiple of the lowest digit's unit
/// where weights are at least 2^-100.
const POINT: i32 = 480;

impl Sum {
    fn zero() -> Self {
        Self([0; 40])
    }

    fn add(&mut self, left: f64, right: f64) {
        let (left, right) = (parts(left), parts(right));
        let shift = left.1 + right.1 + POINT;
        let product = left.0 * right.0;
        assert!(shift >= 0, "too small for the sums of these tests");
        let (digit, shift) = ((shift / 32) as usize, shift % 32);
        // Two steps: the product has up to 106 bits.
        let (high, low) = (product >> 64, product & i128::from(u64::MAX));
        self.0[digit] += (low << shift) & i128::from(u32::MAX);
        self.0[digit + 1] += low << shift >> 32;
        self.0[digit + 2] += high << shift;
    }

    /// Its value, off by no more than a few parts in 2^50.
    fn value(mut self) -> f64 {
        for digit in 0..self.0.len() - 1 {
            let carry = self.0[digit] >> 32;
            self.0[digit] -= carry << 32;
            self.0[digit + 1] += carry;
        }
        if self.0.last().is_some_and(|highest| *highest < 0) {
            return -Self(self.0.map(|digit| -digit)).value();
        }
        let weight = |digit: usize| 2.0_f64.powi(32 * digit as i32 - POINT);
        let digits = self.0.iter().enumerate().rev();
        digits
            .map(|(digit, value)| *value as f64 * weight(digit))
            .sum()
    }
}

/// A number as an integer times a power of two.
fn parts(value: f64) -> (i128, i32) {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7FF) as i32;
    let fraction = i128::from(bits & ((1 << 52) - 1));
    let magnitude = if exponent == 0 {
        fraction
    } else {
        fraction | 1 << 52
    };
    let sign = if value < 0.0 { -1 } else { 1 };
    if magnitude == 0 {
        return (0, 0);
    }
    // Without the zeros at its end, so that an f32 has few digits.
    let zeros = magnitude.trailing_zeros();
    (
        sign * (magnitude >> zeros),
        exponent.max(1) - 1075 + zeros as i32,
    )
}

fn fedavg(accumulate: &str) -> FedAvg {
    let config = format!(r#"{{"accumulate": "{accumulate}"}}"#);
    FedAvg::new(serde_json::from_str::<Config>(&config).unwrap()).unwrap()
}

type Update = (f32, f64);

/// Folds in leaves of `leaf` updates and merges those.
fn aggregate(function: &FedAvg, updates: &[Update], leaf: usize) -> Result<OwnedPartial, Error> {
    let mut leaves = Vec::new();
    for updates in updates.chunks(leaf) {
        let mut partial = None;
        for step in updates.chunks(3) {
            let inputs: Vec<[f32; 1]> = step.iter().map(|(value, _)| [*value]).collect();
            let inputs: Vec<(&[f32], f64)> = inputs
                .iter()
                .zip(step)
                .map(|(value, (_, weight))| (&value[..], *weight))
                .collect();
            partial = Some(fold(function, partial.as_ref(), &inputs)?);
        }
        leaves.extend(partial);
    }
    merge(function, None, &leaves.iter().collect::<Vec<_>>())
}

/// The bound of docs/functions/fedavg.md on the mean of these updates, times the sum of the weights.
fn bound(accumulate: &str, updates: &[Update], mean: f64) -> f64 {
    // One rounding more for each term than with relaxed SIMD: outside of WebAssembly a product is rounded
    // before it is added.
    let n = updates.len() as f64 + 1.0;
    let magnitudes: f64 = updates
        .iter()
        .map(|(value, weight)| f64::from(value.abs()) * weight)
        .sum();
    let weights: f64 = updates.iter().map(|(_, weight)| weight).sum();
    let gamma = |unit: f64| n * unit / (1.0 - n * unit);
    let (single, double) = (2.0_f64.powi(-24), 2.0_f64.powi(-53));
    let sum = match accumulate {
        "f32" => gamma(single) * magnitudes + n * 2.0_f64.powi(-149),
        "f64" => gamma(double) * magnitudes + n * 2.0_f64.powi(-1074),
        _ => n * 2.0_f64.powi(-33) + double * magnitudes,
    };
    // The sum of the weights, the conversions and the division; the rounding to F32; what `Sum` leaves out.
    let finish = gamma(double) * magnitudes + 4.0 * double * (magnitudes + sum);
    let rounding = (single * mean.abs() + 2.0_f64.powi(-150)) * weights;
    (sum + finish + rounding) * (1.0 + 1e-6)
}

/// Checks a mean against the true one; whether there was one.
fn check(accumulate: &str, updates: &[Update], leaf: usize) -> Result<bool, TestCaseError> {
    let function = fedavg(accumulate);
    let partial = match aggregate(&function, updates, leaf) {
        Ok(partial) => partial,
        Err(error) => {
            // Never a wrong number: a refusal, which exact sums alone may give.
            prop_assert_eq!((accumulate, error.code()), ("exact", Error::OVERFLOW));
            prop_assert!(error.message().contains("coordinate 0"), "{}", error);
            prop_assert!(error.message().contains("smaller scaleBits"), "{}", error);
            return Ok(false);
        }
    };
    let mean = f64::from(finish(&function, &partial, &[]).unwrap()[0]);
    prop_assert!(mean.is_finite());
    // (mean - true mean) · weights = Σ weight · (mean - value), without rounding.
    let mut difference = Sum::zero();
    for (value, weight) in updates {
        difference.add(mean, *weight);
        difference.add(-f64::from(*value), *weight);
    }
    let (off, bound) = (difference.value().abs(), bound(accumulate, updates, mean));
    prop_assert!(
        off <= bound,
        "{accumulate}: off by {off:e}, bound {bound:e}: {updates:?}"
    );
    Ok(true)
}

/// Values from 1e-30 to 1e30, of both signs.
fn wide() -> impl Strategy<Value = f32> {
    (-30.0_f64..30.0, any::<bool>()).prop_map(|(power, negative)| {
        let value = 10.0_f64.powf(power) as f32;
        if negative { -value } else { value }
    })
}

fn denormal() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x807F_FFFF))
}

/// Values that come with their negative, but for a little.
fn cancelling() -> impl Strategy<Value = Vec<f32>> {
    vec((1.0_f32..1e6, -1e-3_f32..1e-3), 1..40).prop_map(|pairs| {
        let pair = |(value, rest): (f32, f32)| [value, -value, rest];
        pairs.into_iter().flat_map(pair).collect()
    })
}

fn one_huge() -> impl Strategy<Value = Vec<f32>> {
    (
        vec(-1.0_f32..1.0, 1..60),
        1e6_f32..1e8,
        any::<prop::sample::Index>(),
    )
        .prop_map(|(mut values, huge, place)| {
            let place = place.index(values.len());
            values[place] = huge;
            values
        })
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    let alternating = vec(0.5_f32..2.0, 1..60).prop_map(|values| {
        let signed = values.into_iter().enumerate();
        signed
            .map(|(at, value)| if at % 2 == 0 { value } else { -value })
            .collect()
    });
    prop_oneof![
        cancelling(),
        alternating,
        one_huge(),
        vec(wide(), 1..60),
        vec(denormal(), 1..60),
        vec(-10.0_f32..10.0, 1..60),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn means_keep_within_their_bounds(
        values in values(),
        weights in vec(1_u32..100, 120),
        leaf in 1_usize..20,
    ) {
        let updates: Vec<Update> =
            values.into_iter().zip(weights.into_iter().map(f64::from)).collect();
        for accumulate in ["f32", "f64"] {
            prop_assert!(check(accumulate, &updates, leaf)?);
        }
        // Sums of 2^30 and more are refused, smaller ones never.
        let magnitudes: f64 =
            updates.iter().map(|(value, weight)| f64::from(value.abs()) * weight).sum();
        let summed = check("exact", &updates, leaf)?;
        prop_assert!(summed || magnitudes > 1e9);
    }
}

#[test]
fn the_sum_of_these_tests_does_not_round() {
    let mut sum = Sum::zero();
    for (value, weight) in [
        (1e30, 3.0),
        (1e-30, 0.5),
        (-1e30, 3.0),
        (-7.0, 1.0),
        (7.0, 1.0),
    ] {
        sum.add(value, weight);
    }
    assert_eq!(sum.value(), 5e-31);
    let mut negative = Sum::zero();
    negative.add(-1.5, 3.0);
    negative.add(2.0_f64.powi(-149), 1.0);
    assert_eq!(negative.value(), -4.5);
}
