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
mod in_place;
mod job;
mod team;

use crate::protocol::{Attach, FromWorker, Hello, ToWorker};
use channel::{Control, Patience, Port, Wake};
use job::{Job, StepError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tracing::{debug, warn};
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
}

/// Runs a worker until its agent closes the sockets.
///
/// # Errors
/// A broken socket or engine; what functions do wrong is reported to the agent instead.
pub fn run() -> Result<(), Error> {
    let (mut control, port) = channel::inherited().map_err(Error::NotInherited)?;
    let Some(ToWorker::Hello(hello)) = control.next_blocking()? else {
        return Err(Error::NoGreeting);
    };
    let engine = Engine::new()?;
    let cache = ModuleCache::open(Path::new(&hello.module_cache))?;
    let mut worker = Worker {
        hello,
        control,
        port,
        engine,
        cache,
        jobs: BTreeMap::new(),
        starved: BTreeSet::new(),
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
}

impl Worker {
    fn serve(&mut self) -> Result<(), Error> {
        loop {
            // Everything that has been received is read before the worker sleeps: bytes in its own
            // buffer wake nobody.
            self.read_control()?;
            self.read_port()?;
            let next = self.next_work();
            if let Some(aggregator) = next {
                self.step(aggregator)?;
            }
            let patience = match next {
                Some(_) => Patience::None,
                None if self.starved.is_empty() => Patience::Forever,
                None => Patience::Moment,
            };
            if next.is_none() {
                self.starved.clear();
            }
            if channel::wait(&self.control, &self.port, patience)? == Wake::Closed {
                debug!("the agent closed a socket; the worker ends");
                return Ok(());
            }
        }
    }

    /// The aggregator to work for: the highest level first, because its work frees slots.
    fn next_work(&self) -> Option<Destination> {
        let ready = self.jobs.values().flat_map(Job::with_work);
        let ready = ready.filter(|aggregator| !self.starved.contains(aggregator));
        ready.max_by_key(|aggregator| {
            (
                aggregator.level().map(|l| l as u8),
                std::cmp::Reverse(aggregator.index()),
            )
        })
    }

    fn read_control(&mut self) -> Result<(), Error> {
        while let Some(message) = self.control.next()? {
            match message {
                ToWorker::Hello(_) => {}
                ToWorker::Attach(attach) => self.attach(*attach)?,
                ToWorker::Detach { job } => {
                    self.jobs.remove(&job);
                }
            }
        }
        Ok(())
    }

    fn attach(&mut self, attach: Attach) -> Result<(), Error> {
        let number = attach.job;
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
        self.control.send(&answer)
    }

    fn read_port(&mut self) -> Result<(), Error> {
        for descriptor in self.port.receive()? {
            let destination = Destination::from_raw(descriptor.destination);
            match self.jobs.get_mut(&destination.job()) {
                Some(job) => {
                    let outcome = job.receive(destination, &descriptor);
                    self.report(outcome)?;
                }
                // The job was detached while the descriptor was on its way: the agent sends it
                // again when the job is attached next.
                None => debug!(?descriptor, "descriptor for a job that is not attached"),
            }
        }
        Ok(())
    }

    fn step(&mut self, aggregator: Destination) -> Result<(), Error> {
        let Some(job) = self.jobs.get_mut(&aggregator.job()) else {
            return Ok(());
        };
        let outcome = job.step(aggregator);
        let outbound: Vec<Descriptor> = job.take_outbound();
        if !outbound.is_empty() {
            self.port.send(&outbound)?;
        }
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
            Err(StepError::Refused(message) | StepError::Failed(message)) => {
                warn!(?message, "function failed");
                self.control.send(&message)
            }
        }
    }
}
