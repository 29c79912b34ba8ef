//! The node's supervisor: it starts workers, activates aggregators, and turns a finished round into
//! the next.
//!
//! One task owns everything here; whatever happens reaches it as a message, one at a time:
//!
//! * an [`Arrival`] from the sidecar: a descriptor without a route (activate its aggregator), or a
//!   worker's doorbell (read its completion ring);
//! * a worker's control message, or its end (take its slots back, send its inputs to another);
//! * a command of the node (start, stop), a model that has been written, a moment that has come.
//!
//! **Nothing is parked.** A descriptor that finds no worker may be dropped: what it names lies in the
//! arena, and [`Job::send_again`] sends all that is there once a worker hosts the job. That makes
//! activation, a lost worker and scale to zero one mechanism.

mod backoff;
mod checkpoint;
mod hosting;
mod scaling;
mod staff;
mod workers;

use crate::events::Events;
use crate::job::{Job, ModelSlot, Watched};
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::protocol::Completion;
use checkpoint::keep;
use hosting::Hosting;
pub(crate) use scaling::Options as ScalingOptions;
use scaling::Scaling;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, info, warn};
use tributary_api::control::Checkpoints;
use tributary_api::event::EventKind;
use tributary_router::{Arrival, Router};
use tributary_sidecar_layout::{Descriptor, Destination};
pub(crate) use workers::Options as WorkerOptions;
use workers::Workers;

/// Arrivals that are dealt with at a time.
const ARRIVALS: usize = 256;
/// What arrivals may have changed in what is planned is looked at so much later: that asks every job, and arrivals come by
/// the thousand. The deadline of a round is not among it: its first update says so itself.
const SOON: Duration = Duration::from_millis(20);
/// How long the agent sleeps when nothing is planned.
const FOREVER: Duration = Duration::from_secs(3600);

/// What the node asks of the agent.
pub(crate) enum Command {
    /// Host a job that is already registered.
    Started(u32),
    /// Forget a job that is no longer registered; tell when no worker has to do with it any more.
    Stopped(u32, oneshot::Sender<()>),
    /// Say that it is alive.
    Answer(std::sync::mpsc::SyncSender<()>),
    /// End all workers.
    Shutdown(oneshot::Sender<()>),
}

/// What the agent is made of.
pub(crate) struct Parts {
    pub jobs: Arc<Jobs>,
    pub router: Arc<dyn Router>,
    pub workers: WorkerOptions,
    pub scaling: ScalingOptions,
    pub checkpoints: Arc<dyn Checkpoints>,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub wake: Arc<Notify>,
}

/// A model that was looked at and handed to the store.
struct Written {
    job: Arc<Job>,
    model: ModelSlot,
    /// The first value that is not finite, where all must be.
    fault: Option<String>,
}

pub(crate) struct Agent {
    jobs: Arc<Jobs>,
    router: Arc<dyn Router>,
    workers: Workers,
    hosting: BTreeMap<u32, Hosting>,
    /// Jobs that are stopped: the workers that still have to let go, and who waits for that.
    ending: BTreeMap<u32, (Hosting, oneshot::Sender<()>)>,
    scaling: Scaling,
    /// What came for jobs that no worker hosts yet.
    missed: BTreeMap<u32, Vec<Descriptor>>,
    checkpoints: Arc<dyn Checkpoints>,
    metrics: Arc<Metrics>,
    wake: Arc<Notify>,
    written: mpsc::UnboundedSender<Written>,
    /// Something has happened that may change who hosts what, or what is planned.
    look: bool,
}

/// Runs the agent until it is told to shut down.
pub(crate) async fn run(
    parts: Parts,
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let (written, mut models) = mpsc::unbounded_channel();
    let (worker_events, mut workers) = mpsc::unbounded_channel();
    let mut agent = Agent {
        workers: Workers::new(
            parts.workers,
            parts.router.clone(),
            worker_events,
            parts.events,
            parts.metrics.clone(),
        ),
        jobs: parts.jobs,
        router: parts.router,
        hosting: BTreeMap::new(),
        ending: BTreeMap::new(),
        scaling: Scaling::new(parts.scaling),
        missed: BTreeMap::new(),
        checkpoints: parts.checkpoints,
        metrics: parts.metrics,
        wake: parts.wake,
        written,
        look: true,
    };
    let mut batch = Vec::with_capacity(ARRIVALS);
    let clock = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(clock);
    loop {
        if clock.is_elapsed() {
            // It may have rung while something else was dealt with.
            agent.moment();
            agent.look = true;
        }
        if std::mem::take(&mut agent.look) {
            agent.count_workers();
            clock.as_mut().reset(agent.next_moment().into());
        }
        tokio::select! {
            1.. = arrivals.recv_many(&mut batch, ARRIVALS) => {
                batch.drain(..).for_each(|arrival| agent.arrival(arrival));
                let soon = tokio::time::Instant::now() + SOON;
                if clock.deadline() > soon {
                    clock.as_mut().reset(soon);
                }
                continue;
            }
            Some((owner, event)) = workers.recv() => agent.worker_event(owner, event),
            Some(model) = models.recv() => agent.publish(model),
            Some(command) = commands.recv() => match command {
                Command::Started(job) => { agent.hosting.insert(job, Hosting::default()); }
                Command::Stopped(job, done) => agent.forget(job, done),
                Command::Answer(answer) => { let _ = answer.try_send(()); }
                Command::Shutdown(done) => {
                    agent.workers.shutdown(&mut workers).await;
                    agent.scaling.end().await;
                    let _ = done.send(());
                    return;
                }
            },
            () = agent.wake.notified() => {}
            () = &mut clock => {}
        }
        agent.look = true;
    }
}

impl Agent {
    // === what the sidecar passes on ===

    fn arrival(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Miss(_, descriptor) => self.activate(&descriptor),
            Arrival::Doorbell(_, descriptor) => {
                let job = Destination::from_raw(descriptor.destination).job();
                if let Some(job) = self.jobs.by_number(job) {
                    self.read_ring(&job, descriptor.slot);
                }
            }
            // The worker's end is told by its process.
            Arrival::Closed(port) => debug!(port, "a port was closed"),
        }
    }

    /// A route miss = activation.
    fn activate(&mut self, descriptor: &Descriptor) {
        let destination = Destination::from_raw(descriptor.destination);
        let Some(job) = self.jobs.by_number(destination.job()) else {
            return;
        };
        let Some(level) = destination.level() else {
            return;
        };
        self.host(&job, 1);
        self.scaling.hurry(Instant::now(), &self.jobs);
        self.look = true;
        let Some(hosting) = self.hosting.get_mut(&job.number) else {
            return;
        };
        let Some(owner) = hosting.place(destination) else {
            self.miss(&job, descriptor);
            self.metrics
                .activations
                .with_label_values(&[level.name(), "cold"])
                .inc();
            return;
        };
        if self.route(destination, owner, descriptor) {
            self.metrics
                .activations
                .with_label_values(&[level.name(), "reused"])
                .inc();
        }
    }

    /// Sets an aggregator's route and delivers what missed it.
    fn route(&self, destination: Destination, owner: u32, descriptor: &Descriptor) -> bool {
        let Some(port) = self.workers.port(owner) else {
            return false;
        };
        if let Err(error) = self.router.set_route(destination, port) {
            // The table of routes is full: what is sent there goes on coming here, and is delivered from here.
            debug!(%destination, %error, "aggregator without a route");
        }
        let delivered = self.router.deliver(port, &[*descriptor]);
        if let Err(error) = &delivered {
            // Its worker is ending: when that is told, everything is sent again.
            debug!(%destination, %error, "aggregator not activated");
        }
        delivered.is_ok()
    }

    /// Remembers what came while no worker hosted its job. Only so that it arrives with its own time stamp
    /// and without a detour: what is forgotten here, `attached` sends again.
    fn miss(&mut self, job: &Job, descriptor: &Descriptor) {
        let missed = self.missed.entry(job.number).or_default();
        if missed.len() < job.plan.geometry.slots() as usize {
            missed.push(*descriptor);
        }
    }

    fn read_ring(&mut self, job: &Arc<Job>, ring: u32) {
        if ring >= job.plan.geometry.rings {
            return;
        }
        let mut finished = false;
        while let Some(record) = job.arena.ring(ring).pop() {
            if let Some(hosting) = self.hosting.get_mut(&job.number) {
                hosting.losses.succeed();
            }
            match Completion::from_record(record) {
                Some(completion) => finished |= job.completed_step(&completion),
                None => warn!(job = %job.name, ?record, "unknown completion record"),
            }
        }
        // Also without a record: a worker rings when it frees what a dead one had left.
        job.slots_freed();
        if finished {
            self.take_finished(job);
        }
    }

    // === models ===

    fn take_finished(&mut self, job: &Arc<Job>) {
        let Some(model) = job.take_finished() else {
            return;
        };
        let (job, checkpoints, written) =
            (job.clone(), self.checkpoints.clone(), self.written.clone());
        tokio::spawn(async move {
            let fault = keep(&job, model, checkpoints.as_ref()).await;
            // The agent ends only with the node.
            let _ = written.send(Written { job, model, fault });
        });
    }

    fn publish(&mut self, Written { job, model, fault }: Written) {
        if let Some(fault) = fault {
            warn!(job = %job.name, version = model.version, fault, "the model is not published");
            job.fail_finished(model, &fault);
            return;
        }
        job.publish(model);
        if let Some(hosting) = self.hosting.get_mut(&job.number) {
            for destination in hosting.rebalance() {
                self.remove_route(destination);
            }
        }
    }

    // === time ===

    fn next_moment(&self) -> Instant {
        let now = Instant::now();
        let jobs = self.jobs.all();
        let deadlines = jobs.iter().filter_map(|job| job.next_deadline(now));
        let idle = jobs.iter().filter_map(|job| {
            let hosted = self.hosting.get(&job.number)?.workers() > 0;
            let keep_alive = job.keep_alive().filter(|_| hosted)?;
            let idle_for = job.idle_for(now)?;
            Some(now + keep_alive.saturating_sub(idle_for))
        });
        let pauses = self.hosting.values();
        let pauses = pauses.filter_map(|hosting| hosting.losses.until());
        let retry = pauses.chain(self.workers.retry_at());
        deadlines
            .chain(idle)
            .chain(retry)
            .chain(self.scaling.due())
            .min()
            .unwrap_or(now + FOREVER)
    }

    fn moment(&mut self) {
        let now = Instant::now();
        self.workers.look(now);
        for hosting in self.hosting.values_mut() {
            hosting.losses.look(now);
        }
        for job in self.jobs.all() {
            job.close_if_due(now);
            if job.watch(now) == Watched::Overdue {
                self.end_workers_of(job.number);
            }
            let hosted = self
                .hosting
                .get(&job.number)
                .is_some_and(|h| h.workers() > 0);
            let Some(keep_alive) = job.keep_alive().filter(|_| hosted) else {
                continue;
            };
            if job.idle_for(now).is_some_and(|idle| idle >= keep_alive) {
                info!(job = %job.name, "idle: its aggregators go");
                self.release(job.number);
            }
        }
        self.host_starved();
        if self.scaling.due().is_some_and(|due| due <= now) {
            self.scale(now);
        }
    }

    /// Keeps the number in each job's status right.
    fn count_workers(&self) {
        for job in self.jobs.all() {
            let workers = self.hosting.get(&job.number).map_or(0, Hosting::workers) as u32;
            job.workers.store(workers, Ordering::Relaxed);
            let ready = self
                .hosting
                .get(&job.number)
                .is_some_and(|hosting| hosting.ready() > 0);
            job.hosted(ready);
        }
    }

    fn remove_route(&self, destination: Destination) {
        if let Err(error) = self.router.remove_route(destination) {
            warn!(%destination, %error, "route not removed");
        }
    }
}

/// Tells that a worker came or went.
fn tell_worker(events: &Events, kind: EventKind, owner: u32, pid: Option<u32>, how: Option<&str>) {
    events.tell(
        kind,
        None,
        || json!({ "worker": owner, "pid": pid, "how": how }),
    );
}
