//! The worker process: one compute thread that hosts any number of aggregators of any level.
//!
//! It has two sockets, inherited from the agent as standard input and output: *control* (JSON
//! lines, rare) and its *port* (descriptors, 32 bytes each). When either closes, the agent is gone
//! and the worker ends: it never outlives its node.
//!
//! A worker keeps nothing that must not be lost. Inputs and accumulators are in the arena; what it
//! has in memory ([`aggregator::Aggregator`]) is a list of slot numbers, which the agent sends
//! again to whoever takes over.

mod aggregator;
mod channel;
mod combine;
mod failpoint;
mod in_place;
mod job;
mod team;

use crate::clock::monotonic_ns;
use crate::protocol::{Attach, FromWorker, Hello, ToWorker};
use aggregator::Haste;
use channel::{Control, Patience, Port, Ready};
use failpoint::{Moment, Step};
use job::{Job, StepError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::debug;
use tributary_sidecar_layout::{Descriptor, Destination};
use tributary_wasm::{Engine, ModuleCache};

/// Why a worker process ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sockets it inherits are missing: it was started by hand.
    #[error("a worker is started by the agent (tributary up), never by hand: {0}")]
    NotInherited(std::io::Error),
    /// The first control message was not a greeting.
    #[error("the agent's first message is not a greeting")]
    NoGreeting,
    /// A socket failed.
    #[error("worker socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A control message could not be read.
    #[error("control message: {0}")]
    Message(#[from] serde_json::Error),
    /// The WASM engine could not be made.
    #[error(transparent)]
    Engine(#[from] tributary_wasm::Error),
    /// Another process took this worker's slot: the agent has declared it dead.
    #[error("the agent has declared this worker dead")]
    Disowned,
    /// The tests' failpoints are wrong.
    #[cfg(feature = "failpoints")]
    #[error("{0}")]
    Failpoints(String),
}

/// Runs a worker until its agent closes the sockets.
///
/// # Errors
/// A broken socket or engine; what functions do wrong is reported to the agent instead.
pub fn run() -> Result<(), Error> {
    #[cfg(feature = "failpoints")]
    failpoint::check().map_err(|error| Error::Failpoints(error.to_string()))?;
    let begun_ns = monotonic_ns();
    let (mut control, port) = channel::inherited().map_err(Error::NotInherited)?;
    let Some(ToWorker::Hello(hello)) = control.next_blocking()? else {
        return Err(Error::NoGreeting);
    };
    let engine = Engine::new()?;
    let cache = ModuleCache::open(Path::new(&hello.module_cache))?;
    debug!(
        process_us = begun_ns.saturating_sub(hello.started_ns) / 1000,
        engine_us = (monotonic_ns() - begun_ns) / 1000,
        "the worker is ready"
    );
    let mut worker = Worker {
        hello,
        control,
        port,
        engine,
        cache,
        jobs: BTreeMap::new(),
        starved: BTreeSet::new(),
        lingering_since: None,
        last_step: Duration::ZERO,
    };
    worker.serve()
}

struct Worker {
    hello: Hello,
    control: Control,
    port: Port,
    engine: Engine,
    cache: ModuleCache,
    jobs: BTreeMap<u32, Job>,
    /// Leaves that wait for a slot.
    starved: BTreeSet<Destination>,
    /// Since when work lies there that may wait for more of it.
    lingering_since: Option<Instant>,
    /// How long the last step took.
    last_step: Duration,
}

/// A slot becomes free with the next merge, which takes milliseconds.
const MOMENT: Duration = Duration::from_millis(1);
/// The longest that updates wait for more to come.
const LINGER_MAX: Duration = Duration::from_millis(50);
/// Steps that are shorter are done at once.
const LINGER_WORTH: Duration = Duration::from_millis(1);

/// What a worker does next.
enum Next {
    /// Work for an aggregator.
    Now(Destination),
    /// Look again after a pause, or when something arrives.
    In(Duration),
    /// Wait until something arrives.
    Nothing,
}

impl Worker {
    fn serve(&mut self) -> Result<(), Error> {
        // What came with the greeting is in the worker's own buffer, and wakes nobody.
        let mut ready = Ready::ALL;
        loop {
            if ready.control {
                self.read_control()?;
            }
            if ready.port {
                self.read_port()?;
            }
            let patience = match self.next_work() {
                Next::Now(aggregator) => {
                    self.step(aggregator)?;
                    Patience::None
                }
                Next::In(pause) => Patience::For(pause),
                Next::Nothing => Patience::Forever,
            };
            match channel::wait(&self.control, &self.port, patience)? {
                Some(found) => ready = found,
                None => {
                    debug!("the agent closed a socket; the worker ends");
                    return Ok(());
                }
            }
        }
    }

    /// The aggregator to work for: the highest level first, because its work frees slots.
    fn next_work(&mut self) -> Next {
        let order = |(place, _): &(Destination, Haste)| {
            let level = place.level().map(|level| level as u8);
            (level, std::cmp::Reverse(place.index()))
        };
        let ready = self.jobs.values().flat_map(Job::with_work);
        let mut ready: Vec<_> = ready
            .filter(|(place, _)| !self.starved.contains(place))
            .collect();
        ready.sort_by_key(|work| std::cmp::Reverse(order(work)));
        let linger = self.linger();
        let now = |(_, haste): &&(Destination, Haste)| *haste == Haste::Now || linger.is_zero();
        if let Some((place, _)) = ready.iter().find(now) {
            self.lingering_since = None;
            return Next::Now(*place);
        }
        let Some((place, _)) = ready.first() else {
            self.lingering_since = None;
            if self.starved.is_empty() {
                return Next::Nothing;
            }
            // Nobody tells that a slot is free.
            self.starved.clear();
            return Next::In(MOMENT);
        };
        let since = *self.lingering_since.get_or_insert_with(Instant::now);
        let left = linger.saturating_sub(since.elapsed());
        if left.is_zero() {
            self.lingering_since = None;
            return Next::Now(*place);
        }
        Next::In(left)
    }

    /// How long few updates may wait for more: in proportion to what folding them together saves.
    fn linger(&self) -> Duration {
        if self.last_step < LINGER_WORTH {
            return Duration::ZERO;
        }
        (self.last_step * 2).min(LINGER_MAX)
    }

    fn read_control(&mut self) -> Result<(), Error> {
        while let Some(message) = self.control.next()? {
            match message {
                ToWorker::Hello(_) => {}
                ToWorker::Attach(attach) => self.attach(*attach)?,
                ToWorker::Detach { job } => self.detach(job)?,
            }
        }
        Ok(())
    }

    fn attach(&mut self, attach: Attach) -> Result<(), Error> {
        let number = attach.job;
        let begun_ns = monotonic_ns();
        let answer = match Job::attach(attach, &self.engine, &self.cache, &self.hello) {
            Ok(job) => {
                self.jobs.insert(number, job);
                FromWorker::Attached { job: number }
            }
            Err(error) => FromWorker::AttachFailed {
                job: number,
                error: error.to_string(),
            },
        };
        debug!(
            job = number,
            attach_us = (monotonic_ns() - begun_ns) / 1000,
            ?answer,
            "attached"
        );
        self.control.send(&answer)
    }

    /// Between two steps: all that it has done of the job is in the arena, and told.
    fn detach(&mut self, job: u32) -> Result<(), Error> {
        self.jobs.remove(&job);
        self.starved.retain(|place| place.job() != job);
        self.control.send(&FromWorker::Detached { job })
    }

    fn read_port(&mut self) -> Result<(), Error> {
        for descriptor in self.port.receive()? {
            let destination = Destination::from_raw(descriptor.destination);
            match self.jobs.get_mut(&destination.job()) {
                Some(job) => {
                    let outcome = job.receive(destination, &descriptor);
                    let outbound = job.take_outbound();
                    self.tell(&outbound)?;
                    self.report(outcome)?;
                }
                // The job was detached while the descriptor was on its way: the agent sends it
                // again when the job is attached next.
                None => debug!(?descriptor, "descriptor for a job that is not attached"),
            }
        }
        Ok(())
    }

    fn tell(&self, outbound: &[Descriptor]) -> Result<(), Error> {
        if !outbound.is_empty() {
            failpoint::reach(Step::Tell, Moment::Begun);
            self.port.send(outbound)?;
            failpoint::reach(Step::Tell, Moment::Told);
        }
        Ok(())
    }

    fn step(&mut self, aggregator: Destination) -> Result<(), Error> {
        let Some(job) = self.jobs.get_mut(&aggregator.job()) else {
            return Ok(());
        };
        let started = Instant::now();
        let outcome = job.step(aggregator);
        self.last_step = started.elapsed();
        let outbound = job.take_outbound();
        self.tell(&outbound)?;
        match &outcome {
            Err(StepError::NoRoom) => {
                self.starved.insert(aggregator);
            }
            _ => self.starved.clear(),
        }
        self.report(outcome)
    }

    /// Tells the agent what went wrong.
    fn report(&mut self, outcome: Result<(), StepError>) -> Result<(), Error> {
        match outcome {
            Ok(()) | Err(StepError::NoRoom) => Ok(()),
            Err(StepError::Disowned) => Err(Error::Disowned),
            Err(StepError::Refused(message)) => {
                failpoint::reach(Step::Refused, Moment::Begun);
                self.control.send(&message)?;
                failpoint::reach(Step::Refused, Moment::Told);
                Ok(())
            }
            Err(StepError::Failed(message)) => self.control.send(&message),
        }
    }
}
