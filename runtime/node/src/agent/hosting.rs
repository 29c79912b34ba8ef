//! Which workers host a job, and which of its aggregators. Pure bookkeeping.
//!
//! ```text
//!   attaching ──attached──▶ attached
//!       └────────leave───────┴──▶ leaving ──detached, or its process has ended──▶ gone
//! ```
//!
//! **An aggregator is at one worker at a time.** One that was told to leave may be in the middle of a step; so its
//! aggregators have no other place before it says that it is done, or its process has ended.

use super::backoff::Backoff;
use crate::job::Job;
use crate::plan::Commit;
use crate::protocol::Attach;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tributary_api::manifest::Determinism;
use tributary_sidecar_layout::Destination;

/// What the newest start counts in the mean.
const NEWEST: f64 = 0.2;

/// The workers of one job.
#[derive(Debug, Default)]
pub(super) struct Hosting {
    /// Since when.
    attaching: BTreeMap<u32, Instant>,
    attached: BTreeSet<u32>,
    leaving: BTreeSet<u32>,
    places: BTreeMap<Destination, u32>,
    /// The workers have changed since the aggregators were spread over them.
    changed: bool,
    /// More workers were needed than were to be had.
    pub(super) starved: bool,
    /// After losses of workers that had something of the job in hand: perhaps its function is to blame. Other jobs do not
    /// wait with it.
    pub(super) losses: Backoff,
    /// How many there should be, if that has been decided.
    pub(super) wanted: Option<u32>,
    /// Seconds from the request until a worker hosts the job, on average.
    start_seconds: Option<f64>,
}

impl Hosting {
    /// Workers that host the job, or are about to.
    pub(super) fn workers(&self) -> usize {
        self.attaching.len() + self.attached.len()
    }

    /// Those that do.
    pub(super) fn ready(&self) -> usize {
        self.attached.len()
    }

    /// Those that are about to.
    pub(super) fn starting(&self) -> usize {
        self.attaching.len()
    }

    pub(super) fn start_seconds(&self) -> Option<f64> {
        self.start_seconds
    }

    /// The workers that have to do with the job, be it that they leave.
    pub(super) fn owners(&self) -> impl Iterator<Item = u32> + '_ {
        let hosts = self.attached.iter().chain(self.attaching.keys());
        hosts.chain(&self.leaving).copied()
    }

    /// How many there should be: without a decision, one for each leaf that is filled beside others.
    pub(super) fn target(&self, lanes: u32) -> u32 {
        self.wanted.unwrap_or(lanes).min(lanes)
    }

    /// True if a worker hosts the job, or is about to.
    pub(super) fn hosts(&self, owner: u32) -> bool {
        self.attaching.contains_key(&owner) || self.attached.contains(&owner)
    }

    /// True if a worker has to do with the job, be it that it leaves.
    pub(super) fn knows(&self, owner: u32) -> bool {
        self.hosts(owner) || self.leaving.contains(&owner)
    }

    /// No worker has to do with the job.
    pub(super) fn is_deserted(&self) -> bool {
        self.attaching.is_empty() && self.attached.is_empty() && self.leaving.is_empty()
    }

    pub(super) fn attaching(&mut self, owner: u32, since: Instant) {
        self.attaching.insert(owner, since);
    }

    /// True if that was still wanted.
    pub(super) fn attached(&mut self, owner: u32, now: Instant) -> bool {
        let Some(since) = self.attaching.remove(&owner) else {
            return false;
        };
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        let mean = self.start_seconds.get_or_insert(seconds);
        *mean += NEWEST * (seconds - *mean);
        self.changed |= self.attached.insert(owner);
        true
    }

    /// A worker shall host the job no more. Gives the routes to remove.
    pub(super) fn leave(&mut self, owner: u32) -> Vec<Destination> {
        let hosted = self.attaching.remove(&owner).is_some() | self.attached.remove(&owner);
        if !hosted {
            return Vec::new();
        }
        self.leaving.insert(owner);
        let places = self.places.iter();
        places
            .filter(|(_, host)| **host == owner)
            .map(|(place, _)| *place)
            .collect()
    }

    /// A worker is gone, with all its aggregators; true if it had to do with the job.
    pub(super) fn gone(&mut self, owner: u32) -> bool {
        let known = self.knows(owner);
        self.places.retain(|_, host| *host != owner);
        self.attaching.remove(&owner);
        self.attached.remove(&owner);
        self.leaving.remove(&owner);
        self.changed |= known;
        known
    }

    /// The worker for an aggregator: the one it has, or the attached one with the fewest. None while the one that it
    /// has leaves.
    pub(super) fn place(&mut self, aggregator: Destination) -> Option<u32> {
        if let Some(host) = self.places.get(&aggregator) {
            return Some(*host).filter(|host| !self.leaving.contains(host));
        }
        let load = |owner: &u32| self.load(*owner);
        let host = self.attached.iter().copied().min_by_key(load)?;
        self.places.insert(aggregator, host);
        Some(host)
    }

    /// Aggregators that a worker hosts.
    fn load(&self, owner: u32) -> usize {
        self.places.values().filter(|host| **host == owner).count()
    }

    /// Between rounds: if workers have come or gone, every aggregator may be placed anew. Gives the
    /// routes to remove.
    pub(super) fn rebalance(&mut self) -> Vec<Destination> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        // A worker that leaves has no part in the next round, whatever it still does for the last one.
        std::mem::take(&mut self.places).into_keys().collect()
    }

    /// All workers shall host the job no more. Gives the routes to remove and the workers to detach.
    pub(super) fn leave_all(&mut self) -> (Vec<Destination>, Vec<u32>) {
        let hosts = self.attached.iter().chain(self.attaching.keys());
        let owners: Vec<u32> = hosts.copied().collect();
        // Who is let go waits for nobody.
        self.starved = false;
        let routes = owners.iter().flat_map(|owner| self.leave(*owner)).collect();
        (routes, owners)
    }

    /// The worker that the job can spare best: one that other jobs use, then the one with the fewest aggregators. One
    /// that has something in hand (`awaited` are the aggregators for which something lies there) only if `pressed`.
    pub(super) fn surplus(
        &self,
        awaited: &BTreeSet<Destination>,
        sharing: impl Fn(u32) -> usize,
        pressed: bool,
    ) -> Option<u32> {
        let awaits = |place: &Destination| awaited.contains(place);
        let busy = |owner: u32| {
            let mut places = self.places.iter().filter(|(_, host)| **host == owner);
            places.any(|(place, _)| awaits(place))
        };
        let hosts = self.attached.iter().chain(self.attaching.keys()).copied();
        let may_go = hosts.map(|owner| (busy(owner), owner));
        let may_go = may_go.filter(|(busy, _)| pressed || !busy);
        let spared = may_go.min_by_key(|(busy, owner)| {
            let shared = Reverse(sharing(*owner));
            (shared, *busy, self.load(*owner), Reverse(*owner))
        });
        spared.map(|(_, owner)| owner)
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
    use std::time::Duration;
    use tributary_sidecar_layout::Level;

    fn leaf(index: u32) -> Destination {
        Destination::new(1, Level::Leaf, index)
    }

    fn hosting(owners: &[u32]) -> Hosting {
        let (mut hosting, now) = (Hosting::default(), Instant::now());
        for owner in owners {
            hosting.attaching(*owner, now);
            assert!(hosting.attached(*owner, now));
        }
        hosting
    }

    fn alone(_: u32) -> usize {
        0
    }

    #[test]
    fn aggregators_spread_over_attached_workers_and_stay() {
        let mut hosting = Hosting::default();
        let now = Instant::now();
        hosting.attaching(7, now);
        assert_eq!(hosting.place(leaf(0)), None, "not attached yet");
        hosting.attached(7, now);
        assert_eq!(hosting.place(leaf(0)), Some(7));
        hosting.attaching(8, now);
        hosting.attached(8, now);
        assert_eq!(hosting.place(leaf(1)), Some(8));
        assert_eq!(hosting.place(leaf(0)), Some(7));
        assert_eq!(hosting.rebalance().len(), 2);
        assert!(hosting.rebalance().is_empty(), "nothing changed since");
    }

    #[test]
    fn a_lost_worker_takes_its_places_along() {
        let mut hosting = hosting(&[7, 8]);
        let host = hosting.place(leaf(0)).unwrap();
        assert!(hosting.gone(host));
        assert!(!hosting.gone(host));
        assert_ne!(hosting.place(leaf(0)), Some(host));
    }

    #[test]
    fn a_worker_that_was_never_asked_or_has_to_leave_is_not_attached() {
        let (mut hosting, now) = (Hosting::default(), Instant::now());
        assert!(!hosting.attached(7, now));
        hosting.attaching(8, now);
        hosting.leave(8);
        assert!(!hosting.attached(8, now), "it was told to leave meanwhile");
        assert_eq!(hosting.workers(), 0);
        assert!(hosting.knows(8) && !hosting.hosts(8));
    }

    #[test]
    fn an_aggregator_has_no_other_place_until_its_worker_has_left() {
        let mut hosting = hosting(&[7, 8]);
        let (at, other) = (
            hosting.place(leaf(0)).unwrap(),
            hosting.place(leaf(1)).unwrap(),
        );
        assert_eq!(hosting.leave(at), [leaf(0)]);
        assert_eq!(hosting.place(leaf(0)), None, "it may still be worked on");
        assert_eq!(hosting.place(leaf(1)), Some(other), "the others go on");
        assert!(hosting.gone(at));
        assert_eq!(hosting.place(leaf(0)), Some(other));
    }

    #[test]
    fn scale_to_zero_is_everybody_leaving() {
        let mut hosting = hosting(&[7, 8]);
        hosting.attaching(9, Instant::now());
        hosting.place(leaf(0));
        let (routes, mut owners) = hosting.leave_all();
        owners.sort_unstable();
        assert_eq!((routes, owners), (vec![leaf(0)], vec![7, 8, 9]));
        assert_eq!(hosting.workers(), 0);
    }

    #[test]
    fn who_can_be_spared_best_goes_first() {
        let mut hosting = hosting(&[7, 8, 9]);
        for index in 0..5 {
            hosting.place(leaf(index));
        }
        let nothing = BTreeSet::new();
        // 7 and 8 have two aggregators, 9 has one.
        assert_eq!(hosting.surplus(&nothing, alone, false), Some(9));
        let shared = |owner: u32| usize::from(owner == 8);
        assert_eq!(hosting.surplus(&nothing, shared, false), Some(8));
        let of_9 = BTreeSet::from([leaf(2)]);
        assert_eq!(hosting.surplus(&of_9, alone, false), Some(8));
        let of_all = BTreeSet::from([leaf(0), leaf(1), leaf(2)]);
        assert_eq!(hosting.surplus(&of_all, alone, false), None);
        assert_eq!(hosting.surplus(&of_all, alone, true), Some(9));
    }

    #[test]
    fn starts_are_measured() {
        let (mut hosting, now) = (Hosting::default(), Instant::now());
        assert_eq!(hosting.start_seconds(), None);
        for (owner, seconds) in [(7, 1.0), (8, 2.0)] {
            hosting.attaching(owner, now);
            hosting.attached(owner, now + Duration::from_secs_f64(seconds));
        }
        let mean = hosting.start_seconds().unwrap();
        assert!((mean - 1.2).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn without_a_decision_there_is_a_worker_for_each_lane() {
        let mut hosting = Hosting::default();
        assert_eq!(hosting.target(2), 2);
        hosting.wanted = Some(5);
        assert_eq!(hosting.target(2), 2);
        hosting.wanted = Some(0);
        assert_eq!(hosting.target(2), 0);
    }
}
