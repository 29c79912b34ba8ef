//! A node that remembers what it is told and refuses on demand.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tributary_api::{
    Name,
    control::{FunctionDescription, FunctionRevision, JobDesired, NodeControl, NodeError, Proof},
    event::EventKind,
    placement::Placement,
    stages::{Awaited, RoundTimes},
    status::{JobPhase, JobStatus, NodeLoad, NodeStatus, PlacementStatus, RoundStatus, Sidecar},
};

#[derive(Default)]
pub(crate) struct FakeNode {
    /// `fake` if nobody says more.
    pub(crate) name: Option<&'static str>,
    pub(crate) jobs: Mutex<BTreeMap<Name, (JobDesired, Bytes)>>,
    /// Where it was told that other jobs are.
    pub(crate) elsewhere: Mutex<BTreeMap<Name, String>>,
    /// Updates that a job is said to have accepted.
    pub(crate) accepted: AtomicU32,
    /// What was done, in order: `deploy f@1`, `start j@1 v1`.
    pub(crate) log: Mutex<Vec<String>>,
    /// Whether jobs can be started now.
    pub(crate) busy: AtomicBool,
    /// What it says of the nodes' times in rounds, as if it led.
    pub(crate) times: Mutex<Vec<RoundTimes>>,
    /// What it says that it has served.
    pub(crate) load: Mutex<NodeLoad>,
    /// What it says that its closed rounds wait for.
    pub(crate) awaited: Mutex<Option<Awaited>>,
}

impl FakeNode {
    pub(crate) fn named(name: &'static str) -> Self {
        Self {
            name: Some(name),
            ..Self::default()
        }
    }

    fn name(&self) -> &'static str {
        self.name.unwrap_or("fake")
    }

    /// The placement that it follows.
    pub(crate) fn placement(&self, job: &str) -> Option<Placement> {
        self.jobs.lock().unwrap().get(job)?.0.placement.clone()
    }

    /// What the job may claim here: `vision 2.5 at 0`.
    pub(crate) fn sharing(&self, job: &str) -> String {
        let sharing = &self.jobs.lock().unwrap()[job].0.sharing;
        format!(
            "{} {} at {}",
            sharing.tenant, sharing.weight, sharing.priority
        )
    }

    /// A round of the job is over.
    pub(crate) fn advance(&self, job: &str, version: u64) {
        self.jobs.lock().unwrap().get_mut(job).unwrap().0.version = version;
        self.accepted.store(0, Ordering::Relaxed);
    }

    /// A round of the job is over, which it leads; it tells the times of the last five.
    pub(crate) fn finish(&self, job: &str, round: RoundTimes) {
        let mut jobs = self.jobs.lock().unwrap();
        jobs.get_mut(job).unwrap().0.version = round.round + 1;
        let mut times = self.times.lock().unwrap();
        times.push(round);
        let excess = times.len().saturating_sub(5);
        times.drain(..excess);
    }

    /// So many more jobs, like one that it has.
    pub(crate) fn copy(&self, job: &str, times: usize) {
        let mut jobs = self.jobs.lock().unwrap();
        let (desired, model) = jobs[job].clone();
        for number in 0..times {
            let name: Name = format!("{job}-{number}").parse().unwrap();
            let copy = JobDesired {
                name: name.clone(),
                ..desired.clone()
            };
            jobs.insert(name, (copy, model.clone()));
        }
    }

    /// An update is folded; it took `milliseconds`, with so many others in service.
    pub(crate) fn fold(&self, milliseconds: u64, others: u64) {
        let mut load = self.load.lock().unwrap();
        load.folded += 1;
        load.served_milliseconds += milliseconds;
        load.occupied_milliseconds += milliseconds / (1 + others);
    }

    fn status(&self, job: &JobDesired) -> JobStatus {
        JobStatus {
            node: Some(self.name().into()),
            accepted: self.accepted.load(Ordering::Relaxed),
            times: self.times.lock().unwrap().clone(),
            awaited: self.awaited.lock().unwrap().clone(),
            ..status(job)
        }
    }

    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn write(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }
}

#[async_trait]
impl NodeControl for FakeNode {
    async fn deploy(&self, function: &FunctionRevision, wasm: Bytes) -> Result<Proof, NodeError> {
        self.write(format!("deploy {}@{}", function.name, function.revision));
        if !wasm.starts_with(b"\0asm") {
            return Err(NodeError::Refused("the module is not WASM".into()));
        }
        if wasm.ends_with(b"needy") {
            return Ok(Proof::NeedsConfiguration("`factor` is missing".into()));
        }
        Ok(Proof::Proven(FunctionDescription {
            partial_bytes_per_element: 8,
            scalar_bytes: 16,
            max_inputs: 8,
        }))
    }

    async fn check_job(&self, job: &JobDesired) -> Result<(), NodeError> {
        match job.spec.function.config.get("refuse") {
            Some(reason) => Err(NodeError::Refused(format!(
                "the function refuses its configuration: {reason}"
            ))),
            None => Ok(()),
        }
    }

    async fn start_job(&self, job: JobDesired, model: Bytes) -> Result<(), NodeError> {
        if self.busy.load(Ordering::Relaxed) {
            return Err(NodeError::Unavailable("/dev/shm is full".into()));
        }
        self.write(format!(
            "start {}@{} v{} with {}@{}",
            job.name, job.revision, job.version, job.function.name, job.function.revision
        ));
        let before = self
            .jobs
            .lock()
            .unwrap()
            .insert(job.name.clone(), (job, model));
        assert!(before.is_none(), "a job was started twice");
        Ok(())
    }

    async fn update_job(&self, job: JobDesired) -> Result<(), NodeError> {
        self.write(format!("update {}@{}", job.name, job.revision));
        let mut jobs = self.jobs.lock().unwrap();
        let running = jobs
            .get_mut(&job.name)
            .ok_or(NodeError::UnknownJob(job.name.clone()))?;
        assert!(
            !running.0.spec.needs_restart(&job.spec),
            "an update that needs a restart"
        );
        running.0 = job;
        Ok(())
    }

    async fn place_job(&self, name: &Name, placement: Placement) -> Result<(), NodeError> {
        self.write(format!("place {name} g{}", placement.generation));
        let mut jobs = self.jobs.lock().unwrap();
        let running = jobs
            .get_mut(name)
            .ok_or(NodeError::UnknownJob(name.clone()))?;
        let newer = |now: &Placement| now.generation < placement.generation;
        if running.0.placement.as_ref().is_none_or(newer) {
            running.0.placement = Some(placement);
        }
        Ok(())
    }

    async fn direct(&self, job: &Name, gateway: Option<String>) {
        let mut elsewhere = self.elsewhere.lock().unwrap();
        elsewhere.remove(job);
        elsewhere.extend(gateway.map(|gateway| (job.clone(), gateway)));
    }

    async fn stop_job(&self, name: &Name) -> Result<(), NodeError> {
        self.write(format!("stop {name}"));
        self.jobs.lock().unwrap().remove(name);
        Ok(())
    }

    async fn job_status(&self, name: &Name) -> Option<JobStatus> {
        self.jobs
            .lock()
            .unwrap()
            .get(name)
            .map(|(job, _)| self.status(job))
    }

    async fn jobs(&self) -> Vec<JobStatus> {
        self.jobs
            .lock()
            .unwrap()
            .values()
            .map(|(job, _)| self.status(job))
            .collect()
    }

    async fn rounds(&self, _: &Name) -> Vec<RoundStatus> {
        Vec::new()
    }

    fn announce(&self, kind: EventKind, job: &Name, _: Value) {
        self.write(format!("{} {job}", kind.as_str()));
    }

    async fn node_status(&self) -> NodeStatus {
        NodeStatus {
            name: self.name().into(),
            sidecar: Sidecar::Userspace,
            sidecar_reason: None,
            workers: 0,
            jobs: self.jobs.lock().unwrap().len() as u32,
            version: String::new(),
            kernel: String::new(),
            cores: 1,
            shm_free_bytes: 0,
            load: *self.load.lock().unwrap(),
        }
    }
}

fn status(job: &JobDesired) -> JobStatus {
    JobStatus {
        name: job.name.clone(),
        phase: JobPhase::Running,
        function: job.function.name.clone(),
        function_revision: job.function.revision,
        revision: job.revision,
        version: job.version,
        rounds: job.spec.rounds,
        expected: job.spec.expected(),
        accepted: 0,
        parameters: job.layout.elements(),
        model_bytes: job.layout.data_bytes(),
        last_error: None,
        node: None,
        arena: None,
        workers: 0,
        autoscaler: None,
        placement: job.placement.as_ref().map(|placement| PlacementStatus {
            generation: placement.generation,
            since: None,
            leader: placement.leader.clone(),
            members: placement
                .members
                .iter()
                .map(|member| member.node.clone())
                .collect(),
        }),
        times: Vec::new(),
        awaited: None,
        sharing: Some(job.sharing.clone()),
        bounds: None,
    }
}
