//! Bringing each node to its goal.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use tributary_api::{Name, control::NodeError};

use super::{
    Controller, Known, lock,
    work::{Aim, Failure},
};
use crate::{
    fleet::Seen,
    link::{Command, JobOrder, Refusal},
    reconcile::{Goal, Step, steps},
};

/// Why a step did not succeed.
enum StepError {
    Node(NodeError),
    Refusal(Refusal),
    /// A mistake in this program: the node is not to be busy for ever by it.
    Panicked,
}

impl Controller {
    /// Gives every node that is not at work what it is to do. Whether nothing is left to do.
    pub(super) fn dispatch(self: &Arc<Self>, term: u64) -> bool {
        let known = self.known();
        let mut idle = true;
        for (node, seen) in self.fleet.seen() {
            if seen.lost {
                lock(&self.work).abort_at(&node);
                continue;
            }
            if lock(&self.work).is_busy(&node) {
                idle = false;
                continue;
            }
            let open = self.open_steps(&known, &node, &seen);
            if !open.is_empty() {
                idle = false;
                self.begin(term, node, seen, &known, open);
            }
        }
        idle
    }

    /// The steps of a node that are worth an attempt now.
    fn open_steps(&self, known: &Known, node: &Name, seen: &Seen) -> Vec<Step> {
        let goal = if self.fleet.is_many() {
            Goal::among(&seen.report, &known.desired, &known.placed)
        } else {
            Goal::alone(&known.desired)
        };
        let mut open = steps(&known.desired, &goal, &seen.report);
        let work = lock(&self.work);
        open.retain(|step| !work.is_in_vain(node, step.job(), aim(known, step)));
        open
    }

    /// Lets a task carry the steps out. When it ends, the next pass looks what is left.
    fn begin(
        self: &Arc<Self>,
        term: u64,
        node: Name,
        seen: Seen,
        known: &Arc<Known>,
        steps: Vec<Step>,
    ) {
        let (controller, known) = (Arc::clone(self), Arc::clone(known));
        // The task cannot end before it is noted: it has to wait for the lock.
        let mut work = lock(&self.work);
        let name = node.clone();
        let task = tokio::spawn(async move {
            for step in &steps {
                let taken = AssertUnwindSafe(controller.take(term, &seen, &known, step));
                let outcome = taken
                    .catch_unwind()
                    .await
                    .unwrap_or(Err(StepError::Panicked));
                controller.note_outcome(&node, &known, step, outcome);
            }
            lock(&controller.work).end(&node);
            controller.fleet.wake();
        });
        work.begin(name, task.abort_handle());
    }

    async fn take(
        &self,
        term: u64,
        seen: &Seen,
        known: &Known,
        step: &Step,
    ) -> Result<(), StepError> {
        let commands = match step {
            Step::Stop(name) => vec![Command::Stop(name.clone())],
            Step::Start(name) => vec![Command::Start(job_order(known, name)?)],
            Step::Restart(name) => vec![
                Command::Stop(name.clone()),
                Command::Start(job_order(known, name)?),
            ],
            Step::Update(name) => vec![Command::Update(job_order(known, name)?)],
            Step::Place(name) => match known.placed.get(name) {
                Some(placed) => vec![Command::Place(name.clone(), placed.placement.clone())],
                None => Vec::new(),
            },
            Step::Direct(elsewhere) => vec![Command::Direct(elsewhere.clone())],
        };
        for command in commands {
            let answer = self.fleet.give(&*seen.link, term, command).await;
            answer
                .map_err(StepError::Refusal)?
                .outcome
                .map_err(StepError::Node)?;
        }
        Ok(())
    }

    fn note_outcome(
        &self,
        node: &Name,
        known: &Known,
        step: &Step,
        outcome: Result<(), StepError>,
    ) {
        let starts = matches!(step, Step::Start(_) | Step::Restart(_));
        let (message, permanent, unfit) = match outcome {
            Ok(()) => return lock(&self.work).record(node, step.job(), None),
            Err(StepError::Node(NodeError::Refused(message))) => (message, true, starts),
            Err(StepError::Node(error)) => (error.to_string(), false, starts),
            Err(StepError::Refusal(refusal)) => {
                // Others may know what a node of another version does not.
                let unfit = starts && matches!(refusal, Refusal::Unsupported { .. });
                (refusal.to_string(), false, unfit)
            }
            Err(StepError::Panicked) => {
                let message = "carrying the order out ended abnormally; the log says where";
                (message.into(), false, false)
            }
        };
        // Of several nodes one should know which; who is not reached is named already.
        let message = if self.fleet.is_many() && !message.starts_with("node ") {
            format!("node {node}: {message}")
        } else {
            message
        };
        let aim = aim(known, step);
        let job = step.job().map_or("none", Name::as_str);
        tracing::warn!(%node, job, aim.revision, permanent, "{message}");
        let mut failure = Failure::new(aim, message, permanent);
        failure.unfit = unfit;
        lock(&self.work).record(node, step.job(), Some(failure));
    }
}

/// What a step is after.
fn aim(known: &Known, step: &Step) -> Aim {
    let Some(job) = step.job() else {
        return Aim::default();
    };
    let (record, placed) = (known.desired.jobs.get(job), known.placed.get(job));
    Aim {
        revision: record.map_or(0, |record| record.revision),
        generation: placed.map_or(0, |placed| placed.placement.generation),
    }
}

/// What a node is told of a job.
fn job_order(known: &Known, name: &Name) -> Result<JobOrder, StepError> {
    let refused = |message: String| StepError::Node(NodeError::Refused(message));
    let record = known.desired.jobs.get(name);
    let record = record.ok_or_else(|| refused(format!("there is no job {name}")))?;
    let function = &record.spec.function.name;
    let function = known.desired.functions.get(function);
    let function = function.ok_or_else(|| {
        refused(format!(
            "there is no function {}",
            record.spec.function.name
        ))
    })?;
    Ok(JobOrder {
        name: name.clone(),
        revision: record.revision,
        life: record.life,
        spec: record.spec.for_node(),
        function: function.revision.clone(),
        placement: known
            .placed
            .get(name)
            .map(|placed| placed.placement.clone()),
        sharing: known.desired.sharing(&record.spec),
    })
}
