//! What a job needs on a node, before it runs: pure arithmetic, told in full when it does not fit.

use crate::tree::Tree;
use tributary_api::manifest::JobSpec;
use tributary_arena::Geometry;
use tributary_wasm::Description;

/// Fan-in when neither manifest nor function says otherwise.
const FAN_IN_DEFAULT: u32 = 8;
/// The model handed out, the one before (still being fetched), and the one being made.
const MODEL_SLOTS: u32 = 3;
/// Completion records that a worker may be ahead of the agent.
const RING_RECORDS: u32 = 1024;

/// A job's tree and arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub tree: Tree,
    pub geometry: Geometry,
    /// Free slots that the gateway leaves to workers: one output each, and the finished model.
    pub reserve: u32,
    pub partial_bytes: u64,
}

/// A job that cannot run here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PlanError {
    #[error("the model has {elements} elements; this version aggregates at most {max}")]
    Elements { elements: u64, max: u64 },
    #[error(
        "spec.arena.slots is {given}, but the job needs at least {least}: {models} for models, \
         {reserve} outputs of {workers} workers and a finish, {open} open accumulators, 1 for an update"
    )]
    TooFewSlots {
        given: u32,
        least: u32,
        models: u32,
        reserve: u32,
        workers: u32,
        open: u32,
    },
    #[error(
        "the job needs {slots} slots of {stride} bytes (= {bytes} bytes of shared memory), \
         but a function can address {limit} bytes: the model is too large for {workers} workers; \
         try fewer workers (--workers)"
    )]
    Window {
        slots: u32,
        stride: u64,
        bytes: u64,
        limit: u64,
        workers: u32,
    },
    #[error(
        "the job needs {slots} slots of {stride} bytes = {bytes} bytes of shared memory, \
         but /dev/shm has {free} bytes free; enlarge it (mount -o remount,size=... /dev/shm) \
         or give the job fewer slots (spec.arena.slots, at least {least})"
    )]
    SharedMemory {
        slots: u32,
        stride: u64,
        bytes: u64,
        free: u64,
        least: u32,
    },
}

/// What there is to plan with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub workers: u32,
    /// Bytes free in /dev/shm.
    pub shm_free: u64,
    /// Bytes of slots that the function can address beside its own memory.
    pub window_bytes: u64,
}

/// Plans a job whose model has `elements` elements.
pub(crate) fn plan(
    spec: &JobSpec,
    elements: u64,
    function: &Description,
    machine: Machine,
) -> Result<Plan, PlanError> {
    let workers = machine.workers;
    let max = u64::from(u32::MAX);
    if elements > max {
        return Err(PlanError::Elements { elements, max });
    }
    let fan_in = spec.tree.fan_in.unwrap_or(FAN_IN_DEFAULT).max(2);
    let leaves = spec.expected().div_ceil(fan_in).max(1);
    let tree = Tree {
        fan_in,
        lanes: workers.min(leaves),
    };
    let partial_bytes = elements * u64::from(function.partial_bytes_per_element);
    let geometry = Geometry {
        slots: 1,
        vector_bytes: partial_bytes.max(elements * 4),
        clients: spec.clients.max,
        rings: workers,
        ring_records: RING_RECORDS,
    };
    let reserve = workers + 1;
    let open = tree.open_accumulators();
    let least = MODEL_SLOTS - 1 + reserve + open + 1;
    let stride = geometry.slot_stride();
    let addressable = (machine.window_bytes / stride).min(u64::from(u32::MAX)) as u32;
    if addressable < least {
        let (bytes, limit) = (u64::from(least) * stride, machine.window_bytes);
        return Err(PlanError::Window {
            slots: least,
            stride,
            bytes,
            limit,
            workers,
        });
    }
    let slots = match spec.arena.slots {
        Some(given) if given < least => {
            return Err(PlanError::TooFewSlots {
                given,
                least,
                models: MODEL_SLOTS - 1,
                reserve,
                workers,
                open,
            });
        }
        Some(given) => given,
        None => default_slots(least, tree, function.max_inputs).min(addressable),
    };
    let bytes = u64::from(slots) * stride;
    if slots > addressable {
        return Err(PlanError::Window {
            slots,
            stride,
            bytes,
            limit: machine.window_bytes,
            workers,
        });
    }
    if bytes > machine.shm_free {
        return Err(PlanError::SharedMemory {
            slots,
            stride,
            bytes,
            free: machine.shm_free,
            least,
        });
    }
    Ok(Plan {
        tree,
        geometry: Geometry { slots, ..geometry },
        reserve,
        partial_bytes,
    })
}

/// Room for every lane to fold one batch while the next arrives. Slots cost nothing until used:
/// the lowest free one is always taken, and pages are allocated at its first use.
fn default_slots(least: u32, tree: Tree, max_inputs: u32) -> u32 {
    least + tree.lanes * max_inputs * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(round: &serde_json::Value, slots: Option<u32>) -> JobSpec {
        let mut value = serde_json::json!({
            "function": { "name": "fedavg" },
            "model": { "path": "m.safetensors" },
            "round": round,
        });
        if let Some(slots) = slots {
            value["arena"] = serde_json::json!({ "slots": slots });
        }
        serde_json::from_value(value).unwrap()
    }

    fn fedavg() -> Description {
        Description {
            partial_bytes_per_element: 8,
            scalar_bytes: 16,
            max_inputs: 8,
            encodings: tributary_wasm::Encodings::F32_ONLY,
            algebra: tributary_wasm::Algebra::Monoid,
        }
    }

    fn machine(workers: u32) -> Machine {
        Machine {
            workers,
            shm_free: 1 << 40,
            window_bytes: tributary_wasm::window_bytes_max(64 << 20),
        }
    }

    #[test]
    fn slots_hold_the_widest_vector() {
        let plan = plan(
            &spec(&serde_json::json!({"expected": 20}), None),
            1000,
            &fedavg(),
            machine(2),
        )
        .unwrap();
        assert_eq!(plan.geometry.vector_bytes, 8000);
        assert_eq!(plan.partial_bytes, 8000);
        assert_eq!(
            plan.tree,
            Tree {
                fan_in: 8,
                lanes: 2
            }
        );
        assert_eq!(plan.geometry.check(), Ok(()));
    }

    #[test]
    fn a_small_round_needs_no_second_lane() {
        let plan = plan(
            &spec(&serde_json::json!({"expected": 8}), None),
            10,
            &fedavg(),
            machine(4),
        )
        .unwrap();
        assert_eq!(plan.tree.lanes, 1);
    }

    #[test]
    fn refusals_do_the_arithmetic() {
        let small = spec(&serde_json::json!({"expected": 20}), Some(3));
        let error = plan(&small, 1000, &fedavg(), machine(2)).unwrap_err();
        assert!(error.to_string().contains("at least 11"), "{error}");

        let all = spec(&serde_json::json!({"expected": 20}), None);
        let error = plan(
            &all,
            1000,
            &fedavg(),
            Machine {
                shm_free: 4096,
                ..machine(2)
            },
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("4096 bytes free"), "{error}");

        let huge = plan(&all, 600_000_000, &fedavg(), machine(2)).unwrap_err();
        assert!(matches!(huge, PlanError::Window { .. }), "{huge}");

        let beyond = plan(&all, 1 << 33, &fedavg(), machine(2)).unwrap_err();
        assert!(matches!(beyond, PlanError::Elements { .. }), "{beyond}");
    }
}
