//! Steps that write beside what they read: the commit protocol.
//!
//! Read accumulator A and the inputs, write accumulator B, publish B with its contributors by one atomic store, and
//! only then release A and the inputs. The numbers of the steps are those of `docs/architecture.md`.

use super::aggregator::{Input, Partial};
use super::failpoint::{self, Moment, Step};
use super::job::{Job, StepError, place_of};
use super::team::Call;
use crate::protocol::{FromWorker, Work};
use crate::round::Epoch;
use std::time::Instant;
use tracing::debug;
use tributary_arena::{
    Claim, Content, Contributors, Filling, Kind as SlotKind, Room, SlotRef, State,
};
use tributary_sidecar_layout::{Destination, Level};
use tributary_wasm::{CallError, Operands};

/// A leaf folds updates, all others merge partials.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Combining {
    Fold,
    Merge,
}

impl Combining {
    fn at(place: Destination) -> Self {
        match place.level() {
            Some(Level::Leaf) => Self::Fold,
            _ => Self::Merge,
        }
    }

    fn call(self) -> Call {
        match self {
            Self::Fold => Call::Fold,
            Self::Merge => Call::Merge,
        }
    }

    fn step(self) -> Step {
        match self {
            Self::Fold => Step::Fold,
            Self::Merge => Step::Merge,
        }
    }

    fn work(self) -> Work {
        match self {
            Self::Fold => Work::Fold,
            Self::Merge => Work::Merge,
        }
    }
}

impl Job {
    /// Adds inputs to an aggregator's accumulator, or begins one with them.
    pub(super) fn combine(
        &mut self,
        place: Destination,
        previous: Option<Partial>,
        inputs: &[Input],
    ) -> Result<(), StepError> {
        let kind = Combining::at(place);
        match &previous {
            Some(accumulator) if kind == Combining::Fold && self.attach.in_place => {
                return self.combine_in_place(place, accumulator, inputs);
            }
            None if kind == Combining::Fold && !self.may_begin() => {
                self.put_back(place, None, inputs);
                return Err(StepError::NoRoom);
            }
            _ => {}
        }
        let started = Instant::now();
        let output = self.claim_output(kind.step(), place, previous.as_ref(), inputs)?;
        let operands: Vec<_> = inputs.iter().map(|input| self.operand(input)).collect();
        let previous_at = previous.as_ref().map(|partial| partial.at);
        let call = self.operands(place, previous_at, output.slot(), &operands);
        let activation = self.activation(place);
        let called = self.team.call(kind.call(), &call);
        let before = previous.as_ref();
        let mut contributors = before.map_or_else(Contributors::default, |partial| {
            partial.contributors.clone()
        });
        for input in inputs {
            contributors.extend(&input.contributors);
        }
        if let Err(error) = called {
            drop(output);
            return self.failed_combine(place, inputs, &contributors, &error);
        }
        failpoint::reach(kind.step(), Moment::Computed);
        let sequence = before.map_or(0, |partial| partial.sequence) + 1;
        let live = self.commit(kind.step(), place, output, contributors, sequence)?;
        for input in inputs {
            self.arena.release(input.at.slot, input.at.generation);
            failpoint::reach(kind.step(), Moment::InputReleased);
        }
        if let Some(previous) = previous {
            self.release_previous(kind.step(), &previous);
        }
        let continued = kind == Combining::Merge && self.live(place).is_none();
        let read = inputs.len() as u32 + u32::from(continued);
        self.set_live(place, live);
        self.record(kind.work(), place, read, started, activation);
        failpoint::reach(kind.step(), Moment::Recorded);
        Ok(())
    }

    fn combine_in_place(
        &mut self,
        place: Destination,
        accumulator: &Partial,
        inputs: &[Input],
    ) -> Result<(), StepError> {
        let started = Instant::now();
        let activation = self.activation(place);
        self.fold_in_place(place, accumulator, inputs)?;
        let live = Partial {
            contributors: self.arena.contributors(accumulator.at.slot),
            ..accumulator.clone()
        };
        self.set_live(place, live);
        self.record(Work::Fold, place, inputs.len() as u32, started, activation);
        Ok(())
    }

    /// Makes the model of the top's accumulator.
    pub(super) fn finish(
        &mut self,
        place: Destination,
        partial: &Partial,
    ) -> Result<(), StepError> {
        let started = Instant::now();
        let model = self.model_slot(place);
        let output = self.claim_output(Step::Finish, place, Some(partial), &[])?;
        let call = Operands {
            model: model.map(|slot| place_of(&self.arena, slot)),
            ..self.operands(place, Some(partial.at), output.slot(), &[])
        };
        if let Err(error) = self.team.call(Call::Finish, &call) {
            drop(output);
            return Err(self.fail_round(place, &partial.contributors, &error));
        }
        failpoint::reach(Step::Finish, Moment::Computed);
        let contributors = partial.contributors.clone();
        self.commit(Step::Finish, place, output, contributors, 0)?;
        self.release_previous(Step::Finish, partial);
        self.mark_done(place);
        self.record(Work::Finish, place, 1, started, None);
        failpoint::reach(Step::Finish, Moment::Recorded);
        Ok(())
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

    /// A slot for B; if there is none, what the step would have worked on waits again.
    ///
    /// Every worker has one for a partial; for a model the gateway leaves one, or lets go of those that arrive too late
    /// for the round. Where a dead worker has left some behind, all may be taken: they become free when what is in them
    /// is delivered again, so a worker must not wait here.
    fn claim_output(
        &mut self,
        step: Step,
        place: Destination,
        previous: Option<&Partial>,
        inputs: &[Input],
    ) -> Result<Filling, StepError> {
        failpoint::reach(step, Moment::Begun);
        let room = if step == Step::Finish {
            Room::Update
        } else {
            Room::Partial
        };
        let error = match self.arena.claim(self.owner, room) {
            Ok(Some(filling)) => {
                failpoint::reach(step, Moment::Claimed);
                return Ok(filling);
            }
            Ok(None) => StepError::NoRoom,
            Err(error) => self.failed(place, &Contributors::default(), error.to_string()),
        };
        self.put_back(place, previous, inputs);
        Err(error)
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
            content: Content::default(),
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

    fn release_previous(&self, step: Step, previous: &Partial) {
        self.arena.release(previous.at.slot, previous.at.generation);
        failpoint::reach(step, Moment::PreviousReleased);
    }

    /// What a step would have worked on waits again.
    fn put_back(&mut self, place: Destination, previous: Option<&Partial>, inputs: &[Input]) {
        let Some(aggregator) = self.aggregator_mut(place) else {
            return;
        };
        aggregator.put_back(inputs);
        // Its own accumulator it keeps; a child's that it would have continued waits with the others.
        if let (None, Some(child)) = (&aggregator.live, previous) {
            aggregator.put_back_partial(child);
        }
    }

    /// Several inputs failed together: take them singly. One failed alone: it is left out. Partials
    /// hold many clients, so a failing merge ends the round instead.
    fn failed_combine(
        &mut self,
        place: Destination,
        inputs: &[Input],
        inside: &Contributors,
        error: &CallError,
    ) -> Result<(), StepError> {
        if place.level() != Some(Level::Leaf) {
            return Err(self.fail_round(place, inside, error));
        }
        self.renew_instance(place)?;
        if let [only] = inputs {
            if let Some(aggregator) = self.aggregator_mut(place) {
                aggregator.refuse(only);
            }
            return Err(StepError::Refused(FromWorker::Refused {
                destination: place.raw(),
                round: self.round(place),
                slot: only.at.slot,
                generation: only.at.generation,
                client: only.client,
                error: self.told(error),
            }));
        }
        debug!(%error, inputs = inputs.len(), "several inputs failed together; taking them singly");
        if let Some(aggregator) = self.aggregator_mut(place) {
            aggregator.retry_singly(inputs);
        }
        Ok(())
    }

    /// What a call over the whole model works on.
    fn operands<'a>(
        &self,
        at: Destination,
        previous: Option<SlotRef>,
        output: u32,
        inputs: &'a [tributary_wasm::Input],
    ) -> Operands<'a> {
        Operands {
            round: u64::from(Epoch::from_raw(self.round(at)).round()),
            first_element: 0,
            elements: self.attach.elements,
            model_elements: u64::from(self.attach.elements),
            previous: previous.map(|previous| place_of(&self.arena, previous.slot)),
            output: place_of(&self.arena, output),
            model: None,
            inputs,
        }
    }

    fn operand(&self, input: &Input) -> tributary_wasm::Input {
        tributary_wasm::Input {
            place: place_of(&self.arena, input.at.slot),
            weight: input.weight,
            contributors: input.contributors.len(),
            content: input.content,
        }
    }
}
