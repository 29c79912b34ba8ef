//! What the autoscaler says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is wanted, of all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// By job and node.
    pub jobs: BTreeMap<String, BTreeMap<String, Wanted>>,
}

impl Decision {
    /// What is wanted of a job on a node.
    #[must_use]
    pub fn wanted(&self, job: &str, node: &str) -> Option<&Wanted> {
        self.jobs.get(job)?.get(node)
    }
}

/// What is wanted of a job on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Workers, as many as the node has for this job.
    pub workers: u32,
    /// Workers that the job would have on a node of its own.
    pub wished: u32,
    /// Why so many.
    pub reason: Reason,
    /// The aggregators that they are for.
    pub tree: Tree,
}

/// A job's aggregators on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Leaves: `ceil(Q / I)`, as many as there are workers for.
    pub leaves: u32,
    /// A middle, because there is more than one leaf.
    pub middle: bool,
    /// The job's top.
    pub top: bool,
}

/// Why so many workers are wanted: the reason for the last one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is nothing to do, and nothing to be expected.
    #[default]
    Idle,
    /// Updates are in service.
    Load,
    /// A burst: nothing shrinks.
    Panic,
    /// The round's updates will come.
    Planned,
    /// A cold start is likely to cost more.
    KeptWarm,
    /// There was load within the stable window or the scale-down delay.
    Window,
    /// Nothing was seen: as before.
    NoData,
    /// More are wished for than the node has for this job.
    NodeFull,
}

impl Reason {
    /// All that there are.
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Load,
        Self::Panic,
        Self::Planned,
        Self::KeptWarm,
        Self::Window,
        Self::NoData,
        Self::NodeFull,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Load => "load",
            Self::Panic => "panic",
            Self::Planned => "planned",
            Self::KeptWarm => "kept_warm",
            Self::Window => "window",
            Self::NoData => "no_data",
            Self::NodeFull => "node_full",
        }
    }
}
