//! Folding into an accumulator in place, under the undo journal: for models of which memory holds no second
//! accumulator. The steps, and what each is good for, are in [`tributary_arena::Journal`].
//!
//! Whoever hosts the aggregator finishes what a dead worker has begun, with the inputs that it began with.
//! There is no way back: a function that fails in the middle of such a step costs the round.

use super::aggregator::{Input, Partial};
use super::failpoint::{self, Moment, Step as Point};
use super::job::{Job, StepError, place_of};
use super::team::{Call, Member};
use crate::round::Epoch;
use tributary_arena::{Arena, Contributors, Phase, SlotRef, State, Step};
use tributary_sidecar_layout::Destination;
use tributary_wasm::{CallError, Operands, Place};

/// What all threads of a step know.
struct Fold<'a> {
    arena: &'a Arena,
    journal: u32,
    step: &'a Step,
    round: u64,
    elements: u64,
    part_elements: u32,
    bytes_per_element: u64,
    inputs: Vec<tributary_wasm::Input>,
}

impl Fold<'_> {
    /// Folds a thread's parts, from where its lane of the journal stands.
    fn run(&self, member: &mut Member) -> Result<(), CallError> {
        let journal = self.arena.journal(self.journal);
        let pieces = member.pieces(self.part_elements);
        for (part, piece) in (0u64..).zip(pieces) {
            let progress = journal.progress(member.lane);
            if part < progress.done {
                continue;
            }
            if part >= progress.saved {
                let start = piece.first_element * self.bytes_per_element;
                let bytes = start..start + u64::from(piece.elements) * self.bytes_per_element;
                let accumulator = self.step.accumulator;
                self.arena
                    .save_part(self.journal, member.lane, accumulator, part, bytes);
                failpoint::reach(Point::InPlace, Moment::ImageSaved);
            }
            let operands = Operands {
                round: self.round,
                first_element: piece.first_element,
                elements: piece.elements,
                model_elements: self.elements,
                previous: Some(self.image(member.lane, piece.first_element)),
                output: place_of(self.arena, self.step.accumulator.slot),
                model: None,
                inputs: &self.inputs,
            };
            Call::Fold.on(&mut member.instance, &operands)?;
            failpoint::reach(Point::InPlace, Moment::Computed);
            journal.done(member.lane, part + 1);
            failpoint::reach(Point::InPlace, Moment::PartDone);
        }
        Ok(())
    }

    /// The place of which the lane's image is the part that begins at `first_element`. Images lie behind all
    /// slots, so there is always room before them for the rest of such a vector.
    fn image(&self, lane: u32, first_element: u64) -> Place {
        let geometry = self.arena.geometry();
        Place {
            scalars: geometry.scalars_image_offset(self.journal),
            vector: geometry.image_offset(self.journal, lane)
                - first_element * self.bytes_per_element,
        }
    }
}

impl Job {
    /// Folds inputs into an accumulator in place.
    pub(super) fn fold_in_place(
        &mut self,
        at: Destination,
        accumulator: &Partial,
        inputs: &[Input],
    ) -> Result<(), StepError> {
        let step = Step {
            accumulator: accumulator.at,
            inputs: inputs.iter().map(|input| input.at).collect(),
        };
        let round = self.round(at);
        failpoint::reach(Point::InPlace, Moment::Begun);
        self.arena.begin_step(self.ring, &step);
        failpoint::reach(Point::InPlace, Moment::Journaled);
        self.finish_step(at, round, self.ring, &step)
    }

    /// Finishes the steps that workers before this one have begun on the aggregator's accumulator.
    pub(super) fn settle(&mut self, at: Destination, round: u32) -> Result<(), StepError> {
        if !self.attach.in_place {
            return Ok(());
        }
        for journal in 0..self.arena.geometry().rings {
            let Some(step) = self.arena.journal(journal).step() else {
                continue;
            };
            let info = self.arena.info(step.accumulator.slot);
            let current = info.word.generation == step.accumulator.generation
                && info.word.state == State::Live
                && info.round == round;
            if !current {
                // Of a round that has ended, or failed.
                self.arena.journal(journal).clear();
            } else if info.aggregator == at {
                self.finish_step(at, round, journal, &step)?;
                self.ring_bell(at);
            }
        }
        Ok(())
    }

    /// Brings a step to its end, from wherever it stands.
    fn finish_step(
        &mut self,
        at: Destination,
        round: u32,
        journal: u32,
        step: &Step,
    ) -> Result<(), StepError> {
        if self.arena.journal(journal).phase() == Phase::Folding {
            let fold = Fold {
                arena: &self.arena,
                journal,
                step,
                round: u64::from(Epoch::from_raw(round).round()),
                elements: u64::from(self.attach.elements),
                part_elements: self.attach.part_elements,
                bytes_per_element: u64::from(self.team.description().partial_bytes_per_element),
                inputs: self.operands_of(&step.inputs),
            };
            let folded = self.team.side_by_side(|member| fold.run(member));
            // The journal stays as it is: only the end of the round's attempt makes the accumulator worthless.
            folded.map_err(|error| self.fail_round(at, &self.clients_of(step), &error))?;
            self.arena.journal(journal).commit();
            failpoint::reach(Point::InPlace, Moment::Committed);
        }
        self.settle_contributors(step);
        self.arena.journal(journal).clear();
        failpoint::reach(Point::InPlace, Moment::Cleared);
        Ok(())
    }

    /// The clients of a step's inputs.
    fn clients_of(&self, step: &Step) -> Contributors {
        let mut clients = Contributors::default();
        for input in &step.inputs {
            clients.extend(&self.arena.contributors(input.slot));
        }
        clients
    }

    /// The accumulator takes the inputs' contributors, then the inputs are released. Every step may be done
    /// twice: an input that is released already was entered before the first one was.
    fn settle_contributors(&self, step: &Step) {
        let unreleased =
            |input: &&SlotRef| self.arena.info(input.slot).word.generation == input.generation;
        let inputs: Vec<&SlotRef> = step.inputs.iter().filter(unreleased).collect();
        for input in &inputs {
            let clients = self.arena.contributors(input.slot);
            self.arena.add_contributors(step.accumulator.slot, &clients);
        }
        failpoint::reach(Point::InPlace, Moment::Described);
        for input in inputs {
            self.arena.release(input.slot, input.generation);
            failpoint::reach(Point::InPlace, Moment::InputReleased);
        }
    }
}
