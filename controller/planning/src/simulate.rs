//! Replays a trace through the autoscaler, and through what it is held against.
//!
//! A worker works on one update at a time. An update that finds an idle worker is worked on at once. One that finds
//! none has a worker started (a route miss is an activation), and is worked on by whichever worker is free first: it is
//! a *cold start*. The policy decides which idle workers stay, and which are started before they are missed.
//! [`decide`] is the very function that a node's agent calls; it sees what a node would report, once in each period.

mod oracle;
mod pool;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::autoscale::{Config, JobSeen, NodeSeen, Observations, RoundSeen, State, decide};
use crate::trace::{Random, Record, Trace, fitted::LogNormal};
use pool::Pool;

/// The one node of a simulation.
const NODE: &str = "node";

/// Who decides which idle workers stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// This crate's autoscaler.
    Autoscaler(Config),
    /// Each stays for so many seconds.
    Fixed {
        /// How many.
        keep_alive_seconds: f64,
    },
    /// Who knows the trace: every worker is ready just when it is needed, and one whose next use is farther away than
    /// a start takes is let go meanwhile. There are no cold starts, and little is wasted beside the starts themselves.
    Oracle,
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// The policy.
    pub policy: Policy,
    /// The time between two decisions.
    pub period_seconds: f64,
    /// How long a start takes.
    pub start: LogNormal,
    /// The most workers.
    pub workers_max: u32,
    /// Of the times that starts take.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Updates.
    pub arrivals: u64,
    /// Updates that found no idle worker.
    pub cold: u64,
    /// Workers that were started.
    pub started: u64,
    /// Seconds in which workers worked.
    pub busy_seconds: f64,
    /// Seconds in which workers were there, or were being started, and did not work.
    pub wasted_seconds: f64,
    /// What each update waited until a worker began with it, in seconds, in ascending order.
    pub waits: Vec<f64>,
}

impl Outcome {
    /// The part of updates that found no idle worker.
    #[must_use]
    pub fn cold_rate(&self) -> f64 {
        if self.arrivals == 0 {
            return 0.0;
        }
        self.cold as f64 / self.arrivals as f64
    }

    /// The wait that a part (0 to 1) of the updates does not exceed; 0 without updates.
    #[must_use]
    pub fn wait_quantile(&self, part: f64) -> f64 {
        let rank = (self.waits.len() as f64 * part).ceil() as usize;
        let at = rank.clamp(1, self.waits.len().max(1)) - 1;
        self.waits.get(at).copied().unwrap_or(0.0)
    }
}

/// Replays `trace`; workers that are left at its end end with it.
#[must_use]
pub fn simulate(trace: &Trace, setup: &Setup) -> Outcome {
    let mut outcome = match setup.policy {
        Policy::Oracle => oracle::run(trace, setup),
        Policy::Fixed { keep_alive_seconds } => Run::new(setup, keep_alive_seconds).run(trace),
        // The decision alone ends workers.
        Policy::Autoscaler(_) => Run::new(setup, f64::INFINITY).run(trace),
    };
    outcome.waits.sort_by(f64::total_cmp);
    outcome
}

/// What comes by itself; the earliest first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Event {
    seconds: f64,
    job: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Ready,
    Done,
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_time = self.seconds.total_cmp(&other.seconds);
        by_time
            .then(self.job.cmp(&other.job))
            .then(self.what.cmp(&other.what))
    }
}

struct Run<'a> {
    setup: &'a Setup,
    keep_alive_seconds: f64,
    random: Random,
    names: Vec<String>,
    numbers: BTreeMap<String, usize>,
    pools: Vec<Pool>,
    rounds: Vec<Option<RoundSeen>>,
    events: BinaryHeap<Reverse<Event>>,
    state: State,
    outcome: Outcome,
}

impl<'a> Run<'a> {
    fn new(setup: &'a Setup, keep_alive_seconds: f64) -> Self {
        Self {
            setup,
            keep_alive_seconds,
            random: Random::new(setup.seed),
            names: Vec::new(),
            numbers: BTreeMap::new(),
            pools: Vec::new(),
            rounds: Vec::new(),
            events: BinaryHeap::new(),
            state: State::default(),
            outcome: Outcome::default(),
        }
    }

    fn run(mut self, trace: &Trace) -> Outcome {
        let period = self.setup.period_seconds.max(1e-3);
        let mut next_decision = period;
        for record in trace.records() {
            while next_decision <= record.seconds() {
                self.until(next_decision);
                self.decide(next_decision);
                next_decision += period;
            }
            self.until(record.seconds());
            self.take(record);
        }
        let end = trace.seconds();
        while let Some(Reverse(event)) = self.events.pop() {
            self.happen(event);
        }
        for pool in &mut self.pools {
            pool.end(end, self.keep_alive_seconds, &mut self.outcome);
        }
        self.outcome
    }

    /// Lets happen what comes by itself until `seconds`.
    fn until(&mut self, seconds: f64) {
        while let Some(Reverse(event)) = self.events.peek().copied() {
            if event.seconds > seconds {
                return;
            }
            self.events.pop();
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        let pool = &mut self.pools[event.job];
        pool.pass(event.seconds);
        match event.what {
            What::Ready => pool.starting -= 1,
            What::Done => pool.busy -= 1,
        }
        let served = pool.free(event.seconds, &mut self.outcome);
        self.work(event.job, event.seconds, served);
    }

    /// A worker is done with an update after `served` seconds.
    fn work(&mut self, job: usize, seconds: f64, served: Option<f64>) {
        if let Some(served) = served {
            self.outcome.busy_seconds += served;
            self.push(seconds + served, job, What::Done);
        }
    }

    fn push(&mut self, seconds: f64, job: usize, what: What) {
        self.events.push(Reverse(Event { seconds, job, what }));
    }

    fn take(&mut self, record: &Record) {
        let job = self.job(record.job());
        match record {
            Record::Round {
                seconds,
                round,
                expected,
                ..
            } => {
                self.rounds[job] = Some(RoundSeen {
                    number: *round,
                    opened: Duration::from_secs_f64(*seconds),
                    expected: *expected,
                    arrived: 0,
                    first: None,
                    last: None,
                });
            }
            Record::Arrival {
                seconds,
                service_seconds,
                ..
            } => {
                if let Some(round) = &mut self.rounds[job] {
                    round.arrived = round.arrived.saturating_add(1);
                }
                self.arrive(job, *seconds, *service_seconds);
            }
        }
    }

    fn arrive(&mut self, job: usize, seconds: f64, service_seconds: f64) {
        let pool = &mut self.pools[job];
        pool.pass(seconds);
        pool.expire(seconds, self.keep_alive_seconds, &mut self.outcome);
        pool.arrived += 1;
        pool.service_seconds += service_seconds;
        self.outcome.arrivals += 1;
        if pool.take_idle(seconds, &mut self.outcome) {
            self.outcome.waits.push(0.0);
            return self.work(job, seconds, Some(service_seconds));
        }
        self.outcome.cold += 1;
        pool.waiting.push_back((seconds, service_seconds));
        if pool.workers() < self.setup.workers_max {
            self.start(job, seconds);
        }
    }

    fn start(&mut self, job: usize, seconds: f64) {
        let start = self.setup.start.draw(&mut self.random);
        let pool = &mut self.pools[job];
        pool.started(start);
        self.outcome.started += 1;
        self.outcome.wasted_seconds += start;
        self.push(seconds + start, job, What::Ready);
    }

    fn job(&mut self, name: &str) -> usize {
        if let Some(job) = self.numbers.get(name) {
            return *job;
        }
        let job = self.names.len();
        self.numbers.insert(name.to_owned(), job);
        self.names.push(name.to_owned());
        self.pools.push(Pool::default());
        self.rounds.push(None);
        job
    }

    /// What a node's agent does, once in each period.
    fn decide(&mut self, seconds: f64) {
        let Policy::Autoscaler(config) = self.setup.policy else {
            return;
        };
        let seen = self.observe(seconds);
        let state = std::mem::take(&mut self.state);
        let (state, decision) = decide(&config, state, Duration::from_secs_f64(seconds), &seen);
        self.state = state;
        for job in 0..self.pools.len() {
            let Some(wanted) = decision.wanted(&self.names[job], NODE) else {
                continue;
            };
            let pool = &mut self.pools[job];
            let there = pool.workers();
            pool.stop(
                there.saturating_sub(wanted.workers),
                seconds,
                &mut self.outcome,
            );
            for _ in there..wanted.workers {
                self.start(job, seconds);
            }
        }
    }

    fn observe(&mut self, seconds: f64) -> Observations {
        let node = NodeSeen {
            name: NODE.to_owned(),
            workers_max: self.setup.workers_max,
        };
        let pools = self.pools.iter_mut().zip(&self.names).zip(&self.rounds);
        let jobs = pools.map(|((pool, name), round)| {
            pool.pass(seconds);
            let seen = pool.seen(self.setup.period_seconds);
            JobSeen {
                round: *round,
                ..seen.of(name, NODE)
            }
        });
        Observations {
            jobs: jobs.collect(),
            nodes: vec![node],
        }
    }
}
