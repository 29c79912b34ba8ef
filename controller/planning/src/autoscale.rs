//! How many workers each job has on each node, and when.
//!
//! [`decide`] is a pure function of (configuration, state, time, observations). It is called every second or two; the
//! simulator calls the very same function. For each job on each node it asks, worker by worker, whether there is a
//! reason to have that worker:
//!
//! 1. **Load.** Q = k * E updates are in service (Little's law); a worker takes I of them, so `ceil(Q / I)` are needed
//!    now, one leaf each.
//! 2. **Panic.** The short window's mean wants twice what is ready: nothing shrinks until a whole stable window has
//!    passed without that, as in Knative's autoscaler.
//! 3. **Planned.** A round is predictable: its clients are known, and when they came in former rounds.
//!    [`forecast`] wants workers ready before they come, and none between.
//! 4. **Kept warm.** What this worker's idle times were like makes it cheaper to keep it (or to start it ahead of
//!    time) than to risk a cold start ([`warm`]).
//! 5. **Window.** Of idle times nothing is known yet: the mean of the smoothed Q over the stable window, the most of
//!    what that was within the scale-down delay, and one worker for as long as a cold start costs.
//!
//! Then the wishes of all jobs share the node's worker slots ([`share`]). Missing data means no action: what was
//! wanted before is wanted still.
//!
//! Who calls it need not do so while nothing runs: [`State::next`] says when something may be wanted although nothing
//! new is seen. What was decided can be checked later: [`replay`].

pub mod forecast;
mod input;
mod job;
mod output;
mod panic;
mod replay;
pub mod share;
#[cfg(test)]
mod tests;
pub mod warm;
mod window;

pub use input::{Config, ConfigError, JobSeen, NodeSeen, Observations, RoundSeen};
pub use output::{Decision, Reason, Tree, Wanted};
pub use replay::{Decided, Difference, Line, replay};

use std::collections::BTreeMap;
use std::time::Duration;

use job::{JobState, View};
use share::{Demand, Lags};
use warm::Newcomers;

/// What [`decide`] remembers from one call to the next. A new one after a restart: it begins in panic where workers
/// run, so nothing shrinks before a stable window was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    nodes: BTreeMap<String, NodeState>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct NodeState {
    jobs: BTreeMap<String, JobState>,
    lags: Lags,
    newcomers: Newcomers,
    seen: Duration,
}

impl State {
    /// When workers may be wanted next although nothing new was seen since the last decision, at `now`: for a round
    /// whose updates are expected, or because workers used to be needed again by then. `None`: not before something
    /// is seen.
    #[must_use]
    pub fn next(&self, config: &Config, now: Duration) -> Option<Duration> {
        let of_node = |node: &NodeState| {
            let others = node.newcomers.hold();
            let jobs = node.jobs.values();
            jobs.filter_map(|job| job.next(config, others, now)).min()
        };
        self.nodes.values().filter_map(of_node).min()
    }
}

/// Decides how many workers there should be.
///
/// `now` is a time since any fixed moment. What `seen` does not list is gone and forgotten; what it lists without
/// figures is left as it is. Of two entries for one job on one node the last counts; jobs on nodes that are not
/// listed are left out.
#[must_use]
pub fn decide(
    config: &Config,
    mut state: State,
    now: Duration,
    seen: &Observations,
) -> (State, Decision) {
    let mut next = State::default();
    let mut decision = Decision::default();
    let mut by_node = BTreeMap::<&str, BTreeMap<&str, &JobSeen>>::new();
    for job in &seen.jobs {
        let of_node = by_node.entry(&job.node).or_default();
        of_node.insert(&job.job, job);
    }
    for node in &seen.nodes {
        let mut before = state.nodes.remove(&node.name).unwrap_or_default();
        let jobs = by_node.remove(node.name.as_str()).unwrap_or_default();
        let mut after = NodeState {
            seen: now,
            newcomers: before.newcomers,
            ..NodeState::default()
        };
        let mut wishes = BTreeMap::new();
        for (name, job) in &jobs {
            let mut one = before.jobs.remove(*name).unwrap_or_default();
            let view = View {
                config,
                now,
                seen: job,
                workers_max: node.workers_max,
            };
            wishes.insert(*name, one.wish(&view, &mut after.newcomers));
            after.jobs.insert((*name).to_owned(), one);
        }
        let demands: Vec<Demand<'_>> = jobs
            .iter()
            .map(|(name, job)| Demand {
                job: name,
                tenant: &job.tenant,
                weight: job.tenant_weight,
                priority: job.priority,
                slots: wishes[name].workers,
            })
            .collect();
        let passed = now.saturating_sub(before.seen).as_secs_f64();
        let passed = if before.seen.is_zero() { 0.0 } else { passed };
        let granted;
        (after.lags, granted) = share::divide(
            &config.share,
            before.lags,
            passed,
            node.workers_max,
            &demands,
        );
        for (name, wish) in wishes {
            let wanted = wish.granted(granted.get(name).copied().unwrap_or(0));
            let of_job = decision.jobs.entry(name.to_owned()).or_default();
            of_job.insert(node.name.clone(), wanted);
        }
        next.nodes.insert(node.name.clone(), after);
    }
    (next, decision)
}
