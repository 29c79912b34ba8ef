//! Applying manifests: everything is checked, then everything is committed in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};
use tributary_api::{
    Digest, Name,
    apply::{Action, ApplyResult},
    control::{FunctionRevision, NodeError, Proof, Sharing},
    event::EventKind,
    manifest::{FileReference, JobSpec, Kind},
    problem::FieldError,
    status::JobPhase,
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
    /// Applies manifests, all or none. With `dry_run` everything is checked but what is in files that are not uploaded,
    /// and nothing is changed.
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
        // Nothing has to be uploaded to be told what would change.
        let absent = if dry_run {
            self.absent(&plan).await?
        } else {
            BTreeSet::new()
        };
        let mut results = plan.results();
        let commit = self.check(&plan, &absent, &mut results).await?;
        if !commit.is_empty() && !dry_run {
            self.commit(commit).await?;
            self.announce(&plan);
            let settled = self.settle().await;
            self.note(&plan, settled, &mut results);
        }
        note_absent(&plan, &absent, &mut results);
        self.note_completed(&mut results).await?;
        Ok(results)
    }

    /// The files of what is new that are not there.
    async fn absent(&self, plan: &Plan) -> Result<BTreeSet<Digest>, Error> {
        let functions = plan.functions.iter();
        let modules = functions.map(|function| function.revision.digest);
        let mut absent = BTreeSet::new();
        for digest in modules.chain(plan.jobs.iter().map(|job| job.model)) {
            match self.state.blobs.size(digest).await {
                Ok(_) => {}
                Err(Error::UnknownBlob(digest)) => {
                    absent.insert(digest);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(absent)
    }

    /// Lets the node check what is new, but for what is in files that are `absent`; notes what could not be proven yet.
    async fn check(
        &self,
        plan: &Plan,
        absent: &BTreeSet<Digest>,
        results: &mut [ApplyResult],
    ) -> Result<Commit, Error> {
        let (mut commit, mut errors) = (Commit::default(), Vec::new());
        for function in plan.functions.iter().filter(|function| {
            function.action != Action::Unchanged && !absent.contains(&function.revision.digest)
        }) {
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
                .filter(|job| job.action != Action::Unchanged && !lacks_file(job, absent))
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

    /// Says of jobs that applying them again does not begin them again.
    async fn note_completed(&self, results: &mut [ApplyResult]) -> Result<(), Error> {
        for result in results {
            if result.kind == Kind::Job
                && result.action == Action::Unchanged
                && self.job(result.name.as_str()).await?.phase == JobPhase::Completed
            {
                result.notes.push(format!(
                    "the job is completed, and no round is open: to train anew delete it first \
                     (`tributary delete job {}`), to go on give it more spec.rounds",
                    result.name
                ));
            }
        }
        Ok(())
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
            let failure = work.failure(&job.name, known.placed.get(&job.name));
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

/// Whether what is in a job's file or its function's cannot be checked.
fn lacks_file(job: &PlannedJob, absent: &BTreeSet<Digest>) -> bool {
    absent.contains(&job.model) || absent.contains(&job.function.digest)
}

fn note_absent(plan: &Plan, absent: &BTreeSet<Digest>, results: &mut [ApplyResult]) {
    let functions = plan.functions.iter();
    let functions = functions.filter(|function| absent.contains(&function.revision.digest));
    let jobs = plan.jobs.iter().filter(|job| lacks_file(job, absent));
    let unchecked: BTreeSet<(Kind, &Name)> = functions
        .map(|function| (Kind::Function, &function.revision.name))
        .chain(jobs.map(|job| (Kind::Job, &job.name)))
        .collect();
    for result in results {
        if unchecked.contains(&(result.kind, &result.name)) {
            let note = "a file is not uploaded yet, so what is in it was not checked";
            result.notes.push(note.into());
        }
    }
}

fn not_uploaded(digest: Digest) -> String {
    format!("the server does not have {digest}; upload it with PUT /v1/blobs/{digest}")
}
