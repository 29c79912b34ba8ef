//! What a worker remembers of one aggregator: slot numbers, nothing else.

use super::failpoint::{self, Moment, Step};
use super::job::content;
use tributary_arena::{Arena, Contributors, SlotIndex, SlotInfo, SlotRef, State};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};
use tributary_wasm::Content;

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
    /// The client's number, if it is an update.
    client: u32,
}

/// An input that is about to be folded or merged.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub at: SlotRef,
    pub weight: f64,
    pub client: u32,
    pub contributors: Contributors,
    pub content: Content,
}

/// In which order a leaf takes its updates.
#[derive(Debug)]
pub(super) enum Order {
    /// As they come.
    Any,
    /// By the clients' numbers, which they got in the order of arrival; an update whose predecessor is still
    /// missing waits. The clients here will not come: the function failed on them.
    Arrival(Contributors),
}

/// Whether work must be done at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Haste {
    Now,
    /// Folding more updates together costs less, and nobody waits for these.
    MayWait,
}

/// One place in the tree, in one round.
#[derive(Debug)]
pub(super) struct Aggregator {
    pub place: Destination,
    pub round: u32,
    /// The committed accumulator.
    pub live: Option<Partial>,
    pending: Vec<Pending>,
    order: Order,
    /// Contributors it must hold before its partial goes on; known once its inputs are complete.
    expected: Option<u32>,
    /// The current model's slot, which the top's finish reads.
    pub model: Option<SlotIndex>,
    /// Its partial has gone on (or its model is made): nothing is left to do in this round.
    pub done: bool,
    /// An input has come in this round.
    begun: bool,
    /// A leaf's: when the first input of the round was sent; taken by the call that reads it.
    pub first_sent_ns: Option<u64>,
    /// Inputs to take one at a time, because taking them together failed.
    pub singly: usize,
    /// Inputs on which the function failed. The agent frees them; until it has, it may send them again.
    refused: Vec<SlotRef>,
    /// Slots were freed of which no step tells.
    freed: bool,
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
    /// An aggregator that knows of nothing yet.
    pub(super) fn new(place: Destination, round: u32, order: Order) -> Self {
        Self {
            place,
            round,
            live: None,
            pending: Vec::new(),
            order,
            expected: None,
            model: None,
            done: false,
            begun: false,
            first_sent_ns: None,
            singly: 0,
            refused: Vec::new(),
            freed: false,
        }
    }

    /// Takes over from a worker that died, if there was one: the accumulator that was committed last is its own.
    pub(super) fn adopt(&mut self, arena: &Arena) {
        failpoint::reach(Step::Adopt, Moment::Begun);
        let mine = |info: &SlotInfo| {
            info.word.state == State::Live
                && info.aggregator == self.place
                && info.round == self.round
        };
        let mut found: Vec<_> = arena.in_use().filter(mine).collect();
        found.sort_by_key(|info| info.sequence);
        self.live = found.pop().map(|info| Partial {
            at: SlotRef {
                slot: info.slot,
                generation: info.word.generation,
            },
            contributors: arena.contributors(info.slot),
            sequence: info.sequence,
        });
        // Its predecessors were merged into it; the worker died before it could release them.
        for superseded in found {
            self.freed |= arena.release(superseded.slot, superseded.word.generation);
            failpoint::reach(Step::Adopt, Moment::SupersededReleased);
        }
        failpoint::reach(Step::Adopt, Moment::Adopted);
    }

    pub(super) fn receive(&mut self, descriptor: &Descriptor, arena: &Arena) {
        match Kind::from_raw(descriptor.kind) {
            Some(Kind::Update | Kind::Partial) => {
                let at = SlotRef {
                    slot: descriptor.slot,
                    generation: descriptor.generation,
                };
                if self.done {
                    self.let_go(at, arena);
                    return;
                }
                if self.refused.contains(&at) {
                    return;
                }
                if !self.pending.iter().any(|pending| pending.at == at) {
                    self.note_first(descriptor);
                    self.wait(Pending {
                        at,
                        contributors: arena.contributors(at.slot).len(),
                        client: arena.info(at.slot).client,
                    });
                }
            }
            Some(Kind::Skip) => self.leave_out(descriptor.slot),
            Some(Kind::Close) => {
                // Refusals make the number smaller, and nothing makes it larger again: of two Closes that have
                // overtaken each other, the smaller one is the later.
                let told = descriptor.slot;
                self.expected = Some(self.expected.map_or(told, |known| known.min(told)));
                self.model = Some(descriptor.generation);
            }
            Some(Kind::Doorbell) | None => {}
        }
    }

    /// The client's update will not come: the function failed on it.
    fn leave_out(&mut self, client: u32) {
        if let Order::Arrival(left_out) = &mut self.order {
            left_out.extend(&Contributors::single(client));
        }
    }

    /// Forgets an input on which the function failed: whoever took it again could fold it, and the book has struck it.
    pub(super) fn refuse(&mut self, input: &Input) {
        self.refused.push(input.at);
        self.leave_out(input.client);
    }

    fn wait(&mut self, input: Pending) {
        let place = match self.order {
            Order::Any => self.pending.len(),
            Order::Arrival(_) => self
                .pending
                .partition_point(|before| before.client < input.client),
        };
        self.pending.insert(place, input);
    }

    /// How many of the inputs that wait may be taken now: they come first in the list.
    fn ready(&self) -> usize {
        let Order::Arrival(left_out) = &self.order else {
            return self.pending.len();
        };
        let mut taken = left_out.clone();
        if let Some(live) = &self.live {
            taken.extend(&live.contributors);
        }
        let comes_next = |pending: &&Pending| {
            // Nobody before it is missing; it may itself be counted already, and is then let go.
            let next = taken.first_missing() >= pending.client;
            taken.extend(&Contributors::single(pending.client));
            next
        };
        self.pending.iter().take_while(comes_next).count()
    }

    fn note_first(&mut self, descriptor: &Descriptor) {
        if !self.begun && self.place.level() == Some(Level::Leaf) {
            self.first_sent_ns = Some(descriptor.sent_ns);
        }
        self.begun = true;
    }

    /// True if a [`Self::task`] other than waiting may be there.
    pub(super) fn has_work(&self) -> bool {
        if self.done {
            return false;
        }
        let whole = |partial: &Partial| self.expected == Some(partial.contributors.len());
        match &self.live {
            Some(live) => self.ready() > 0 || whole(live),
            None if self.place.level() == Some(Level::Leaf) => self.ready() > 0,
            // A lone partial waits: for a second one, or for the word that it is all there is.
            None => match self.pending[..] {
                [] => false,
                [lone] => self.expected == Some(lone.contributors),
                _ => true,
            },
        }
    }

    /// Whether its work may wait until a batch of so many updates is there. The first fold of a round does not:
    /// it makes everything warm. Nor does one of which all inputs have arrived: somebody waits for the model.
    pub(super) fn haste(&self, batch: usize) -> Haste {
        let leaf = self.place.level() == Some(Level::Leaf);
        let few = leaf && self.ready() < batch && self.singly == 0;
        if few && self.live.is_some() && self.expected.is_none() {
            Haste::MayWait
        } else {
            Haste::Now
        }
    }

    /// What to do next, with at most `limit` inputs. Inputs that are already counted are released.
    pub(super) fn task(&mut self, limit: usize, arena: &Arena) -> Task {
        let limit = if self.singly > 0 { 1 } else { limit };
        if let Some(live) = self.live.clone()
            && self.expected == Some(live.contributors.len())
        {
            // What still waits was folded before its worker died. Nobody will look at it again.
            for left in std::mem::take(&mut self.pending) {
                self.let_go(left.at, arena);
            }
            return Task::Complete(live);
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
            self.wait(Pending {
                at: first.at,
                contributors: adopted.contributors.len(),
                client: first.client,
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
        self.put_back(inputs);
    }

    /// Releases an input of which all clients are counted already.
    fn let_go(&mut self, at: SlotRef, arena: &Arena) {
        if self.is_current(at, &arena.info(at.slot)) && counted(at, self.round, arena) {
            self.freed |= arena.release(at.slot, at.generation);
        }
    }

    /// Whether slots were freed since this was asked last, and no step tells of it.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// Whether a slot still holds the input that was announced.
    fn is_current(&self, at: SlotRef, info: &SlotInfo) -> bool {
        info.word.generation == at.generation
            && matches!(info.word.state, State::Ready | State::Sent)
            && info.round == self.round
    }

    /// Whether an aggregator without an accumulator gets an input that went on in a partial long ago: its worker
    /// died before it could release it. Begun anew, it would never be complete, and hold a slot.
    fn counted_elsewhere(&self, at: SlotRef, arena: &Arena) -> bool {
        self.live.is_none() && counted(at, self.round, arena)
    }

    /// Puts a child's partial back.
    pub(super) fn put_back_partial(&mut self, child: &Partial) {
        self.wait(Pending {
            at: child.at,
            contributors: child.contributors.len(),
            client: 0,
        });
    }

    /// Puts inputs back to where they were.
    pub(super) fn put_back(&mut self, inputs: &[Input]) {
        let again = |input: &Input| Pending {
            at: input.at,
            contributors: input.contributors.len(),
            client: input.client,
        };
        self.pending.splice(0..0, inputs.iter().map(again));
    }

    /// Takes up to `limit` of the inputs that are ready, disjoint from each other and from the accumulator.
    fn take_inputs(&mut self, limit: usize, arena: &Arena) -> Vec<Input> {
        let mut counted = self
            .live
            .as_ref()
            .map_or_else(Contributors::default, |live| live.contributors.clone());
        let mut inputs: Vec<Input> = Vec::new();
        // Those that are dropped here make no other one ready.
        for _ in 0..self.ready() {
            if inputs.len() == limit {
                break;
            }
            let at = self.pending.remove(0).at;
            let info = arena.info(at.slot);
            if !self.is_current(at, &info) {
                continue;
            }
            let contributors = arena.contributors(at.slot);
            if !counted.is_disjoint(&contributors) || self.counted_elsewhere(at, arena) {
                // Folded before its worker died, between the commit and this release. Overlaps are
                // never merged: nobody counts twice.
                self.freed |= arena.release(at.slot, at.generation);
                failpoint::reach(self.combining(), Moment::OverlapReleased);
                continue;
            }
            counted.extend(&contributors);
            inputs.push(Input {
                at,
                weight: info.weight,
                client: info.client,
                contributors,
                content: content(&info),
            });
        }
        inputs
    }
}

/// Whether all clients of an input are inside another partial of the round.
fn counted(input: SlotRef, round: u32, arena: &Arena) -> bool {
    let clients = arena.contributors(input.slot);
    let partial = |info: &SlotInfo| {
        matches!(info.word.state, State::Live | State::Sent)
            && info.round == round
            && info.slot != input.slot
    };
    arena.in_use().filter(partial).any(|info| {
        let inside = arena.contributors(info.slot).contains_all(&clients);
        // Unless the slot has changed hands in between.
        inside && arena.info(info.slot).word == info.word
    })
}

#[cfg(test)]
#[path = "aggregator_tests.rs"]
mod tests;
