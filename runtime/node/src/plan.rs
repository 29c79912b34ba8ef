//! What a job needs on a node, before it runs: pure arithmetic, told in full when it does not fit.
//!
//! **Coordinates or clients.** Left to itself, the planner has one leaf for all updates: it is folded by several
//! threads, each over its own range of coordinates. Nothing is merged, and one accumulator is all there is. A
//! manifest that sets `spec.tree.fanIn` spreads the *clients* over leaves instead, on as many workers as the
//! node has.
//!
//! **Shadow or in place.** A fold writes a second accumulator beside the one it reads, and one atomic store
//! makes it valid. Where memory is too small for a second one, the accumulator is changed in place, part by
//! part, under an undo journal; and at the worst the model before the newest is not kept for slow readers.

mod error;
#[cfg(test)]
mod tests;

use crate::tree::Tree;
pub(crate) use error::PlanError;
use tributary_api::manifest::{Determinism, JobSpec};
use tributary_api::status::PlanStatus;
use tributary_arena::{Geometry, JournalSize, Slots};
use tributary_wasm::Description;

/// Completion records that a worker may be ahead of the agent.
const RING_RECORDS: u32 = 1024;
/// Elements that are changed in place at a time. Small, so that a part's image stays in the cache, and large
/// enough that a call's own cost (some microseconds) does not count.
const PART_ELEMENTS: u32 = 256 << 10;
/// A thread is worth starting for so many elements, and no fewer.
const THREAD_ELEMENTS: u64 = 128 << 10;
/// Small updates may fill this much memory while they wait.
const SMALL_INPUT_BYTES: u64 = 16 << 20;
/// Large updates that may wait or arrive: enough to fold some together while others arrive. The *k* of the bound.
const LARGE_INPUTS: u64 = 8;
/// Slots that are looked through at each claim, at most.
const INPUTS_MAX: u64 = 256;

/// How a fold's result takes the accumulator's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// Written beside it; one atomic store makes it valid.
    Shadow,
    /// Written over it, part by part, under an undo journal.
    InPlace,
}

/// A job's tree and arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub tree: Tree,
    /// Threads of a worker that fold side by side, each its range of coordinates.
    pub threads: u32,
    pub commit: Commit,
    /// Updates that are worth waiting for before they are folded: while they are, as many can arrive.
    pub batch: u32,
    /// Elements of a part that is changed in place.
    pub part_elements: u32,
    pub geometry: Geometry,
    /// Versions of the model that are held between rounds.
    pub models_kept: u32,
    /// Free slots that the gateway leaves for the finished model.
    pub reserve: u32,
    /// Free slots that partials of other nodes leave to the workers here.
    pub partial_reserve: u32,
    pub partial_bytes: u64,
    /// The arena is larger than what a function sees at once.
    pub by_windows: bool,
}

/// What there is to plan with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// The most worker processes.
    pub workers: u32,
    /// Threads that can run at the same time.
    pub cores: u32,
    /// Bytes that the arena may take.
    pub bytes_free: u64,
    /// What has no more than that, for errors.
    pub bytes_of: &'static str,
    /// Bytes of an arena that the function can see at once.
    pub window_bytes: u64,
}

/// Whether other nodes have a part in the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nodes {
    /// They have none.
    One,
    /// They may: partials come from them, or go to one of them.
    Several,
}

impl Nodes {
    /// Slots that their partials take: one that waits for its merge, one that arrives, and what they are merged into.
    const PARTIALS: u32 = 3;

    fn partials(self) -> u32 {
        match self {
            Self::One => 0,
            Self::Several => Self::PARTIALS,
        }
    }

    /// Numbers of clients that a slot can name. A round closes on several nodes one after the other: some
    /// clients may slip in beyond the number that was to close it.
    fn clients(self, max: u32) -> u32 {
        match self {
            Self::One => max,
            Self::Several => max.saturating_add((max / 4).max(1024)),
        }
    }
}

/// One way to lay out an arena.
#[derive(Clone, Copy, Debug)]
struct Layout {
    commit: Commit,
    models_kept: u32,
    /// The finished model has a slot that no update gets.
    reserve: u32,
    /// Fewer updates at a time are not worth this layout.
    inputs_least: u32,
    partials: u32,
    /// Numbers of clients that a slot can name.
    clients: u32,
}

impl Layout {
    /// Slots for models, and for the fewest updates.
    fn updates_least(self) -> u32 {
        self.models_kept + self.reserve + self.inputs_least
    }

    fn least(self) -> u32 {
        self.updates_least() + self.partials
    }
}

/// The sizes of a job's vectors.
#[derive(Clone, Copy, Debug)]
struct Vectors {
    elements: u64,
    model_bytes: u64,
    partial_bytes: u64,
}

/// Plans a job whose model has `elements` elements.
pub(crate) fn plan(
    spec: &JobSpec,
    elements: u64,
    function: &Description,
    machine: Machine,
    nodes: Nodes,
) -> Result<Plan, PlanError> {
    let max = u64::from(u32::MAX);
    if elements > max {
        return Err(PlanError::Elements { elements, max });
    }
    let vectors = Vectors {
        elements,
        model_bytes: elements * 4,
        partial_bytes: elements * u64::from(function.partial_bytes_per_element),
    };
    let (tree, threads) = shape(spec, elements, machine)?;
    let layouts = layouts(spec, tree, nodes);
    let fitting = layouts
        .iter()
        .find_map(|layout| fit(spec, *layout, tree, threads, vectors, function, machine));
    fitting.ok_or_else(|| refusal(spec, &layouts, tree, threads, vectors, machine))
}

/// The tree, and the threads that fold side by side.
fn shape(spec: &JobSpec, elements: u64, machine: Machine) -> Result<(Tree, u32), PlanError> {
    let threads = |of: u32| {
        let worth = elements.div_ceil(THREAD_ELEMENTS);
        worth.clamp(1, u64::from(of.max(1))) as u32
    };
    match spec.tree.fan_in {
        Some(_) if spec.determinism == Determinism::Ordered => Err(PlanError::OrderedTree),
        Some(fan_in) => {
            let leaves = spec.expected().div_ceil(fan_in).max(1);
            let lanes = machine.workers.min(leaves);
            Ok((Tree { fan_in, lanes }, threads(machine.cores / lanes)))
        }
        None => Ok((Tree::one_leaf(spec.clients.max), threads(machine.cores))),
    }
}

/// The layouts that can be thought of, the best first.
fn layouts(spec: &JobSpec, tree: Tree, nodes: Nodes) -> Vec<Layout> {
    let shadow = Layout {
        commit: Commit::Shadow,
        models_kept: 2,
        reserve: 1,
        inputs_least: 1,
        partials: tree.open_accumulators(spec.clients.max) + tree.lanes + nodes.partials(),
        clients: nodes.clients(spec.clients.max),
    };
    // Only a leaf that never merges and has one worker can be changed in place.
    if spec.tree.fan_in.is_some() || nodes == Nodes::Several {
        return vec![shadow];
    }
    let in_place = Layout {
        commit: Commit::InPlace,
        partials: 1,
        ..shadow
    };
    let tight = Layout {
        models_kept: 1,
        reserve: 0,
        ..in_place
    };
    // One update is folded while the next one arrives, or a shadow gains nothing.
    let shadow = Layout {
        inputs_least: 2,
        ..shadow
    };
    vec![shadow, in_place, tight]
}

/// The plan with that layout, with as many slots for updates as are wanted and fit; `None` if too few do.
fn fit(
    spec: &JobSpec,
    layout: Layout,
    tree: Tree,
    threads: u32,
    vectors: Vectors,
    function: &Description,
    machine: Machine,
) -> Option<Plan> {
    let fixed = layout.models_kept + layout.reserve;
    let wanted = match spec.arena.slots {
        Some(given) => given.checked_sub(layout.partials + fixed)?,
        None => inputs_wanted(spec, layout, tree, vectors, function),
    };
    let geometry = |inputs: u32| geometry(layout, inputs, threads, vectors, machine);
    let spare = machine
        .bytes_free
        .checked_sub(geometry(0).segment_bytes())?;
    // A slot costs its stride, its header and its contributors' bits.
    let each = geometry(1).segment_bytes() - geometry(0).segment_bytes() + 4096;
    let inputs = u64::from(wanted).min(spare / each) as u32;
    let given_all = spec.arena.slots.is_none() || inputs == wanted;
    let geometry = geometry(inputs);
    (inputs >= layout.inputs_least && given_all).then(|| Plan {
        tree,
        threads,
        commit: layout.commit,
        batch: (inputs / 2 / tree.lanes).clamp(1, function.max_inputs),
        part_elements: PART_ELEMENTS,
        geometry,
        models_kept: layout.models_kept,
        reserve: layout.reserve,
        partial_reserve: tree.lanes + 1,
        partial_bytes: vectors.partial_bytes,
        by_windows: geometry.data_bytes() > machine.window_bytes,
    })
}

/// Slots for updates that wait or arrive, if memory is no question.
///
/// One leaf folds faster than updates arrive, so few have to wait: all slots together are those of `k + 3`
/// models. Small updates may have more.
fn inputs_wanted(
    spec: &JobSpec,
    layout: Layout,
    tree: Tree,
    vectors: Vectors,
    function: &Description,
) -> u32 {
    let inputs = u64::from(function.max_inputs).min(LARGE_INPUTS);
    let small = (SMALL_INPUT_BYTES / vectors.model_bytes.max(4096)).min(INPUTS_MAX);
    let wanted = if spec.tree.fan_in.is_none() {
        let partials = u64::from(layout.partials) * vectors.partial_bytes;
        let taken = u64::from(layout.models_kept + layout.reserve)
            + partials.div_ceil(vectors.model_bytes.max(1));
        (inputs + 3).saturating_sub(taken)
    } else {
        inputs * u64::from(tree.lanes)
    };
    wanted.max(small).max(u64::from(layout.inputs_least)) as u32
}

fn geometry(
    layout: Layout,
    inputs: u32,
    threads: u32,
    vectors: Vectors,
    machine: Machine,
) -> Geometry {
    let bytes_per_element = vectors.partial_bytes / vectors.elements.max(1);
    Geometry {
        updates: Slots {
            count: layout.models_kept + layout.reserve + inputs,
            vector_bytes: vectors.model_bytes,
        },
        partials: Slots {
            count: layout.partials,
            vector_bytes: vectors.partial_bytes,
        },
        clients: layout.clients,
        rings: machine.workers,
        ring_records: RING_RECORDS,
        journal: match layout.commit {
            Commit::Shadow => JournalSize::default(),
            Commit::InPlace => JournalSize {
                lanes: threads,
                image_bytes: u64::from(PART_ELEMENTS) * bytes_per_element,
            },
        },
    }
}

/// Why no layout fits, by the one that needs least.
fn refusal(
    spec: &JobSpec,
    layouts: &[Layout],
    tree: Tree,
    threads: u32,
    vectors: Vectors,
    machine: Machine,
) -> PlanError {
    let Some(last) = layouts.last().copied() else {
        return PlanError::OrderedTree;
    };
    let least = last.least();
    if let Some(given) = spec.arena.slots
        && given < least
    {
        return PlanError::TooFewSlots {
            given,
            least,
            models: last.models_kept + last.reserve,
            partials: last.partials,
            lanes: tree.lanes,
        };
    }
    let updates = match spec.arena.slots {
        Some(given) => given - last.partials,
        None => last.updates_least(),
    };
    let inputs = updates - last.models_kept - last.reserve;
    let geometry = geometry(last, inputs, threads, vectors, machine);
    PlanError::Memory {
        updates,
        update_bytes: geometry.updates.stride(),
        partials: last.partials,
        partial_bytes: geometry.partials.stride(),
        other_bytes: geometry.segment_bytes()
            - geometry.updates.bytes()
            - geometry.partials.bytes(),
        bytes: geometry.segment_bytes(),
        free: machine.bytes_free,
        of: machine.bytes_of,
        least,
        wide: vectors.partial_bytes > vectors.model_bytes,
    }
}

impl Plan {
    /// Slots that local clients may hold at a time: half of those for updates and at least one, so that one who
    /// holds a slot for ever does not keep all others out. Where the finished model takes an update's slot, one is
    /// left to it.
    pub(crate) fn leases(&self) -> u32 {
        let inputs = self.geometry.updates.count - self.models_kept - self.reserve;
        let lendable = inputs - u32::from(self.reserve == 0).min(inputs);
        (inputs / 2).max(1).min(lendable)
    }

    /// The plan as a job's status tells it.
    pub(crate) fn status(&self) -> PlanStatus {
        let (updates, partials) = (self.geometry.updates, self.geometry.partials);
        let models = self.models_kept + self.reserve;
        let bytes_max = self.geometry.segment_bytes();
        PlanStatus {
            model_slots: models,
            update_slots: updates.count - models,
            slot_bytes: updates.stride(),
            partial_slots: partials.count,
            partial_slot_bytes: partials.stride(),
            other_bytes: bytes_max - updates.bytes() - partials.bytes(),
            bytes_max,
            lanes: self.tree.lanes,
            threads: self.threads,
            in_place: self.commit == Commit::InPlace,
            by_windows: self.by_windows,
        }
    }
}
