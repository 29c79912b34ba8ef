use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn spec(round: &Value, more: &[(&str, Value)]) -> JobSpec {
    let mut value = json!({
        "function": { "name": "fedavg" },
        "model": { "path": "m.safetensors" },
        "round": round,
    });
    for (key, part) in more {
        value[*key] = part.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn fedavg(partial_bytes_per_element: u32) -> Description {
    Description {
        partial_bytes_per_element,
        scalar_bytes: 16,
        max_inputs: 8,
        algebra: tributary_wasm::Algebra::Monoid,
        encodings: tributary_wasm::Encodings::F32_ONLY,
    }
}

fn machine(bytes_free: u64) -> Machine {
    Machine {
        workers: 2,
        cores: 2,
        bytes_free,
        bytes_of: "/dev/shm",
        window_bytes: tributary_wasm::WINDOW_BYTES_MAX,
    }
}

const MODEL: u64 = 11_689_512;

fn planned(
    more: &[(&str, Value)],
    elements: u64,
    bytes: u32,
    free: u64,
) -> Result<Plan, PlanError> {
    let spec = spec(&json!({"expected": 1000}), more);
    plan(&spec, elements, &fedavg(bytes), machine(free), Nodes::One)
}

#[test]
fn one_leaf_is_folded_by_all_cores_within_k_and_three_models() {
    for (bytes, partials) in [(4, 2), (8, 2)] {
        let plan = planned(&[], MODEL, bytes, 1 << 40).unwrap();
        assert_eq!((plan.tree.lanes, plan.threads), (1, 2));
        assert_eq!(plan.commit, Commit::Shadow);
        assert_eq!(plan.geometry.partials.count, partials);
        let models = plan.geometry.segment_bytes() as f64 / (MODEL * 4) as f64;
        assert!(models < 11.01, "{models} models in all");
        assert!(models > 10.0, "{models} models in all");
        assert_eq!(plan.geometry.check(), Ok(()));
    }
}

#[test]
fn fan_in_spreads_clients_over_workers() {
    let tree = [("tree", json!({"fanIn": 8}))];
    let plan = planned(&tree, MODEL, 8, 1 << 40).unwrap();
    assert_eq!(
        plan.tree,
        Tree {
            fan_in: 8,
            lanes: 2
        }
    );
    assert_eq!(plan.threads, 1, "two workers have two cores");
    // Two leaves, a middle for each, the top, and an output for each worker.
    assert_eq!(plan.geometry.partials.count, 2 + 1 + 1 + 1 + 2);
    assert_eq!(plan.geometry.updates.vector_bytes, MODEL * 4);
    assert_eq!(plan.geometry.partials.vector_bytes, MODEL * 8);
}

#[test]
fn small_models_have_one_thread_and_many_slots() {
    let plan = planned(&[], 1000, 8, 1 << 40).unwrap();
    assert_eq!(plan.threads, 1);
    let inputs = plan.geometry.updates.count - plan.models_kept - plan.reserve;
    assert_eq!(u64::from(inputs), INPUTS_MAX);
}

#[test]
fn less_memory_means_fewer_updates_then_no_shadow_then_one_model() {
    let (gib, elements) = (1u64 << 30, 5 << 28);
    let by_free = |free: u64| planned(&[], elements, 4, free * gib);
    let ample = by_free(100).unwrap();
    assert_eq!((ample.commit, ample.models_kept), (Commit::Shadow, 2));
    assert!(ample.geometry.segment_bytes() < 56 * gib);
    let less = by_free(36).unwrap();
    assert_eq!((less.commit, less.models_kept), (Commit::Shadow, 2));
    assert!(less.geometry.segment_bytes() <= 36 * gib);
    let in_place = by_free(26).unwrap();
    assert_eq!(
        (in_place.commit, in_place.models_kept),
        (Commit::InPlace, 2)
    );
    // A model of 5 GiB in 16: the model, the accumulator, and one update at a time.
    let tight = by_free(16).unwrap();
    assert_eq!(
        (tight.commit, tight.models_kept, tight.reserve),
        (Commit::InPlace, 1, 0)
    );
    assert_eq!(
        (tight.geometry.updates.count, tight.geometry.partials.count),
        (2, 1)
    );
    let text = by_free(14).unwrap_err().to_string();
    assert!(text.contains("2 slots of 5368713216 bytes"), "{text}");
    assert!(text.contains(&format!("{} bytes free", 14 * gib)), "{text}");
    // It has three slots as it is: no fewer would do.
    assert!(!text.contains("fewer slots"), "{text}");
}

#[test]
fn a_given_number_of_slots_is_kept_to() {
    let given = |slots: u32| planned(&[("arena", json!({ "slots": slots }))], MODEL, 8, 1 << 40);
    assert_eq!(given(20).unwrap().geometry.slots(), 20);
    assert_eq!(given(4).unwrap().commit, Commit::InPlace);
    let error = spec(
        &json!({"expected": 20}),
        &[
            ("arena", json!({"slots": 5})),
            ("tree", json!({"fanIn": 2})),
        ],
    );
    let error = plan(&error, 1000, &fedavg(8), machine(1 << 40), Nodes::One).unwrap_err();
    assert!(error.to_string().contains("at least 11"), "{error}");
}

#[test]
fn half_of_the_slots_are_lent_and_the_models_is_not() {
    let given = |slots: u32| planned(&[("arena", json!({ "slots": slots }))], MODEL, 8, 1 << 40);
    // Of 20 slots, three are for models and three for partials.
    assert_eq!(given(20).unwrap().leases(), 7);
    // In place: three models, a partial, one update; then the model has to take one of two, or the only one.
    let leases = [5, 4, 3].map(|slots| given(slots).unwrap().leases());
    assert_eq!(leases, [1, 1, 0]);
}

#[test]
fn order_and_fan_in_exclude_each_other() {
    let both = [
        ("tree", json!({"fanIn": 4})),
        ("determinism", json!("ordered")),
    ];
    assert_eq!(
        planned(&both, MODEL, 4, 1 << 40),
        Err(PlanError::OrderedTree)
    );
    assert!(planned(&both[1..], MODEL, 4, 1 << 40).is_ok());
}

#[test]
fn too_many_elements_are_refused() {
    let error = planned(&[], 1 << 33, 4, u64::MAX).unwrap_err();
    assert!(matches!(error, PlanError::Elements { .. }), "{error}");
}

proptest! {
    /// Whatever is planned fits, and holds what a round cannot do without.
    #[test]
    fn plans_fit(elements in 1u64..3_000_000_000, bytes in 1u32..17, free in 0u64..100 << 30,
                 workers in 1u32..9, cores in 1u32..9, fan_in in proptest::option::of(2u32..65),
                 slots in proptest::option::of(4u32..100), clients in 1u32..100_000) {
        let mut more = vec![("clients", json!({"max": clients}))];
        more.extend(fan_in.map(|fan_in| ("tree", json!({"fanIn": fan_in}))));
        more.extend(slots.map(|slots| ("arena", json!({"slots": slots}))));
        let spec = spec(&json!({"expected": clients}), &more);
        let machine = Machine { workers, cores, bytes_free: free, bytes_of: "/dev/shm", window_bytes: u64::MAX };
        let Ok(plan) = plan(&spec, elements, &fedavg(bytes), machine, Nodes::One) else { return Ok(()); };
        prop_assert!(plan.geometry.segment_bytes() <= free);
        prop_assert_eq!(plan.geometry.check(), Ok(()));
        prop_assert!(plan.geometry.updates.count > plan.models_kept + plan.reserve);
        prop_assert!(plan.geometry.updates.count > plan.models_kept);
        // Without any lease given back, a round can close: there is a slot for its model.
        prop_assert!(plan.leases() < plan.geometry.updates.count - plan.models_kept);
        let shadow = plan.commit == Commit::Shadow;
        let open = plan.tree.open_accumulators(clients);
        prop_assert_eq!(plan.geometry.partials.count, if shadow { open + plan.tree.lanes } else { 1 });
        prop_assert_eq!(plan.geometry.journal.lanes > 0, !shadow);
        if let Some(slots) = slots {
            prop_assert_eq!(plan.geometry.slots(), slots);
        }
    }
}
