//! How many workers host each job: looks, lets the autoscaler decide, and does what it says.
//!
//! The decision is a pure function ([`decide`]) of what was seen and of what it remembers; here is when it is asked,
//! and what becomes of its answer. It is asked once in a period while workers run or are wanted, soon after an
//! aggregator was activated, and otherwise only when a round's updates are due: a node that has nothing to do and
//! nothing to expect sleeps.
//!
//! An activation does not wait for it: a job with updates in hand has at least one worker, whatever was decided.

mod observe;
mod trace;

use super::{Agent, Hosting};
use crate::job::Job;
use crate::jobs::Jobs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trace::Trace;
use tributary_planning::autoscale::{
    Config, Decided, Decision, NodeSeen, Observations, Reason, State, Wanted, decide,
};

/// After an activation it is looked so much of a period later, or sooner.
const HURRY: f64 = 0.1;

/// How a node's autoscaler is set up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// The node's name.
    pub node: String,
    /// The most workers.
    pub workers_max: u32,
    pub config: Config,
    /// Where its decisions are recorded.
    pub trace: Option<PathBuf>,
}

/// When it is looked, and what the autoscaler remembers.
pub(super) struct Scaling {
    node: NodeSeen,
    config: Config,
    state: State,
    /// Where its clock begins.
    begun: Instant,
    /// When it is looked next. None: not before an activation.
    due: Option<Instant>,
    trace: Option<Trace>,
}

impl Scaling {
    pub(super) fn new(options: Options) -> Self {
        let now = Instant::now();
        let node = NodeSeen {
            name: options.node,
            workers_max: options.workers_max,
        };
        Self {
            node,
            config: options.config,
            state: State::default(),
            begun: now,
            due: None,
            trace: options
                .trace
                .and_then(|file| Trace::start(&file, options.config)),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn period(&self) -> Duration {
        Duration::try_from_secs_f64(self.config.period_seconds).unwrap_or(Duration::MAX)
    }

    /// An aggregator was activated: looks soon.
    pub(super) fn hurry(&mut self, now: Instant, jobs: &Jobs) {
        let period = self.period();
        if self.due.is_none_or(|due| due > now + period) {
            // What passed while nobody looked is no measure of what happens now.
            jobs.all().iter().for_each(|job| job.begin_looking(now));
        }
        let soon = now + period.mul_f64(HURRY);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    fn clock(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    /// Plans the next look: a period later while `awake`, else when something is expected.
    fn look_again(&mut self, now: Instant, awake: bool) {
        let period = now.checked_add(self.period());
        let expected = || {
            let at = self.state.next(&self.config, self.clock(now))?;
            Some(period?.max(self.begun.checked_add(at)?))
        };
        self.due = if awake { period } else { expected() };
    }

    /// Lets the autoscaler decide.
    fn decide(&mut self, now: Instant, observations: Observations) -> Decision {
        let clock = self.clock(now);
        let state = std::mem::take(&mut self.state);
        let decision;
        (self.state, decision) = decide(&self.config, state, clock, &observations);
        if let Some(trace) = &mut self.trace {
            trace.write(Decided {
                now: clock,
                observations,
                decision: decision.clone(),
            });
        }
        decision
    }

    /// Ends the record of decisions.
    pub(super) async fn end(&mut self) {
        if let Some(trace) = self.trace.take() {
            trace.end().await;
        }
    }
}

impl Agent {
    /// Looks, decides, and lets workers go and come: those that one job gives up another may take.
    pub(super) fn scale(&mut self, now: Instant) {
        let jobs = self.jobs.all();
        let observations = self.observe(now, &jobs);
        let decision = self.scaling.decide(now, observations);
        let node = self.scaling.node.name.clone();
        let decided = jobs.iter().filter_map(|job| {
            let wanted = decision.wanted(job.name.as_str(), &node)?;
            Some((job, *wanted))
        });
        let decided: Vec<(&Arc<Job>, Wanted)> = decided.collect();
        for (job, wanted) in &decided {
            job.decided(wanted);
            let Some(hosting) = self.hosting.get_mut(&job.number) else {
                continue;
            };
            let fixed = job.keep_alive().is_some();
            if let Some(workers) = hosts(wanted, fixed, job.plan.tree.lanes) {
                hosting.wanted = Some(workers);
                let pressed = wanted.reason == Reason::NodeFull;
                self.let_go(job, workers, pressed);
            }
        }
        let mut awake = self.workers.any();
        for (job, wanted) in &decided {
            // Workers that stay for a fixed time are started by need.
            if job.keep_alive().is_none() {
                self.host(job, 0);
                awake |= wanted.workers > 0;
            }
        }
        self.stop_idle();
        awake |= self.hosting.values().any(|hosting| hosting.starved);
        self.scaling.look_again(now, awake);
    }

    fn observe(&self, now: Instant, jobs: &[Arc<Job>]) -> Observations {
        let begun = self.scaling.begun;
        let seen = jobs.iter().filter_map(|job| {
            let hosting = self.hosting.get(&job.number)?;
            let workers = observe::workers(hosting, job.plan.tree.lanes);
            Some(observe::job(job, begun, &job.look(now), workers))
        });
        Observations {
            nodes: vec![self.scaling.node.clone()],
            jobs: seen.collect(),
        }
    }

    /// Detaches workers beyond the number that is wanted. One is left to a job with something in hand; and a worker
    /// that has something in hand goes only if others are waiting for it.
    fn let_go(&mut self, job: &Arc<Job>, wanted: u32, pressed: bool) {
        let too_many = |hosting: &Hosting, wanted| hosting.workers() as u32 > wanted;
        let hosting = self.hosting.get(&job.number);
        if !hosting.is_some_and(|hosting| too_many(hosting, wanted)) {
            return;
        }
        let wanted = wanted.max(u32::from(job.is_under_way()));
        let awaited = job.awaited();
        while let Some(hosting) = self.hosting.get(&job.number)
            && too_many(hosting, wanted)
        {
            let others = |owner| {
                let hosts = self.hosting.values().filter(|other| other.hosts(owner));
                hosts.count()
            };
            let Some(owner) = hosting.surplus(&awaited, others, pressed) else {
                return;
            };
            self.detach(owner, job.number);
        }
    }
}

/// How many workers shall host a job by a decision; None: as many as before.
///
/// Where the node is too small, a job that wishes for workers and is granted none shares one with others: to be hosted
/// costs a worker next to nothing. A job whose workers stay for a fixed time has one for each of its `lanes`, as far as
/// the node is not too small.
fn hosts(wanted: &Wanted, fixed: bool, lanes: u32) -> Option<u32> {
    let granted = wanted.workers.max(wanted.wished.min(1));
    match wanted.reason {
        Reason::NoData => None,
        Reason::NodeFull => Some(granted.min(lanes)),
        _ if fixed => Some(lanes),
        _ => Some(granted.min(lanes)),
    }
}

#[cfg(test)]
mod tests;
