//! What flows through a job on this node, counted as it happens: what the autoscaler is told of it.

use super::{Inner, Job};
use crate::meter::Meter;
use crate::round::Round;
use std::time::{Duration, Instant};
use tributary_arena::State;

/// Counters since somebody looked last.
#[derive(Debug)]
pub(super) struct Flow {
    /// The node's, of all jobs. While no worker hosts the job, nothing of it is in service there: what waits for a
    /// worker that starts says nothing of what the node can take.
    meter: Meter,
    hosted: bool,
    since: Instant,
    changed: Instant,
    /// Updates that wait or are worked on, by what has been told: the arena has the last word.
    in_service: u32,
    /// The same, times seconds.
    waited: f64,
    arrived: u32,
    folded: u32,
    busy_seconds: f64,
}

/// What has passed in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Passed {
    /// Its length.
    pub seconds: f64,
    /// Updates that were accepted.
    pub arrived: u32,
    /// Updates that were folded.
    pub folded: u32,
    /// Seconds that workers spent in steps.
    pub busy_seconds: f64,
    /// Updates that waited or were worked on, on average.
    pub in_service: f64,
}

/// A job as it is seen now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    pub passed: Passed,
    /// The open round, if it is known how many updates it takes.
    pub round: Option<RoundLook>,
    /// The one before it, as it was at its end.
    pub before: Option<RoundLook>,
    /// The job's top is on this node.
    pub leads: bool,
    /// Its workers stay for a fixed time.
    pub keep_alive: bool,
}

/// The node's part of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundLook {
    pub number: u64,
    pub opened: Instant,
    pub first_update: Option<Instant>,
    pub last_update: Option<Instant>,
    /// Updates of clients that are at home here.
    pub expected: u32,
    /// Of those, what is in.
    pub arrived: u32,
}

impl Flow {
    pub(super) fn new(now: Instant, meter: Meter) -> Self {
        Self {
            meter,
            hosted: false,
            since: now,
            changed: now,
            in_service: 0,
            waited: 0.0,
            arrived: 0,
            folded: 0,
            busy_seconds: 0.0,
        }
    }

    /// Counts what was in service until `now`.
    fn pass(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.changed).as_secs_f64();
        self.waited += seconds * f64::from(self.in_service);
        self.changed = now;
    }

    /// An update was accepted.
    pub(super) fn arrive(&mut self, now: Instant) {
        self.pass(now);
        self.set(now, self.in_service + 1);
        self.arrived += 1;
    }

    /// A worker hosts the job, or none does any more.
    pub(super) fn host(&mut self, now: Instant, hosted: bool) {
        let there = self.in_service;
        self.set(now, 0);
        self.hosted = hosted;
        self.set(now, there);
    }

    /// So many are in service now.
    fn set(&mut self, now: Instant, in_service: u32) {
        if self.hosted && in_service > self.in_service {
            self.meter.enter(now, in_service - self.in_service);
        } else if self.hosted {
            self.meter.leave(now, self.in_service - in_service);
        }
        self.in_service = in_service;
    }

    /// Updates of the open round were folded.
    pub(super) fn fold(&mut self, now: Instant, updates: u32) {
        self.leave(now, updates);
        self.meter.fold(updates);
        self.folded += updates;
    }

    /// Updates are out of service.
    pub(super) fn leave(&mut self, now: Instant, updates: u32) {
        self.pass(now);
        self.set(now, self.in_service.saturating_sub(updates));
    }

    /// A worker has spent so long in a step.
    pub(super) fn work(&mut self, seconds: f64) {
        self.busy_seconds += seconds;
    }

    /// Another round is open: nothing of the one before is in service.
    pub(super) fn clear(&mut self, now: Instant) {
        self.leave(now, u32::MAX);
    }

    /// The interval begins now, with what was counted since nobody looks.
    fn restart(&mut self, now: Instant) {
        self.pass(now);
        (self.since, self.waited) = (now, 0.0);
    }

    /// What has passed since the last time; `in_service` are there now.
    fn take(&mut self, now: Instant, in_service: u32) -> Passed {
        self.pass(now);
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let passed = Passed {
            seconds,
            arrived: self.arrived,
            folded: self.folded,
            busy_seconds: self.busy_seconds,
            in_service: if seconds > 0.0 {
                self.waited / seconds
            } else {
                f64::from(self.in_service)
            },
        };
        self.set(now, in_service);
        (self.since, self.waited) = (now, 0.0);
        (self.arrived, self.folded, self.busy_seconds) = (0, 0, 0.0);
        passed
    }

    /// Whether nothing has happened, and nothing is to be counted.
    fn is_still(&self) -> bool {
        self.in_service == 0 && self.arrived == 0
    }
}

impl Job {
    /// What has passed since the last look, and where the job stands.
    pub(crate) fn look(&self, now: Instant) -> Look {
        let mut state = self.lock();
        // A record may be lost with its worker; what lies in the arena is what is there.
        let in_service = if state.flow.is_still() {
            0
        } else {
            let ready = |state| state == State::Ready;
            self.arena
                .in_use()
                .filter(|info| ready(info.word.state))
                .count() as u32
        };
        let passed = state.flow.take(now, in_service);
        let expected = state.expected_here(self.node.as_str());
        let look = |round: &Round| Some(RoundLook::at(round, expected?));
        Look {
            passed,
            round: look(&state.round),
            before: state.before.front().and_then(look),
            leads: state.leads(),
            keep_alive: state.spec.keep_alive.is_some(),
        }
    }

    /// A worker hosts the job, or none does any more.
    pub(crate) fn hosted(&self, hosted: bool) {
        let mut state = self.lock();
        if state.flow.hosted != hosted {
            state.flow.host(Instant::now(), hosted);
        }
    }

    /// Somebody begins to look.
    pub(crate) fn begin_looking(&self, now: Instant) {
        self.lock().flow.restart(now);
    }

    /// The idle time after which its workers go, if the manifest gives one.
    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        let keep_alive = self.lock().spec.keep_alive;
        keep_alive.map(|interval| interval.duration())
    }
}

impl Inner {
    /// Updates of a round that are expected of clients at home on this node. Rounds that close by time, or with whatever
    /// comes first, are not known ahead.
    fn expected_here(&self, node: &str) -> Option<u32> {
        if self.completed || self.failed.is_some() {
            return None;
        }
        let rule = &self.spec.round;
        if rule.each || rule.count.is_some() || rule.window.is_some() {
            return None;
        }
        let counted = rule.quorum.filter(|_| rule.deadline.is_none());
        let everywhere = rule.expected.or(counted)?;
        Some((f64::from(everywhere) * self.share(node)).ceil() as u32)
    }
}

impl RoundLook {
    fn at(round: &Round, expected: u32) -> Self {
        let (first_update, last_update) = round.updates_here();
        Self {
            number: round.number(),
            opened: round.opened(),
            first_update,
            last_update,
            expected,
            arrived: round.accepted(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begin: Instant, milliseconds: u64) -> Instant {
        begin + Duration::from_millis(milliseconds)
    }

    #[test]
    fn what_was_in_service_is_averaged_over_the_interval() {
        let begin = Instant::now();
        let mut flow = Flow::new(begin, Meter::default());
        assert!(flow.is_still());
        // One for a second, two for half a second, none for half a second.
        flow.arrive(at(begin, 0));
        flow.arrive(at(begin, 1000));
        flow.fold(at(begin, 1500), 2);
        flow.work(0.3);
        let passed = flow.take(at(begin, 2000), 0);
        assert_eq!((passed.arrived, passed.folded), (2, 2));
        assert!((passed.in_service - 1.0).abs() < 1e-9, "{passed:?}");
        assert!((passed.seconds - 2.0).abs() < 1e-9 && passed.busy_seconds == 0.3);
        assert!(flow.is_still());
        let nothing = flow.take(at(begin, 3000), 0);
        assert_eq!((nothing.arrived, nothing.in_service), (0, 0.0));
    }

    #[test]
    fn the_arena_has_the_last_word() {
        let begin = Instant::now();
        let mut flow = Flow::new(begin, Meter::default());
        flow.arrive(begin);
        // Its record was lost with a worker: it is told as in service, and is not.
        let _ = flow.take(at(begin, 1000), 0);
        let passed = flow.take(at(begin, 2000), 0);
        assert_eq!(passed.in_service, 0.0);
        // More are folded than were known of.
        flow.fold(at(begin, 2500), 7);
        assert_eq!(flow.take(at(begin, 3000), 3).in_service, 0.0);
        assert_eq!(flow.take(at(begin, 4000), 3).in_service, 3.0);
    }

    #[test]
    fn a_long_sleep_is_no_part_of_the_interval() {
        let begin = Instant::now();
        let mut flow = Flow::new(begin, Meter::default());
        flow.arrive(at(begin, 3_600_000));
        flow.restart(at(begin, 3_600_000));
        let passed = flow.take(at(begin, 3_600_500), 1);
        assert_eq!((passed.seconds, passed.arrived), (0.5, 1));
        assert!((passed.in_service - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_node_counts_what_is_there_for_a_worker() {
        let (begin, meter) = (Instant::now(), Meter::default());
        let mut flows = [(); 2].map(|()| Flow::new(begin, meter.clone()));
        // One waits a second for a worker: that is no service.
        flows[0].arrive(begin);
        flows[0].host(at(begin, 1000), true);
        flows[1].host(at(begin, 1000), true);
        flows[1].arrive(at(begin, 1500));
        flows[0].fold(at(begin, 2000), 1);
        flows[1].fold(at(begin, 2500), 1);
        // What the arena does not have is not there, and what is over either.
        flows[0].arrive(at(begin, 3000));
        let _ = flows[0].take(at(begin, 3000), 0);
        flows[1].arrive(at(begin, 3000));
        flows[1].clear(at(begin, 3000));
        let served = meter.read(at(begin, 4000));
        let milliseconds = [served.served, served.occupied].map(|time| time.as_millis());
        assert_eq!((served.folded, milliseconds), (2, [2000, 1500]));
    }

    #[test]
    fn another_round_begins_with_nothing_in_service() {
        let begin = Instant::now();
        let mut flow = Flow::new(begin, Meter::default());
        flow.arrive(begin);
        flow.clear(at(begin, 500));
        let passed = flow.take(at(begin, 1000), 0);
        assert!((passed.in_service - 0.5).abs() < 1e-9, "{passed:?}");
    }
}
