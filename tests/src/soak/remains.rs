//! What must be left when everything is repaired and all clients have gone home.

use std::collections::BTreeMap;

use super::SIZE;
use super::jobs::JOBS;
use crate::cluster::Cluster;
use crate::scrape::Scrape;
use crate::{process, wait};

/// The newest model, and the one before it.
const MODELS: f64 = 2.0;
/// Far more than a node with these jobs needs, and far less than a leak in each round would make.
const NODE_BYTES_MAX: u64 = 512 << 20;

/// The memory of nodes, with their workers.
#[derive(Debug, Default)]
pub struct Memory {
    /// The first two looks at each agent, by its process. It grows from the second: at the first it may not have compiled a
    /// function and taken part in a round yet.
    looks: BTreeMap<u32, Vec<u64>>,
    /// The most that a node had.
    pub most: u64,
    /// What nodes had in the end.
    pub last: Vec<u64>,
    /// The most that a process of an agent grew.
    pub grown: u64,
}

impl Memory {
    /// Looks at all nodes.
    pub fn weigh(&mut self, cluster: &Cluster) {
        self.last.clear();
        for node in 0..SIZE.nodes {
            let processes = cluster.node_processes(node);
            let Some(agent) = processes.first() else {
                continue;
            };
            let own = process::resident_bytes(*agent);
            let looks = self.looks.entry(*agent).or_default();
            match looks[..] {
                [_, begun] => self.grown = self.grown.max(own.saturating_sub(begun)),
                _ => looks.push(own),
            }
            let all = processes
                .iter()
                .map(|id| process::resident_bytes(*id))
                .sum();
            self.most = self.most.max(all);
            self.last.push(all);
        }
    }
}

/// Checks slots, segments, workers, memory, then stops everything and checks that nothing stays.
///
/// # Errors
/// If something does.
pub fn check(cluster: &mut Cluster, memory: &mut Memory) -> Result<(), String> {
    memory.weigh(cluster);
    if memory.most > NODE_BYTES_MAX {
        return Err(format!("a node had {} bytes of memory", memory.most));
    }
    wait::until("all slots but those of models are free", || {
        (0..SIZE.nodes).all(|node| used(cluster, node).values().all(|used| *used <= MODELS))
    });
    for node in 0..SIZE.nodes {
        check_node(cluster, node)?;
    }
    let ids: Vec<String> = (0..SIZE.nodes)
        .filter_map(|node| cluster.node_id(node))
        .collect();
    let processes = cluster.stop();
    if !processes.is_empty() {
        return Err(format!("processes are left: {processes:?}"));
    }
    let segments: Vec<String> = ids.iter().flat_map(|id| segments(id)).collect();
    if !segments.is_empty() {
        return Err(format!("segments are left: {segments:?}"));
    }
    Ok(())
}

fn check_node(cluster: &Cluster, node: usize) -> Result<(), String> {
    let workers = cluster.node_processes(node).len().saturating_sub(1);
    if workers > 2 {
        return Err(format!("node {node} has {workers} workers in place of 2"));
    }
    let id = cluster.node_id(node).unwrap_or_default();
    let (segments, jobs) = (segments(&id), used(cluster, node));
    if segments.len() != jobs.len() {
        return Err(format!(
            "node {node} has jobs {jobs:?} and segments {segments:?}"
        ));
    }
    Ok(())
}

fn segments(id: &str) -> Vec<String> {
    process::segments(&format!("tributary-{id}-"))
}

/// The slots that are in use on a node, for each job that it runs.
fn used(cluster: &Cluster, node: usize) -> BTreeMap<&'static str, f64> {
    let scrape = Scrape::parse(&cluster.door(node).get("/metrics").text());
    let slots = |job: &str, state| {
        scrape.sum(
            "tributary_arena_slots",
            &[("fl_job", job), ("state", state)],
        )
    };
    // A job that does not run here has no slots at all.
    let here = JOBS.iter().filter(|job| slots(job.name, "free") > 0.0);
    here.map(|job| (job.name, slots(job.name, "used")))
        .collect()
}
