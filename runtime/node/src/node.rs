//! A node put together: what the controller drives, and what the command line starts.

use crate::agent::{self, Command};
use crate::events::Events;
use crate::gateway::door::{self, Door};
use crate::gateway::fetch::{FetchOptions, Fetcher};
use crate::gateway::hosts::Hosts;
use crate::gateway::stage::Stages;
use crate::gateway::{self, Gateway};
use crate::identity::Identity;
use crate::job::{Job, Parts};
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::peers::{self, Peers};
use crate::plan::{Machine, Nodes, Plan, PlanError, plan};
use crate::proving::{Prover, Verdict};
use crate::pulse;
use async_trait::async_trait;
use axum::Router as Routes;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;
use tributary_api::control::{
    Checkpoints, FunctionDescription, FunctionRevision, JobDesired, NodeControl, NodeError, Proof,
};
use tributary_api::event::EventKind;
use tributary_api::model::{Encodings, ModelLayout};
use tributary_api::placement::Placement;
use tributary_api::status::{JobStatus, NodeStatus, RoundStatus, Sidecar};
use tributary_api::{Digest, Name};
use tributary_arena::{Arena, Memory, remove_stale};
use tributary_planning::autoscale;
use tributary_router::{Choice, Router, RouterKind};
use tributary_wasm::{Description, window_bytes_max};

/// How long it is waited for a stopped job's memory.
const LET_GO: Duration = Duration::from_secs(5);

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How descriptors are routed.
    pub sidecar: Choice,
    /// The most worker processes at one time.
    pub workers: u32,
    /// The binary that is run with the arguments `worker` and `prove`.
    pub worker_program: PathBuf,
    /// How the number of workers follows the work.
    pub autoscaler: autoscale::Config,
    /// A file in which its decisions are recorded.
    pub autoscaler_trace: Option<PathBuf>,
    /// What may be fetched for clients that say where their update lies.
    pub fetch: FetchOptions,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sidecar could not be started.
    #[error("sidecar: {0}")]
    Sidecar(#[from] tributary_router::Error),
    /// The cache of compiled functions could not be set up.
    #[error("WASM host: {0}")]
    Wasm(#[from] tributary_wasm::Error),
    /// What an earlier life left in /dev/shm could not be removed.
    #[error("cannot remove stale segments from /dev/shm: {0}")]
    Stale(std::io::Error),
    /// The thread that asks whether the agent lives could not be started.
    #[error("the agent's watch: {0}")]
    Pulse(std::io::Error),
    /// The agent's own port could not be used.
    #[error("the agent's port: {0}")]
    Port(std::io::Error),
}

/// A running node.
pub struct Node {
    identity: Identity,
    options: Options,
    prover: Prover,
    jobs: Arc<Jobs>,
    router: Arc<dyn Router>,
    sidecar_reason: Option<String>,
    outbox: Outbox,
    events: Events,
    metrics: Arc<Metrics>,
    wake: Arc<Notify>,
    commands: mpsc::UnboundedSender<Command>,
    next_job: AtomicU32,
    /// Where all of its tasks run, whoever asks for them.
    runtime: Handle,
    pub(crate) gateway: Gateway,
}

impl Node {
    /// Removes what an earlier life has left, starts the sidecar and the agent. Gateway and agent run on the runtime from
    /// which this is called.
    ///
    /// # Errors
    /// What the machine lacks; see [`Error`].
    pub fn start(
        identity: Identity,
        options: Options,
        checkpoints: Arc<dyn Checkpoints>,
        metrics: Arc<Metrics>,
        events: Events,
    ) -> Result<Self, Error> {
        for segment in remove_stale(&identity.segment_prefix()).map_err(Error::Stale)? {
            tracing::info!(segment, "removed a segment of an earlier life");
        }
        let module_cache = identity.directory().join("modules");
        let prover = Prover::new(options.worker_program.clone(), module_cache.clone())?;
        let (arrivals, arriving) = mpsc::unbounded_channel();
        let (router, sidecar_reason) = tributary_router::start(options.sidecar, arrivals)?;
        let (_, port) = router.open_port()?;
        let outbox = Outbox::start(port, end_without_port).map_err(Error::Port)?;
        let jobs = Arc::new(Jobs::default());
        metrics.add_router(router.clone(), jobs.clone());
        metrics.add_checkpoints(checkpoints.clone());
        let (commands, commanded) = mpsc::unbounded_channel();
        let wake = Arc::new(Notify::new());
        let parts = agent::Parts {
            jobs: jobs.clone(),
            router: router.clone(),
            workers: agent::WorkerOptions {
                program: options.worker_program.clone(),
                max: options.workers,
                module_cache,
            },
            scaling: agent::ScalingOptions {
                node: identity.name().to_owned(),
                workers_max: options.workers,
                config: options.autoscaler,
                trace: options.autoscaler_trace.clone(),
            },
            checkpoints,
            events: events.clone(),
            metrics: metrics.clone(),
            wake: wake.clone(),
        };
        let runtime = Handle::current();
        runtime.spawn(agent::run(parts, arriving, commanded));
        pulse::watch(commands.clone(), end_hanging).map_err(Error::Pulse)?;
        let gateway = Gateway {
            jobs: jobs.clone(),
            metrics: metrics.clone(),
            events: events.clone(),
            digest_seed: random_number(),
            peers: Peers::new(),
            fetcher: Arc::new(Fetcher::new(options.fetch.clone())),
            stages: Stages::new(),
        };
        Ok(Self {
            identity,
            options,
            prover,
            jobs,
            router,
            sidecar_reason,
            outbox,
            events,
            metrics,
            wake,
            commands,
            next_job: AtomicU32::new(1),
            runtime,
            gateway,
        })
    }

    /// Counts events that the world never hears of.
    pub fn count_dropped_events(&self, events: u64) {
        self.metrics.events_dropped.inc_by(events);
    }

    /// How descriptors are routed, and why not in the kernel.
    #[must_use]
    pub fn sidecar(&self) -> (RouterKind, Option<&str>) {
        (self.router.kind(), self.sidecar_reason.as_deref())
    }

    /// Opens the door to requests for one of `hosts`: data-plane routes merged with `others`.
    pub fn serve(
        &self,
        listener: TcpListener,
        hosts: Hosts,
        others: Routes,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        let door = Door {
            routes: gateway::routes(self.gateway.clone(), others),
            gateway: Some(self.gateway.clone()),
            hosts,
        };
        let metrics = self.metrics.door.clone();
        self.runtime
            .spawn(door::serve(listener, door, metrics, stop))
    }

    /// Ends workers, lets all shared memory go. Rounds in progress are lost; models are kept.
    pub async fn shutdown(&self) {
        for job in self.jobs.all() {
            // Who still holds memory ends with the process.
            drop(self.stop(&job.name));
        }
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done)).is_ok() {
            let _ = ended.await;
        }
    }

    /// Stops a job; gives what to wait for: that its workers and all who hold it have let its memory go.
    fn stop(&self, name: &Name) -> Option<(oneshot::Receiver<()>, watch::Receiver<bool>)> {
        let job = self.jobs.remove(name)?;
        job.stop();
        job.arena.unlink();
        let (done, detached) = oneshot::channel();
        // The agent ends only with the node.
        let _ = self.commands.send(Command::Stopped(job.number, done));
        Some((detached, job.end()))
    }

    /// Stops a job, and waits until its memory is there for others.
    async fn remove(&self, name: &Name) {
        let Some((detached, mut end)) = self.stop(name) else {
            return;
        };
        let let_go = async {
            let _ = detached.await;
            while end.changed().await.is_ok() {}
        };
        if timeout(LET_GO, let_go).await.is_err() {
            warn!(job = %name, "the job is stopped, and its memory is still held: by a worker within a call, or a model that is being written");
        }
    }

    /// Loads the function, proves it under the job's configuration, plans tree and arena; says which
    /// encodings of updates the function folds.
    async fn planned(&self, job: &JobDesired) -> Result<(Plan, Encodings), NodeError> {
        let config = Value::Object(job.spec.function.config.clone());
        let description = match self.prover.prove(&job.function, &config, None).await? {
            Verdict::Proven(description) => description,
            Verdict::NeedsConfiguration(reason) => {
                return Err(NodeError::Refused(format!(
                    "function {} revision {}: describe refused the configuration: {reason}",
                    job.function.name, job.function.revision
                )));
            }
        };
        let memory =
            Memory::now().map_err(|error| NodeError::Unavailable(format!("/dev/shm: {error}")))?;
        let nodes = job
            .placement
            .as_ref()
            .map_or(Nodes::One, |_| Nodes::Several);
        let window_bytes = window_bytes_max(job.function.spec.limits.memory.bytes());
        let with = |bytes_free| {
            let machine = self.machine(bytes_free, memory.of, window_bytes);
            plan(
                &job.spec,
                job.layout.elements(),
                &description,
                machine,
                nodes,
            )
        };
        // What the job has here is let go before it is started anew.
        let own = self.jobs.get(job.name.as_str());
        let own = own.map_or(0, |running| running.arena.reserved_bytes());
        match with(memory.free.saturating_add(own)) {
            Ok(plan) => Ok((plan, encodings(&description, plan.by_windows))),
            Err(error) => {
                let text = format!("job {}: {error}", job.name);
                // Others have it now, and may not have it later.
                let passes =
                    matches!(error, PlanError::Memory { .. }) && with(memory.total).is_ok();
                Err(if passes {
                    NodeError::Unavailable(text)
                } else {
                    NodeError::Refused(text)
                })
            }
        }
    }

    /// What there is to plan with.
    fn machine(&self, bytes_free: u64, bytes_of: &'static str, window_bytes: u64) -> Machine {
        Machine {
            workers: self.options.workers,
            cores: cores(),
            bytes_free,
            bytes_of,
            window_bytes,
        }
    }

    fn segment(&self, name: &Name, number: u32) -> String {
        format!("{}{name}-{number}", self.identity.segment_prefix())
    }
}

/// Ends the process: every round would wait for ever, and who starts it again gets a node that works.
fn end_without_port(error: &std::io::Error) {
    tracing::error!(%error, "the agent's port to the sidecar is broken: no work can be sent to workers any more, so the server ends; start it again");
    std::process::exit(1);
}

/// Ends the process: its beats would keep the cluster waiting for what it does not do any more.
fn end_hanging(silence: std::time::Duration) {
    tracing::error!(
        ?silence,
        "the agent does not answer: no round gets on here, so the server ends; start it again"
    );
    std::process::exit(1);
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

/// The encodings of updates that a function folds, by windows or at once.
fn encodings(description: &Description, by_windows: bool) -> Encodings {
    let folded = description.encodings.iter();
    let folded = folded.filter(|encoding| !(by_windows && encoding.has_table()));
    Encodings::from_codes(folded.map(|encoding| encoding.code()))
}

/// A number that clients cannot guess, and another in each process.
pub(crate) fn random_number() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[async_trait]
impl NodeControl for Node {
    async fn deploy(&self, function: &FunctionRevision, wasm: Bytes) -> Result<Proof, NodeError> {
        let found = Digest::new(Sha256::digest(&wasm).into());
        if found != function.digest {
            return Err(NodeError::Refused(format!(
                "function {}: the module's digest is {found}, not {}",
                function.name, function.digest
            )));
        }
        let verdict = self.prover.prove(function, &json!({}), Some(&wasm)).await?;
        Ok(match verdict {
            Verdict::Proven(description) => Proof::Proven(FunctionDescription {
                partial_bytes_per_element: description.partial_bytes_per_element,
                scalar_bytes: description.scalar_bytes,
                max_inputs: description.max_inputs,
            }),
            Verdict::NeedsConfiguration(reason) => Proof::NeedsConfiguration(reason),
        })
    }

    async fn check_job(&self, job: &JobDesired) -> Result<(), NodeError> {
        self.planned(job).await.map(drop)
    }

    fn starting(&self, name: &Name) -> Box<dyn Send> {
        Box::new(self.jobs.starting(name))
    }

    async fn start_job(&self, desired: JobDesired, model: Bytes) -> Result<(), NodeError> {
        self.remove(&desired.name).await;
        let (plan, encodings) = self.planned(&desired).await?;
        let layout = desired.layout.clone();
        let refused = |error: String| NodeError::Refused(format!("job {}: {error}", desired.name));
        let (found, data) = ModelLayout::from_file(&model).map_err(|e| refused(e.to_string()))?;
        if found.data_bytes() != layout.data_bytes() {
            return Err(refused(
                "the model's file does not have the job's layout".into(),
            ));
        }
        let number = self.next_job.fetch_add(1, Ordering::Relaxed);
        let arena = Arena::create(&self.segment(&desired.name, number), plan.geometry)
            .map_err(|error| NodeError::Unavailable(format!("job {}: {error}", desired.name)))?;
        let node = self.identity.name().parse::<Name>();
        let parts = Parts {
            node: node.map_err(|error| refused(error.to_string()))?,
            placement: desired.placement,
            sharing: desired.sharing,
            name: desired.name.clone(),
            number,
            revision: desired.revision,
            life: desired.life,
            spec: desired.spec,
            function: desired.function,
            encodings,
            layout,
            plan,
            arena: Arc::new(arena),
            outbox: self.outbox.clone(),
            events: self.events.clone(),
            metrics: self.metrics.clone(),
            wake: self.wake.clone(),
        };
        let job = Job::new(parts, desired.version, data)
            .map_err(|error| NodeError::Unavailable(format!("job {}: {error}", desired.name)))?;
        let job = Arc::new(job);
        self.jobs.insert(job.clone());
        self.runtime
            .spawn(peers::run(job, self.gateway.peers.clone()));
        // The agent ends only with the node.
        let _ = self.commands.send(Command::Started(number));
        Ok(())
    }

    async fn update_job(&self, job: JobDesired) -> Result<(), NodeError> {
        let running = self
            .jobs
            .get(job.name.as_str())
            .ok_or_else(|| NodeError::UnknownJob(job.name.clone()))?;
        running.update(job.spec, job.revision, job.sharing);
        Ok(())
    }

    async fn place_job(&self, name: &Name, placement: Placement) -> Result<(), NodeError> {
        let job = self.jobs.get(name.as_str());
        let job = job.ok_or_else(|| NodeError::UnknownJob(name.clone()))?;
        let generation = placement.generation;
        job.place(placement).map_err(|error| {
            NodeError::Refused(format!("job {name}: placement {generation}: {error}"))
        })
    }

    async fn direct(&self, job: &Name, gateway: Option<String>) {
        self.jobs.direct(job, gateway);
    }

    async fn stop_job(&self, name: &Name) -> Result<(), NodeError> {
        self.remove(name).await;
        Ok(())
    }

    async fn job_status(&self, name: &Name) -> Option<JobStatus> {
        let job = self.jobs.get(name.as_str())?;
        Some(job.status(self.identity.name()))
    }

    async fn jobs(&self) -> Vec<JobStatus> {
        self.jobs
            .all()
            .iter()
            .map(|job| job.status(self.identity.name()))
            .collect()
    }

    async fn rounds(&self, name: &Name) -> Vec<RoundStatus> {
        self.jobs
            .get(name.as_str())
            .map(|job| job.rounds())
            .unwrap_or_default()
    }

    fn announce(&self, kind: EventKind, job: &Name, data: Value) {
        self.events.tell(kind, Some(job), || data);
    }

    async fn node_status(&self) -> NodeStatus {
        NodeStatus {
            name: self.identity.name().to_owned(),
            sidecar: match self.router.kind() {
                RouterKind::Ebpf => Sidecar::Ebpf,
                RouterKind::Userspace => Sidecar::Userspace,
            },
            sidecar_reason: self.sidecar_reason.clone(),
            workers: self.metrics.workers.get().max(0) as u32,
            jobs: self.jobs.all().len() as u32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            cores: cores(),
            shm_free_bytes: Memory::now().map_or(0, |memory| memory.free),
            load: self.metrics.load(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_api::model::Encoding;
    use tributary_wasm::Algebra;

    #[test]
    fn by_windows_nothing_with_a_table_is_taken() {
        let description = Description {
            partial_bytes_per_element: 4,
            scalar_bytes: 0,
            max_inputs: 8,
            algebra: Algebra::Monoid,
            encodings: tributary_wasm::Encodings::of(&tributary_wasm::Encoding::ALL),
        };
        for encoding in [
            Encoding::F32,
            Encoding::F16,
            Encoding::Bf16,
            Encoding::I8,
            Encoding::Sparse,
        ] {
            assert!(encodings(&description, false).contains(encoding));
            let dense = !matches!(encoding, Encoding::I8 | Encoding::Sparse);
            assert_eq!(encodings(&description, true).contains(encoding), dense);
        }
    }
}
