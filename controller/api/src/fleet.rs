//! What the HTTP interface says of several nodes, and of jobs' places on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Name,
    placement::Duty,
    stages::{StageTimes, Verdict},
    status::NodeStatus,
};

/// Whether a node is given work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is.
    #[default]
    Ready,
    /// It hands over what it has.
    Draining,
    /// It has handed over all it had.
    Drained,
    /// It is not heard any more.
    Lost,
}

/// A node, as the controller knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// What it says of itself, or said last.
    #[serde(flatten)]
    pub status: NodeStatus,
    /// Whether it is given work.
    #[serde(default)]
    pub state: NodeState,
    /// Its gateway, if it is one of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it was started with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The time since it was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_milliseconds_ago: Option<u64>,
    /// What it can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<NodeCapacity>,
    /// The jobs in which it is slow beside the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slow_in: Vec<Name>,
}

/// What a node can take: what it was told, else measured, else assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCapacity {
    /// The number of updates was learnt under load.
    pub measured: bool,
    /// The node was started with `--capacity`.
    #[serde(default)]
    pub given: bool,
    /// Updates that it can have in service at once, in thousandths.
    pub concurrency_milli: u64,
    /// The time that an update takes, in microseconds.
    pub update_microseconds: u64,
    /// Updates that arrive, in thousandths per second.
    pub arrivals_milli_per_second: u64,
}

/// Where a job is, and why there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementDescription {
    /// The job's name.
    pub job: Name,
    /// Grows with every placement of the job; 0 if there has been none.
    pub generation: u64,
    /// The node that hosts the top.
    pub leader: Option<Name>,
    /// The nodes that take part.
    pub members: Vec<MemberDescription>,
    /// What led to it, or why the job has no node.
    pub reason: String,
    /// Slow nodes that the job does without for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bypassed: Vec<BypassedNode>,
}

/// A slow node that a job does without for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BypassedNode {
    /// The node.
    pub node: Name,
    /// The round from which on it may take part again.
    pub until: u64,
    /// How often it was bypassed since it was last well.
    pub times: u32,
}

/// A node's part in a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDescription {
    /// The node.
    pub node: Name,
    /// Its gateway.
    pub url: String,
    /// Whether it takes more updates.
    pub duty: Duty,
    /// The updates of a round that are planned for it.
    pub expected: u32,
    /// How many of [`crate::placement::BUCKETS`] buckets of clients have their home there.
    pub buckets: u32,
    /// The placement that it follows, if it runs the job.
    pub generation: Option<u64>,
    /// What it took in the newest round in which it took part.
    #[serde(default)]
    pub stages: StageTimes,
    /// Whether it is slow beside the others.
    #[serde(default)]
    pub verdict: Verdict,
    /// Why it is slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl NodeCapacity {
    /// How it is known, for people.
    #[must_use]
    pub const fn whence(&self) -> &'static str {
        match (self.given, self.measured) {
            (true, _) => "given",
            (false, true) => "measured",
            (false, false) => "assumed",
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ready => "Ready",
            Self::Draining => "Draining",
            Self::Drained => "Drained",
            Self::Lost => "Lost",
        })
    }
}
