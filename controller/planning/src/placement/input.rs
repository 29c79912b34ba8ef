//! What placement is told.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::capacity::{Capacity, Defaults};

/// A node as it was last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its labels, such as `zone: eu`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it may be given updates.
    pub state: NodeState,
    /// Cores that it may use.
    pub cores: u32,
    /// What it can take, as measured; `None` before there are measurements, when [`Settings::defaults`] stands in.
    #[serde(default)]
    pub capacity: Option<Capacity>,
    /// Updates that arrive per second, of all jobs: the *k* of `RC = MC - k * E`.
    #[serde(default)]
    pub arrivals_per_second: f64,
    /// How many of those are of which job. What is of a job that is being planned is planned anew, so it is left out
    /// of *k*.
    #[serde(default)]
    pub arrivals_of_jobs: BTreeMap<String, f64>,
}

impl Node {
    /// A ready node of which nothing is known but its name and its cores.
    pub fn new(name: impl Into<String>, cores: u32) -> Self {
        Self {
            name: name.into(),
            labels: BTreeMap::new(),
            state: NodeState::Ready,
            cores,
            capacity: None,
            arrivals_per_second: 0.0,
            arrivals_of_jobs: BTreeMap::new(),
        }
    }
}

/// Whether a node may be given updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Yes.
    Ready,
    /// No: it hands over what it has, and goes.
    Draining,
    /// No: it was not heard of for too long.
    Lost,
}

/// A job to be placed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Whose it is. Of jobs of one priority, every tenant's first is placed before anyone's second.
    pub tenant: String,
    /// Jobs of higher priority are placed first.
    #[serde(default)]
    pub priority: i32,
    /// Updates of a round.
    pub expected_updates: NonZeroU32,
    /// Seconds over which a round's updates arrive. An update then takes `E / arrival_seconds` of a node's
    /// concurrency (Little's law), at most 1. `None`: all may be in service at once, each takes 1.
    #[serde(default)]
    pub arrival_seconds: Option<f64>,
    /// How nodes are chosen.
    #[serde(default)]
    pub policy: Policy,
    /// Labels that a node must have.
    #[serde(default)]
    pub required_labels: BTreeMap<String, String>,
    /// Labels that a node should have: such nodes are filled first.
    #[serde(default)]
    pub preferred_labels: BTreeMap<String, String>,
    /// Jobs whose nodes are filled first, when this one has to go somewhere. It does not follow when they move.
    #[serde(default)]
    pub affinity: BTreeSet<String>,
    /// Jobs that it never shares a node with. Holds for both, whoever says it.
    #[serde(default)]
    pub anti_affinity: BTreeSet<String>,
    /// It cannot be split: its results depend on the order of updates, or are changed in place.
    #[serde(default)]
    pub single_node: bool,
    /// The most nodes that it may use.
    #[serde(default)]
    pub nodes_max: Option<NonZeroU32>,
}

impl Job {
    /// A job without wishes.
    pub fn new(
        name: impl Into<String>,
        tenant: impl Into<String>,
        expected_updates: NonZeroU32,
    ) -> Self {
        Self {
            name: name.into(),
            tenant: tenant.into(),
            priority: 0,
            expected_updates,
            arrival_seconds: None,
            policy: Policy::BestFit,
            required_labels: BTreeMap::new(),
            preferred_labels: BTreeMap::new(),
            affinity: BTreeSet::new(),
            anti_affinity: BTreeSet::new(),
            single_node: false,
            nodes_max: None,
        }
    }

    /// The most nodes, all in all.
    pub(super) fn width(&self) -> usize {
        if self.single_node {
            return 1;
        }
        let most = self.nodes_max.map_or(u32::MAX, NonZeroU32::get);
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}

/// How nodes are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The fewest nodes; among those, the ones that are left with the least.
    #[default]
    BestFit,
    /// Each update to the node with the most room.
    WorstFit,
    /// Nodes by name, each filled before the next.
    FirstFit,
    /// The same number of updates for every node.
    Spread,
}

impl Policy {
    /// Whether it counts nodes, and does not care how full they are.
    pub(super) const fn packs(self) -> bool {
        matches!(self, Self::BestFit | Self::FirstFit)
    }
}

/// The parameters of placement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// How much worse than a new plan the previous one may be and still be kept, as a share of 1: of the number of
    /// nodes (rounded down), of the fullest node's use, and of updates on nodes that are not preferred. A node may be
    /// filled beyond its measured capacity by as much before anything moves away from it.
    pub tolerance: f64,
    /// The most jobs on a node: it has to report how each of them is. What is there already stays.
    pub jobs_max: usize,
    /// What a node is taken for before it was measured.
    pub defaults: Defaults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tolerance: 0.1,
            jobs_max: 1000,
            defaults: Defaults::default(),
        }
    }
}
