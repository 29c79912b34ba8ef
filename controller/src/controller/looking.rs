//! What the controller says of jobs, functions, nodes and placements.

use std::collections::BTreeMap;

use tributary_api::{
    Name,
    fleet::{MemberDescription, NodeCapacity, NodeEntry, NodeState, PlacementDescription},
    manifest::{ApiVersion, JobManifest, Kind, Metadata},
    stages::{StageTimes, Verdict},
    status::{FunctionStatus, JobPhase, JobStatus, PlacementStatus, TenantStatus},
};

use super::{Controller, Known, lock, unknown};
use crate::{
    Error,
    fleet::Seen,
    placing::Placed,
    store::{Desired, FunctionRecord, JobRecord, TenantRecord},
};

impl Controller {
    /// The status of all jobs, running or not.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, Error> {
        let (known, nodes) = self.look().await;
        let jobs = &known.desired.jobs;
        let idle = jobs
            .keys()
            .any(|name| running(&known, &nodes, name).is_empty());
        let versions = if idle {
            self.state.models.newest_versions().await?
        } else {
            BTreeMap::new()
        };
        let status = |(name, record): (&Name, &JobRecord)| {
            let version = versions.get(&(name.clone(), record.life)).copied();
            self.status(&known, &nodes, name, record, version)
        };
        Ok(jobs.iter().map(status).collect())
    }

    /// The status of a job, running or not.
    ///
    /// # Errors
    /// [`Error::Unknown`]; otherwise as the store fails.
    pub async fn job(&self, name: &str) -> Result<JobStatus, Error> {
        let (known, nodes) = self.look().await;
        let found = known.desired.jobs.get_key_value(name);
        let (name, record) = found.ok_or_else(|| unknown(Kind::Job, name))?;
        let version = if running(&known, &nodes, name).is_empty() {
            self.state.models.newest_version(name, record.life).await?
        } else {
            None
        };
        Ok(self.status(&known, &nodes, name, record, version))
    }

    /// Where a job is, and why there.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn placement(&self, name: &str) -> Result<PlacementDescription, Error> {
        let (known, nodes) = self.look().await;
        let found = known.desired.jobs.get_key_value(name);
        let (name, _) = found.ok_or_else(|| unknown(Kind::Job, name))?;
        let mut description = describe(&known, &nodes, name, self.fleet.is_many());
        self.describe_slow(&known, &nodes, &mut description);
        Ok(description)
    }

    /// The gateway of the node that leads a job, for what only nodes can answer.
    pub(crate) fn gateway(&self, job: &str) -> Option<String> {
        let known = self.known();
        let leader = known.placed.get(job)?.placement.leader()?;
        Some(leader.url.clone())
    }

    /// The manifest of a job's newest revision.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn manifest(&self, name: &str) -> Result<JobManifest, Error> {
        let (name, record) = self
            .find_job(name)
            .ok_or_else(|| unknown(Kind::Job, name))?;
        let (api_version, kind) = (ApiVersion::V1, tributary_api::manifest::job::JobKind::Job);
        Ok(JobManifest {
            api_version,
            kind,
            metadata: Metadata { name },
            spec: record.spec,
        })
    }

    /// The newest revisions of all functions.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionStatus> {
        let known = self.known();
        let desired = &known.desired;
        let functions = desired.functions.values();
        functions.map(|record| function(desired, record)).collect()
    }

    /// The newest revision of a function.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn function(&self, name: &str) -> Result<FunctionStatus, Error> {
        let known = self.known();
        let record = known.desired.functions.get(name);
        let record = record.ok_or_else(|| unknown(Kind::Function, name))?;
        Ok(function(&known.desired, record))
    }

    /// The newest revisions of all tenants, `default` among them.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantStatus> {
        let known = self.known();
        let tenants = known.desired.all_tenants().into_iter();
        tenants
            .map(|(name, record)| tenant(&known.desired, name, &record))
            .collect()
    }

    /// The newest revision of a tenant.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn tenant(&self, name: &str) -> Result<TenantStatus, Error> {
        let known = self.known();
        let found = known.desired.all_tenants().remove_entry(name);
        let (name, record) = found.ok_or_else(|| unknown(Kind::Tenant, name))?;
        Ok(tenant(&known.desired, name, &record))
    }

    /// The nodes.
    pub async fn nodes(&self) -> Vec<NodeEntry> {
        let (known, nodes) = self.look().await;
        let entries = nodes.iter();
        entries
            .map(|(name, seen)| self.entry(&known, name, seen))
            .collect()
    }

    pub(super) fn find_job(&self, name: &str) -> Option<(Name, JobRecord)> {
        self.known()
            .desired
            .jobs
            .get_key_value(name)
            .map(|(name, record)| (name.clone(), record.clone()))
    }

    /// Brings the gauges of metrics up to date.
    pub(crate) fn observe(&self) {
        let (known, nodes) = (self.known(), self.fleet.seen());
        let states = nodes.iter().map(|(name, seen)| state(&known, name, seen));
        let connected = self.state.backend.connected();
        let leads = self.term().is_some();
        self.metrics
            .observe(states, leads, connected, known.nowhere.len());
        self.metrics.beats(self.fleet.beat_bytes());
        self.metrics.stragglers(lock(&self.stragglers).counts());
    }

    /// Everything as it is now.
    async fn look(&self) -> (std::sync::Arc<Known>, BTreeMap<Name, Seen>) {
        if let Some(term) = self.term() {
            self.fleet.refresh(term).await;
        }
        (self.known(), self.fleet.seen())
    }

    fn entry(&self, known: &Known, name: &Name, seen: &Seen) -> NodeEntry {
        let report = &seen.report;
        let cores = report.status.cores;
        let capacity = seen.gauge.capacity_or_default(cores);
        let (learnt, given) = seen.gauge.knows();
        let milli = |value: f64| (value * 1e3) as u64;
        let many = self.fleet.is_many();
        NodeEntry {
            status: report.status.clone(),
            state: state(known, name, seen),
            url: report.url.clone(),
            labels: report.labels.clone(),
            heard_milliseconds_ago: many
                .then(|| u64::try_from(seen.heard.elapsed().as_millis()).unwrap_or(u64::MAX)),
            capacity: many.then(|| NodeCapacity {
                measured: learnt && !given,
                given,
                concurrency_milli: milli(capacity.concurrency),
                update_microseconds: (capacity.seconds_per_update * 1e6) as u64,
                arrivals_milli_per_second: milli(seen.gauge.arrivals()),
            }),
            slow_in: lock(&self.stragglers).slow_in(name),
        }
    }

    /// A job as its leader sees it, with the workers of all its nodes; else as it would be, at its newest `version`.
    fn status(
        &self,
        known: &Known,
        nodes: &BTreeMap<Name, Seen>,
        name: &Name,
        record: &JobRecord,
        version: Option<u64>,
    ) -> JobStatus {
        let placed = known.placed.get(name);
        let leader = placed.map(|placed| &placed.placement.leader);
        let running = running(known, nodes, name);
        let first = running.iter().min_by_key(|(node, _)| Some(*node) != leader);
        let mut status = match first {
            Some((_, status)) => (*status).clone(),
            None => absent(name, record, placed, version.unwrap_or(1)),
        };
        if status.sharing.is_none() {
            status.sharing = Some(known.desired.sharing(&record.spec));
        }
        status.workers = running.iter().map(|(_, status)| status.workers).sum();
        let failure = lock(&self.work).failure(name, placed).cloned();
        let failure = failure.map(|failure| failure.message);
        if let Some(why) = failure.or_else(|| known.nowhere.get(name).cloned()) {
            status.last_error = Some(why);
            if first.is_none() {
                status.phase = JobPhase::Failed;
            }
        }
        status
    }
}

/// What the nodes that are to run a job, and are there, say of it.
pub(super) fn running<'a>(
    known: &Known,
    nodes: &'a BTreeMap<Name, Seen>,
    job: &Name,
) -> Vec<(&'a Name, &'a JobStatus)> {
    let placed = known.placed.get(job);
    let alive = nodes.iter().filter(|(_, seen)| !seen.lost);
    let running = alive.filter_map(|(node, seen)| Some((node, seen.report.job(job)?)));
    running
        .filter(|(node, _)| {
            placed.is_none_or(|placed| placed.placement.member(node.as_str()).is_some())
        })
        .collect()
}

/// The status of a job that no node runs.
fn absent(name: &Name, record: &JobRecord, placed: Option<&Placed>, version: u64) -> JobStatus {
    JobStatus {
        name: name.clone(),
        phase: JobPhase::Starting,
        function: record.spec.function.name.clone(),
        function_revision: record.function_revision,
        revision: record.revision,
        version,
        rounds: record.spec.rounds,
        expected: record.spec.expected(),
        accepted: 0,
        parameters: record.elements,
        model_bytes: record.elements * 4,
        last_error: None,
        node: None,
        arena: None,
        workers: 0,
        autoscaler: None,
        placement: placed.map(placement_status),
        times: Vec::new(),
        awaited: None,
        sharing: None,
        bounds: None,
    }
}

fn state(known: &Known, name: &Name, seen: &Seen) -> NodeState {
    let is_member = |placed: &Placed| placed.placement.member(name.as_str()).is_some();
    if seen.lost {
        NodeState::Lost
    } else if !known.desired.drained().contains(name) {
        NodeState::Ready
    } else if known.placed.values().any(is_member) {
        NodeState::Draining
    } else {
        NodeState::Drained
    }
}

fn placement_status(placed: &Placed) -> PlacementStatus {
    let placement = &placed.placement;
    let members = placement.members.iter();
    PlacementStatus {
        generation: placement.generation,
        since: None,
        leader: placement.leader.clone(),
        members: members.map(|member| member.node.clone()).collect(),
    }
}

fn describe(
    known: &Known,
    nodes: &BTreeMap<Name, Seen>,
    job: &Name,
    many: bool,
) -> PlacementDescription {
    let nowhere = known.nowhere.get(job);
    let Some(placed) = known.placed.get(job) else {
        let waiting = if many {
            "the job has not been placed yet"
        } else {
            "there is one node"
        };
        return PlacementDescription {
            job: job.clone(),
            generation: 0,
            leader: None,
            members: Vec::new(),
            reason: nowhere.cloned().unwrap_or_else(|| waiting.into()),
            bypassed: Vec::new(),
        };
    };
    let placement = &placed.placement;
    let members = placement.members.iter().map(|member| {
        let homes = &placement.homes;
        let index = homes.nodes.iter().position(|node| *node == member.node);
        let buckets = homes.buckets.iter();
        let own = buckets.filter(|bucket| Some(usize::from(**bucket)) == index);
        let status = nodes
            .get(&member.node)
            .filter(|seen| !seen.lost)
            .and_then(|seen| seen.report.job(job));
        MemberDescription {
            node: member.node.clone(),
            url: member.url.clone(),
            duty: member.duty,
            expected: placed.shares.get(&member.node).copied().unwrap_or(0),
            buckets: own.count() as u32,
            generation: status.and_then(|status| Some(status.placement.as_ref()?.generation)),
            stages: StageTimes::default(),
            verdict: Verdict::default(),
            why: None,
        }
    });
    PlacementDescription {
        job: job.clone(),
        generation: placement.generation,
        leader: Some(placement.leader.clone()),
        members: members.collect(),
        reason: nowhere.cloned().unwrap_or_else(|| placed.reason.clone()),
        bypassed: Vec::new(),
    }
}

fn function(desired: &Desired, record: &FunctionRecord) -> FunctionStatus {
    let revision = &record.revision;
    FunctionStatus {
        name: revision.name.clone(),
        revision: revision.revision,
        digest: revision.digest,
        algebra: revision.spec.algebra,
        limits: revision.spec.limits.clone(),
        description: record.description.clone(),
        jobs: desired.jobs_of(&revision.name),
    }
}

fn tenant(desired: &Desired, name: Name, record: &TenantRecord) -> TenantStatus {
    TenantStatus {
        revision: record.revision,
        weight: record.spec.weight,
        jobs_max: record.spec.jobs.max,
        jobs: desired.jobs_in(&name),
        name,
    }
}
