//! What a node tells of itself, with each beat and each answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tributary_api::{
    Name,
    status::{JobStatus, NodeStatus},
};

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The life of the node's process, a random number: another one has forgotten all jobs.
    pub life: u64,
    /// Grows with every report of a life.
    pub number: u64,
    /// The node itself.
    pub status: NodeStatus,
    /// Its gateway, if it is one of several nodes.
    pub url: Option<String>,
    /// What it was started with.
    pub labels: BTreeMap<String, String>,
    /// The updates that it can have in service at once, if it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// Its jobs.
    pub jobs: Vec<JobStatus>,
    /// Where it sends clients of other jobs.
    pub elsewhere: BTreeMap<Name, String>,
    /// The highest term that it has seen.
    pub term: u64,
    /// The process ends.
    pub leaving: bool,
}

impl NodeReport {
    /// A job that it runs.
    #[must_use]
    pub fn job(&self, name: &Name) -> Option<&JobStatus> {
        self.jobs.iter().find(|job| job.name == *name)
    }
}
