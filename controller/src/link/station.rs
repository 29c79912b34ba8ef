//! The node's side: carries orders out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tributary_api::{
    Digest, Name,
    control::{FunctionRevision, JobDesired, NodeControl, NodeError, Proof},
    manifest::NonFinite,
    model::{ModelLayout, first_beyond},
    status::JobStatus,
};
use tributary_store::Keys;

use super::{Answer, Command, JobOrder, Link, NodeReport, Order, Outcome, Refusal, Span};
use crate::{Error, Spool, State, random};

/// How long a stopped job's newest model may take to the store before the node answers that it does not.
const DELIVERY: Duration = Duration::from_secs(10);

/// Drives one node as it is told.
pub struct Station {
    node: Arc<dyn NodeControl>,
    state: State,
    url: Option<String>,
    labels: BTreeMap<String, String>,
    capacity: Option<u32>,
    life: u64,
    reports: AtomicU64,
    leaving: AtomicBool,
    term: AtomicU64,
    /// The node's own disk, if the store is elsewhere.
    spool: Option<Arc<Spool>>,
    /// One command at a time changes the node.
    turn: tokio::sync::Mutex<()>,
    /// The modules that were compiled in this life.
    deployed: Mutex<BTreeSet<Digest>>,
    /// The name from which on the next beat tells of jobs.
    page: Mutex<String>,
}

/// Jobs of which one report tells take this much at most, so that a beat stays below 64 KiB.
const JOBS_BYTES_MAX: usize = 48 << 10;

impl Station {
    /// A node's station. `url` is its gateway's, and `spool` its own disk, if it is one of several nodes; `capacity` is
    /// what it can have in service at once, if that is not to be measured.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn new(
        node: Arc<dyn NodeControl>,
        state: State,
        url: Option<String>,
        labels: BTreeMap<String, String>,
        spool: Option<Arc<Spool>>,
        capacity: Option<u32>,
    ) -> Result<Arc<Self>, Error> {
        let term = state.store.term().await?;
        Ok(Arc::new(Self {
            node,
            state,
            url,
            labels,
            capacity,
            life: random::number(),
            reports: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            spool,
            term: AtomicU64::new(term),
            turn: tokio::sync::Mutex::default(),
            deployed: Mutex::default(),
            page: Mutex::default(),
        }))
    }

    /// The node itself.
    #[must_use]
    pub fn node(&self) -> &Arc<dyn NodeControl> {
        &self.node
    }

    /// This life of the node's process.
    pub(super) const fn life(&self) -> u64 {
        self.life
    }

    /// Whether its gateway is there.
    pub(super) fn is_at(&self, url: &Option<String>) -> bool {
        self.url == *url
    }

    /// From now on reports say that the process ends, and nothing is begun any more.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// How the node is now, with as many of its jobs as a beat has room for: those that come after the ones that it told
    /// of last.
    pub async fn report(&self) -> NodeReport {
        let jobs = self.node.jobs();
        self.report_of(async { self.part(jobs.await) }).await
    }

    /// The same, with this job alone.
    async fn report_on(&self, job: &Name) -> NodeReport {
        let status = self.node.job_status(job);
        let jobs = async {
            (
                Span::of(job),
                status.await.into_iter().map(bounded).collect(),
            )
        };
        self.report_of(jobs).await
    }

    async fn report_of(&self, jobs: impl Future<Output = (Span, Vec<JobStatus>)>) -> NodeReport {
        // The number comes first: what is told under a higher one was looked at later.
        let number = self.reports.fetch_add(1, Ordering::SeqCst);
        let (span, jobs) = jobs.await;
        NodeReport {
            life: self.life,
            number,
            status: self.node.node_status().await,
            url: self.url.clone(),
            labels: self.labels.clone(),
            capacity: self.capacity,
            jobs,
            span,
            follows: true,
            elsewhere: BTreeMap::new(),
            term: self.term.load(Ordering::SeqCst),
            leaving: self.leaving.load(Ordering::SeqCst),
        }
    }

    /// The next part of all jobs. Within a process there is no limit.
    fn part(&self, mut jobs: Vec<JobStatus>) -> (Span, Vec<JobStatus>) {
        if self.url.is_none() {
            return (Span::default(), jobs);
        }
        jobs.sort_by(|a, b| a.name.cmp(&b.name));
        let mut page = lock(&self.page);
        let first = jobs.partition_point(|job| job.name.as_str() < page.as_str());
        // Of the first part as well if jobs of the last one have gone.
        let (first, from) = match jobs.len() {
            all if first < all && first > 0 => (first, std::mem::take(&mut *page)),
            _ => (0, String::new()),
        };
        let (mut bytes, mut part) = (0, Vec::new());
        let mut rest = jobs.into_iter().skip(first).map(bounded).peekable();
        while let Some(job) = rest.next_if(|job| {
            bytes += length(job);
            bytes <= JOBS_BYTES_MAX || part.is_empty()
        }) {
            part.push(job);
        }
        let to = rest.peek().map(|job| job.name.to_string());
        *page = to.clone().unwrap_or_default();
        (Span { from, to }, part)
    }

    /// Whether what comes after the last report begins with the first job again.
    pub(super) fn has_told_all(&self) -> bool {
        lock(&self.page).is_empty()
    }

    /// Says where a job is that this node does not run, or that it is nowhere else.
    pub(super) async fn direct(&self, job: &Name, gateway: Option<String>) {
        self.node.direct(job, gateway).await;
    }

    /// Where jobs are.
    pub(super) fn placements(&self) -> &dyn Keys {
        &*self.state.placements
    }

    /// Takes note of a term; refuses one that is over.
    fn admit(&self, term: u64) -> Result<(), Refusal> {
        let seen = self.term.fetch_max(term, Ordering::SeqCst);
        if term < seen {
            return Err(Refusal::Deposed { term, seen });
        }
        Ok(())
    }

    async fn carry_out(&self, command: Command) -> Result<Outcome, NodeError> {
        let done = |()| Outcome::Done;
        match command {
            Command::Report => Ok(Outcome::Done),
            Command::Deploy(function) => self.deploy(&function).await,
            Command::Check(job) => self.check(&job).await.map(done),
            Command::Start(job) => self.start(job).await.map(done),
            Command::Update(job) => self.update(&job).await.map(done),
            Command::Place(job, placement) => self.node.place_job(&job, placement).await.map(done),
            Command::Stop(job) => self.stop(&job).await.map(done),
            Command::Direct(_) => {
                let why = "this node learns from the store where other jobs are";
                Err(NodeError::Unavailable(why.into()))
            }
        }
    }

    async fn deploy(&self, function: &FunctionRevision) -> Result<Outcome, NodeError> {
        let wasm = self.blob(function.digest).await?;
        let proof = self.node.deploy(function, wasm).await?;
        lock(&self.deployed).insert(function.digest);
        Ok(match proof {
            Proof::Proven(description) => Outcome::Deployed(description),
            Proof::NeedsConfiguration(reason) => Outcome::NeedsConfiguration(reason),
        })
    }

    /// Makes sure that the node has compiled the job's function.
    async fn prepare(&self, function: &FunctionRevision) -> Result<(), NodeError> {
        if !lock(&self.deployed).contains(&function.digest) {
            self.deploy(function).await?;
        }
        Ok(())
    }

    async fn check(&self, job: &JobOrder) -> Result<(), NodeError> {
        self.prepare(&job.function).await?;
        self.node.check_job(&self.desired(job).await?).await
    }

    async fn start(&self, job: JobOrder) -> Result<(), NodeError> {
        let running = self.node.job_status(&job.name).await;
        // The answer to an earlier order of the same may have been lost: the job must not begin anew.
        if running.is_some_and(|running| running.revision == job.revision) {
            return match job.placement {
                Some(placement) => self.node.place_job(&job.name, placement).await,
                None => Ok(()),
            };
        }
        let _starting = self.node.starting(&job.name);
        self.prepare(&job.function).await?;
        let mut desired = self.desired(&job).await?;
        let (name, life, layout) = (&job.name, job.life, &desired.layout);
        let kept = match &self.spool {
            Some(spool) => spool.newest(name, life, layout).await,
            None => self.state.models.newest(name, life, layout).await,
        };
        let model = match kept.map_err(unavailable)? {
            Some((version, file)) => {
                desired.version = version;
                file
            }
            None => {
                let file = self.blob(model_of(&job)?).await?;
                check_first(&file, &desired)?;
                file
            }
        };
        self.node.start_job(desired, model).await
    }

    /// Another node may go on with the job, so its newest model has to be where that finds it.
    async fn stop(&self, job: &Name) -> Result<(), NodeError> {
        self.state.models.forget(job);
        self.node.stop_job(job).await?;
        let Some(spool) = &self.spool else {
            return Ok(());
        };
        if spool.release(job, DELIVERY).await.map_err(unavailable)? {
            return Ok(());
        }
        Err(NodeError::Unavailable(format!(
            "job {job} has stopped, but its newest model waits on this node's disk: the store does not take it"
        )))
    }

    async fn update(&self, job: &JobOrder) -> Result<(), NodeError> {
        self.prepare(&job.function).await?;
        self.node.update_job(self.desired(job).await?).await
    }

    /// The job with its layout; the version is 1 as long as nobody says more.
    async fn desired(&self, job: &JobOrder) -> Result<JobDesired, NodeError> {
        Ok(JobDesired {
            name: job.name.clone(),
            revision: job.revision,
            life: job.life,
            spec: job.spec.clone(),
            function: job.function.clone(),
            layout: Arc::new(self.layout(model_of(job)?).await?),
            version: 1,
            placement: job.placement.clone(),
            sharing: job.sharing.clone(),
        })
    }

    async fn layout(&self, model: Digest) -> Result<ModelLayout, NodeError> {
        let layout = self.state.blobs.layout(model).await.map_err(unavailable)?;
        layout.map_err(|error| NodeError::Refused(error.to_string()))
    }

    async fn blob(&self, digest: Digest) -> Result<Bytes, NodeError> {
        self.state.blobs.get(digest).await.map_err(unavailable)
    }
}

#[async_trait]
impl Link for Station {
    async fn give(&self, order: Order) -> Result<Answer, Refusal> {
        let Order { term, command, .. } = order;
        self.admit(term)?;
        let about = command.job().cloned();
        let outcome = if command == Command::Report {
            Ok(Outcome::Done)
        } else {
            let _turn = self.turn.lock().await;
            // While this one waited, an order of a higher term may have been carried out.
            self.admit(term)?;
            if self.leaving.load(Ordering::SeqCst) {
                Err(NodeError::Unavailable("the node is leaving".into()))
            } else {
                self.carry_out(command).await
            }
        };
        let report = match &about {
            Some(job) => self.report_on(job).await,
            None => self.report().await,
        };
        Ok(Answer { outcome, report })
    }
}

/// A first model may hold NaN and infinity where all models may.
fn check_first(file: &[u8], job: &JobDesired) -> Result<(), NodeError> {
    let data = file.len().saturating_sub(job.layout.data_bytes() as usize);
    let beyond = first_beyond(&file[data..], f32::MAX);
    match (beyond, job.spec.ingest.non_finite) {
        (Some((at, value)), NonFinite::Reject) => {
            let coordinate = job.layout.coordinate(at as u64).unwrap_or_default();
            Err(NodeError::Refused(format!(
                "{coordinate} of the job's first model is {value}, and models must be finite \
                 (spec.ingest.nonFinite: reject)"
            )))
        }
        _ => Ok(()),
    }
}

/// A status that one beat has room for: of a job of very many nodes, times of older rounds go first.
fn bounded(mut job: JobStatus) -> JobStatus {
    while length(&job) > JOBS_BYTES_MAX && !job.times.is_empty() {
        job.times.remove(0);
    }
    if length(&job) > JOBS_BYTES_MAX {
        job.awaited = None;
    }
    job
}

fn length(job: &JobStatus) -> usize {
    serde_json::to_vec(job).map_or(0, |json| json.len())
}

fn model_of(job: &JobOrder) -> Result<Digest, NodeError> {
    let missing = || NodeError::Refused("the job's record names no model".into());
    job.spec.model.digest.ok_or_else(missing)
}

/// What is not in the store now may be there later.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn unavailable(error: Error) -> NodeError {
    NodeError::Unavailable(error.to_string())
}

/// A panic of another task while it held the lock leaves these whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
