//! What is under way at nodes, and what failed there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;
use tributary_api::Name;

use super::RETRY;

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
            let early = failure.at.is_some_and(|at| at.elapsed() < RETRY);
            failure.aim == aim && (failure.permanent || early)
        })
    }

    pub(super) fn record(&mut self, node: &Name, job: Option<&Name>, failure: Option<Failure>) {
        let key = (node.clone(), job.cloned());
        match failure {
            Some(failure) => self.failures.insert(key, failure),
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

    /// What went wrong with a job: first of all what did so on `node`.
    pub(super) fn failure(&self, job: &Name, node: Option<&Name>) -> Option<&Failure> {
        let of_job = self
            .failures
            .iter()
            .filter(|((_, failed), _)| failed.as_ref() == Some(job));
        let first = of_job.min_by_key(|((at, _), _)| Some(at) != node);
        first.map(|(_, failure)| failure)
    }
}
