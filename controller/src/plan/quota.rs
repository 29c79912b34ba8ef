//! How many jobs tenants may have.

use std::collections::{BTreeMap, BTreeSet};

use tributary_api::{Name, apply::Action, problem::FieldError};

use super::{Plan, PlannedJob, at};
use crate::store::Desired;

/// What is wrong with a plan after which tenants have more jobs than they may: with the jobs that are too many, else
/// with the tenant's manifest.
pub(super) fn exceeded(desired: &Desired, plan: &Plan) -> Vec<FieldError> {
    let jobs = jobs(desired, plan);
    let mut errors = Vec::new();
    for (tenant, max) in limits(desired, plan) {
        let count = jobs.get(tenant).map_or(0, BTreeSet::len);
        if u32::try_from(count).is_ok_and(|count| count <= max) {
            continue;
        }
        let message = format!("tenant {tenant} would have {count} jobs, and may have {max}");
        let newcomers = plan.jobs.iter().filter(|job| joins(job, tenant));
        let before = errors.len();
        errors.extend(newcomers.map(|job| {
            let way_out = "raise its spec.jobs.max, delete a job of it, or name another tenant";
            at(job.manifest, "spec.tenant", format!("{message}; {way_out}"))
        }));
        let lowered = plan.tenants.iter().find(|planned| planned.name == *tenant);
        if let Some(lowered) = lowered
            && errors.len() == before
            && lowered.action != Action::Unchanged
        {
            let message = format!("{message}; raise it, or delete jobs first");
            errors.push(at(lowered.manifest, "spec.jobs.max", message));
        }
    }
    errors
}

/// The most jobs of each tenant that has a limit.
fn limits<'a>(desired: &'a Desired, plan: &'a Plan) -> impl Iterator<Item = (&'a Name, u32)> {
    let mut records: BTreeMap<_, _> = desired.tenants.iter().collect();
    let planned = plan.tenants.iter();
    records.extend(planned.map(|tenant| (&tenant.name, &tenant.record)));
    let limits = records.into_iter();
    limits.filter_map(|(name, record)| Some((name, record.spec.jobs.max?)))
}

/// Each tenant's jobs, after the plan.
fn jobs<'a>(desired: &'a Desired, plan: &'a Plan) -> BTreeMap<&'a Name, BTreeSet<&'a Name>> {
    let existing = desired.jobs.iter();
    let mut tenants: BTreeMap<_, _> = existing
        .map(|(name, record)| (name, &record.spec.tenant))
        .collect();
    tenants.extend(plan.jobs.iter().map(|job| (&job.name, &job.spec.tenant)));
    let mut jobs = BTreeMap::<_, BTreeSet<_>>::new();
    for (job, tenant) in tenants {
        jobs.entry(tenant).or_default().insert(job);
    }
    jobs
}

/// Whether the job becomes one of the tenant's.
fn joins(job: &PlannedJob, tenant: &Name) -> bool {
    let was = job.previous.as_ref().map(|record| &record.spec.tenant);
    job.spec.tenant == *tenant && was != Some(tenant)
}
