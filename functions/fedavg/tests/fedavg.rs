//! Federated averaging, in all its modes, against a mean in `f64`.

#![allow(clippy::unwrap_used)] // The helpers of tests, too, are tests.

use fedavg::{Config, FedAvg};
use proptest::collection::vec;
use proptest::prelude::*;
use tributary_sdk::testing::{OwnedPartial, finish, fold, fold_range, merge};
use tributary_sdk::{Encoding, Encodings, Error, Function, Run, Values};

type Update = (Vec<f32>, f64);

const MODES: [(&str, f64); 3] = [("f32", 1e-5), ("f64", 1e-7), ("exact", 1e-7)];

fn fedavg(config: &str) -> FedAvg {
    FedAvg::new(serde_json::from_str::<Config>(config).unwrap()).unwrap()
}

fn refusal(config: &str) -> String {
    match serde_json::from_str::<Config>(config) {
        Err(error) => error.to_string(),
        Ok(config) => FedAvg::new(config).unwrap_err().to_string(),
    }
}

fn fold_all(function: &FedAvg, updates: &[Update]) -> Result<OwnedPartial, Error> {
    let updates: Vec<(&[f32], f64)> = updates
        .iter()
        .map(|(values, weight)| (values.as_slice(), *weight))
        .collect();
    let mut partial = None;
    for step in updates.chunks(function.describe().max_inputs as usize) {
        partial = Some(fold(function, partial.as_ref(), step)?);
    }
    Ok(partial.unwrap())
}

fn mean(updates: &[Update], element: usize) -> f64 {
    let total: f64 = updates.iter().map(|(_, weight)| weight).sum();
    updates
        .iter()
        .map(|(values, weight)| f64::from(values[element]) * weight)
        .sum::<f64>()
        / total
}

fn updates() -> impl Strategy<Value = Vec<Update>> {
    (1_usize..40, 1_usize..30).prop_flat_map(|(elements, clients)| {
        vec((vec(-10.0_f32..10.0, elements), 1.0_f64..5000.0), clients)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_mean_is_the_mean(updates in updates()) {
        for (mode, tolerance) in MODES {
            let function = fedavg(&format!(r#"{{"accumulate": "{mode}"}}"#));
            let partial = fold_all(&function, &updates).unwrap();
            let model = finish(&function, &partial, &[]).unwrap();
            for (element, value) in model.iter().enumerate() {
                let expected = mean(&updates, element);
                let error = (f64::from(*value) - expected).abs();
                prop_assert!(error <= tolerance * 10.0, "{mode}: {value} for {expected}");
            }
        }
    }

    #[test]
    fn exact_means_are_the_same_bits_in_any_order_and_any_tree(
        (updates, shuffled) in updates().prop_flat_map(|updates| {
            (Just(updates.clone()), Just(updates).prop_shuffle())
        }),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
        reversed in any::<bool>(),
    ) {
        let function = fedavg(r#"{"accumulate": "exact"}"#);
        let expected = fold_all(&function, &updates).unwrap();

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(shuffled.len())).collect();
        cuts.extend([0, shuffled.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut partials: Vec<OwnedPartial> = cuts
            .windows(2)
            .map(|pair| fold_all(&function, &shuffled[pair[0]..pair[1]]).unwrap())
            .collect();
        if reversed {
            partials.reverse();
        }
        // Two of them under one node, the rest beside it.
        while partials.len() > 1 {
            let (right, left) = (partials.pop().unwrap(), partials.pop().unwrap());
            let merged = if reversed {
                merge(&function, Some(&left), &[&right]).unwrap()
            } else {
                merge(&function, None, &[&right, &left]).unwrap()
            };
            partials.insert(0, merged);
        }
        prop_assert_eq!(&partials[0], &expected);
    }

    #[test]
    fn the_other_modes_agree_between_trees(updates in updates()) {
        for (mode, tolerance) in MODES {
            let function = fedavg(&format!(r#"{{"accumulate": "{mode}"}}"#));
            let whole = fold_all(&function, &updates).unwrap();
            let half = updates.len().div_ceil(2);
            let mut parts = vec![fold_all(&function, &updates[..half]).unwrap()];
            if half < updates.len() {
                parts.push(fold_all(&function, &updates[half..]).unwrap());
            }
            let parts: Vec<&OwnedPartial> = parts.iter().collect();
            let merged = merge(&function, None, &parts).unwrap();
            let models = [whole, merged].map(|partial| finish(&function, &partial, &[]).unwrap());
            for (left, right) in models[0].iter().zip(&models[1]) {
                prop_assert!(f64::from((left - right).abs()) <= tolerance * 10.0, "{mode}");
            }
        }
    }
}

#[test]
fn deltas_are_added_to_the_model() {
    for (mode, _) in MODES {
        let function = fedavg(&format!(r#"{{"accumulate": "{mode}", "update": "delta"}}"#));
        let partial = fold(&function, None, &[(&[1.0, -2.0], 1.0), (&[3.0, 2.0], 3.0)]).unwrap();
        let model = finish(&function, &partial, &[10.0, 20.0]).unwrap();
        assert_eq!(model, [12.5, 21.0], "{mode}");
    }
}

#[test]
fn configurations_are_refused_with_a_reason() {
    assert!(refusal(r#"{"acumulate": "f32"}"#).contains("unknown field `acumulate`"));
    assert!(refusal(r#"{"accumulate": "f16"}"#).contains("unknown variant `f16`"));
    assert!(refusal(r#"{"update": "gradient"}"#).contains("`model` or `delta`"));
    assert!(refusal(r#"{"scaleBits": 60}"#).contains("16..=48"));
    assert!(refusal("[").contains("EOF"));
}

#[test]
fn weights_that_mean_nothing_are_refused() {
    for (mode, _) in MODES {
        let function = fedavg(&format!(r#"{{"accumulate": "{mode}"}}"#));
        for weight in [f64::NAN, f64::INFINITY, -1.0] {
            let error = fold(&function, None, &[(&[1.0], weight)]).unwrap_err();
            assert_eq!(error.code(), Error::INPUT, "{mode}: {error}");
        }
        let nothing = fold(&function, None, &[(&[1.0], 0.0)]).unwrap();
        let error = finish(&function, &nothing, &[0.0]).unwrap_err();
        assert_eq!(error.code(), Error::EMPTY, "{mode}: {error}");
    }
}

#[test]
fn exact_sums_say_when_they_cannot_be_exact() {
    let function = fedavg(r#"{"accumulate": "exact"}"#);
    let failed =
        |value: f32, weight: f64| fold(&function, None, &[(&[0.0, value], weight)]).unwrap_err();
    let error = failed(2000.0, 1e6);
    assert_eq!(error.code(), Error::OVERFLOW);
    assert!(error.message().contains("coordinate 1"), "{error}");
    assert_eq!(failed(1.0, 1e10).code(), Error::OVERFLOW);
    assert_eq!(failed(1.0, 1e-12).code(), Error::INPUT);
    assert_eq!(failed(f32::NAN, 1.0).code(), Error::INPUT);

    // Twice 2^29 examples: the weights reach the limit before the values do.
    let half = fold(&function, None, &[(&[0.1], 536_870_912.0)]).unwrap();
    let error = merge(&function, None, &[&half, &half]).unwrap_err();
    assert_eq!(error.code(), Error::OVERFLOW);
    assert!(error.message().contains("weights"), "{error}");
}

#[test]
fn weights_that_an_f32_cannot_hold_are_refused() {
    let function = fedavg(r#"{"accumulate": "f32"}"#);
    for weight in [1e39, 1e-60] {
        let error = fold(&function, None, &[(&[1.0], weight)]).unwrap_err();
        assert_eq!(error.code(), Error::INPUT);
        assert!(error.message().contains("accumulate f64"), "{error}");
    }
}

#[test]
fn sparse_updates_are_folded_as_deltas_alone() {
    for (mode, _) in MODES {
        let encodings = |update: &str| {
            let config = format!(r#"{{"accumulate": "{mode}", "update": "{update}"}}"#);
            fedavg(&config).describe().encodings
        };
        assert_eq!(encodings("delta"), Encodings::ALL);
        assert_eq!(encodings("model"), Encodings::ALL.without(Encoding::Sparse));
    }
}

#[test]
fn ranges_of_a_fold_are_parts_of_the_whole_and_have_its_scalars() {
    let dense: Vec<f32> = (0..9000).map(|at| at as f32 * 0.01 - 30.0).collect();
    let halves: Vec<u16> = (0..9000).map(|at| 0x3000 + at % 4000).collect();
    let bytes: Vec<i8> = (0..9000).map(|at| (at % 251 - 125) as i8).collect();
    let run = |start, scale| Run { start, scale };
    let runs = [run(0, 0.5), run(4000, 0.25), run(4100, 2.0), run(8500, 0.1)];
    let coordinates: Vec<u32> = (0..900).map(|at| at * 10 + 3).collect();
    let updates = [
        Values::F32(&dense),
        Values::F16(&halves),
        Values::I8 {
            values: &bytes,
            runs: &runs,
        },
        Values::Sparse {
            coordinates: &coordinates,
            values: &dense[..900],
        },
        Values::Bf16(&halves),
    ];
    let updates = updates.map(|values| tributary_sdk::Update {
        values,
        weight: 3.5,
        contributors: 1,
    });
    for (mode, _) in MODES {
        let function = fedavg(&format!(r#"{{"accumulate": "{mode}", "update": "delta"}}"#));
        let whole = fold_range(&function, None, 0..9000, &updates).unwrap();
        let bytes_per_element = function.describe().partial_bytes_per_element as usize;
        for range in [0..4096, 4096..8192, 8192..9000] {
            let part = fold_range(&function, None, range.clone(), &updates).unwrap();
            let bytes = range.start * bytes_per_element..range.end * bytes_per_element;
            assert_eq!(
                part.partial().vector::<u8>(),
                &whole.partial().vector::<u8>()[bytes]
            );
            assert_eq!(
                part.partial().scalars::<[u8; 8]>(),
                whole.partial().scalars::<[u8; 8]>()
            );
        }
    }
}

#[test]
fn small_weights_count_with_enough_bits() {
    let function = fedavg(r#"{"accumulate": "exact", "scaleBits": 48}"#);
    let partial = fold(&function, None, &[(&[1.0], 1e-3), (&[2.0], 3e-3)]).unwrap();
    let model = finish(&function, &partial, &[]).unwrap();
    assert!((model[0] - 1.75).abs() < 1e-6);
}
