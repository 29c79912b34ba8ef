//! A job on a worker: its arena, its function's instances, its aggregators, and what it tells of its steps.
//!
//! What the steps do is in [`super::combine`] and [`super::in_place`].

use super::aggregator::{Aggregator, Haste, Order, Partial, Task};
use super::failpoint::{self, Moment, Step};
use super::team::Team;
use crate::clock::monotonic_ns;
use crate::protocol::{Activation, Attach, Completion, FromWorker, Hello, Work};
use crate::tree;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tributary_arena::{Arena, Contributors, SlotInfo, SlotRef};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};
use tributary_wasm::{CallError, Content, Encoding, Engine, Function, ModuleCache, Place};

/// How long a worker sleeps when the agent is behind: its ring is full.
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
    /// No slot is free for the result, or only such as are kept for those who free some. Its inputs wait.
    NoRoom,
}

pub(super) struct Job {
    pub(super) attach: Attach,
    pub(super) arena: Arc<Arena>,
    function: Function,
    pub(super) team: Team,
    aggregators: BTreeMap<Destination, Aggregator>,
    outbound: Vec<Descriptor>,
    pub(super) owner: u32,
    pub(super) ring: u32,
    /// Since when the job is hosted here.
    attached_ns: u64,
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
        let team = Team::new(&function, &attach, &arena)?;
        Ok(Self {
            attach,
            arena,
            function,
            team,
            aggregators: BTreeMap::new(),
            outbound: Vec::new(),
            owner: hello.owner,
            ring: hello.ring,
            attached_ns: monotonic_ns(),
        })
    }

    /// The aggregators that have something to do.
    pub(super) fn with_work(&self) -> impl Iterator<Item = (Destination, Haste)> + '_ {
        let batch = self.attach.batch as usize;
        self.aggregators
            .values()
            .filter(|a| a.has_work())
            .map(move |a| (a.place, a.haste(batch)))
    }

    /// Descriptors to send, made by what was received or done last.
    pub(super) fn take_outbound(&mut self) -> Vec<Descriptor> {
        std::mem::take(&mut self.outbound)
    }

    /// Takes a descriptor in.
    ///
    /// # Errors
    /// As a step: the first word of a round may come with a step that a dead worker has left undone.
    pub(super) fn receive(
        &mut self,
        place: Destination,
        descriptor: &Descriptor,
    ) -> Result<(), StepError> {
        let known = self.aggregators.get(&place).map(|a| a.round);
        if known.is_some_and(|round| round > descriptor.round) {
            return Ok(()); // Of a round that has ended.
        }
        if known != Some(descriptor.round) {
            self.adopt(place, descriptor.round)?;
        }
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.receive(descriptor, &self.arena);
            if aggregator.take_freed() {
                self.ring_bell(place);
            }
        }
        Ok(())
    }

    fn adopt(&mut self, place: Destination, round: u32) -> Result<(), StepError> {
        let order = if self.attach.ordered && place.level() == Some(Level::Leaf) {
            Order::Arrival(Contributors::default())
        } else {
            Order::Any
        };
        // Entered first, so that a failure finds it.
        let nothing = Aggregator::new(place, round, order);
        self.aggregators.insert(place, nothing);
        self.settle(place, round)?;
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.adopt(&self.arena);
        }
        Ok(())
    }

    /// Does one piece of work for an aggregator.
    pub(super) fn step(&mut self, place: Destination) -> Result<(), StepError> {
        let limit = self.team.description().max_inputs as usize;
        let Some(aggregator) = self.aggregators.get_mut(&place) else {
            return Ok(());
        };
        let task = aggregator.task(limit, &self.arena);
        if aggregator.take_freed() {
            self.ring_bell(place);
        }
        match task {
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

    /// How long the leaf's first input of the round has waited, if it is read now.
    pub(super) fn activation(&mut self, place: Destination) -> Option<Activation> {
        let sent_ns = self.aggregators.get_mut(&place)?.first_sent_ns.take()?;
        Some(Activation {
            nanoseconds: monotonic_ns().saturating_sub(sent_ns),
            cold: sent_ns < self.attached_ns,
        })
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
            self.record(Work::Pass, place, 0, Instant::now(), None);
        }
    }

    pub(super) fn mark_done(&mut self, place: Destination) {
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.done = true;
            aggregator.live = None;
        }
    }

    /// The function has failed on something with these clients `inside`.
    pub(super) fn fail_round(
        &mut self,
        place: Destination,
        inside: &Contributors,
        error: &CallError,
    ) -> StepError {
        let told = self.told(error);
        self.mark_done(place);
        if let Err(renewal) = self.renew_instance(place) {
            return renewal;
        }
        self.failed(place, inside, told)
    }

    pub(super) fn failed(
        &self,
        place: Destination,
        inside: &Contributors,
        error: String,
    ) -> StepError {
        let (first, words) = inside.words();
        StepError::Failed(FromWorker::Failed {
            destination: place.raw(),
            round: self.round(place),
            inside: (first, words.to_vec()),
            error,
        })
    }

    pub(super) fn told(&self, error: &CallError) -> String {
        format!("function {}: {error}", self.attach.function)
    }

    /// After a trap an instance's memory means nothing any more.
    pub(super) fn renew_instance(&mut self, place: Destination) -> Result<(), StepError> {
        match Team::new(&self.function, &self.attach, &self.arena) {
            Ok(team) => {
                self.team = team;
                Ok(())
            }
            Err(error) => {
                let nobody = Contributors::default();
                Err(self.failed(place, &nobody, error.to_string()))
            }
        }
    }

    /// Tells the agent of a step.
    pub(super) fn record(
        &mut self,
        work: Work,
        place: Destination,
        inputs: u32,
        started: Instant,
        activation: Option<Activation>,
    ) {
        let round = self.round(place);
        let completion = Completion {
            work,
            destination: place,
            round,
            inputs,
            nanoseconds: started.elapsed().as_nanos() as u64,
            activation,
        };
        // The agent empties the ring whenever it is rung; a full ring means it is only behind.
        while !self.arena.ring(self.ring).push(completion.to_record()) {
            std::thread::sleep(PAUSE);
        }
        self.ring_bell(place);
    }

    /// Rings for the agent: a step is recorded, or slots are free that a dead worker had left.
    pub(super) fn ring_bell(&mut self, place: Destination) {
        self.outbound.push(Descriptor {
            destination: Destination::agent(place.job()).raw(),
            sent_ns: monotonic_ns(),
            slot: self.ring,
            generation: 0,
            round: self.round(place),
            kind: Kind::Doorbell as u32,
        });
    }

    /// The accumulator that an aggregator has of its own.
    pub(super) fn live(&self, place: Destination) -> Option<&Partial> {
        self.aggregators.get(&place)?.live.as_ref()
    }

    pub(super) fn aggregator_mut(&mut self, place: Destination) -> Option<&mut Aggregator> {
        self.aggregators.get_mut(&place)
    }

    /// The slot of the model that the round began with, as far as the top has been told.
    pub(super) fn model_slot(&self, place: Destination) -> Option<u32> {
        self.aggregators.get(&place)?.model
    }

    pub(super) fn set_live(&mut self, place: Destination, live: Partial) {
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.live = Some(live);
        }
    }

    pub(super) fn round(&self, place: Destination) -> u32 {
        self.aggregators.get(&place).map_or(0, |a| a.round)
    }

    /// The updates in some slots, as a call takes them.
    pub(super) fn operands_of(&self, inputs: &[SlotRef]) -> Vec<tributary_wasm::Input> {
        let operand = |at: &SlotRef| {
            let info = self.arena.info(at.slot);
            tributary_wasm::Input {
                place: place_of(&self.arena, at.slot),
                weight: info.weight,
                contributors: self.arena.contributors(at.slot).len(),
                content: content(&info),
            }
        };
        inputs.iter().map(operand).collect()
    }
}

/// Where a slot lies in the arena's data.
pub(super) fn place_of(arena: &Arena, slot: u32) -> Place {
    Place::at(arena.geometry().slot_offset(slot))
}

/// How the values in a slot are encoded.
pub(super) fn content(info: &SlotInfo) -> Content {
    Content {
        // The gateway writes only codes that exist.
        encoding: Encoding::from_code(info.content.encoding).unwrap_or_default(),
        count: info.content.count,
    }
}
