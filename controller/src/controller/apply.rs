//! Applying manifests: everything is checked, then everything is committed in one transaction.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tributary_api::{
    Digest, Name,
    apply::{Action, ApplyResult},
    control::{FunctionRevision, NodeError, Proof, Sharing},
    event::EventKind,
    manifest::{FileReference, JobSpec, Kind},
    model::ModelLayout,
    problem::FieldError,
};

use super::{Controller, lock, looking::running};
use crate::{
    Error,
    fleet::Seen,
    link::{Command, JobOrder, Link, Outcome},
    plan::{self, Plan, PlannedFunction, PlannedJob, at},
    store::{Commit, FunctionRecord, JobRecord},
    voice::About,
};

impl Controller {
    /// Applies manifests, all or none. With `dry_run` everything is checked and nothing is changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every wrong field; otherwise as the store and the file system fail.
    pub async fn apply(
        self: &Arc<Self>,
        manifests: &[Value],
        dry_run: bool,
    ) -> Result<Vec<ApplyResult>, Error> {
        self.leading()?;
        let manifests = plan::parse(manifests)?;
        let _turn = self.turn.lock().await;
        let plan = plan::plan(&self.known().desired, &manifests)?;
        let mut results = plan.results();
        let commit = self.check(&plan, &mut results).await?;
        if !commit.is_empty() && !dry_run {
            self.commit(commit).await?;
            self.announce(&plan);
            let settled = self.settle().await;
            self.note(&plan, settled, &mut results);
        }
        Ok(results)
    }

    /// Lets the node check what is new, and notes what could not be proven yet.
    async fn check(&self, plan: &Plan, results: &mut [ApplyResult]) -> Result<Commit, Error> {
        let (mut commit, mut errors) = (Commit::default(), Vec::new());
        for function in plan
            .functions
            .iter()
            .filter(|function| function.action != Action::Unchanged)
        {
            match self.check_function(function).await? {
                Ok(proof) => {
                    let revision = function.revision.clone();
                    let description = match proof {
                        Proof::Proven(description) => Some(description),
                        Proof::NeedsConfiguration(reason) => {
                            note_unproven(results, &revision.name, &reason);
                            None
                        }
                    };
                    commit.functions.push(FunctionRecord {
                        revision,
                        description,
                    });
                }
                Err(error) => errors.push(error),
            }
        }
        let tenants = plan.tenants.iter();
        let changed = tenants.filter(|tenant| tenant.action != Action::Unchanged);
        commit.tenants = changed
            .map(|tenant| (tenant.name.clone(), tenant.record.clone()))
            .collect();
        // A job of a function that was refused can only be refused for the same reason.
        if errors.is_empty() {
            for job in plan
                .jobs
                .iter()
                .filter(|job| job.action != Action::Unchanged)
            {
                match self.check_job(job).await? {
                    Ok(record) => commit.jobs.push((job.name.clone(), record)),
                    Err(error) => errors.push(error),
                }
            }
        }
        if errors.is_empty() {
            Ok(commit)
        } else {
            Err(Error::Invalid(errors))
        }
    }

    async fn check_function(
        &self,
        function: &PlannedFunction,
    ) -> Result<Result<Proof, FieldError>, Error> {
        let refused = |message| Ok(Err(at(function.manifest, "spec.module", message)));
        match self.state.blobs.size(function.revision.digest).await {
            Ok(_) => {}
            Err(Error::UnknownBlob(digest)) => return refused(not_uploaded(digest)),
            Err(error) => return Err(error),
        }
        let link = self.examiner(None)?;
        let command = Command::Deploy(function.revision.clone());
        match self.order(&*link, command).await?.outcome {
            Ok(Outcome::Deployed(description)) => Ok(Ok(Proof::Proven(description))),
            Ok(Outcome::NeedsConfiguration(reason)) => Ok(Ok(Proof::NeedsConfiguration(reason))),
            Ok(Outcome::Done) => refused("the node does not say what the module is".into()),
            Err(error) => refused(error.to_string()),
        }
    }

    async fn check_job(&self, job: &PlannedJob) -> Result<Result<JobRecord, FieldError>, Error> {
        let refused = |path: &str, message: String| {
            let message = if job.follows_function {
                format!("job {}, which uses this function: {message}", job.name)
            } else {
                message
            };
            let path = if job.follows_function {
                "metadata.name"
            } else {
                path
            };
            Ok(Err(at(job.manifest, path, message)))
        };
        let layout = match self.state.blobs.layout(job.model).await {
            Ok(Ok(layout)) => layout,
            Ok(Err(error)) => return refused("spec.model", error.to_string()),
            Err(Error::UnknownBlob(digest)) => return refused("spec.model", not_uploaded(digest)),
            Err(error) => return Err(error),
        };
        if let Some(difference) = self.difference(job, &layout).await? {
            return refused("spec.model", difference);
        }
        let elements = layout.elements();
        let life = job
            .previous
            .as_ref()
            .map_or(job.revision, |previous| previous.life);
        let order = JobOrder {
            name: job.name.clone(),
            revision: job.revision,
            life,
            spec: JobSpec {
                model: FileReference {
                    path: None,
                    digest: Some(job.model),
                },
                ..job.spec.for_node()
            },
            function: job.function.clone(),
            placement: None,
            sharing: Sharing::default(),
        };
        let link = self.examiner(Some(job))?;
        match self.order(&*link, Command::Check(order)).await?.outcome {
            Ok(_) => Ok(Ok(JobRecord {
                revision: job.revision,
                life,
                spec: job.spec.clone(),
                function_revision: job.function.revision,
                elements,
            })),
            Err(NodeError::Refused(message) | NodeError::Unavailable(message)) => {
                refused("spec", message)
            }
            Err(error) => refused("spec", error.to_string()),
        }
    }

    /// How a job's new layout differs from the one that its kept models have.
    async fn difference(
        &self,
        job: &PlannedJob,
        layout: &ModelLayout,
    ) -> Result<Option<String>, Error> {
        let Some(digest) = job
            .previous
            .as_ref()
            .and_then(|previous| previous.spec.model.digest)
        else {
            return Ok(None);
        };
        if digest == job.model {
            return Ok(None);
        }
        let Ok(before) = self.state.blobs.layout(digest).await? else {
            return Ok(None);
        };
        let how = match before.match_model(layout) {
            _ if before == *layout => return Ok(None),
            Err(mismatch) => mismatch.to_string(),
            Ok(()) => "the tensors' data are in another order".into(),
        };
        Ok(Some(format!(
            "a job keeps the layout of its model, and this one differs: {how}; \
             delete job {} first, or give the new job another name",
            job.name
        )))
    }

    /// A node that can check what is applied: for a job, one that is likely to run it.
    fn examiner(&self, job: Option<&PlannedJob>) -> Result<Arc<dyn Link>, Error> {
        let (known, nodes) = (self.known(), self.fleet.seen());
        let fitness = |name: &Name, seen: &Seen| {
            let Some(job) = job else { return (false, 0) };
            let placed = known.placed.get(&job.name);
            let leads = placed.is_some_and(|placed| placed.placement.leader == *name);
            let mut wanted = job.spec.placement.selector.iter();
            let fits = wanted.all(|(key, value)| seen.report.labels.get(key) == Some(value));
            (leads || fits, seen.report.status.shm_free_bytes)
        };
        let alive = nodes.iter().filter(|(_, seen)| !seen.lost);
        let best = alive.max_by_key(|(name, seen)| fitness(name, seen));
        let none = || Error::NoNode("0 nodes are there; start one with `tributary node`".into());
        best.map(|(_, seen)| Arc::clone(&seen.link))
            .ok_or_else(none)
    }

    fn announce(&self, plan: &Plan) {
        for job in plan
            .jobs
            .iter()
            .filter(|job| job.action != Action::Unchanged)
        {
            let data = json!({ "action": job.action, "revision": job.revision });
            let about = About::Job(&job.name);
            self.voice.tell(EventKind::JobApplied, about, data);
        }
    }

    /// Adds what became of the jobs.
    fn note(&self, plan: &Plan, settled: bool, results: &mut [ApplyResult]) {
        let (work, known, nodes) = (lock(&self.work), self.known(), self.fleet.seen());
        let planned: BTreeMap<&Name, &PlannedJob> =
            plan.jobs.iter().map(|job| (&job.name, job)).collect();
        for result in results.iter_mut().filter(|result| result.kind == Kind::Job) {
            let Some(job) = planned.get(&result.name) else {
                continue;
            };
            let leader = known.placed.get(&job.name);
            let leader = leader.map(|placed| &placed.placement.leader);
            let failure = work.failure(&job.name, leader);
            let failure = failure.map(|failure| &failure.message);
            if let Some(message) = failure.or_else(|| known.nowhere.get(&job.name)) {
                result
                    .notes
                    .push(format!("the job does not run: {message}"));
            } else if !settled && running(&known, &nodes, &job.name).is_empty() {
                result.notes.push(
                    "the job is still being started, which takes its time with a large model; until then its clients are \
                     told to come again"
                        .into(),
                );
            } else if restarted(job) {
                result.notes.push(
                    "the job was restarted at its newest model; its open round began anew".into(),
                );
            }
        }
    }
}

/// The function is kept all the same: only a job can give it what it needs.
fn note_unproven(results: &mut [ApplyResult], function: &Name, reason: &str) {
    let mut results = results.iter_mut();
    let is_it =
        |result: &&mut ApplyResult| result.kind == Kind::Function && result.name == *function;
    if let Some(result) = results.find(is_it) {
        result.notes.push(format!(
            "the function needs a configuration ({reason}): it is proven when a job gives one"
        ));
    }
}

fn restarted(job: &PlannedJob) -> bool {
    job.action == Action::Configured
        && job.previous.as_ref().is_some_and(|previous| {
            let FunctionRevision { revision, .. } = job.function;
            previous.function_revision != revision || previous.spec.needs_restart(&job.spec)
        })
}

fn not_uploaded(digest: Digest) -> String {
    format!("the server does not have {digest}; upload it with PUT /v1/blobs/{digest}")
}
