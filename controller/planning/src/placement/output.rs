//! What placement says.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Where all jobs go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Each job's outcome, by the job's name.
    pub jobs: BTreeMap<String, Outcome>,
}

impl Plan {
    /// Where a job goes, if it goes anywhere.
    #[must_use]
    pub fn placement(&self, job: &str) -> Option<&Placement> {
        match self.jobs.get(job)? {
            Outcome::Placed(placement) => Some(placement),
            Outcome::Unplaced(_) => None,
        }
    }

    /// The nodes that have anything to do.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<&str> {
        let placed = self.jobs.keys().filter_map(|job| self.placement(job));
        let nodes = placed.flat_map(|placement| placement.shares.keys());
        nodes.map(String::as_str).collect()
    }
}

/// Where one job goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// To these nodes.
    Placed(Placement),
    /// Nowhere, for this reason.
    Unplaced(Unplaced),
}

/// The nodes of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Updates of a round by the node that takes them. Their sum is what the job expects; none is 0.
    pub shares: BTreeMap<String, u32>,
    /// The node of the top: the one that takes the most.
    pub top: String,
    /// Updates among them for which there was no capacity. They are shared in proportion to MC.
    pub overload: u32,
}

impl Placement {
    /// Updates that are elsewhere than in `before`: what a change of plan moves.
    #[must_use]
    pub fn moved_since(&self, before: &Self) -> u64 {
        let there = |node: &String| before.shares.get(node).copied().unwrap_or(0);
        let more = self.shares.iter();
        more.map(|(node, share)| u64::from(share.saturating_sub(there(node))))
            .sum()
    }
}

/// Why a job cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Unplaced {
    /// There is no node at all.
    #[error("0 nodes have joined: start one with `tributary node`")]
    NoNodes,
    /// None of them is ready.
    #[error(
        "0 of {known} nodes are ready: {draining} draining, {lost} lost; add a node, or bring one of them back"
    )]
    NoneReady {
        /// All nodes.
        known: usize,
        /// Those that are draining.
        draining: usize,
        /// Those that are lost.
        lost: usize,
    },
    /// None of the ready nodes has the labels.
    #[error(
        "0 of {ready} ready nodes match {wanted}; labels seen: {seen}; label a node, or change the job's node selector"
    )]
    NoLabels {
        /// The ready nodes.
        ready: usize,
        /// What the job asks for.
        wanted: String,
        /// The values that there are for the labels that the job asks for, or all labels.
        seen: String,
    },
    /// All nodes that would do have as many jobs as they may.
    #[error(
        "each of {matching} matching nodes has {jobs_max} jobs, the most that a node can report; add a node, or delete jobs"
    )]
    Full {
        /// The nodes that would do otherwise.
        matching: usize,
        /// The most jobs.
        jobs_max: usize,
    },
    /// All nodes that would do run jobs that it must be apart from.
    #[error(
        "0 of {matching} matching nodes are without {jobs} (anti-affinity); add a node, or drop the rule"
    )]
    Apart {
        /// The nodes that would do otherwise.
        matching: usize,
        /// The jobs that are there.
        jobs: String,
    },
}
