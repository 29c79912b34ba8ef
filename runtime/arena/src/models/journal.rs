//! The in-place protocol: A is changed where it lies, chunk by chunk, and a journal holds the image of
//! the chunk under way.
//!
//! Whoever takes the aggregator over finishes the step from the journal, and may crash in turn.

use super::{Model, Next, explore};

const CHUNKS: usize = 2;
const INPUTS: usize = 2;

/// What is in memory at a chunk's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Content {
    /// Half written, or made from such.
    Torn,
    /// The step was applied so many times.
    Applied(u8),
}

/// The journal's word: the commit point is its change to `Committed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Running,
    /// With the union of the contributors.
    Committed,
}

/// The next operation of whoever works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    /// Look at the journal, as one who takes over.
    Recover,
    /// Set both counters to zero and note which A and which inputs, before `Running` says so.
    Prepare,
    Begin,
    /// The first half of copying a chunk.
    Copy(usize),
    Copied(usize),
    CountSaved(usize),
    /// The first half of folding image and inputs into A.
    Fold(usize),
    Folded(usize),
    CountDone(usize),
    Commit,
    WriteHeader,
    Release(usize),
    End,
    /// Nothing: the step is done.
    Rest,
}

/// How a journal's code may be wrong; the model must notice each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The counter says that the image is saved before it is.
    CountsBeforeCopying,
    /// A successor folds a chunk again out of A instead of its image.
    FoldsOutOfA,
    /// Inputs are released before the last chunk is counted.
    ReleasesEarly,
    /// The header is left to be written after the journal is idle.
    EndsBeforeHeader,
    /// The counters of the last step are left when the journal says Running.
    KeepsCounters,
    /// A successor begins with the chunk after the last that is saved.
    TrustsSaved,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    a: [Content; CHUNKS],
    image: Content,
    saved: usize,
    done: usize,
    phase: Phase,
    header_is_union: bool,
    input_is_free: [bool; INPUTS],
    next: Operation,
    crashes_left: u8,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Recover => "recover",
            Self::Prepare => "prepare",
            Self::Begin => "begin",
            Self::Copy(_) => "copy",
            Self::Copied(_) => "copied",
            Self::CountSaved(_) => "count saved",
            Self::Fold(_) => "fold",
            Self::Folded(_) => "folded",
            Self::CountDone(_) => "count done",
            Self::Commit => "commit",
            Self::WriteHeader => "write header",
            Self::Release(_) => "release",
            Self::End => "end",
            Self::Rest => "rest",
        }
    }
}

struct Journal {
    mistake: Mistake,
}

impl Journal {
    fn start(crashes: u8) -> State {
        State {
            a: [Content::Applied(0); CHUNKS],
            image: Content::Torn,
            // What the step before has left.
            saved: CHUNKS,
            done: CHUNKS,
            phase: Phase::Idle,
            header_is_union: false,
            input_is_free: [false; INPUTS],
            next: Operation::Prepare,
            crashes_left: crashes,
        }
    }

    fn chunk(&self, chunk: usize) -> Operation {
        match (chunk == CHUNKS, self.mistake) {
            (true, _) => Operation::Commit,
            (false, Mistake::CountsBeforeCopying) => Operation::CountSaved(chunk),
            (false, _) => Operation::Copy(chunk),
        }
    }

    /// Where a successor goes on.
    fn recover(&self, state: &State) -> Operation {
        match state.phase {
            // Nothing was changed: the step is made anew, unless the header says it is done.
            Phase::Idle if state.header_is_union => Operation::Rest,
            Phase::Idle => Operation::Prepare,
            Phase::Committed => Operation::WriteHeader,
            Phase::Running if self.mistake == Mistake::TrustsSaved => self.chunk(state.saved),
            Phase::Running if state.done == CHUNKS => self.chunk(CHUNKS),
            Phase::Running if state.saved > state.done => Operation::Fold(state.done),
            Phase::Running => self.chunk(state.done),
        }
    }

    fn run(&self, s: &mut State) -> Operation {
        use Operation as Op;
        match s.next {
            Op::Recover => self.recover(s),
            Op::Prepare => {
                if self.mistake != Mistake::KeepsCounters {
                    (s.saved, s.done) = (0, 0);
                }
                Op::Begin
            }
            Op::Begin => {
                s.phase = Phase::Running;
                self.chunk(0)
            }
            Op::Copy(chunk) => {
                s.image = Content::Torn;
                Op::Copied(chunk)
            }
            Op::Copied(chunk) => {
                s.image = s.a[chunk];
                match self.mistake {
                    Mistake::CountsBeforeCopying => Op::Fold(chunk),
                    _ => Op::CountSaved(chunk),
                }
            }
            Op::CountSaved(chunk) => {
                s.saved = chunk + 1;
                match self.mistake {
                    Mistake::CountsBeforeCopying => Op::Copy(chunk),
                    _ => Op::Fold(chunk),
                }
            }
            Op::Fold(chunk) => {
                if self.mistake == Mistake::FoldsOutOfA {
                    s.image = s.a[chunk];
                }
                s.a[chunk] = Content::Torn;
                Op::Folded(chunk)
            }
            Op::Folded(chunk) => {
                let whole = s.input_is_free == [false; INPUTS];
                s.a[chunk] = match s.image {
                    Content::Applied(times) if whole => Content::Applied(times + 1),
                    _ => Content::Torn,
                };
                match self.mistake {
                    Mistake::ReleasesEarly if chunk + 1 == CHUNKS => Op::Release(0),
                    _ => Op::CountDone(chunk),
                }
            }
            Op::CountDone(chunk) => {
                s.done = chunk + 1;
                self.chunk(chunk + 1)
            }
            Op::Commit => {
                s.phase = Phase::Committed;
                match self.mistake {
                    Mistake::EndsBeforeHeader => Op::End,
                    _ => Op::WriteHeader,
                }
            }
            Op::WriteHeader => {
                s.header_is_union = true;
                Op::Release(0)
            }
            Op::Release(input) => {
                s.input_is_free[input] = true;
                match (input + 1 < INPUTS, self.mistake) {
                    (true, _) => Op::Release(input + 1),
                    (false, Mistake::ReleasesEarly) if s.done < CHUNKS => Op::CountDone(CHUNKS - 1),
                    (false, Mistake::EndsBeforeHeader) => Op::Rest,
                    (false, _) => Op::End,
                }
            }
            Op::End => {
                s.phase = Phase::Idle;
                match self.mistake {
                    Mistake::EndsBeforeHeader => Op::WriteHeader,
                    _ => Op::Rest,
                }
            }
            Op::Rest => Op::Rest,
        }
    }
}

impl Model for Journal {
    type State = State;

    fn work(&self, state: &State) -> Next<State> {
        if state.next == Operation::Rest {
            return Vec::new();
        }
        let mut next = state.clone();
        next.next = self.run(&mut next);
        vec![((state.next.name(), [0; 2]), next)]
    }

    fn crashes(&self, state: &State) -> Next<State> {
        if state.crashes_left == 0 {
            return Vec::new();
        }
        let next = State {
            crashes_left: state.crashes_left - 1,
            next: Operation::Recover,
            ..state.clone()
        };
        vec![(("a crash before that", [0; 2]), next)]
    }

    /// Whoever looks at A while the journal is idle sees one accumulator, and the contributors that are
    /// in it; and an input is let go only when it is in.
    fn holds(&self, state: &State) -> Result<(), String> {
        let applied = Content::Applied(u8::from(state.header_is_union));
        if state.phase == Phase::Idle && state.a != [applied; CHUNKS] {
            return Err(format!("A is not what its header says: {state:?}"));
        }
        if state.phase != Phase::Idle || state.header_is_union {
            return Ok(());
        }
        if state.input_is_free == [false; INPUTS] {
            Ok(())
        } else {
            Err(format!("an input is lost: {state:?}"))
        }
    }

    fn is_done(&self, state: &State) -> Result<(), String> {
        let once = state.a == [Content::Applied(1); CHUNKS] && state.header_is_union;
        if once && state.phase == Phase::Idle && state.input_is_free == [true; INPUTS] {
            Ok(())
        } else {
            Err(format!("the step is not done once: {state:?}"))
        }
    }
}

/// With crashes before any operation, also of those who recover: one application, exactly once.
#[test]
fn a_step_in_place_is_applied_exactly_once() {
    let model = Journal {
        mistake: Mistake::None,
    };
    let states = explore(&model, Journal::start(4)).unwrap();
    assert!(states > 100, "{states}");
}

/// The model is worth something: it notices what a journal must not do.
#[test]
fn every_mistake_in_the_journal_is_noticed() {
    for mistake in [
        Mistake::CountsBeforeCopying,
        Mistake::FoldsOutOfA,
        Mistake::ReleasesEarly,
        Mistake::EndsBeforeHeader,
        Mistake::KeepsCounters,
        Mistake::TrustsSaved,
    ] {
        let found = explore(&Journal { mistake }, Journal::start(2));
        assert!(found.is_err(), "{mistake:?} is not noticed");
    }
}
