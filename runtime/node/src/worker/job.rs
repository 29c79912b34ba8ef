//! A job on a worker: its arena, its function's instance, its aggregators.
//!
//! The commit protocol is [`Job::combine`]: read accumulator A and the inputs, write accumulator B,
//! publish B with its contributors by one atomic store, and only then release A and the inputs.

use super::aggregator::{Aggregator, Haste, Input, Order, Partial, Task};
use super::failpoint::{self, Moment, Step};
use super::in_place::place;
use super::team::{Call, Team};
use crate::clock::monotonic_ns;
use crate::protocol::{Activation, Attach, Completion, FromWorker, Hello, Work};
use crate::round::Epoch;
use crate::tree;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::debug;
use tributary_arena::{
    Arena, Claim, Contributors, Filling, Kind as SlotKind, Room, SlotInfo, SlotRef, State,
};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};
use tributary_wasm::{CallError, Content, Encoding, Engine, Function, ModuleCache, Operands};

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
    owner: u32,
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

    /// Descriptors to send, made by the last step.
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
        if let Some(accumulator) = previous.as_ref().filter(|_| leaf && self.attach.in_place) {
            let activation = self.activation(place);
            self.fold_in_place(place, accumulator, inputs)?;
            let contributors = self.arena.contributors(accumulator.at.slot);
            let live = Partial {
                contributors,
                ..accumulator.clone()
            };
            self.set_live(place, live);
            self.record(
                Work::Fold,
                place,
                round,
                inputs.len() as u32,
                started,
                activation,
            );
            return Ok(());
        }
        if leaf && previous.is_none() && !self.may_begin() {
            self.put_back(place, None, inputs);
            return Err(StepError::NoRoom);
        }
        let step = if leaf { Step::Fold } else { Step::Merge };
        let output = match self.claim_output(step, place, round) {
            Ok(output) => output,
            Err(error) => {
                self.put_back(place, previous.as_ref(), inputs);
                return Err(error);
            }
        };
        let operands: Vec<_> = inputs.iter().map(|input| self.operand(input)).collect();
        let previous_at = previous.as_ref().map(|partial| partial.at);
        let call = self.operands(round, previous_at, output.slot(), &operands);
        let activation = self.activation(place);
        let called = self
            .team
            .call(if leaf { Call::Fold } else { Call::Merge }, &call);
        if let Err(error) = called {
            drop(output);
            return self.failed_combine(place, inputs, &error);
        }
        failpoint::reach(step, Moment::Computed);

        let mut contributors = previous
            .as_ref()
            .map_or_else(Contributors::default, |partial| {
                partial.contributors.clone()
            });
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
        self.set_live(place, live);
        self.record(
            if leaf { Work::Fold } else { Work::Merge },
            place,
            round,
            read,
            started,
            activation,
        );
        failpoint::reach(step, Moment::Recorded);
        Ok(())
    }

    /// How long the leaf's first input of the round has waited, if it is read now.
    fn activation(&mut self, place: Destination) -> Option<Activation> {
        let sent_ns = self.aggregators.get_mut(&place)?.first_sent_ns.take()?;
        Some(Activation {
            nanoseconds: monotonic_ns().saturating_sub(sent_ns),
            cold: sent_ns < self.attached_ns,
        })
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
        let output = match self.claim_output(Step::Finish, place, round) {
            Ok(output) => output,
            Err(error) => {
                self.put_back(place, Some(partial), &[]);
                return Err(error);
            }
        };
        let call = Operands {
            model: model.map(|slot| self::place(&self.arena, slot)),
            ..self.operands(round, Some(partial.at), output.slot(), &[])
        };
        if let Err(error) = self.team.call(Call::Finish, &call) {
            drop(output);
            return Err(self.fail_round(place, &error));
        }
        failpoint::reach(Step::Finish, Moment::Computed);
        let contributors = partial.contributors.clone();
        self.commit(Step::Finish, place, output, contributors, 0)?;
        self.arena.release(partial.at.slot, partial.at.generation);
        failpoint::reach(Step::Finish, Moment::PreviousReleased);
        self.mark_done(place);
        self.record(Work::Finish, place, round, 1, started, None);
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
            self.record(Work::Pass, place, round, 0, Instant::now(), None);
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
        let at = SlotRef {
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
            content: tributary_arena::Content::default(),
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

    /// Whether a leaf may take a slot that it will not soon give back. Merges, and folds that replace an
    /// accumulator, need one for each worker; without them no slot would ever become free.
    fn may_begin(&self) -> bool {
        let kept = if self.attach.in_place {
            0
        } else {
            self.attach.lanes
        };
        self.arena.free_slots(Room::Partial) > kept
    }

    /// A slot for B. Every worker has one for a partial; for a model the gateway leaves one, or lets go of
    /// those that arrive too late for the round. Where a dead worker has left some behind, all may be taken:
    /// they become free when what is in them is delivered again, so a worker must not wait here.
    fn claim_output(
        &self,
        step: Step,
        place: Destination,
        round: u32,
    ) -> Result<Filling, StepError> {
        failpoint::reach(step, Moment::Begun);
        let room = if step == Step::Finish {
            Room::Update
        } else {
            Room::Partial
        };
        match self.arena.claim(self.owner, room) {
            Ok(Some(filling)) => {
                failpoint::reach(step, Moment::Claimed);
                Ok(filling)
            }
            Ok(None) => Err(StepError::NoRoom),
            Err(error) => Err(self.failed_step(place, round, &error)),
        }
    }

    /// What a step would have worked on waits again.
    fn put_back(&mut self, place: Destination, previous: Option<&Partial>, inputs: &[Input]) {
        let Some(aggregator) = self.aggregators.get_mut(&place) else {
            return;
        };
        aggregator.put_back(inputs);
        // Its own accumulator it keeps; a child's that it would have continued waits with the others.
        if let (None, Some(child)) = (&aggregator.live, previous) {
            aggregator.put_back_partial(child);
        }
    }

    pub(super) fn failed_step(
        &self,
        place: Destination,
        round: u32,
        error: &tributary_arena::Error,
    ) -> StepError {
        StepError::Failed(FromWorker::Failed {
            destination: place.raw(),
            round,
            error: error.to_string(),
        })
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
            if let Some(aggregator) = self.aggregators.get_mut(&place) {
                aggregator.leave_out(only.client);
            }
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

    pub(super) fn fail_round(&mut self, place: Destination, error: &CallError) -> StepError {
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
        match Team::new(&self.function, &self.attach, &self.arena) {
            Ok(team) => {
                self.team = team;
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
        activation: Option<Activation>,
    ) {
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
        self.outbound.push(Descriptor {
            destination: Destination::agent(place.job()).raw(),
            sent_ns: monotonic_ns(),
            slot: self.ring,
            generation: 0,
            round,
            kind: Kind::Doorbell as u32,
        });
    }

    fn set_live(&mut self, place: Destination, live: Partial) {
        if let Some(aggregator) = self.aggregators.get_mut(&place) {
            aggregator.live = Some(live);
        }
    }

    pub(super) fn round(&self, place: Destination) -> u32 {
        self.aggregators.get(&place).map_or(0, |a| a.round)
    }

    /// What a call over the whole model works on.
    fn operands<'a>(
        &self,
        epoch: u32,
        previous: Option<SlotRef>,
        output: u32,
        inputs: &'a [tributary_wasm::Input],
    ) -> Operands<'a> {
        Operands {
            round: u64::from(Epoch::from_raw(epoch).round()),
            first_element: 0,
            elements: self.attach.elements,
            model_elements: u64::from(self.attach.elements),
            previous: previous.map(|at| place(&self.arena, at.slot)),
            output: place(&self.arena, output),
            model: None,
            inputs,
        }
    }

    fn operand(&self, input: &Input) -> tributary_wasm::Input {
        tributary_wasm::Input {
            place: place(&self.arena, input.at.slot),
            weight: input.weight,
            contributors: input.contributors.len(),
            content: input.content,
        }
    }

    /// The updates in some slots, as a call takes them.
    pub(super) fn operands_of(&self, inputs: &[SlotRef]) -> Vec<tributary_wasm::Input> {
        let operand = |at: &SlotRef| {
            let info = self.arena.info(at.slot);
            tributary_wasm::Input {
                place: place(&self.arena, at.slot),
                weight: info.weight,
                contributors: self.arena.contributors(at.slot).len(),
                content: content(&info),
            }
        };
        inputs.iter().map(operand).collect()
    }
}

/// How the values in a slot are encoded.
pub(super) fn content(info: &SlotInfo) -> Content {
    Content {
        // The gateway writes only codes that exist.
        encoding: Encoding::from_code(info.content.encoding).unwrap_or_default(),
        count: info.content.count,
    }
}
