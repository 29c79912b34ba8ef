//! How long nodes take for the stages of their part in a round. A slow node shows in them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Name;

/// The header by which a follower tells, beside its partial, how long folding an update took: microseconds. One that
/// is not there tells nothing.
pub const FOLD_HEADER: &str = "tributary-fold-microseconds";

/// The times of a node's stages in a round, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageTimes {
    /// What an update took to be folded: the time of the calls, divided by their updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold_microseconds: Option<u64>,
    /// From the round's close until the node's partial lay in the leader's slot; of the leader: until its own part was
    /// whole. Nothing if it was before the close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hand_over_microseconds: Option<u64>,
    /// From the first byte of the partial to its last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_microseconds: Option<u64>,
}

/// A node's times in a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTimes {
    /// The node.
    pub node: Name,
    /// What it took.
    #[serde(flatten)]
    pub stages: StageTimes,
}

/// The times of a round that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTimes {
    /// The round's number.
    pub round: u64,
    /// Its nodes' times.
    pub nodes: Vec<NodeTimes>,
}

/// What a closed round waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// The round's number.
    pub round: u64,
    /// The time since it closed.
    pub microseconds: u64,
    /// The followers whose partials have not come.
    pub nodes: Vec<Name>,
    /// What the others took to hand over.
    pub handed_over_microseconds: Vec<u64>,
}

/// Whether a node is slow beside the others of its job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is not, or nobody can say yet.
    #[default]
    Well,
    /// It is.
    Slow,
    /// It is, and the job does without it.
    Bypassed,
}

/// Microseconds as they are told.
#[must_use]
pub fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Well => "well",
            Self::Slow => "slow",
            Self::Bypassed => "bypassed",
        })
    }
}
