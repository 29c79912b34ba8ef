//! Which workers host a job, and which of its aggregators. Pure bookkeeping.

use crate::job::Job;
use crate::plan::Commit;
use crate::protocol::Attach;
use std::collections::{BTreeMap, BTreeSet};
use tributary_api::manifest::Determinism;
use tributary_sidecar_layout::Destination;

/// The workers of one job.
#[derive(Debug, Default)]
pub(super) struct Hosting {
    attaching: BTreeSet<u32>,
    attached: BTreeSet<u32>,
    places: BTreeMap<Destination, u32>,
    /// The workers have changed since the aggregators were spread over them.
    changed: bool,
    /// More workers were needed than were to be had.
    pub(super) starved: bool,
}

impl Hosting {
    /// Workers that host the job, or are about to.
    pub(super) fn workers(&self) -> usize {
        self.attaching.len() + self.attached.len()
    }

    pub(super) fn has(&self, owner: u32) -> bool {
        self.attaching.contains(&owner) || self.attached.contains(&owner)
    }

    pub(super) fn attaching(&mut self, owner: u32) {
        self.attaching.insert(owner);
    }

    pub(super) fn attached(&mut self, owner: u32) {
        if self.attaching.remove(&owner) {
            self.attached.insert(owner);
            self.changed = true;
        }
    }

    /// Forgets a worker and all its aggregators; true if it hosted the job or was about to.
    pub(super) fn remove(&mut self, owner: u32) -> bool {
        self.places.retain(|_, host| *host != owner);
        self.changed = true;
        self.attaching.remove(&owner) | self.attached.remove(&owner)
    }

    /// The worker for an aggregator: the one it has, or the attached one with the fewest.
    pub(super) fn place(&mut self, aggregator: Destination) -> Option<u32> {
        if let Some(host) = self.places.get(&aggregator) {
            return Some(*host);
        }
        let load = |owner: &u32| self.places.values().filter(|host| *host == owner).count();
        let host = self.attached.iter().copied().min_by_key(load)?;
        self.places.insert(aggregator, host);
        Some(host)
    }

    /// Between rounds: if workers have come or gone, every aggregator may be placed anew. Gives the
    /// routes to remove.
    pub(super) fn rebalance(&mut self) -> Vec<Destination> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        std::mem::take(&mut self.places).into_keys().collect()
    }

    /// Forgets everything; gives the routes to remove and the workers to detach.
    pub(super) fn clear(&mut self) -> (Vec<Destination>, Vec<u32>) {
        let all = std::mem::take(self);
        let workers = all.attached.into_iter().chain(all.attaching).collect();
        (all.places.into_keys().collect(), workers)
    }
}

/// What a worker must know to host a job.
pub(super) fn attachment(job: &Job) -> Attach {
    let spec = job.spec();
    let function = &job.function;
    Attach {
        job: job.number,
        name: job.name.to_string(),
        segment: job.arena.name().to_owned(),
        function: format!(
            "{} revision {}, job {}",
            function.name, function.revision, job.name
        ),
        digest: function.digest.hex(),
        config: serde_json::Value::Object(spec.function.config).to_string(),
        memory_bytes: function.spec.limits.memory.bytes(),
        deadline_ms: function.spec.limits.deadline.millis(),
        elements: job.layout.elements() as u32,
        fan_in: job.plan.tree.fan_in,
        lanes: job.plan.tree.lanes,
        threads: job.plan.threads,
        batch: job.plan.batch,
        ordered: spec.determinism == Determinism::Ordered,
        in_place: job.plan.commit == Commit::InPlace,
        part_elements: job.plan.part_elements,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_sidecar_layout::Level;

    fn leaf(index: u32) -> Destination {
        Destination::new(1, Level::Leaf, index)
    }

    #[test]
    fn aggregators_spread_over_attached_workers_and_stay() {
        let mut hosting = Hosting::default();
        hosting.attaching(7);
        assert_eq!(hosting.place(leaf(0)), None, "not attached yet");
        hosting.attached(7);
        assert_eq!(hosting.place(leaf(0)), Some(7));
        hosting.attaching(8);
        hosting.attached(8);
        assert_eq!(hosting.place(leaf(1)), Some(8));
        assert_eq!(hosting.place(leaf(0)), Some(7));
        assert_eq!(hosting.rebalance().len(), 2);
        assert!(hosting.rebalance().is_empty(), "nothing changed since");
    }

    #[test]
    fn a_lost_worker_takes_its_places_along() {
        let mut hosting = Hosting::default();
        for owner in [7, 8] {
            hosting.attaching(owner);
            hosting.attached(owner);
        }
        let host = hosting.place(leaf(0)).unwrap();
        assert!(hosting.remove(host));
        assert!(!hosting.remove(host));
        assert_ne!(hosting.place(leaf(0)), Some(host));
    }

    #[test]
    fn a_worker_that_was_never_asked_is_not_attached() {
        let mut hosting = Hosting::default();
        hosting.attached(7);
        assert_eq!(hosting.workers(), 0);
    }
}
