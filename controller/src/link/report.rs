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
    /// Its jobs by name, as far as `span` reaches.
    pub jobs: Vec<JobStatus>,
    /// The jobs of which it tells, and of no others.
    #[serde(default, skip_serializing_if = "Span::is_all")]
    pub span: Span,
    /// It learns from the store where other jobs are.
    #[serde(default)]
    pub follows: bool,
    /// Where it sends clients of other jobs, if it has to be told.
    #[serde(default)]
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
        let found = self.jobs.binary_search_by(|job| job.name.cmp(name));
        found.ok().map(|at| &self.jobs[at])
    }

    /// Whether it tells of all jobs that the node has.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.jobs.len() >= self.status.jobs as usize
    }

    /// Adds what an earlier report of the same life tells of other jobs.
    pub(crate) fn join(&mut self, before: Option<&Self>) {
        let before = before.filter(|before| before.life == self.life);
        let others = before.into_iter().flat_map(|before| &before.jobs);
        let others = others.filter(|job| !self.span.contains(&job.name));
        self.jobs.extend(others.cloned());
        self.jobs.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// A part of all names. A node with many jobs tells of them part by part, because a beat is one small value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The names from here on.
    pub from: String,
    /// The names before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Span {
    /// One name.
    pub(crate) fn of(job: &Name) -> Self {
        Self {
            from: job.to_string(),
            // No name has a space, and none sorts before it.
            to: Some(format!("{job} ")),
        }
    }

    /// Whether it is all names.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn contains(&self, job: &Name) -> bool {
        let (name, to) = (job.as_str(), self.to.as_deref());
        self.from.as_str() <= name && to.is_none_or(|to| name < to)
    }
}
