//! What the autoscaler decides of a job, and what it has to know for it: the job's side.

use super::{Inner, Job};
use crate::tree::{self, Tree};
use std::collections::BTreeSet;
use tributary_api::status::AutoscalerStatus;
use tributary_arena::{SlotInfo, State};
use tributary_planning::autoscale::{Reason, Wanted};
use tributary_sidecar_layout::Destination;

impl Job {
    /// Notes a decision: for the status, the metrics, and the tree of rounds to come.
    pub(crate) fn decided(&self, wanted: &Wanted) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        self.metrics.observe_decision(self.name.as_str(), wanted);
        state.scaled = Some(AutoscalerStatus {
            wanted: wanted.workers,
            wished: wanted.wished,
            reason: wanted.reason.name().to_owned(),
        });
        let lanes = lanes(self.plan.tree, state.spec.keep_alive.is_some(), wanted);
        if let Some(lanes) = lanes {
            state.plan_lanes(lanes);
        }
    }

    /// The aggregators for which something lies in the arena that a worker has to read or send on. While the round is
    /// open, partials are none of it: a lone one waits for others, and whoever hosts its parent then finds it there.
    pub(crate) fn awaited(&self) -> BTreeSet<Destination> {
        let state = self.lock();
        let (epoch, closed) = (state.round.epoch.raw(), state.round.is_closed());
        let awaits = |info: SlotInfo| match info.word.state {
            State::Ready => Some(info.aggregator),
            State::Sent if closed => tree::parent(info.aggregator, self.plan.tree.fan_in),
            State::Live if closed => Some(info.aggregator),
            _ => None,
        };
        let open = self.arena.in_use().filter(|info| info.round == epoch);
        open.filter_map(awaits).collect()
    }

    /// Whether an update is in the open round.
    pub(crate) fn has_updates(&self) -> bool {
        self.lock().round.accepted() > 0
    }
}

impl Inner {
    /// Leaves to be filled side by side from the next round on, or in the open one if it is empty. The arena is planned
    /// for the most that there may be, so fewer are always safe.
    fn plan_lanes(&mut self, lanes: u32) {
        self.tree.lanes = lanes;
        let tree = self.tree;
        self.round.replan(tree);
    }
}

/// As many leaves side by side as are planned; `None`: as before, because nothing is planned.
fn lanes(planned: Tree, keep_alive: bool, wanted: &Wanted) -> Option<u32> {
    if keep_alive {
        return Some(planned.lanes);
    }
    let leaves = wanted.tree.leaves;
    let told = leaves > 0 && wanted.reason != Reason::NoData;
    told.then(|| leaves.min(planned.lanes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(leaves: u32, reason: Reason) -> Wanted {
        Wanted {
            workers: leaves,
            wished: leaves,
            reason,
            tree: tributary_planning::autoscale::Tree {
                leaves,
                ..Default::default()
            },
        }
    }

    #[test]
    fn lanes_follow_the_planned_leaves_within_what_the_arena_is_planned_for() {
        let tree = Tree {
            fan_in: 4,
            lanes: 3,
        };
        let of = |leaves| lanes(tree, false, &wanted(leaves, Reason::Planned));
        assert_eq!((of(1), of(3), of(9)), (Some(1), Some(3), Some(3)));
        assert_eq!(of(0), None, "nothing is planned");
        assert_eq!(lanes(tree, false, &wanted(1, Reason::NoData)), None);
        assert_eq!(lanes(tree, true, &wanted(1, Reason::Load)), Some(3));
    }
}
