//! The shape of a job's tree on one node: pure arithmetic.
//!
//! Updates fill leaves in the order of their arrival. As many leaves are filled side by side as
//! there are `lanes` (workers), so that all workers have work from the start; apart from those, a
//! leaf is either full or not begun, which bounds the accumulators that are open at a time. `fan_in`
//! leaves make a middle; all middles make the top.

use tributary_sidecar_layout::{Destination, Level};

/// Fan-in and lanes of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Children of a leaf or middle aggregator.
    pub fan_in: u32,
    /// Leaves that are filled side by side.
    pub lanes: u32,
}

impl Tree {
    /// One leaf that takes every update: nothing is ever merged, partials only pass.
    pub(crate) fn one_leaf(clients: u32) -> Self {
        Self {
            fan_in: clients.max(2),
            lanes: 1,
        }
    }

    /// The leaf that takes the `sequence`-th update of a round (from 0).
    pub(crate) fn leaf(self, sequence: u32) -> u32 {
        let group = sequence / (self.fan_in * self.lanes);
        group * self.lanes + sequence % self.lanes
    }

    /// The middle above a leaf.
    pub(crate) fn middle(self, leaf: u32) -> u32 {
        leaf / self.fan_in
    }

    /// The most accumulators that wait for more updates at one time: a leaf for each lane, the
    /// middles above them (one more when the lanes stand across a boundary), and the top. A lone partial
    /// passes through middle and top as it is.
    pub(crate) fn open_accumulators(self, clients: u32) -> u32 {
        if self.fan_in >= clients {
            return 1;
        }
        self.lanes + self.lanes.div_ceil(self.fan_in) + 1 + 1
    }
}

/// Where an aggregator's partial goes; `None` for the top.
pub(crate) fn parent(aggregator: Destination, fan_in: u32) -> Option<Destination> {
    match aggregator.level() {
        Some(Level::Leaf) => Some(Destination::new(
            aggregator.job(),
            Level::Middle,
            aggregator.index() / fan_in,
        )),
        Some(Level::Middle) => Some(Destination::new(aggregator.job(), Level::Top, 0)),
        Some(Level::Top | Level::Agent) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        /// No leaf gets more than fan-in updates, and what waits for more stays within the bound that
        /// the arena is planned with.
        #[test]
        fn leaves_fill_side_by_side(fan_in in 2u32..9, lanes in 1u32..5, updates in 1u32..300) {
            let tree = Tree { fan_in, lanes };
            let mut filled: BTreeMap<u32, u32> = BTreeMap::new();
            for sequence in 0..updates {
                *filled.entry(tree.leaf(sequence)).or_default() += 1;
                let open = filled.iter().filter(|(_, n)| **n < fan_in);
                let middles: BTreeSet<u32> = open.clone().map(|(leaf, _)| tree.middle(*leaf)).collect();
                let open = open.count() as u32;
                prop_assert!(open <= lanes);
                prop_assert!(open + (middles.len() as u32) < tree.open_accumulators(u32::MAX));
            }
            prop_assert!(filled.values().all(|n| *n <= fan_in));
        }
    }

    #[test]
    fn parents_lead_to_the_top() {
        let leaf = Destination::new(1, Level::Leaf, 7);
        let middle = parent(leaf, 4).unwrap();
        assert_eq!((middle.level(), middle.index()), (Some(Level::Middle), 1));
        let top = parent(middle, 4).unwrap();
        assert_eq!((top.level(), top.index()), (Some(Level::Top), 0));
        assert_eq!(parent(top, 4), None);
    }
}
