//! What applying manifests would change: a pure function of the desired state and the manifests.

mod quota;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use tributary_api::{
    Digest, Name,
    apply::{Action, ApplyResult, Change},
    control::FunctionRevision,
    manifest::{
        FileReference, FunctionManifest, JobManifest, JobSpec, Kind, Manifest, TenantManifest,
        nearest,
    },
    problem::FieldError,
};

use crate::{
    Error,
    diff::diff,
    store::{Desired, JobRecord, TenantRecord},
};

/// What is done with the functions, tenants and jobs that manifests concern.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) functions: Vec<PlannedFunction>,
    pub(crate) tenants: Vec<PlannedTenant>,
    pub(crate) jobs: Vec<PlannedJob>,
}

#[derive(Debug)]
pub(crate) struct PlannedFunction {
    /// The manifest's place in the request.
    pub(crate) manifest: usize,
    pub(crate) revision: FunctionRevision,
    pub(crate) action: Action,
    pub(crate) diff: Vec<Change>,
}

#[derive(Debug)]
pub(crate) struct PlannedTenant {
    /// The manifest's place in the request.
    pub(crate) manifest: usize,
    pub(crate) name: Name,
    pub(crate) record: TenantRecord,
    pub(crate) action: Action,
    pub(crate) diff: Vec<Change>,
}

#[derive(Debug)]
pub(crate) struct PlannedJob {
    /// The place in the request of the manifest that concerns the job: its own, or its function's.
    pub(crate) manifest: usize,
    /// Whether the job changes only because its function does.
    pub(crate) follows_function: bool,
    pub(crate) name: Name,
    pub(crate) revision: u64,
    pub(crate) spec: JobSpec,
    pub(crate) model: Digest,
    pub(crate) function: FunctionRevision,
    pub(crate) previous: Option<JobRecord>,
    pub(crate) action: Action,
    pub(crate) diff: Vec<Change>,
}

/// Reads the manifests of a request.
pub(crate) fn parse(values: &[Value]) -> Result<Vec<Manifest>, Error> {
    let (mut manifests, mut errors) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for (place, value) in values.iter().enumerate() {
        match Manifest::from_value(value) {
            Ok(manifest) => {
                if !seen.insert((manifest.kind(), manifest.name().clone())) {
                    let message = format!("{} {} comes twice", manifest.kind(), manifest.name());
                    errors.push(at(place, "metadata.name", message));
                }
                manifests.push(manifest);
            }
            Err(found) => errors.extend(found.into_iter().map(|error| FieldError {
                manifest: place,
                ..error
            })),
        }
    }
    if errors.is_empty() {
        Ok(manifests)
    } else {
        Err(Error::Invalid(errors))
    }
}

/// Plans the manifests of a request; functions and tenants come before the jobs that name them.
pub(crate) fn plan(desired: &Desired, manifests: &[Manifest]) -> Result<Plan, Error> {
    let mut planner = Planner {
        desired,
        plan: Plan::default(),
        errors: Vec::new(),
    };
    for (place, manifest) in manifests.iter().enumerate() {
        match manifest {
            Manifest::Function(function) => planner.function(place, function)?,
            Manifest::Tenant(tenant) => planner.tenant(place, tenant)?,
            Manifest::Job(_) => {}
        }
    }
    for (place, manifest) in manifests.iter().enumerate() {
        if let Manifest::Job(job) = manifest {
            planner.job(place, job)?;
        }
    }
    planner.followers()?;
    if planner.errors.is_empty() {
        planner.errors = quota::exceeded(desired, &planner.plan);
    }
    if planner.errors.is_empty() {
        Ok(planner.plan)
    } else {
        Err(Error::Invalid(planner.errors))
    }
}

struct Planner<'a> {
    desired: &'a Desired,
    plan: Plan,
    errors: Vec<FieldError>,
}

impl Planner<'_> {
    fn function(&mut self, place: usize, manifest: &FunctionManifest) -> Result<(), Error> {
        let (name, spec) = (&manifest.metadata.name, &manifest.spec);
        let Some(digest) = self.digest(place, "spec.module", &spec.module) else {
            return Ok(());
        };
        let previous = self
            .desired
            .functions
            .get(name)
            .map(|record| &record.revision);
        let previous = previous.map(|previous| (previous.revision, &previous.spec));
        let (action, number, changes) = self.revised(Kind::Function, name, previous, spec)?;
        let revision = FunctionRevision {
            name: name.clone(),
            revision: number,
            digest,
            spec: spec.clone(),
        };
        self.plan.functions.push(PlannedFunction {
            manifest: place,
            revision,
            action,
            diff: changes,
        });
        Ok(())
    }

    fn tenant(&mut self, place: usize, manifest: &TenantManifest) -> Result<(), Error> {
        let (name, spec) = (&manifest.metadata.name, &manifest.spec);
        let previous = self.desired.tenants.get(name);
        let previous = previous.map(|record| (record.revision, &record.spec));
        let (action, revision, changes) = self.revised(Kind::Tenant, name, previous, spec)?;
        let spec = spec.clone();
        self.plan.tenants.push(PlannedTenant {
            manifest: place,
            name: name.clone(),
            record: TenantRecord { revision, spec },
            action,
            diff: changes,
        });
        Ok(())
    }

    /// What a manifest's spec makes of the revision that there is.
    fn revised<S: PartialEq + Serialize>(
        &self,
        kind: Kind,
        name: &Name,
        previous: Option<(u64, &S)>,
        spec: &S,
    ) -> Result<(Action, u64, Vec<Change>), Error> {
        Ok(match previous {
            Some((revision, previous)) if previous == spec => {
                (Action::Unchanged, revision, Vec::new())
            }
            Some((_, previous)) => {
                let changes = diff(previous, spec)?;
                (Action::Configured, self.next(kind, name), changes)
            }
            None => (Action::Created, self.next(kind, name), Vec::new()),
        })
    }

    fn job(&mut self, place: usize, manifest: &JobManifest) -> Result<(), Error> {
        let (name, spec) = (&manifest.metadata.name, &manifest.spec);
        let model = self.digest(place, "spec.model", &spec.model);
        let function = self.function_of(place, &spec.function.name);
        let has_tenant = self.has_tenant(place, &spec.tenant);
        if let Some(kept) = self.other_model(name, model) {
            let message = format!(
                "job {name} goes on from its newest model, so another first model would change nothing: to begin \
                 anew delete the job first, with its models, or give the new one another name; to go on leave the \
                 first model as it is, {kept}"
            );
            self.errors.push(at(place, "spec.model", message));
        }
        if let (Some(model), Some(function), true) = (model, function, has_tenant) {
            let job = self.planned(place, false, name, spec, model, function)?;
            self.plan.jobs.push(job);
        }
        Ok(())
    }

    /// The first model that a job has, if it is another than the given one.
    fn other_model(&self, name: &Name, given: Option<Digest>) -> Option<Digest> {
        let kept = self.desired.jobs.get(name)?.spec.model.digest?;
        (kept != given?).then_some(kept)
    }

    /// Jobs that no manifest names, but whose function changes.
    fn followers(&mut self) -> Result<(), Error> {
        let changed: Vec<_> = self
            .plan
            .functions
            .iter()
            .filter(|function| function.action != Action::Unchanged)
            .map(|function| (function.manifest, function.revision.clone()))
            .collect();
        for (place, function) in changed {
            for name in self.desired.jobs_of(&function.name) {
                let record = &self.desired.jobs[&name];
                let planned = self.plan.jobs.iter().any(|job| job.name == name);
                let Some(model) = record.spec.model.digest.filter(|_| !planned) else {
                    continue;
                };
                let job =
                    self.planned(place, true, &name, &record.spec, model, function.clone())?;
                self.plan.jobs.push(job);
            }
        }
        Ok(())
    }

    fn planned(
        &self,
        manifest: usize,
        follows_function: bool,
        name: &Name,
        spec: &JobSpec,
        model: Digest,
        function: FunctionRevision,
    ) -> Result<PlannedJob, Error> {
        let previous = self.desired.jobs.get(name).cloned();
        let (action, revision, changes) = match &previous {
            None => (Action::Created, self.next(Kind::Job, name), Vec::new()),
            Some(record) => {
                let mut changes = diff(&record.spec, spec)?;
                if record.function_revision != function.revision {
                    changes.push(Change {
                        path: "function.revision".into(),
                        from: Some(record.function_revision.into()),
                        to: Some(function.revision.into()),
                    });
                }
                if changes.is_empty() {
                    (Action::Unchanged, record.revision, changes)
                } else {
                    (Action::Configured, self.next(Kind::Job, name), changes)
                }
            }
        };
        let (name, spec) = (name.clone(), spec.clone());
        Ok(PlannedJob {
            manifest,
            follows_function,
            name,
            revision,
            spec,
            model,
            function,
            previous,
            action,
            diff: changes,
        })
    }

    /// The revision of a function that a job would use.
    fn function_of(&mut self, place: usize, name: &Name) -> Option<FunctionRevision> {
        let planned = self
            .plan
            .functions
            .iter()
            .map(|function| &function.revision);
        let existing = self
            .desired
            .functions
            .values()
            .map(|record| &record.revision);
        let known: BTreeMap<&Name, &FunctionRevision> = existing
            .chain(planned)
            .map(|revision| (&revision.name, revision))
            .collect();
        let found = known.get(name).map(|revision| (*revision).clone());
        if found.is_none() {
            let message = missing("function", name, known.into_keys());
            self.errors.push(at(place, "spec.function.name", message));
        }
        found
    }

    /// Whether a job's tenant is there, or will be.
    fn has_tenant(&mut self, place: usize, name: &Name) -> bool {
        let existing = self.desired.all_tenants();
        let planned = self.plan.tenants.iter().map(|tenant| &tenant.name);
        let known: BTreeSet<&Name> = existing.keys().chain(planned).collect();
        let found = known.contains(name);
        if !found {
            let message = missing("tenant", name, known);
            self.errors.push(at(place, "spec.tenant", message));
        }
        found
    }

    fn digest(&mut self, place: usize, path: &str, file: &FileReference) -> Option<Digest> {
        if file.digest.is_none() {
            let message = "the server cannot read paths: upload the file to /v1/blobs and give its digest, \
                           as `tributary apply` does";
            self.errors
                .push(at(place, &format!("{path}.path"), message));
        }
        file.digest
    }

    fn next(&self, kind: Kind, name: &Name) -> u64 {
        self.desired.next_revision(kind, name)
    }
}

impl Plan {
    /// What is told of the plan: the manifests in their order, then the jobs that follow their functions.
    pub(crate) fn results(&self) -> Vec<ApplyResult> {
        let functions = self.functions.iter().map(|function| {
            let FunctionRevision { name, revision, .. } = &function.revision;
            let result = result(
                Kind::Function,
                name,
                function.action,
                *revision,
                &function.diff,
            );
            ((false, function.manifest), result)
        });
        let tenants = self.tenants.iter().map(|tenant| {
            let revision = tenant.record.revision;
            let result = result(
                Kind::Tenant,
                &tenant.name,
                tenant.action,
                revision,
                &tenant.diff,
            );
            ((false, tenant.manifest), result)
        });
        let jobs = self.jobs.iter().map(|job| {
            let result = result(Kind::Job, &job.name, job.action, job.revision, &job.diff);
            ((job.follows_function, job.manifest), result)
        });
        let mut results: Vec<_> = functions.chain(tenants).chain(jobs).collect();
        results.sort_by_key(|(order, _)| *order);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

fn result(kind: Kind, name: &Name, action: Action, revision: u64, diff: &[Change]) -> ApplyResult {
    ApplyResult {
        kind,
        name: name.clone(),
        action,
        revision,
        diff: diff.to_vec(),
        notes: Vec::new(),
    }
}

/// What is said of a name that nothing has, among those that something has.
fn missing<'a>(kind: &str, name: &Name, known: impl IntoIterator<Item = &'a Name>) -> String {
    let known = known.into_iter().map(Name::as_str);
    let hint = match nearest(name.as_str(), known) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "apply its manifest first, or together with this one".into(),
    };
    format!("there is no {kind} {name}; {hint}")
}

/// An error of the manifest at `place`.
pub(crate) fn at(place: usize, path: &str, message: impl Into<String>) -> FieldError {
    FieldError {
        manifest: place,
        ..FieldError::new(path, message)
    }
}
