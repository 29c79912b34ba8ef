//! A job on a worker: its arena, its function's instance, its aggregators.
//!
//! The commit protocol is [`Job::combine`]: read accumulator A and the inputs, write accumulator B,
//! publish B with its contributors by one atomic store, and only then release A and the inputs.

use super::aggregator::{Aggregator, Input, Partial, Task};
use super::failpoint::{self, Moment, Step};
use crate::clock::monotonic_ns;
use crate::protocol::{Attach, Completion, FromWorker, Hello, Work};
use crate::round::Epoch;
use crate::tree;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::debug;
use tributary_arena::{Arena, Claim, Contributors, Filling, Kind as SlotKind, SlotIndex, State};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};
use tributary_wasm::{
    CallError, Engine, Extent, Function, Instance, Limits, ModuleCache, Operands, Window,
};

/// How long a worker sleeps when the agent is behind (ring full) or a slot is not free yet.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a job cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error(transparent)]
    Arena(#[from] tributary_arena::Error),
    #[error("function {function}: {source}")]
    Function {
        function: String,
        source: tributary_wasm::Error,
    },
}

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum StepError {
    /// The function failed on a single input, which is left out.
    Refused(FromWorker),
    /// The round cannot go on.
    Failed(FromWorker),
    /// The agent has declared this worker dead.
    Disowned,
}

pub(super) struct Job {
    attach: Attach,
    arena: Arc<Arena>,
    function: Function,
    instance: Instance,
    aggregators: BTreeMap<Destination, Aggregator>,
    outbound: Vec<Descriptor>,
    owner: u32,
    ring: u32,
}

impl Job {
    pub(super) fn attach(
        attach: Attach,
        engine: &Engine,
        cache: &ModuleCache,
        hello: &Hello,
    ) -> Result<Self, AttachError> {
        let arena = Arc::new(Arena::open(&attach.segment)?);
        let named = |source| AttachError::Function {
            function: attach.function.clone(),
            source,
        };
        let function = cache.load(engine, &attach.digest).map_err(named)?;
        let instance = instantiate(&function, &attach, &arena)?;
        Ok(Self {
            attach,
            arena,
            function,
            instance,
            aggregators: BTreeMap::new(),
            outbound: Vec::new(),
            owner: hello.owner,
            ring: hello.ring,
        })
    }

    /// The aggregators that have something to do.
    pub(super) fn with_work(&self) -> impl Iterator<Item = Destination> + '_ {
        self.aggregators
            .values()
            .filter(|a| a.has_work())
            .map(|a| a.place)
    }

    /// Descriptors to send, made by the last step.
    pub(super) fn take_outbound(&mut self) -> Vec<Descriptor> {
        std::mem::take(&mut self.outbound)
    }

    pub(super) fn receive(&mut self, place: Destination, descriptor: &Descriptor) {
        let known = self.aggregators.get(&place).map(|a| a.round);
        if known.is_some_and(|round| round > descriptor.round) {
            return; // Of a round that has ended.
        }
        if known != Some(descriptor.round) {
            let fresh = Aggregator::adopt(place, descriptor.round, &self.arena);
            self.aggregators.insert(place, fresh);
        }
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.receive(descriptor, &self.arena);
        }
    }

    /// Does one piece of work for an aggregator.
    pub(super) fn step(&mut self, place: Destination) -> Result<(), StepError> {
        let limit = self.instance.description().max_inputs as usize;
        let Some(aggregator) = self.aggregators.get_mut(&place) else {
            return Ok(());
        };
        match aggregator.task(limit, &self.arena) {
            Task::Wait => Ok(()),
            Task::Combine { previous, inputs } => self.combine(place, previous, &inputs),
            Task::Complete(partial) if place.level() == Some(Level::Top) => {
                self.finish(place, &partial)
            }
            Task::Complete(partial) => {
                self.send_on(place, &partial);
                Ok(())
            }
        }
    }

    fn combine(
        &mut self,
        place: Destination,
        previous: Option<Partial>,
        inputs: &[Input],
    ) -> Result<(), StepError> {
        let started = Instant::now();
        let round = self.round(place);
        let leaf = place.level() == Some(Level::Leaf);
        let step = if leaf { Step::Fold } else { Step::Merge };
        let output = self.claim_output(step, place, round)?;
        let operands: Vec<_> = inputs.iter().map(|input| self.operand(input)).collect();
        let call = Operands {
            round: u64::from(Epoch::from_raw(round).round()),
            elements: self.attach.elements,
            previous: previous
                .as_ref()
                .map(|partial| self.extent(partial.at.slot)),
            output: self.extent(output.slot()),
            model: None,
            inputs: &operands,
        };
        let called = if leaf {
            self.instance.fold(&call)
        } else {
            self.instance.merge(&call)
        };
        if let Err(error) = called {
            drop(output);
            return self.failed_combine(place, inputs, &error);
        }
        failpoint::reach(step, Moment::Computed);

        let mut contributors = previous.as_ref().map_or_else(
            || self.no_contributors(),
            |partial| partial.contributors.clone(),
        );
        inputs
            .iter()
            .for_each(|input| contributors.extend(&input.contributors));
        let sequence = previous.as_ref().map_or(0, |partial| partial.sequence) + 1;
        let live = self.commit(step, place, output, contributors, sequence)?;
        for input in inputs {
            self.arena.release(input.at.slot, input.at.generation);
            failpoint::reach(step, Moment::InputReleased);
        }
        if let Some(previous) = previous {
            self.arena.release(previous.at.slot, previous.at.generation);
            failpoint::reach(step, Moment::PreviousReleased);
        }
        let read = inputs.len() as u32 + u32::from(!leaf && self.is_first(place));
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.live = Some(live);
        }
        self.record(
            if leaf { Work::Fold } else { Work::Merge },
            place,
            round,
            read,
            started,
        );
        failpoint::reach(step, Moment::Recorded);
        Ok(())
    }

    /// True while the aggregator has no accumulator of its own: it continued a child's partial.
    fn is_first(&self, place: Destination) -> bool {
        self.aggregators
            .get(&place)
            .is_some_and(|a| a.live.is_none())
    }

    fn finish(&mut self, place: Destination, partial: &Partial) -> Result<(), StepError> {
        let started = Instant::now();
        let round = self.round(place);
        let model = self.aggregators.get(&place).and_then(|a| a.model);
        let output = self.claim_output(Step::Finish, place, round)?;
        let call = Operands {
            round: u64::from(Epoch::from_raw(round).round()),
            elements: self.attach.elements,
            previous: Some(self.extent(partial.at.slot)),
            output: self.extent(output.slot()),
            model: model.map(|slot| self.extent(slot)),
            inputs: &[],
        };
        if let Err(error) = self.instance.finish(&call) {
            drop(output);
            return Err(self.fail_round(place, &error));
        }
        failpoint::reach(Step::Finish, Moment::Computed);
        let contributors = partial.contributors.clone();
        self.commit(Step::Finish, place, output, contributors, 0)?;
        self.arena.release(partial.at.slot, partial.at.generation);
        failpoint::reach(Step::Finish, Moment::PreviousReleased);
        self.mark_done(place);
        self.record(Work::Finish, place, round, 1, started);
        failpoint::reach(Step::Finish, Moment::Recorded);
        Ok(())
    }

    /// The partial goes to the parent as it lies: the slot changes hands, no byte moves.
    fn send_on(&mut self, place: Destination, partial: &Partial) {
        let Some(parent) = tree::parent(place, self.attach.fan_in) else {
            return;
        };
        let round = self.round(place);
        failpoint::reach(Step::SendOn, Moment::Begun);
        // A child's partial that is passed on as it is has been sent already.
        let own = self.arena.send_on(partial.at.slot, partial.at.generation);
        failpoint::reach(Step::SendOn, Moment::Sent);
        self.outbound.push(Descriptor {
            destination: parent.raw(),
            sent_ns: monotonic_ns(),
            slot: partial.at.slot,
            generation: partial.at.generation,
            round,
            kind: Kind::Partial as u32,
        });
        if own {
            self.mark_done(place);
        } else {
            // Not done: if whoever hosts the parent dies before it has read the partial, the agent sends
            // it here again, because the slot names the child that made it.
            self.record(Work::Pass, place, round, 0, Instant::now());
        }
    }

    fn mark_done(&mut self, place: Destination) {
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.done = true;
            aggregator.live = None;
        }
    }

    /// Publishes B: the commit point.
    fn commit(
        &self,
        step: Step,
        place: Destination,
        output: Filling,
        contributors: Contributors,
        sequence: u32,
    ) -> Result<Partial, StepError> {
        let at = super::aggregator::SlotRef {
            slot: output.slot(),
            generation: output.generation(),
        };
        let (state, kind) = match step {
            Step::Finish => (State::Model, SlotKind::Model),
            _ => (State::Live, SlotKind::Partial),
        };
        let claim = Claim {
            kind,
            aggregator: place,
            round: self.round(place),
            weight: 0.0,
            client: 0,
            sequence,
            contributors: contributors.clone(),
        };
        let output = output.describe(&claim);
        failpoint::reach(step, Moment::Described);
        if output.publish(state) {
            failpoint::reach(step, Moment::Committed);
            Ok(Partial {
                at,
                contributors,
                sequence,
            })
        } else {
            Err(StepError::Disowned)
        }
    }

    /// A slot for B. The gateway leaves one free for every worker, so waiting is short.
    fn claim_output(
        &self,
        step: Step,
        place: Destination,
        round: u32,
    ) -> Result<Filling, StepError> {
        failpoint::reach(step, Moment::Begun);
        loop {
            match self.arena.claim(self.owner) {
                Ok(Some(filling)) => {
                    failpoint::reach(step, Moment::Claimed);
                    return Ok(filling);
                }
                Ok(None) => std::thread::sleep(PAUSE),
                Err(error) => {
                    return Err(StepError::Failed(FromWorker::Failed {
                        destination: place.raw(),
                        round,
                        error: error.to_string(),
                    }));
                }
            }
        }
    }

    /// Several inputs failed together: take them singly. One failed alone: it is left out. Partials
    /// hold many clients, so a failing merge ends the round instead.
    fn failed_combine(
        &mut self,
        place: Destination,
        inputs: &[Input],
        error: &CallError,
    ) -> Result<(), StepError> {
        if place.level() != Some(Level::Leaf) {
            return Err(self.fail_round(place, error));
        }
        self.renew_instance(place)?;
        if let [only] = inputs {
            self.arena.release(only.at.slot, only.at.generation);
            return Err(StepError::Refused(FromWorker::Refused {
                destination: place.raw(),
                round: self.round(place),
                client: only.client,
                error: self.told(error),
            }));
        }
        debug!(%error, inputs = inputs.len(), "several inputs failed together; taking them singly");
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.retry_singly(inputs);
        }
        Ok(())
    }

    fn fail_round(&mut self, place: Destination, error: &CallError) -> StepError {
        let told = self.told(error);
        let round = self.round(place);
        self.mark_done(place);
        if let Err(renewal) = self.renew_instance(place) {
            return renewal;
        }
        StepError::Failed(FromWorker::Failed {
            destination: place.raw(),
            round,
            error: told,
        })
    }

    fn told(&self, error: &CallError) -> String {
        format!("function {}: {error}", self.attach.function)
    }

    /// After a trap an instance's memory means nothing any more.
    fn renew_instance(&mut self, place: Destination) -> Result<(), StepError> {
        match instantiate(&self.function, &self.attach, &self.arena) {
            Ok(instance) => {
                self.instance = instance;
                Ok(())
            }
            Err(error) => Err(StepError::Failed(FromWorker::Failed {
                destination: place.raw(),
                round: self.round(place),
                error: error.to_string(),
            })),
        }
    }

    fn record(
        &mut self,
        work: Work,
        place: Destination,
        round: u32,
        inputs: u32,
        started: Instant,
    ) {
        let completion = Completion {
            work,
            destination: place,
            round,
            inputs,
            nanoseconds: started.elapsed().as_nanos() as u64,
        };
        // The agent empties the ring whenever it is rung; a full ring means it is only behind.
        while !self.arena.ring(self.ring).push(completion.to_record()) {
            std::thread::sleep(PAUSE);
        }
        self.outbound.push(Descriptor {
            destination: Destination::agent(place.job()).raw(),
            sent_ns: monotonic_ns(),
            slot: self.ring,
            generation: 0,
            round,
            kind: Kind::Doorbell as u32,
        });
    }

    fn round(&self, place: Destination) -> u32 {
        self.aggregators.get(&place).map_or(0, |a| a.round)
    }

    fn no_contributors(&self) -> Contributors {
        Contributors::empty(self.arena.geometry().contributor_words())
    }

    fn extent(&self, slot: SlotIndex) -> Extent {
        Extent {
            offset: u64::from(slot) * self.arena.geometry().slot_stride(),
        }
    }

    fn operand(&self, input: &Input) -> tributary_wasm::Input {
        tributary_wasm::Input {
            slot: self.extent(input.at.slot),
            weight: input.weight,
            contributors: input.contributors.len(),
        }
    }
}

fn instantiate(
    function: &Function,
    attach: &Attach,
    arena: &Arc<Arena>,
) -> Result<Instance, AttachError> {
    let geometry = arena.geometry();
    let window = Window {
        fd: arena.descriptor()?,
        offset: geometry.data_offset(),
        len: geometry.data_bytes(),
    };
    let limits = Limits {
        memory_bytes: attach.memory_bytes,
        deadline: Duration::from_millis(attach.deadline_ms),
    };
    function
        .instantiate(
            limits,
            attach.config.as_bytes(),
            window,
            geometry.slot_stride(),
        )
        .map_err(|source| AttachError::Function {
            function: attach.function.clone(),
            source,
        })
}
