//! What is kept of a placement.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tributary_api::{
    Name,
    placement::{Duty, Placement},
};
use tributary_planning::placement::{self as planning, Outcome};

use super::bypass::Bypasses;

/// A placement and how it came about, as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Placed {
    pub(crate) placement: Placement,
    /// The updates of a round that each node is planned for.
    pub(crate) shares: BTreeMap<Name, u32>,
    /// Since which generation each member has been one without a break. A node that comes back after it was given up
    /// starts the job anew: what it has was declared lost.
    pub(crate) joined: BTreeMap<Name, u64>,
    /// The job's revision that it was made for.
    pub(crate) revision: u64,
    /// Slow nodes that the job does without, or did and that are not well yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) bypassed: Bypasses,
    pub(crate) cause: Cause,
    /// The same for people, and more.
    pub(crate) reason: String,
}

/// What led to a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Cause {
    /// The job is new.
    Created,
    /// The job is not what it was, and starts anew.
    Restarted,
    /// A member is lost.
    Lost,
    /// A member is drained.
    Drained,
    /// A member is slow, and the job does without it. Stored as a controller of the version before understands it.
    #[serde(rename(serialize = "drained"))]
    Bypassed,
    /// A node takes part that did not.
    Joined,
    /// A member has handed over what it had.
    Left,
    /// Nodes take other shares, or their gateways are elsewhere.
    Moved,
}

impl Placed {
    /// Members whose part of the open round is closed, though the round is not: a node that follows hands over what it
    /// has as soon as it hears that it is drained, and takes no more. It has to leave before it can take part again.
    pub(super) fn handing_over(&self) -> BTreeSet<Name> {
        let members = self.placement.members.iter();
        let follows = members.filter(|member| member.node != self.placement.leader);
        let leaving = follows.filter(|member| member.duty == Duty::Draining);
        leaving.map(|member| member.node.clone()).collect()
    }

    /// As planning takes it.
    pub(super) fn outcome(&self) -> Outcome {
        let shares = self.shares.iter();
        Outcome::Placed(planning::Placement {
            shares: shares
                .map(|(node, share)| (node.to_string(), *share))
                .collect(),
            top: self.placement.leader.to_string(),
            overload: 0,
        })
    }
}

impl Cause {
    pub(crate) const ALL: [Self; 8] = [
        Self::Created,
        Self::Restarted,
        Self::Lost,
        Self::Drained,
        Self::Bypassed,
        Self::Joined,
        Self::Left,
        Self::Moved,
    ];

    /// The value of a metric's label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Restarted => "restarted",
            Self::Lost => "lost",
            Self::Drained => "drained",
            Self::Bypassed => "bypassed",
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Moved => "moved",
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Created => "the job is new",
            Self::Restarted => "the job was changed and starts anew",
            Self::Lost => "a node was lost",
            Self::Drained => "a node is drained",
            Self::Bypassed => "a slow node is bypassed",
            Self::Joined => "a node takes part",
            Self::Left => "a node has handed over what it had",
            Self::Moved => "the nodes' shares have changed",
        })
    }
}
