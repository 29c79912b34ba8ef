//! What is under way at nodes, and what failed there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;
use tributary_api::Name;

use super::RETRY;
use crate::placing::Placed;

/// How long a node that could not start a job is left out of it; one that refused is until the job changes.
const UNFIT: Duration = Duration::from_secs(60);

/// What is under way, and what failed.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Nodes that carry orders out.
    busy: BTreeMap<Name, AbortHandle>,
    /// By node and job; what is about no job is under none.
    failures: BTreeMap<(Name, Option<Name>), Failure>,
}

/// Why a job is not as desired on a node.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) aim: Aim,
    pub(super) message: String,
    /// Trying again is of no use before the aim changes.
    pub(super) permanent: bool,
    /// The node was to start the job, and could not.
    pub(super) unfit: bool,
    /// When it was; nothing once it may be tried again at once.
    at: Option<Instant>,
    /// Attempts before it that failed likewise.
    times: u32,
}

/// What was tried: another aim is another attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Aim {
    pub(super) revision: u64,
    pub(super) generation: u64,
}

impl Failure {
    pub(super) fn new(aim: Aim, message: String, permanent: bool) -> Self {
        let at = Some(Instant::now());
        Self {
            aim,
            message,
            permanent,
            unfit: false,
            at,
            times: 0,
        }
    }

    /// How long it is left alone: a node that could not start a job, which costs it a look at the model, longer each time.
    fn pause(&self) -> Duration {
        if self.unfit {
            RETRY.saturating_mul(1 << self.times.min(4)).min(UNFIT)
        } else {
            RETRY
        }
    }
}

impl Work {
    pub(super) fn is_busy(&self, node: &Name) -> bool {
        self.busy.contains_key(node)
    }

    pub(super) fn begin(&mut self, node: Name, task: AbortHandle) {
        self.busy.insert(node, task);
    }

    pub(super) fn end(&mut self, node: &Name) {
        self.busy.remove(node);
    }

    /// Ends everything that is under way.
    pub(super) fn abort(&mut self) {
        for (_, task) in std::mem::take(&mut self.busy) {
            task.abort();
        }
    }

    /// Ends what is under way at a node that is not there any more.
    pub(super) fn abort_at(&mut self, node: &Name) {
        if let Some(task) = self.busy.remove(node) {
            task.abort();
        }
        self.failures.retain(|(failed, _), _| failed != node);
    }

    /// Whether an attempt would be too early, or of no use.
    pub(super) fn is_in_vain(&self, node: &Name, job: Option<&Name>, aim: Aim) -> bool {
        let failure = self.failures.get(&(node.clone(), job.cloned()));
        failure.is_some_and(|failure| {
            let early = failure.at.is_some_and(|at| at.elapsed() < failure.pause());
            failure.aim == aim && (failure.permanent || early)
        })
    }

    pub(super) fn record(&mut self, node: &Name, job: Option<&Name>, failure: Option<Failure>) {
        let key = (node.clone(), job.cloned());
        match failure {
            Some(mut failure) => {
                let before = self.failures.get(&key);
                let before = before.filter(|before| before.aim == failure.aim);
                failure.times = before.map_or(0, |before| before.times + 1);
                self.failures.insert(key, failure)
            }
            None => self.failures.remove(&key),
        };
    }

    /// Lets everything be tried again at once that may succeed.
    pub(super) fn forgive(&mut self) {
        for failure in self.failures.values_mut() {
            failure.at = None;
        }
    }

    /// Forgets a job that is deleted.
    pub(super) fn forget(&mut self, job: &Name) {
        self.failures
            .retain(|(_, failed), _| failed.as_ref() != Some(job));
    }

    /// The nodes that cannot have a job at this revision. They would be waited for.
    pub(super) fn unfit(&self, job: &Name, revision: u64) -> BTreeSet<Name> {
        let is_unfit = |failure: &Failure| {
            let lately = failure.at.is_some_and(|at| at.elapsed() < UNFIT);
            failure.unfit && failure.aim.revision == revision && (failure.permanent || lately)
        };
        let nodes = self
            .failures
            .iter()
            .filter_map(|((node, failed), failure)| {
                let found = failed.as_ref() == Some(job) && is_unfit(failure);
                found.then(|| node.clone())
            });
        nodes.collect()
    }

    /// What went wrong with a job on the nodes that have it now: first of all on the one that leads. Without a placement
    /// all nodes count.
    pub(super) fn failure(&self, job: &Name, placed: Option<&Placed>) -> Option<&Failure> {
        let placement = placed.map(|placed| &placed.placement);
        let is_member =
            |node: &Name| placement.is_none_or(|now| now.member(node.as_str()).is_some());
        let leads = |node: &Name| placement.is_some_and(|now| now.leader == *node);
        let of_job = self
            .failures
            .iter()
            .filter(|((node, failed), _)| failed.as_ref() == Some(job) && is_member(node));
        let first = of_job.min_by_key(|((node, _), _)| !leads(node));
        first.map(|(_, failure)| failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn a_job_that_cannot_start_is_tried_less_often_each_time() {
        let (mut work, aim) = (Work::default(), Aim::default());
        let (node, job) = (name("n1"), name("j"));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let mut failure = Failure::new(aim, "/dev/shm is full".into(), false);
            failure.unfit = true;
            work.record(&node, Some(&job), Some(failure));
            pauses.push(work.failure(&job, None).unwrap().pause().as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert!(work.is_in_vain(&node, Some(&job), aim));
        // What may have changed is worth an attempt at once; another aim begins anew.
        work.forgive();
        assert!(!work.is_in_vain(&node, Some(&job), aim));
    }
}
