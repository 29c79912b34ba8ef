//! What a worker remembers of one aggregator: slot numbers, nothing else.

use super::failpoint::{self, Moment, Step};
use tributary_arena::{Arena, Contributors, Generation, SlotIndex, State};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};

/// A slot of a certain generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotRef {
    pub slot: SlotIndex,
    pub generation: Generation,
}

/// A partial: the accumulator, or a child's.
#[derive(Clone, Debug)]
pub(super) struct Partial {
    pub at: SlotRef,
    pub contributors: Contributors,
    pub sequence: u32,
}

/// An input that waits.
#[derive(Clone, Copy, Debug)]
struct Pending {
    at: SlotRef,
    /// Number of clients in it, when it arrived.
    contributors: u32,
}

/// An input that is about to be folded or merged.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub at: SlotRef,
    pub weight: f64,
    pub client: u32,
    pub contributors: Contributors,
}

/// One place in the tree, in one round.
#[derive(Debug)]
pub(super) struct Aggregator {
    pub place: Destination,
    pub round: u32,
    /// The committed accumulator.
    pub live: Option<Partial>,
    pending: Vec<Pending>,
    /// Contributors it must hold before its partial goes on; known once its inputs are complete.
    expected: Option<u32>,
    /// The current model's slot, which the top's finish reads.
    pub model: Option<SlotIndex>,
    /// Its partial has gone on (or its model is made): nothing is left to do in this round.
    pub done: bool,
    /// Inputs to take one at a time, because taking them together failed.
    pub singly: usize,
}

/// What an aggregator can do next.
#[derive(Debug)]
pub(super) enum Task {
    /// Fold or merge these into `previous`.
    Combine {
        previous: Option<Partial>,
        inputs: Vec<Input>,
    },
    /// Everything expected is in this partial.
    Complete(Partial),
    /// Nothing, until more arrives.
    Wait,
}

impl Aggregator {
    /// An aggregator that starts, or takes over from a worker that died: the accumulator that was
    /// committed last is its own.
    pub(super) fn adopt(place: Destination, round: u32, arena: &Arena) -> Self {
        failpoint::reach(Step::Adopt, Moment::Begun);
        let mine = |info: &tributary_arena::SlotInfo| {
            info.word.state == State::Live && info.aggregator == place && info.round == round
        };
        let mut found: Vec<_> = arena.in_use().filter(mine).collect();
        found.sort_by_key(|info| info.sequence);
        let live = found.pop().map(|info| Partial {
            at: SlotRef {
                slot: info.slot,
                generation: info.word.generation,
            },
            contributors: arena.contributors(info.slot),
            sequence: info.sequence,
        });
        // Its predecessors were merged into it; the worker died before it could release them.
        for superseded in found {
            arena.release(superseded.slot, superseded.word.generation);
            failpoint::reach(Step::Adopt, Moment::SupersededReleased);
        }
        failpoint::reach(Step::Adopt, Moment::Adopted);
        Self {
            place,
            round,
            live,
            pending: Vec::new(),
            expected: None,
            model: None,
            done: false,
            singly: 0,
        }
    }

    pub(super) fn receive(&mut self, descriptor: &Descriptor, arena: &Arena) {
        match Kind::from_raw(descriptor.kind) {
            Some(Kind::Update | Kind::Partial) => {
                let at = SlotRef {
                    slot: descriptor.slot,
                    generation: descriptor.generation,
                };
                if !self.pending.iter().any(|pending| pending.at == at) {
                    self.pending.push(Pending {
                        at,
                        contributors: arena.contributors(at.slot).len(),
                    });
                }
            }
            Some(Kind::Close) => {
                self.expected = Some(descriptor.slot);
                self.model = Some(descriptor.generation);
            }
            Some(Kind::Doorbell) | None => {}
        }
    }

    /// True if a [`Self::task`] other than waiting may be there.
    pub(super) fn has_work(&self) -> bool {
        if self.done {
            return false;
        }
        let whole = |partial: &Partial| self.expected == Some(partial.contributors.len());
        match &self.live {
            Some(live) => !self.pending.is_empty() || whole(live),
            None if self.place.level() == Some(Level::Leaf) => !self.pending.is_empty(),
            // A lone partial waits: for a second one, or for the word that it is all there is.
            None => match self.pending[..] {
                [] => false,
                [lone] => self.expected == Some(lone.contributors),
                _ => true,
            },
        }
    }

    /// What to do next, with at most `limit` inputs. Inputs that are already counted are released.
    pub(super) fn task(&mut self, limit: usize, arena: &Arena) -> Task {
        let limit = if self.singly > 0 { 1 } else { limit };
        if let Some(live) = &self.live
            && self.expected == Some(live.contributors.len())
        {
            return Task::Complete(live.clone());
        }
        let merges = self.place.level() != Some(Level::Leaf);
        // Without an accumulator, a merge continues the first child's partial in place.
        let extra = usize::from(merges && self.live.is_none());
        let mut inputs = self.take_inputs(limit + extra, arena);
        if inputs.is_empty() {
            return Task::Wait;
        }
        if extra == 0 {
            self.singly = self.singly.saturating_sub(inputs.len());
            return Task::Combine {
                previous: self.live.clone(),
                inputs,
            };
        }
        let first = inputs.remove(0);
        let adopted = Partial {
            at: first.at,
            contributors: first.contributors.clone(),
            sequence: 0,
        };
        if inputs.is_empty() {
            if self.expected == Some(adopted.contributors.len()) {
                return Task::Complete(adopted);
            }
            self.pending.push(Pending {
                at: first.at,
                contributors: adopted.contributors.len(),
            });
            return Task::Wait;
        }
        Task::Combine {
            previous: Some(adopted),
            inputs,
        }
    }

    /// How its inputs are combined.
    fn combining(&self) -> Step {
        match self.place.level() {
            Some(Level::Leaf) => Step::Fold,
            _ => Step::Merge,
        }
    }

    /// Puts inputs back, to be taken one at a time.
    pub(super) fn retry_singly(&mut self, inputs: &[Input]) {
        self.singly += inputs.len();
        let again = |input: &Input| Pending {
            at: input.at,
            contributors: input.contributors.len(),
        };
        self.pending.splice(0..0, inputs.iter().map(again));
    }

    /// Takes up to `limit` inputs that are disjoint from each other and from the accumulator.
    fn take_inputs(&mut self, limit: usize, arena: &Arena) -> Vec<Input> {
        let mut counted = self
            .live
            .as_ref()
            .map_or_else(Contributors::default, |live| live.contributors.clone());
        let mut inputs: Vec<Input> = Vec::new();
        while inputs.len() < limit && !self.pending.is_empty() {
            let at = self.pending.remove(0).at;
            let info = arena.info(at.slot);
            let current = info.word.generation == at.generation
                && matches!(info.word.state, State::Ready | State::Sent)
                && info.round == self.round;
            if !current {
                continue;
            }
            let contributors = arena.contributors(at.slot);
            if counted.words().is_empty() {
                counted = Contributors::from_words(vec![0; contributors.words().len()]);
            }
            if !counted.is_disjoint(&contributors) {
                // Folded before its worker died, between the commit and this release. Overlaps are
                // never merged: nobody counts twice.
                arena.release(at.slot, at.generation);
                failpoint::reach(self.combining(), Moment::OverlapReleased);
                continue;
            }
            counted.extend(&contributors);
            inputs.push(Input {
                at,
                weight: info.weight,
                client: info.client,
                contributors,
            });
        }
        inputs
    }
}
