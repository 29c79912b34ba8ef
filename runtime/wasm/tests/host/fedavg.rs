//! The built `fedavg` module, in all its modes, against means in `f64`.

use crate::fixture::{Arena, ENGINE, LIMITS, built, load, operands};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;
use std::sync::LazyLock;
use tributary_wasm::{
    CallError, Content, Error, Function, Input, Instance, PAGE_BYTES, Place, check,
};

static FEDAVG: LazyLock<Function> = LazyLock::new(|| load(&built("fedavg")).unwrap());

const MODES: [(&str, f64); 3] = [("f32", 1e-5), ("f64", 1e-7), ("exact", 1e-7)];
const CLIENTS_MAX: u64 = 24;
const ELEMENTS_MAX: usize = 3000;
/// The slot of the global model; partials and finished models come after it.
const MODEL: u64 = CLIENTS_MAX;

/// An instance over an arena with room for any of the trees below.
struct Bench {
    arena: Arena,
    instance: Instance,
    next: u64,
}

impl Bench {
    fn new(config: &str) -> Self {
        let arena = Arena::new(MODEL + 80, ELEMENTS_MAX as u64 * 8);
        let instance = arena.instance(&FEDAVG, LIMITS, config);
        Self {
            arena,
            instance,
            next: MODEL + 1,
        }
    }

    fn take(&mut self) -> Place {
        self.next += 1;
        self.arena.place(self.next - 1)
    }

    /// Writes the updates of a round; partials of earlier rounds are forgotten.
    fn begin(&mut self, round: &Round) {
        self.next = MODEL + 1;
        for (slot, (values, _)) in (0..).zip(&round.updates) {
            self.arena.write(slot, values);
        }
    }

    /// Folds the given clients, so many at a time as the function takes.
    fn fold(&mut self, round: &Round, clients: &[usize]) -> Result<Place, CallError> {
        let mut previous = None;
        for step in clients.chunks(self.instance.description().max_inputs as usize) {
            let inputs: Vec<Input> = step
                .iter()
                .map(|client| self.arena.update(*client as u64, round.updates[*client].1))
                .collect();
            let output = self.take();
            let mut call = operands(round.elements(), output, &inputs);
            call.previous = previous;
            self.instance.fold(&call)?;
            previous = Some(output);
        }
        Ok(previous.unwrap())
    }

    fn merge(&mut self, round: &Round, previous: Option<Place>, partials: &[Place]) -> Place {
        let output = self.take();
        let inputs: Vec<Input> = partials
            .iter()
            .map(|place| Input {
                place: *place,
                weight: 0.0,
                contributors: 1,
                content: Content::F32,
            })
            .collect();
        let mut call = operands(round.elements(), output, &inputs);
        call.previous = previous;
        self.instance.merge(&call).unwrap();
        output
    }

    fn finish(&mut self, round: &Round, partial: Place) -> Vec<f32> {
        let output = self.take();
        let mut call = operands(round.elements(), output, &[]);
        call.previous = Some(partial);
        call.model = Some(self.arena.place(MODEL));
        self.instance.finish(&call).unwrap();
        self.arena.read(
            output.scalars / self.arena.stride,
            round.elements() as usize,
        )
    }

    /// A partial's scalar and vector, eight bytes each, as they lie in the arena.
    fn partial(&self, round: &Round, slot: Place) -> (i64, Vec<i64>) {
        let slot = slot.scalars / self.arena.stride;
        let words = |from: u64, count: u32| {
            let bytes = self.arena.bytes(slot, from, count as usize * 8);
            let words = bytes.as_chunks::<8>().0.iter();
            words
                .map(|word| i64::from_le_bytes(*word))
                .collect::<Vec<_>>()
        };
        (words(0, 1)[0], words(PAGE_BYTES, round.elements()))
    }
}

#[derive(Debug, Clone)]
struct Round {
    updates: Vec<(Vec<f32>, f64)>,
}

impl Round {
    fn elements(&self) -> u32 {
        self.updates[0].0.len() as u32
    }

    fn mean(&self, element: usize) -> f64 {
        let total: f64 = self.updates.iter().map(|(_, weight)| weight).sum();
        let terms = self.updates.iter();
        terms
            .map(|(values, weight)| f64::from(values[element]) * weight)
            .sum::<f64>()
            / total
    }

    fn clients(&self) -> Vec<usize> {
        (0..self.updates.len()).collect()
    }
}

/// Sizes around the kernels' steps and blocks.
fn rounds() -> impl Strategy<Value = Round> {
    let elements = prop_oneof![1_usize..40, 1015_usize..1035, Just(ELEMENTS_MAX)];
    (elements, 1..=CLIENTS_MAX as usize).prop_flat_map(|(elements, clients)| {
        vec((vec(-10.0_f32..10.0, elements), 0.5_f64..5000.0), clients)
            .prop_map(|updates| Round { updates })
    })
}

fn config(mode: &str) -> String {
    format!(r#"{{"accumulate": "{mode}"}}"#)
}

#[test]
fn it_passes_the_law_tests_in_every_mode() {
    for config in [
        "",
        "{}",
        r#"{"accumulate": "f32"}"#,
        r#"{"accumulate": "f64", "update": "delta"}"#,
        r#"{"accumulate": "exact"}"#,
        r#"{"accumulate": "exact", "scaleBits": 40}"#,
    ] {
        let description = check(&ENGINE, &FEDAVG, LIMITS, config.as_bytes()).unwrap();
        let bytes = if config.contains("f32") { 4 } else { 8 };
        assert_eq!(description.partial_bytes_per_element, bytes);
        assert_eq!(description.scalar_bytes, 8);
    }
}

#[test]
fn it_refuses_configurations_with_the_reason() {
    let refusal = |config: &str| {
        let error = check(&ENGINE, &FEDAVG, LIMITS, config.as_bytes()).expect_err(config);
        assert!(matches!(error, Error::Config(_)), "{error}");
        error.to_string()
    };
    assert!(refusal(r#"{"acumulate": "f32"}"#).contains("unknown field `acumulate`"));
    assert!(refusal(r#"{"accumulate": "f16"}"#).contains("expected one of `f32`, `f64`, `exact`"));
    assert!(refusal(r#"{"scaleBits": 50}"#).contains("16..=48"));
    assert!(refusal("null").contains("null"));
}

#[test]
fn it_runs_within_two_mebibytes_of_its_own() {
    let small = tributary_wasm::Limits {
        memory_bytes: 2 << 20,
        ..LIMITS
    };
    check(&ENGINE, &FEDAVG, small, b"").unwrap();
    assert!(Bench::new("{}").instance.own_memory_bytes() <= 2 << 20);
}

#[test]
fn the_mean_is_the_mean_in_every_mode() {
    let benches: Vec<_> = MODES
        .map(|(mode, tolerance)| (mode, tolerance, RefCell::new(Bench::new(&config(mode)))))
        .into();
    proptest!(ProptestConfig::with_cases(64), |(round in rounds())| {
        for (mode, tolerance, bench) in &benches {
            let mut bench = bench.borrow_mut();
            bench.begin(&round);
            let partial = bench.fold(&round, &round.clients()).unwrap();
            let model = bench.finish(&round, partial);
            for (element, value) in model.iter().enumerate() {
                let expected = round.mean(element);
                let error = (f64::from(*value) - expected).abs();
                prop_assert!(error <= tolerance * 10.0, "{mode}: {value} for {expected}");
            }
        }
    });
}

#[test]
fn exact_partials_are_the_same_bits_in_any_order_and_any_tree() {
    let bench = RefCell::new(Bench::new(&config("exact")));
    let cases = rounds().prop_flat_map(|round| {
        let order = Just(round.clients()).prop_shuffle();
        (
            Just(round),
            order,
            vec(any::<prop::sample::Index>(), 0..5),
            any::<bool>(),
        )
    });
    proptest!(ProptestConfig::with_cases(64), |((round, order, cuts, deep) in cases)| {
        let mut bench = bench.borrow_mut();
        bench.begin(&round);
        let whole = bench.fold(&round, &round.clients()).unwrap();
        let expected = bench.partial(&round, whole);

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(order.len())).collect();
        cuts.extend([0, order.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut parts: Vec<Place> = cuts
            .windows(2)
            .map(|pair| bench.fold(&round, &order[pair[0]..pair[1]]).unwrap())
            .collect();
        let merged = if deep {
            // A chain: each merge goes on from the one before.
            let first = parts.remove(0);
            parts.iter().fold(first, |chain, part| bench.merge(&round, Some(chain), &[*part]))
        } else {
            bench.merge(&round, None, &parts)
        };
        prop_assert_eq!(bench.partial(&round, merged), expected);
    });
}

#[test]
fn exact_partials_are_sums_of_rounded_terms() {
    // The module computes what the document says, whatever instructions it was compiled to.
    let bench = RefCell::new(Bench::new(&config("exact")));
    proptest!(ProptestConfig::with_cases(32), |(round in rounds(), huge in -5.0e5_f32..5.0e5)| {
        let mut round = round;
        // One value that the fast way cannot round.
        let last = round.elements() as usize - 1;
        round.updates[0].0[last] = huge;
        round.updates[0].1 = 2000.0;
        let mut bench = bench.borrow_mut();
        bench.begin(&round);
        let whole = bench.fold(&round, &round.clients()).unwrap();
        let (weight, vector) = bench.partial(&round, whole);
        let steps = |weight: f64| (weight * (1_u64 << 32) as f64).round_ties_even();
        let weights: Vec<f64> = round.updates.iter().map(|(_, weight)| steps(*weight)).collect();
        prop_assert_eq!(weight, weights.iter().map(|weight| *weight as i64).sum::<i64>());
        for (element, found) in vector.iter().enumerate() {
            let term = |(values, _): &(Vec<f32>, f64), weight: &f64| {
                (f64::from(values[element]) * weight).round_ties_even() as i64
            };
            let terms = round.updates.iter().zip(&weights);
            let expected: i64 = terms.map(|(update, weight)| term(update, weight)).sum();
            prop_assert_eq!(*found, expected, "element {}", element);
        }
    });
}

#[test]
fn deltas_are_added_to_the_model() {
    for (mode, _) in MODES {
        let mut bench = Bench::new(&format!(r#"{{"accumulate": "{mode}", "update": "delta"}}"#));
        let round = Round {
            updates: vec![(vec![1.0, -2.0], 1.0), (vec![3.0, 2.0], 3.0)],
        };
        bench.begin(&round);
        bench.arena.write(MODEL, &[10.0, 20.0]);
        let partial = bench.fold(&round, &[0, 1]).unwrap();
        assert_eq!(bench.finish(&round, partial), [12.5, 21.0], "{mode}");
    }
}

#[test]
fn what_exact_sums_cannot_hold_is_an_error_and_the_next_call_works() {
    let mut bench = Bench::new(&config("exact"));
    let round = Round {
        updates: vec![
            (vec![0.5, 2000.0], 1e6),
            (vec![0.5, f32::NAN], 1.0),
            (vec![1.0, 1.0], 2.0),
        ],
    };
    bench.begin(&round);
    let error = bench.fold(&round, &[0]).expect_err("too large");
    assert!(
        matches!(error, CallError::Returned { code: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("coordinate 1"), "{error}");
    let error = bench.fold(&round, &[2, 1]).expect_err("not a number");
    assert!(
        matches!(error, CallError::Returned { code: 3, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("coordinate 1 of input 1"),
        "{error}"
    );
    let partial = bench.fold(&round, &[2]).unwrap();
    assert_eq!(bench.finish(&round, partial), [1.0, 1.0]);
}
