//! A job that cannot run on a node.

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PlanError {
    #[error("the model has {elements} elements; this version aggregates at most {max}")]
    Elements { elements: u64, max: u64 },
    #[error(
        "spec.determinism is ordered, which folds updates in the order of their arrival by one leaf; \
         spec.tree.fanIn spreads them over several: leave one of the two out"
    )]
    OrderedTree,
    #[error(
        "spec.arena.slots is {given}, but the job needs at least {least}: {models} for models, \
         {partials} for the partials of {lanes} leaves side by side, 1 for an update"
    )]
    TooFewSlots {
        given: u32,
        least: u32,
        models: u32,
        partials: u32,
        lanes: u32,
    },
    #[error(
        "the job needs {updates} slots of {update_bytes} bytes for models and updates + {partials} of \
         {partial_bytes} bytes for partials + {other_bytes} bytes of tables and padding = {bytes} bytes of shared \
         memory, but {of} has {free} bytes free; use a machine with more, enlarge /dev/shm \
         (mount -o remount,size=... /dev/shm) if it is the limit{}", less(updates + partials, *least, *wide)
    )]
    Memory {
        updates: u32,
        update_bytes: u64,
        partials: u32,
        partial_bytes: u64,
        other_bytes: u64,
        bytes: u64,
        free: u64,
        of: &'static str,
        /// The fewest slots with which the job could do.
        least: u32,
        /// Whether an element of a partial takes more than one of an update.
        wide: bool,
    },
}

/// What of the job could be made smaller.
fn less(slots: u32, least: u32, wide: bool) -> String {
    let mut ways = String::new();
    if slots > least {
        ways += &format!(", or give the job fewer slots (spec.arena.slots, at least {least})");
    }
    if wide {
        ways += ", or sum in f32 (spec.accumulate: f32), whose partials are smaller";
    }
    ways
}
