//! A slot's state word: the one place where a slot changes hands.
//!
//! ```text
//!            claim                 publish               release
//!   Free ------------> Filling ---------------> Ready ------------> Free (generation + 1)
//!    ^  (an owner)        |  \                  an update that waits for its fold
//!    |     abandon,       |   \   commit
//!    +---- recover -------+    +-----------> Live ------> Sent ----> Free
//!                               \            an           a complete partial that
//!                                \           accumulator  waits for its parent's merge
//!                                 +--------> Model -----> Free
//!                                   publish  the round's result
//! ```
//!
//! The generation grows each time a slot becomes free: a descriptor names slot *and* generation,
//! so one that arrives late can never touch the slot's next content.

use crate::sync::{AtomicU64, Ordering};

/// Number of a slot in its arena.
pub type SlotIndex = u32;
/// How often a slot has been freed.
pub type Generation = u32;
/// The process that fills a slot: [`OWNER_AGENT`] or a worker's number; 24 bits.
pub type Owner = u32;
/// The agent and its gateway.
pub const OWNER_AGENT: Owner = 1;
/// The last number: owners have 24 bits.
pub const OWNER_MAX: Owner = (1 << 24) - 1;

/// What a slot is used for, from claim to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Nobody's; may be claimed.
    Free = 0,
    /// Being written by its owner; worthless if the owner dies.
    Filling = 1,
    /// A complete update that waits for its fold.
    Ready = 2,
    /// The committed accumulator of an aggregator.
    Live = 3,
    /// A complete partial that waits for its parent's merge.
    Sent = 4,
    /// A finished model.
    Model = 5,
}

impl State {
    fn from_bits(bits: u64) -> Self {
        match bits & 0xff {
            1 => Self::Filling,
            2 => Self::Ready,
            3 => Self::Live,
            4 => Self::Sent,
            5 => Self::Model,
            // Only this crate writes state words; an unknown one can only be a free slot of a newer
            // layout, which the layout hash keeps away.
            _ => Self::Free,
        }
    }
}

/// What kind of content a slot was claimed for; kept beside the state for inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A client's update.
    Update = 1,
    /// A partial aggregate.
    Partial = 2,
    /// A model.
    Model = 3,
}

/// A decoded state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateWord {
    /// The slot's state.
    pub state: State,
    /// Who fills it; meaningful in [`State::Filling`] only.
    pub owner: Owner,
    /// How often the slot was freed.
    pub generation: Generation,
}

impl StateWord {
    /// The next generation's beginning.
    fn freed(self) -> Self {
        Self {
            state: State::Free,
            owner: 0,
            generation: self.generation.wrapping_add(1),
        }
    }

    fn bits(self) -> u64 {
        (self.state as u64)
            | (u64::from(self.owner & 0x00ff_ffff) << 8)
            | (u64::from(self.generation) << 32)
    }

    fn from_bits(bits: u64) -> Self {
        Self {
            state: State::from_bits(bits),
            owner: ((bits >> 8) & 0x00ff_ffff) as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// The atomic word itself. In shared memory; all zero bytes = free, generation 0.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct AtomicState(AtomicU64);

impl AtomicState {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn of(word: StateWord) -> Self {
        Self(AtomicU64::new(word.bits()))
    }

    pub(crate) fn load(&self) -> StateWord {
        // SYNC POINT: pairs with the release in `step`: who sees a state sees what was written
        // before it was entered.
        StateWord::from_bits(self.0.load(Ordering::Acquire))
    }

    fn step(&self, from: StateWord, to: StateWord) -> bool {
        // SYNC POINT: release what the old holder wrote, acquire what it had published.
        self.0
            .compare_exchange(from.bits(), to.bits(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Free -> Filling by `owner`. Gives the claimed generation.
    pub(crate) fn claim(&self, owner: Owner) -> Option<Generation> {
        let word = self.load();
        if word.state != State::Free {
            return None;
        }
        let claimed = StateWord {
            state: State::Filling,
            owner,
            ..word
        };
        self.step(word, claimed).then_some(word.generation)
    }

    /// Filling (of `owner`) -> `to`. The publishing or committing store.
    pub(crate) fn publish(&self, owner: Owner, generation: Generation, to: State) -> bool {
        let from = StateWord {
            state: State::Filling,
            owner,
            generation,
        };
        self.step(
            from,
            StateWord {
                state: to,
                owner: 0,
                generation,
            },
        )
    }

    /// Live -> Sent.
    pub(crate) fn send_on(&self, generation: Generation) -> bool {
        let from = StateWord {
            state: State::Live,
            owner: 0,
            generation,
        };
        self.step(
            from,
            StateWord {
                state: State::Sent,
                owner: 0,
                generation,
            },
        )
    }

    /// Any state of this generation -> Free, one generation on. False if it was released before.
    pub(crate) fn release(&self, generation: Generation) -> bool {
        let mut word = self.load();
        while word.generation == generation && word.state != State::Free {
            if self.step(word, word.freed()) {
                return true;
            }
            word = self.load();
        }
        false
    }

    /// Takes the slot back if the dead `owner` was filling it. From exactly that word: what the owner
    /// has published in the meantime (it was not dead after all) is no longer its to lose.
    pub(crate) fn recover(&self, owner: Owner) -> bool {
        let word = self.load();
        word.state == State::Filling && word.owner == owner && self.step(word, word.freed())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Claim(u32),
        Publish(u32, u8),
        SendOn,
        Release,
        ReleaseStale,
        Recover(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1u32..4).prop_map(Step::Claim),
            (1u32..4, 2u8..6).prop_map(|(o, s)| Step::Publish(o, s)),
            Just(Step::SendOn),
            Just(Step::Release),
            Just(Step::ReleaseStale),
            (1u32..4).prop_map(Step::Recover),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a plain model: only the drawn arrows exist, and generations never go back.
        #[test]
        fn only_the_drawn_transitions_happen(steps in steps()) {
            let slot = AtomicState::new();
            let mut model = StateWord { state: State::Free, owner: 0, generation: 0 };
            for step in steps {
                let before = model;
                let done = match step {
                    Step::Claim(owner) => {
                        if model.state == State::Free { model = StateWord { state: State::Filling, owner, ..model }; }
                        slot.claim(owner).is_some()
                    }
                    Step::Publish(owner, to) => {
                        let to = State::from_bits(u64::from(to));
                        if model.state == State::Filling && model.owner == owner {
                            model = StateWord { state: to, owner: 0, ..model };
                        }
                        slot.publish(owner, before.generation, to)
                    }
                    Step::SendOn => {
                        if model.state == State::Live { model.state = State::Sent; }
                        slot.send_on(before.generation)
                    }
                    Step::Release => {
                        if model.state != State::Free {
                            model = StateWord { state: State::Free, owner: 0, generation: model.generation + 1 };
                        }
                        slot.release(before.generation)
                    }
                    Step::ReleaseStale => slot.release(before.generation.wrapping_sub(1)),
                    Step::Recover(owner) => {
                        if model.state == State::Filling && model.owner == owner {
                            model = StateWord { state: State::Free, owner: 0, generation: model.generation + 1 };
                        }
                        slot.recover(owner)
                    }
                };
                prop_assert_eq!(slot.load(), model);
                prop_assert_eq!(done, before != model);
            }
        }
    }

    #[test]
    fn words_survive_encoding() {
        for state in [
            State::Free,
            State::Filling,
            State::Ready,
            State::Live,
            State::Sent,
            State::Model,
        ] {
            let word = StateWord {
                state,
                owner: 0x00ab_cdef,
                generation: u32::MAX,
            };
            assert_eq!(StateWord::from_bits(word.bits()), word);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Two processes race for one slot: exactly one wins.
    #[test]
    fn loom_claim_is_exclusive() {
        loom::model(|| {
            let slot = Arc::new(AtomicState::new());
            let other = slot.clone();
            let racer = thread::spawn(move || other.claim(2).is_some());
            let mine = slot.claim(1).is_some();
            let theirs = racer.join().unwrap();
            assert!(mine ^ theirs);
        });
    }

    /// What is written before `publish` is seen by whoever sees the published state.
    #[test]
    fn loom_publish_releases_the_content() {
        loom::model(|| {
            let slot = Arc::new(AtomicState::new());
            let content = Arc::new(AtomicU64::new(0));
            let (s, c) = (slot.clone(), content.clone());
            let writer = thread::spawn(move || {
                let generation = s.claim(1).unwrap();
                c.store(7, Ordering::Relaxed);
                assert!(s.publish(1, generation, State::Ready));
            });
            if slot.load().state == State::Ready {
                assert_eq!(content.load(Ordering::Relaxed), 7);
            }
            writer.join().unwrap();
        });
    }

    /// A late worker commits while the agent recovers its slot: one of both happens, not a mix.
    #[test]
    fn loom_recover_against_commit() {
        loom::model(|| {
            let slot = Arc::new(AtomicState::new());
            let generation = slot.claim(2).unwrap();
            let worker = slot.clone();
            let commit = thread::spawn(move || worker.publish(2, generation, State::Live));
            let recovered = slot.recover(2);
            let committed = commit.join().unwrap();
            assert!(committed ^ recovered);
            let expected = if committed { State::Live } else { State::Free };
            assert_eq!(slot.load().state, expected);
        });
    }

    /// Two releases of one generation: the slot is freed once, so nobody's new claim is lost.
    #[test]
    fn loom_release_happens_once() {
        loom::model(|| {
            let slot = Arc::new(AtomicState::new());
            let generation = slot.claim(1).unwrap();
            assert!(slot.publish(1, generation, State::Ready));
            let other = slot.clone();
            let racer = thread::spawn(move || other.release(generation));
            let mine = slot.release(generation);
            assert!(mine ^ racer.join().unwrap());
            assert_eq!(slot.load().generation, generation + 1);
        });
    }

    /// A worker sends its partial on while the agent sweeps the round: the slot ends free, once.
    #[test]
    fn loom_send_on_against_sweep() {
        loom::model(|| {
            let slot = Arc::new(AtomicState::new());
            let generation = slot.claim(2).unwrap();
            assert!(slot.publish(2, generation, State::Live));
            let worker = slot.clone();
            let sending = thread::spawn(move || worker.send_on(generation));
            assert!(slot.release(generation));
            sending.join().unwrap();
            let word = slot.load();
            assert_eq!((word.state, word.generation), (State::Free, generation + 1));
        });
    }

    /// The commit protocol: a reader that finds accumulator B committed finds its contributors,
    /// and as long as it does not, A and the input are still there.
    #[test]
    fn loom_commit_before_release() {
        loom::model(|| {
            let a = Arc::new(AtomicState::new());
            let b = Arc::new(AtomicState::new());
            let input = Arc::new(AtomicState::new());
            let contributors_b = Arc::new(AtomicU64::new(0));
            for (slot, state) in [(&a, State::Live), (&input, State::Ready)] {
                let generation = slot.claim(1).unwrap();
                assert!(slot.publish(1, generation, state));
            }
            let (wa, wb, wi, wc) = (a.clone(), b.clone(), input.clone(), contributors_b.clone());
            let worker = thread::spawn(move || {
                let generation = wb.claim(2).unwrap();
                wc.store(0b11, Ordering::Relaxed);
                assert!(wb.publish(2, generation, State::Live));
                assert!(wi.release(0));
                assert!(wa.release(0));
            });
            // A recovery that looks in the opposite order of the releases.
            let a_is_free = a.load().state == State::Free;
            let input_is_free = input.load().state == State::Free;
            let b_is_live = b.load().state == State::Live;
            if a_is_free || input_is_free {
                assert!(b_is_live);
            }
            if b_is_live {
                assert_eq!(contributors_b.load(Ordering::Relaxed), 0b11);
            }
            worker.join().unwrap();
        });
    }
}
