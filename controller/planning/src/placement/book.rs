//! What is where while a plan is made.

use std::collections::{BTreeMap, BTreeSet};

use super::candidate::Shares;
use super::{Job, Node, Placement, Settings};
use crate::capacity::Capacity;

/// An update takes at least this much of a node's concurrency: no node has room without end.
const COST_MIN: f64 = 1e-6;

/// Nodes in the order of their names, and what each has to do.
pub(super) struct Book<'a> {
    nodes: Vec<Entry<'a>>,
    /// Each job's arrival time, for the cost of its updates.
    seconds: Vec<Option<f64>>,
    /// What of MC each job has, by node.
    taken: Vec<BTreeMap<usize, f64>>,
}

struct Entry<'a> {
    node: &'a Node,
    capacity: Capacity,
    /// What of MC is in use: by others, and by the jobs that are placed.
    load: f64,
    /// Jobs that are placed there.
    jobs: usize,
}

impl<'a> Book<'a> {
    /// An empty book: nodes have the load of what is not of `jobs`.
    pub(super) fn new(nodes: &'a [Node], jobs: &[&Job], settings: &Settings) -> Self {
        let mut by_name: Vec<&Node> = nodes.iter().collect();
        // Stable, so of several with one name the first stays.
        by_name.sort_by(|a, b| a.name.cmp(&b.name));
        by_name.dedup_by(|later, first| later.name == first.name);
        let planned: BTreeSet<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        let entry = |node: &'a Node| {
            let capacity = capacity(node, settings);
            let own = node.arrivals_of_jobs.iter();
            let own = own.filter(|(job, _)| planned.contains(job.as_str()));
            let own: f64 = own.map(|(_, rate)| sound(*rate)).sum();
            let others = (sound(node.arrivals_per_second) - own).max(0.0);
            Entry {
                node,
                capacity,
                load: others * capacity.seconds_per_update,
                jobs: 0,
            }
        };
        Self {
            nodes: by_name.into_iter().map(entry).collect(),
            seconds: jobs.iter().map(|job| job.arrival_seconds).collect(),
            taken: jobs.iter().map(|_| BTreeMap::new()).collect(),
        }
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (usize, &'a Node)> {
        self.nodes.iter().map(|entry| entry.node).enumerate()
    }

    pub(super) fn node(&self, name: &str) -> Option<usize> {
        let found = self
            .nodes
            .binary_search_by(|entry| entry.node.name.as_str().cmp(name));
        found.ok()
    }

    pub(super) fn name(&self, node: usize) -> String {
        self.nodes[node].node.name.clone()
    }

    pub(super) fn concurrency(&self, node: usize) -> f64 {
        self.nodes[node].capacity.concurrency
    }

    pub(super) fn jobs(&self, node: usize) -> usize {
        self.nodes[node].jobs
    }

    pub(super) fn load(&self, node: usize) -> f64 {
        self.nodes[node].load
    }

    /// A placement by the numbers of the nodes that still exist.
    pub(super) fn resolve(&self, placement: &Placement) -> Shares {
        let known = placement.shares.iter();
        known
            .filter_map(|(name, share)| Some((self.node(name)?, *share)))
            .collect()
    }

    /// A job's nodes.
    pub(super) fn nodes_of(&self, job: usize) -> impl Iterator<Item = usize> {
        self.taken[job].keys().copied()
    }

    /// What of MC an update of a job takes on a node: all of one place if a round's updates come at once, and by
    /// Little's law `E / T` if they come over a time T.
    pub(super) fn cost(&self, job: usize, node: usize) -> f64 {
        let seconds = self.nodes[node].capacity.seconds_per_update;
        match self.seconds[job] {
            Some(time) if time.is_finite() && time > 0.0 => (seconds / time).clamp(COST_MIN, 1.0),
            _ => 1.0,
        }
    }

    /// Gives a job its shares. What goes beyond a node's capacity takes nothing from others: excess has no claim.
    pub(super) fn take(&mut self, job: usize, shares: &Shares) {
        for (node, share) in shares {
            let wanted = f64::from(*share) * self.cost(job, *node);
            let entry = &mut self.nodes[*node];
            let free = (entry.capacity.concurrency - entry.load).max(0.0);
            let given = wanted.min(free);
            entry.load += given;
            entry.jobs += usize::from(self.taken[job].insert(*node, given).is_none());
        }
    }

    /// Takes a job's shares back.
    pub(super) fn release(&mut self, job: usize) {
        for (node, given) in std::mem::take(&mut self.taken[job]) {
            self.nodes[node].load -= given;
            self.nodes[node].jobs -= 1;
        }
    }
}

fn capacity(node: &Node, settings: &Settings) -> Capacity {
    let measured = node.capacity.filter(Capacity::is_sound);
    measured.unwrap_or_else(|| settings.defaults.of(node.cores))
}

/// A rate that can be reckoned with: none where there is none.
fn sound(rate: f64) -> f64 {
    if rate.is_finite() { rate.max(0.0) } else { 0.0 }
}
