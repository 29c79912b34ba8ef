//! The kernels against sums of one element at a time.

#![allow(clippy::unwrap_used)] // The helpers of tests, too, are tests.

use proptest::collection::vec;
use proptest::prelude::*;
use tributary_sdk::Values;
use tributary_sdk::kernel::exact::{self, quantise};
use tributary_sdk::kernel::{Fault, double, single};

/// Vectors of one length, a weight each, and whether there is a previous sum.
#[derive(Debug, Clone)]
struct Case {
    inputs: Vec<Vec<f32>>,
    weights: Vec<f64>,
    previous: bool,
}

impl Case {
    fn len(&self) -> usize {
        self.inputs[0].len()
    }

    fn values(&self) -> Vec<Values<'_>> {
        self.inputs.iter().map(|input| Values::F32(input)).collect()
    }

    /// The previous sum, if there is one.
    fn before<T: Copy>(&self, value: impl Fn(usize) -> T) -> Option<Vec<T>> {
        self.previous.then(|| (0..self.len()).map(value).collect())
    }
}

/// Lengths around the kernels' steps and blocks, and all numbers of inputs around their turns.
fn cases() -> impl Strategy<Value = Case> {
    let lengths = prop_oneof![1_usize..40, 1020_usize..1030, 2040_usize..2060];
    (lengths, 1_usize..=11).prop_flat_map(|(len, count)| {
        let inputs = vec(vec(-100.0_f32..100.0, len), count);
        let weights = vec(0.01_f64..1000.0, count);
        (inputs, weights, any::<bool>()).prop_map(|(inputs, weights, previous)| Case {
            inputs,
            weights,
            previous,
        })
    })
}

fn close(found: f64, expected: f64, scale: f64, tolerance: f64) -> bool {
    (found - expected).abs() <= tolerance * scale.max(1.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn sums_in_f32_and_f64_are_what_they_should_be(case in cases()) {
        let before = case.before(|element| element as f32 * 0.5 - 3.0);
        let narrow: Vec<f32> = case.weights.iter().map(|weight| *weight as f32).collect();
        let mut sums = vec![f32::NAN; case.len()];
        single::weighted_sum(&mut sums, before.as_deref(), &case.values(), &narrow, 0).unwrap();

        let wide_before = case.before(|element| element as f64 * 0.5 - 3.0);
        let mut wide = vec![f64::NAN; case.len()];
        double::weighted_sum(&mut wide, wide_before.as_deref(), &case.values(), &case.weights, 0)
            .unwrap();

        for element in 0..case.len() {
            let start = wide_before.as_ref().map_or(0.0, |before| before[element]);
            let terms: Vec<f64> = case.inputs.iter().zip(&case.weights)
                .map(|(input, weight)| f64::from(input[element]) * weight)
                .collect();
            let expected = start + terms.iter().sum::<f64>();
            let scale = start.abs() + terms.iter().map(|term| term.abs()).sum::<f64>();
            prop_assert!(close(f64::from(sums[element]), expected, scale, 2e-6));
            prop_assert!(close(wide[element], expected, scale, 1e-14));
        }
    }

    #[test]
    fn neither_place_nor_company_changes_a_bit(case in cases(), cut in any::<prop::sample::Index>()) {
        let before = case.before(|element| element as f64 - 7.0);
        let mut whole = vec![f64::NAN; case.len()];
        double::weighted_sum(&mut whole, before.as_deref(), &case.values(), &case.weights, 0)
            .unwrap();

        // The same elements as two shorter vectors.
        let cut = cut.index(case.len());
        let mut parts = vec![f64::NAN; case.len()];
        let (low, high) = parts.split_at_mut(cut);
        for (part, range) in [(low, 0..cut), (high, cut..case.len())] {
            let inputs: Vec<Values<'_>> = case.inputs.iter()
                .map(|input| Values::F32(&input[range.clone()]))
                .collect();
            let before = before.as_ref().map(|before| &before[range.clone()]);
            double::weighted_sum(part, before, &inputs, &case.weights, 0).unwrap();
        }
        prop_assert_eq!(&parts, &whole);

        // The same inputs one after the other.
        let mut stepwise = before;
        for (input, weight) in case.inputs.iter().zip(&case.weights) {
            let mut next = vec![f64::NAN; case.len()];
            let input = [Values::F32(input)];
            double::weighted_sum(&mut next, stepwise.as_deref(), &input, &[*weight], 0).unwrap();
            stepwise = Some(next);
        }
        prop_assert_eq!(stepwise.unwrap(), whole);
    }

    #[test]
    fn plain_sums_add_up(case in cases()) {
        let inputs: Vec<Vec<f64>> = case.inputs.iter()
            .map(|input| input.iter().copied().map(f64::from).collect())
            .collect();
        let slices: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
        let before = case.before(|element| element as f64);
        let mut sums = vec![f64::NAN; case.len()];
        double::plain_sum(&mut sums, before.as_deref(), &slices);
        for element in 0..case.len() {
            let start = before.as_ref().map_or(0.0, |before| before[element]);
            let expected = inputs.iter().fold(start, |sum, input| sum + input[element]);
            prop_assert_eq!(sums[element], expected);
        }
    }

    #[test]
    fn exact_sums_are_the_sums_of_rounded_terms(case in cases(), huge in any::<prop::sample::Index>()) {
        // One value too large for the fast way: its block is summed the slow way, to the same bits.
        let mut case = case;
        let place = huge.index(case.len());
        case.inputs[0][place] = 3.0e5;
        let weights: Vec<i64> = case.weights.iter().map(|w| quantise(*w, 32).unwrap()).collect();
        let before = case.before(|element| element as i64 - 100);
        let mut sums = vec![i64::MIN; case.len()];
        exact::weighted_sum(&mut sums, before.as_deref(), &case.values(), &weights, 0).unwrap();
        for element in 0..case.len() {
            let start = before.as_ref().map_or(0, |before| before[element]);
            let expected = case.inputs.iter().zip(&weights).fold(start, |sum, (input, weight)| {
                let term = f64::from(input[element]) * *weight as f64;
                sum + term.round_ties_even() as i64
            });
            prop_assert_eq!(sums[element], expected, "element {}", element);
        }
    }
}

#[test]
fn the_fast_and_the_slow_way_round_alike() {
    // Halves, in both directions, once alone and once beside a value that is too large for the fast
    // way. With a weight of 1 in fixed point a value is its own term.
    let halves: Vec<f32> = (-40..40).map(|half| half as f32 * 0.5).collect();
    let mut fast = vec![0; halves.len()];
    exact::weighted_sum(&mut fast, None, &[Values::F32(&halves)], &[1], 0).unwrap();
    let mut beside: Vec<f32> = halves.clone();
    beside.push(4.0e15);
    let mut slow = vec![0; beside.len()];
    exact::weighted_sum(&mut slow, None, &[Values::F32(&beside)], &[1], 0).unwrap();
    assert_eq!(fast, slow[..halves.len()]);
    let expected: Vec<i64> = halves
        .iter()
        .map(|half| f64::from(*half).round_ties_even() as i64)
        .collect();
    assert_eq!(fast, expected);
    assert_eq!(slow.last(), Some(&(f64::from(4.0e15_f32) as i64)));
}

#[test]
fn overflow_is_found_wherever_it_happens() {
    let len = 2100;
    for element in [0, 7, 1023, 1024, 2099] {
        // By one term, which the fast way cannot round.
        let mut values = vec![1.0_f32; len];
        values[element] = 5.0e18;
        let mut sums = vec![0; len];
        let fault = exact::weighted_sum(&mut sums, None, &[Values::F32(&values)], &[1], 0);
        assert_eq!(fault, Err(Fault::Overflow { element }));

        // By the sum of many small terms, which the fast way can.
        let ones = vec![1.0_f32; len];
        let mut previous = vec![0_i64; len];
        previous[element] = (1 << 62) - 2;
        exact::weighted_sum(&mut sums, Some(&previous), &[Values::F32(&ones)], &[1], 0).unwrap();
        assert_eq!(sums[element], (1 << 62) - 1);
        for count in [2, 4, 5, 9] {
            let inputs = vec![Values::F32(&ones); count];
            let weights = vec![1; count];
            let fault = exact::weighted_sum(&mut sums, Some(&previous), &inputs, &weights, 0);
            assert_eq!(fault, Err(Fault::Overflow { element }), "{count} inputs");
        }

        // By merging.
        let mut other = vec![0_i64; len];
        other[element] = 2;
        let fault = exact::plain_sum(&mut sums, Some(&previous), &[&other]);
        assert_eq!(fault, Err(Fault::Overflow { element }));
        other[element] = -previous[element];
        exact::plain_sum(&mut sums, Some(&previous), &[&other]).unwrap();
        assert_eq!(sums[element], 0);
        let fault = exact::plain_sum(&mut sums, Some(&previous), &[&previous, &other]);
        assert_eq!(
            fault,
            Err(Fault::Overflow { element }),
            "even if it comes back"
        );
    }
}

#[test]
fn values_that_are_not_finite_are_found_by_exact_sums() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
        for element in [0, 3, 1500] {
            let good = vec![1.0_f32; 1501];
            let mut bad = good.clone();
            bad[element] = value;
            let mut sums = vec![0; good.len()];
            let fault = exact::weighted_sum(
                &mut sums,
                None,
                &[&good, &bad].map(|v| Values::F32(v)),
                &[0, 1],
                0,
            );
            assert_eq!(
                fault,
                Err(Fault::NotFinite { element, input: 1 }),
                "{value}"
            );
            let fault = exact::weighted_sum(&mut sums, None, &[Values::F32(&bad)], &[0], 0);
            assert_eq!(
                fault,
                Err(Fault::NotFinite { element, input: 0 }),
                "{value}"
            );
        }
    }
}

#[test]
fn empty_vectors_have_empty_sums() {
    single::weighted_sum(&mut [], None, &[Values::F32(&[])], &[1.0], 0).unwrap();
    double::plain_sum(&mut [], Some(&[]), &[&[]]);
    exact::plain_sum(&mut [], None, &[&[]]).unwrap();
}

#[test]
#[should_panic(expected = "one length")]
fn vectors_of_different_lengths_are_a_mistake() {
    let inputs = [Values::F32(&[1.0, 2.0]), Values::F32(&[1.0])];
    let _ = single::weighted_sum(&mut [0.0; 2], None, &inputs, &[1.0, 1.0], 0);
}
