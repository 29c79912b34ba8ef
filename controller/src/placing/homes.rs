//! Tables of homes between planning and placements.

use std::collections::BTreeMap;

use tributary_api::{Name, placement::Homes};
use tributary_planning::homes::{Table, homes};

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
