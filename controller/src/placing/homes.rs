//! Tables of homes between planning and placements.

use std::collections::{BTreeMap, BTreeSet};

use tributary_api::{Name, placement::Homes};
use tributary_planning::homes::{BUCKETS, Table, homes};

/// The most homes of one client that are remembered: far more than a client can have had within a round.
const LAYERS_MAX: usize = 64;

/// The table for these shares, with the fewest moves since `previous`.
pub(super) fn table(previous: Option<&Homes>, shares: &BTreeMap<Name, u32>) -> Homes {
    let previous = previous.map(|homes| Table {
        nodes: homes.nodes.iter().map(Name::to_string).collect(),
        buckets: homes.buckets.clone(),
    });
    let shares: Vec<_> = shares
        .iter()
        .map(|(node, share)| (node.to_string(), *share))
        .collect();
    let table = homes(previous.as_ref(), &shares);
    Homes {
        // They are the names that went in.
        nodes: table
            .nodes
            .iter()
            .filter_map(|node| node.parse().ok())
            .collect(),
        buckets: table.buckets,
    }
}

/// As few tables as it takes to say of each bucket which homes these give it: as many as the most homes of one bucket,
/// however often all have moved. Which table gives a home does not matter, only that one does.
pub(super) fn layers(tables: &[Homes]) -> Vec<Homes> {
    let homes_of = |bucket: usize| {
        let mut homes: Vec<&Name> = Vec::new();
        for home in tables.iter().filter_map(|table| table.owner(bucket)) {
            if !homes.contains(&home) {
                homes.push(home);
            }
        }
        let excess = homes.len().saturating_sub(LAYERS_MAX);
        homes.split_off(excess)
    };
    let buckets: Vec<Vec<&Name>> = (0..usize::from(BUCKETS)).map(homes_of).collect();
    let depth = buckets.iter().map(Vec::len).max().unwrap_or(0);
    let layer = |depth: usize| {
        buckets
            .iter()
            .map(move |homes| homes.get(depth).or(homes.last()))
    };
    (0..depth).map(|depth| named(layer(depth))).collect()
}

/// The table that gives the buckets these homes.
fn named<'a>(homes: impl Iterator<Item = Option<&'a &'a Name>> + Clone) -> Homes {
    let nodes: BTreeSet<&Name> = homes.clone().flatten().copied().collect();
    let number: BTreeMap<&Name, u16> = nodes.iter().copied().zip(0..).collect();
    // No node has this number, so who had no home has none.
    let buckets = homes.map(|home| home.map_or(u16::MAX, |home| number[*home]));
    Homes {
        buckets: buckets.collect(),
        nodes: nodes.into_iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares() -> impl Strategy<Value = BTreeMap<Name, u32>> {
        let node = (0..12_u32).prop_map(|number| format!("node-{number}").parse().unwrap());
        prop::collection::btree_map(node, 1..9_u32, 1..8)
    }

    fn homes_of(tables: &[Homes], bucket: usize) -> BTreeSet<&Name> {
        tables
            .iter()
            .filter_map(|table| table.owner(bucket))
            .collect()
    }

    proptest! {
        #[test]
        fn layers_give_each_bucket_the_same_homes(moves in prop::collection::vec(shares(), 0..20)) {
            let mut tables: Vec<Homes> = Vec::new();
            for shares in &moves {
                tables.push(table(tables.last(), shares));
            }
            let layers = layers(&tables);
            let mut most = 0;
            for bucket in 0..usize::from(BUCKETS) {
                let homes = homes_of(&tables, bucket);
                prop_assert_eq!(&homes_of(&layers, bucket), &homes);
                most = most.max(homes.len());
            }
            prop_assert_eq!(layers.len(), most);
            prop_assert_eq!(&super::layers(&layers), &layers);
        }
    }

    #[test]
    fn one_table_is_its_own_layer() {
        let node = |name: &str| name.parse::<Name>().unwrap();
        let one = table(None, &BTreeMap::from([(node("a"), 1), (node("b"), 2)]));
        let tables = vec![one];
        assert_eq!(layers(&tables), tables);
        assert_eq!(layers(&[]), []);
    }
}
