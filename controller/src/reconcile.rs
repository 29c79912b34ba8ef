//! Desired against observed: a pure function that says what a node must be told.

use std::collections::BTreeMap;

use tributary_api::{Name, status::JobStatus};

use crate::{
    link::NodeReport,
    placing::Placed,
    store::{Desired, JobRecord},
};

/// One thing that brings a node nearer to the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The job is not wanted.
    Stop(Name),
    /// The job is wanted and does not run.
    Start(Name),
    /// The job runs as something from which it cannot change without a restart.
    Restart(Name),
    /// The job runs at another revision, or may claim something else of the node.
    Update(Name),
    /// The job follows an older placement.
    Place(Name),
    /// Jobs that do not run here have moved.
    Direct(BTreeMap<Name, String>),
}

/// What a node is to have.
#[derive(Debug, Default)]
pub(crate) struct Goal<'a> {
    pub(crate) jobs: BTreeMap<&'a Name, (&'a JobRecord, Option<&'a Placed>)>,
    /// Where other jobs are, for a node that has to be told.
    pub(crate) elsewhere: BTreeMap<Name, String>,
}

impl<'a> Goal<'a> {
    /// The goal of a node that is the only one.
    pub(crate) fn alone(desired: &'a Desired) -> Self {
        let jobs = desired.jobs.iter();
        Self {
            jobs: jobs.map(|(name, record)| (name, (record, None))).collect(),
            elsewhere: BTreeMap::new(),
        }
    }

    /// The goal of one of several nodes.
    pub(crate) fn among(
        report: &NodeReport,
        desired: &'a Desired,
        placed: &'a BTreeMap<Name, Placed>,
    ) -> Self {
        let (node, mut goal) = (&report.status.name, Self::default());
        for (name, record) in &desired.jobs {
            let Some(placed) = placed.get(name) else {
                continue;
            };
            if placed.placement.member(node).is_some() {
                goal.jobs.insert(name, (record, Some(placed)));
            } else if let Some(leader) = placed.placement.leader()
                && !report.follows
            {
                goal.elsewhere.insert(name.clone(), leader.url.clone());
            }
        }
        goal
    }
}

impl Step {
    /// The job that it is about.
    pub(crate) fn job(&self) -> Option<&Name> {
        match self {
            Self::Stop(name)
            | Self::Start(name)
            | Self::Restart(name)
            | Self::Update(name)
            | Self::Place(name) => Some(name),
            Self::Direct(_) => None,
        }
    }
}

/// The steps from what a node reports to its goal, stops first so that what they free can be used.
pub(crate) fn steps(desired: &Desired, goal: &Goal<'_>, report: &NodeReport) -> Vec<Step> {
    let observed = &report.jobs;
    let unwanted = observed
        .iter()
        .filter(|job| !goal.jobs.contains_key(&job.name));
    let mut steps: Vec<_> = unwanted.map(|job| Step::Stop(job.name.clone())).collect();
    for (&name, (wanted, placed)) in &goal.jobs {
        let Some(job) = report.job(name) else {
            // One of which the node has not told yet may run.
            if report.is_whole() {
                steps.push(Step::Start(name.clone()));
            }
            continue;
        };
        if let Some(step) = change(desired, name, job, wanted) {
            steps.push(step);
            continue;
        }
        steps.extend(share(desired, name, job, wanted));
        steps.extend(placed.and_then(|placed| replace(&report.status.name, name, job, placed)));
    }
    if !report.follows && goal.elsewhere != report.elsewhere {
        steps.push(Step::Direct(goal.elsewhere.clone()));
    }
    steps
}

/// Whether a job has to be started anew to become `next`.
pub(crate) fn restarts(record: &JobRecord, next: &JobRecord) -> bool {
    record.function_revision != next.function_revision || record.spec.needs_restart(&next.spec)
}

/// What brings a running job to its revision.
fn change(desired: &Desired, name: &Name, job: &JobStatus, wanted: &JobRecord) -> Option<Step> {
    if job.revision == wanted.revision {
        return None;
    }
    // Nobody can say what a revision was that is not remembered.
    let running = desired.job_at(name, job.revision);
    let live = running.is_some_and(|running| !restarts(running, wanted));
    Some(if live {
        Step::Update(name.clone())
    } else {
        Step::Restart(name.clone())
    })
}

/// What tells a node what a running job may claim. Nodes of an earlier version do not say what they know of it, and have
/// no use for it.
fn share(desired: &Desired, name: &Name, job: &JobStatus, wanted: &JobRecord) -> Option<Step> {
    let known = job.sharing.as_ref()?;
    (*known != desired.sharing(&wanted.spec)).then(|| Step::Update(name.clone()))
}

/// What brings a running job to its placement.
fn replace(node: &str, name: &Name, job: &JobStatus, placed: &Placed) -> Option<Step> {
    let follows = job.placement.as_ref().map(|placement| placement.generation);
    if follows >= Some(placed.placement.generation) {
        return None;
    }
    if follows.is_none() && placed.placement.members.len() == 1 {
        return None;
    }
    // It was given up in the meantime, and what it has was declared lost.
    let joined = placed
        .joined
        .get(node)
        .copied()
        .filter(|_| follows.is_some());
    Some(if follows < joined {
        Step::Restart(name.clone())
    } else {
        Step::Place(name.clone())
    })
}

#[cfg(test)]
mod tests;
