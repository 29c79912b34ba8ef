//! Which node is a client's home.
//!
//! Clients fall into [`BUCKETS`] buckets by their names, and each bucket has a home. When the nodes' shares change, as
//! few buckets as possible change hands: of a client whose home stays, nobody has to tell anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::apportion::apportion;

/// Buckets of a table. A node's share is off by less than one of them; of more nodes than that, the ones with the
/// smallest shares are nobody's home.
pub const BUCKETS: u16 = 1024;

/// The homes of all clients of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The nodes that are somebody's home, by name.
    pub nodes: Vec<String>,
    /// Each bucket's home: an index into `nodes`. Empty if there are no nodes.
    pub buckets: Vec<u16>,
}

impl Table {
    /// Buckets whose home is another than in `before`.
    #[must_use]
    pub fn moved_since(&self, before: &Self) -> usize {
        let all = 0..usize::from(BUCKETS);
        all.filter(|bucket| self.owner(*bucket) != before.owner(*bucket))
            .count()
    }

    /// Tables may come from elsewhere: one that is too short or names no node has no home for that bucket.
    fn owner(&self, bucket: usize) -> Option<&str> {
        let node = *self.buckets.get(bucket)?;
        self.nodes.get(usize::from(node)).map(String::as_str)
    }
}

/// The table for nodes with these shares (any unit: only proportions count), with the fewest changes since
/// `previous`.
///
/// Every node has its exact part of the buckets, rounded down or up: so nobody is off by a whole bucket. Who is
/// rounded up is decided so that the fewest buckets move, and else by the largest remainder. Nodes of share 0 get
/// none. A node that is named twice has the sum. Of more than 65,536 nodes the first by name count.
#[must_use]
pub fn homes(previous: Option<&Table>, shares: &[(String, u32)]) -> Table {
    let mut weights = BTreeMap::<&str, u64>::new();
    for (node, share) in shares.iter().filter(|(_, share)| *share > 0) {
        *weights.entry(node).or_default() += u64::from(*share);
    }
    while weights.len() > usize::from(u16::MAX) + 1 {
        weights.pop_last();
    }
    let names: Vec<&str> = weights.keys().copied().collect();
    let numbers: BTreeMap<&str, usize> = names.iter().copied().zip(0..).collect();
    let mut owners: Vec<Option<usize>> = (0..usize::from(BUCKETS))
        .map(|bucket| numbers.get(previous?.owner(bucket)?).copied())
        .collect();
    let mut held = vec![0; names.len()];
    for node in owners.iter().flatten() {
        held[*node] += 1;
    }
    let weights: Vec<u64> = weights.into_values().collect();
    let mut due = apportion(u32::from(BUCKETS), &weights, &held);
    for owner in &mut owners {
        // Who has more than its due keeps its first buckets.
        *owner = owner.filter(|node| take_one(&mut due[*node]));
    }
    let mut receivers = (0..names.len()).flat_map(|node| (0..due[node]).map(move |_| node));
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        *owner = receivers.next();
    }
    table(&names, &owners)
}

fn take_one(due: &mut u32) -> bool {
    let any = *due > 0;
    *due -= u32::from(any);
    any
}

/// The table that names only nodes with a bucket.
fn table(names: &[&str], owners: &[Option<usize>]) -> Table {
    let mut used = vec![false; names.len()];
    for owner in owners.iter().flatten() {
        used[*owner] = true;
    }
    let mut index = vec![0_u16; names.len()];
    let mut nodes = Vec::new();
    for (at, name) in names.iter().enumerate().filter(|(at, _)| used[*at]) {
        // At most as many nodes as buckets.
        index[at] = nodes.len() as u16;
        nodes.push((*name).to_owned());
    }
    let buckets = owners.iter().flatten().map(|owner| index[*owner]);
    Table {
        nodes,
        buckets: buckets.collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(of: &[(&str, u32)]) -> Vec<(String, u32)> {
        let owned = of.iter().map(|(name, share)| ((*name).to_owned(), *share));
        owned.collect()
    }

    fn counts(table: &Table) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for bucket in 0..usize::from(BUCKETS) {
            *counts
                .entry(table.owner(bucket).unwrap().to_owned())
                .or_default() += 1;
        }
        counts
    }

    #[test]
    fn without_nodes_there_is_no_home() {
        for none in [vec![], shares(&[("a", 0)])] {
            let table = homes(None, &none);
            assert_eq!(table, Table::default());
            assert_eq!(table.owner(0), None);
        }
    }

    #[test]
    fn a_table_that_makes_no_sense_is_as_good_as_none() {
        let broken = Table {
            nodes: vec!["a".to_owned()],
            buckets: vec![7; 3],
        };
        assert_eq!(broken.owner(0), None, "it names no such node");
        assert_eq!(broken.owner(3), None, "it is too short");
        let new = homes(Some(&broken), &shares(&[("a", 1), ("b", 1)]));
        assert_eq!(new, homes(None, &shares(&[("a", 1), ("b", 1)])));
    }

    #[test]
    fn a_lost_node_gives_its_buckets_and_nobody_else_moves() {
        let before = homes(None, &shares(&[("a", 1), ("b", 1), ("c", 1)]));
        let after = homes(Some(&before), &shares(&[("a", 1), ("c", 1)]));
        let of_b = counts(&before)["b"];
        assert_eq!(after.moved_since(&before) as u64, of_b);
        for bucket in 0..usize::from(BUCKETS) {
            if before.owner(bucket) != Some("b") {
                assert_eq!(before.owner(bucket), after.owner(bucket));
            }
        }
    }

    fn any_shares(nodes: usize) -> impl Strategy<Value = Vec<(String, u32)>> {
        let share = prop_oneof![Just(0), 0_u32..10, 0_u32..=u32::MAX];
        prop::collection::vec(share, 0..nodes).prop_map(|shares| {
            let names = (0..).map(|number| format!("node-{number}"));
            names.zip(shares).collect()
        })
    }

    /// Least moves from `held` to a proportional division, by trying all.
    fn least_moves(total: u32, weights: &[u64], held: &[u32]) -> u32 {
        let sum: u64 = weights.iter().sum();
        let exact = |at: usize| u64::from(total) * weights[at];
        (0..1_u32 << weights.len())
            .filter_map(|up| {
                let parts: Vec<u64> = (0..weights.len())
                    .map(|at| exact(at) / sum + u64::from(up >> at & 1))
                    .collect();
                let near = (0..weights.len()).all(|at| parts[at] * sum < exact(at) + sum);
                let whole = parts.iter().sum::<u64>() == u64::from(total);
                let lost = held.iter().zip(&parts);
                let moves = lost.map(|(held, part)| u64::from(*held).saturating_sub(*part));
                (near && whole).then(|| moves.sum::<u64>() as u32)
            })
            .min()
            .unwrap()
    }

    proptest! {
        #[test]
        fn shares_are_proportional_within_one_bucket(
            before in any_shares(20), after in any_shares(20),
        ) {
            let before = homes(None, &before);
            let table = homes(Some(&before), &after);
            let sum: u64 = after.iter().map(|(_, share)| u64::from(*share)).sum();
            prop_assume!(sum > 0);
            prop_assert_eq!(table.buckets.len(), usize::from(BUCKETS));
            let counts = counts(&table);
            for (node, share) in &after {
                let exact = f64::from(BUCKETS) * f64::from(*share) / sum as f64;
                let has = counts.get(node).copied().unwrap_or(0) as f64;
                prop_assert!((has - exact).abs() < 1.0, "{node}: {has} of {exact}");
                prop_assert!(*share > 0 || has == 0.0);
            }
        }

        #[test]
        fn as_few_buckets_move_as_can(before in any_shares(8), after in any_shares(8)) {
            let old = homes(None, &before);
            let new = homes(Some(&old), &after);
            prop_assume!(!old.nodes.is_empty() && !new.nodes.is_empty());
            let weighted: Vec<_> = after.iter().filter(|(_, share)| *share > 0).collect();
            let weights: Vec<_> = weighted.iter().map(|(_, share)| u64::from(*share)).collect();
            let had = counts(&old);
            let held: Vec<_> = weighted
                .iter()
                .map(|(name, _)| had.get(name).copied().unwrap_or(0) as u32)
                .collect();
            let gone = u32::from(BUCKETS) - held.iter().sum::<u32>();
            let least = gone + least_moves(u32::from(BUCKETS), &weights, &held);
            prop_assert_eq!(new.moved_since(&old), least as usize);
        }

        #[test]
        fn order_and_repetition_change_nothing(of in any_shares(20)) {
            let table = homes(None, &of);
            let reversed: Vec<_> = of.iter().rev().cloned().collect();
            prop_assert_eq!(&table, &homes(None, &reversed));
            prop_assert_eq!(&table, &homes(Some(&table), &of));
        }
    }
}
