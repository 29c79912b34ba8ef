//! Worker processes: started when needed, watched by pidfd, started again with back-off.

use super::backoff::Backoff;
use super::tell_worker;
use crate::clock::monotonic_ns;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::protocol::{FromWorker, Hello, ToWorker};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};
use tributary_api::event::EventKind;
use tributary_arena::{OWNER_AGENT, OWNER_MAX};
use tributary_router::{PortId, Router};

/// How long workers have to end by themselves at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// How workers are started.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The binary; it is run with the argument `worker`.
    pub program: PathBuf,
    /// The most workers at one time.
    pub max: u32,
    /// Where precompiled modules lie.
    pub module_cache: PathBuf,
}

/// What a worker's watcher tells.
#[derive(Debug)]
pub(super) enum WorkerEvent {
    Message(FromWorker),
    /// The process has ended; how.
    Ended(String),
}

struct Worker {
    ring: u32,
    port: PortId,
    pid: Option<u32>,
    control: mpsc::UnboundedSender<ToWorker>,
    /// Ends its process.
    kill: Option<oneshot::Sender<()>>,
    /// It has been told to end.
    stopping: bool,
}

pub(super) struct Workers {
    options: Options,
    router: Arc<dyn Router>,
    events_to_agent: mpsc::UnboundedSender<(u32, WorkerEvent)>,
    events: Events,
    metrics: Arc<Metrics>,
    workers: BTreeMap<u32, Worker>,
    next_owner: u32,
    /// After starts that failed. What a lost worker costs is its jobs' to bear.
    backoff: Backoff,
}

impl Workers {
    pub(super) fn new(
        options: Options,
        router: Arc<dyn Router>,
        events_to_agent: mpsc::UnboundedSender<(u32, WorkerEvent)>,
        events: Events,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            options,
            router,
            events_to_agent,
            events,
            metrics,
            workers: BTreeMap::new(),
            next_owner: OWNER_AGENT + 1,
            backoff: Backoff::default(),
        }
    }

    /// A worker that `may` be taken: one that no job uses if there is, else a new one, else the one of the fewest
    /// `jobs`. `None` if all are taken, or if none could be started and the pause is not over.
    pub(super) fn find(
        &mut self,
        may: impl Fn(u32) -> bool,
        jobs: impl Fn(u32) -> usize,
    ) -> Option<u32> {
        let running = self.workers.iter().filter(|(_, worker)| !worker.stopping);
        let running = running.map(|(owner, _)| *owner).filter(|owner| may(*owner));
        let idlest = running.min_by_key(|owner| jobs(*owner));
        if idlest.is_some_and(|owner| jobs(owner) == 0) {
            return idlest;
        }
        self.backoff.look(Instant::now());
        if self.backoff.until().is_some() || self.workers.len() >= self.options.max as usize {
            return idlest;
        }
        match self.start() {
            Ok(owner) => {
                self.backoff.succeed();
                Some(owner)
            }
            Err(error) => {
                error!(%error, program = %self.options.program.display(), "no worker could be started");
                self.backoff.fail(Instant::now());
                idlest
            }
        }
    }

    /// Whether any runs.
    pub(super) fn any(&self) -> bool {
        !self.workers.is_empty()
    }

    /// Its completion ring in every arena.
    pub(super) fn ring(&self, owner: u32) -> Option<u32> {
        self.workers.get(&owner).map(|worker| worker.ring)
    }

    fn start(&mut self) -> io::Result<u32> {
        let started_ns = monotonic_ns();
        let owner = self.next_owner;
        if owner > OWNER_MAX {
            return Err(io::Error::other(format!(
                "{OWNER_MAX} workers have been started, as many as slots can tell apart: restart the node"
            )));
        }
        let ring =
            (0..self.options.max).find(|ring| self.workers.values().all(|w| w.ring != *ring));
        let ring = ring.ok_or_else(|| io::Error::other("all rings are in use"))?;
        let (port, socket) = self.router.open_port().map_err(io::Error::other)?;
        let (control, childs_end) = std::os::unix::net::UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let child = Command::new(&self.options.program)
            .arg("worker")
            .stdin(Stdio::from(OwnedFd::from(childs_end)))
            .stdout(Stdio::from(OwnedFd::from(socket)))
            .kill_on_drop(true)
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                self.router.close_port(port);
                return Err(error);
            }
        };
        let pid = child.id();
        let (kill, killed) = oneshot::channel();
        let control = watch(
            owner,
            child,
            killed,
            UnixStream::from_std(control)?,
            self.events_to_agent.clone(),
        );
        let hello = Hello {
            owner,
            ring,
            module_cache: self.options.module_cache.clone(),
            started_ns,
        };
        // A worker that ends at once is told by its watcher.
        let _ = control.send(ToWorker::Hello(hello));
        self.next_owner += 1;
        let worker = Worker {
            ring,
            port,
            pid,
            control,
            kill: Some(kill),
            stopping: false,
        };
        self.workers.insert(owner, worker);
        self.metrics.worker_starts.inc();
        self.metrics.workers.set(self.workers.len() as i64);
        tell_worker(&self.events, EventKind::WorkerStarted, owner, pid, None);
        Ok(owner)
    }

    pub(super) fn port(&self, owner: u32) -> Option<PortId> {
        self.workers.get(&owner).map(|worker| worker.port)
    }

    pub(super) fn send(&self, owner: u32, message: ToWorker) {
        if let Some(worker) = self.workers.get(&owner) {
            // If the process is gone, its watcher says so.
            let _ = worker.control.send(message);
        }
    }

    /// Ends a process at once, as if it had died.
    pub(super) fn kill(&mut self, owner: u32) {
        let worker = self.workers.get_mut(&owner);
        if let Some(kill) = worker.and_then(|worker| worker.kill.take()) {
            // One that has ended by itself is told by its watcher.
            let _ = kill.send(());
        }
    }

    /// Strikes a worker that has ended; gives its ring. Its routes go with its port.
    pub(super) fn remove(&mut self, owner: u32, how: &str) -> Option<u32> {
        let worker = self.workers.remove(&owner)?;
        self.router.close_port(worker.port);
        self.metrics.workers.set(self.workers.len() as i64);
        if !worker.stopping {
            warn!(worker = owner, pid = worker.pid, how, "a worker was lost");
            self.metrics.worker_losses.inc();
            tell_worker(
                &self.events,
                EventKind::WorkerLost,
                owner,
                worker.pid,
                Some(how),
            );
        }
        Some(worker.ring)
    }

    /// When a worker may be started again, if a pause is on.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.backoff.until()
    }

    /// Ends a pause that is over.
    pub(super) fn look(&mut self, now: Instant) {
        self.backoff.look(now);
    }

    /// Ends every worker that is not `busy`: its control socket closes, and it goes.
    pub(super) fn stop_unless(&mut self, busy: impl Fn(u32) -> bool) {
        for (owner, worker) in &mut self.workers {
            if !busy(*owner) && !worker.stopping {
                worker.stopping = true;
                worker.control = mpsc::unbounded_channel().0;
            }
        }
    }

    /// Ends all workers and waits until they are gone.
    pub(super) async fn shutdown(
        &mut self,
        ended: &mut mpsc::UnboundedReceiver<(u32, WorkerEvent)>,
    ) {
        self.stop_unless(|_| false);
        let deadline = tokio::time::Instant::now() + SHUTDOWN;
        while !self.workers.is_empty() {
            match tokio::time::timeout_at(deadline, ended.recv()).await {
                Ok(Some((owner, WorkerEvent::Ended(how)))) => {
                    self.remove(owner, &how);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    // Dropping the runtime kills what is left (kill_on_drop).
                    warn!(
                        workers = self.workers.len(),
                        "workers did not end in time and are killed"
                    );
                    return;
                }
            }
        }
    }
}

/// Watches a process and its control socket. The sender that is given ends the worker when dropped.
fn watch(
    owner: u32,
    mut child: Child,
    killed: oneshot::Receiver<()>,
    control: UnixStream,
    agent: mpsc::UnboundedSender<(u32, WorkerEvent)>,
) -> mpsc::UnboundedSender<ToWorker> {
    let (sender, mut outgoing) = mpsc::unbounded_channel::<ToWorker>();
    let (incoming, mut writer) = control.into_split();
    tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            let Ok(mut line) = serde_json::to_vec(&message) else {
                continue;
            };
            line.push(b'\n');
            if writer.write_all(&line).await.is_err() {
                return;
            }
        }
    });
    let reader = agent.clone();
    let messages = tokio::spawn(async move {
        let mut lines = BufReader::new(incoming).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(message) => drop(reader.send((owner, WorkerEvent::Message(message)))),
                Err(error) => {
                    error!(worker = owner, %error, line, "a worker's message cannot be read");
                }
            }
        }
    });
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = child.wait() => ended,
            Ok(()) = killed => match child.kill().await {
                Ok(()) => child.wait().await,
                Err(error) => Err(error),
            },
        };
        let how = match ended {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        // Its last words first.
        let _ = messages.await;
        let _ = agent.send((owner, WorkerEvent::Ended(how)));
    });
    sender
}
