//! The commit protocol with shadow accumulators: fold A and inputs into B, publish B, release the rest.
//!
//! Two workers, an agent and a gateway as `docs/architecture.md` describes them, in one round. Slots
//! change hands by the real transitions of [`AtomicState`]; what workers and agent do around them
//! follows `runtime/node` (`worker/job.rs`, `worker/aggregator.rs`, `agent.rs`, `job/outcome.rs`).

mod agent;
mod worker;

use super::{Model, Next, explore};
use crate::slot::{AtomicState, Generation, OWNER_AGENT, State, StateWord};
use std::collections::BTreeSet;

/// Clients that there can be.
const CLIENTS: usize = 3;
/// Inputs of one call.
const INPUTS_MAX: usize = 2;
const WORKERS: usize = 2;
/// Slots that the gateway leaves to workers and the model.
const RESERVE: usize = 3;

/// How often each client is in a vector; `None` if it was half written, or read while it changed.
type Content = Option<[u8; CLIENTS]>;
/// A set of clients, as bits.
type Clients = u8;
/// An aggregator's number: children before parents, the top last.
type Place = usize;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    word: StateWord,
    place: Place,
    sequence: u8,
    clients: Clients,
    content: Content,
}

impl Slot {
    fn free() -> Self {
        Self {
            word: AtomicState::new().load(),
            place: 0,
            sequence: 0,
            clients: 0,
            content: None,
        }
    }

    /// Makes one of the real transitions.
    fn change<T>(&mut self, step: impl FnOnce(&AtomicState) -> T) -> T {
        let word = AtomicState::of(self.word);
        let answer = step(&word);
        self.word = word.load();
        answer
    }

    fn is(&self, at: At, states: &[State]) -> bool {
        self.word.generation == at.generation && states.contains(&self.word.state)
    }
}

/// A slot of a certain generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct At {
    slot: usize,
    generation: Generation,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Letter {
    Input(Place, At),
    /// The number of contributors to hold.
    Close(Place, u8),
}

impl Letter {
    fn to(self) -> Place {
        match self {
            Self::Input(place, _) | Self::Close(place, _) => place,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Runs,
    /// Killed, and the agent does not know yet.
    Dead,
    /// The agent has declared it dead, but it runs.
    Stale,
    /// The agent knows; it may start another in its place.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Worker {
    owner: u32,
    life: Life,
    /// Descriptors on their way to it.
    inbox: BTreeSet<Letter>,
    aggregators: Vec<Option<worker::Aggregator>>,
    doing: worker::Doing,
    /// Inputs that it has refused, on their way to the agent, which reads them though it has died.
    refusals: Vec<At>,
}

impl Worker {
    fn new(owner: u32, places: usize) -> Self {
        Self {
            owner,
            life: Life::Runs,
            inbox: BTreeSet::new(),
            aggregators: vec![None; places],
            doing: worker::Doing::Nothing,
            refusals: Vec::new(),
        }
    }
}

/// Everything that is there at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    slots: Vec<Slot>,
    accepted: usize,
    /// Those of them that the agent has struck from the book.
    struck: Clients,
    /// Where the sidecar routes an aggregator's descriptors.
    routes: Vec<Option<usize>>,
    workers: Vec<Worker>,
    next_owner: u32,
    losses_left: u8,
    /// A record is in a ring: of a finish, or of anything when the round is over.
    rung: bool,
    /// The agent has found the model.
    finished: Option<usize>,
    published: bool,
}

/// What the agent may take for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Losses {
    /// Processes that have ended.
    Ended,
    /// Also those that run, as long as they have computed all that they will.
    PastComputing,
    /// Also those that run, whatever they do.
    Anywhere,
}

/// How the protocol may be wrong; the model must notice each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// Who has passed a child's partial on does nothing when it comes again.
    ForgetsPassed,
    /// Inputs are folded although they overlap with what is counted.
    CountsTwice,
    /// What is committed after the round's end is not freed.
    SweepsOnce,
    /// Who refuses an input frees it, before it says so.
    FreesRefused,
    /// Who has refused an input takes it when it comes again.
    ForgetsRefused,
}

/// A tree and what may befall it.
struct Protocol {
    /// The parent of each aggregator but the top.
    parents: Vec<Place>,
    /// The leaf of each update.
    leaves: Vec<Place>,
    slots: usize,
    losses: Losses,
    /// Clients on whose updates the function may fail. It need not: a call also fails when its time is over.
    fallible: Clients,
    /// All updates are in from the start; else they come at any time.
    ready: bool,
    mistake: Mistake,
}

impl Protocol {
    /// Everything before the first update, or, if they are `ready`, when all are in.
    fn start(&self, losses: u8) -> World {
        let places = self.parents.len() + 1;
        let owners = OWNER_AGENT + 1..;
        let mut world = World {
            slots: vec![Slot::free(); self.slots],
            accepted: 0,
            struck: 0,
            routes: vec![None; places],
            workers: owners
                .take(WORKERS)
                .map(|owner| Worker::new(owner, places))
                .collect(),
            next_owner: OWNER_AGENT + 1 + WORKERS as u32,
            losses_left: losses,
            rung: false,
            finished: None,
            published: false,
        };
        while self.ready && world.accepted < self.leaves.len() {
            self.accept(&mut world);
        }
        world
    }

    fn top(&self) -> Place {
        self.parents.len()
    }

    fn is_leaf(&self, place: Place) -> bool {
        !self.parents.contains(&place)
    }

    /// Whether updates at a leaf come under an aggregator.
    fn is_below(&self, leaf: Place, place: Place) -> bool {
        let next = |at: &Place| self.parents.get(*at).copied();
        std::iter::successors(Some(leaf), next).any(|at| at == place)
    }
}

impl Model for Protocol {
    type State = World;

    fn work(&self, world: &World) -> Next<World> {
        let mut next = self.agent(world);
        for worker in 0..WORKERS {
            next.extend(self.worker(world, worker));
        }
        next
    }

    fn crashes(&self, world: &World) -> Next<World> {
        self.losses(world)
    }

    /// What can be read holds exactly the clients that it says, each of them once.
    fn holds(&self, world: &World) -> Result<(), String> {
        for (number, slot) in world.slots.iter().enumerate() {
            let once = |client: usize| slot.clients >> client & 1;
            // Of an epoch that is over nobody reads anything but the model.
            let over = world.published && world.finished != Some(number);
            let readable = !over && !matches!(slot.word.state, State::Free | State::Filling);
            if readable && slot.content != Some(std::array::from_fn(once)) {
                return Err(format!("slot {number} is torn or counts wrongly: {slot:?}"));
            }
        }
        Ok(())
    }

    /// The round has its model, with everybody in it who was not refused, and nothing else is kept.
    fn is_done(&self, world: &World) -> Result<(), String> {
        let everybody = ((1 << self.leaves.len()) - 1) & !world.struck;
        let model = match world.finished {
            Some(model) if world.published => model,
            _ => return Err(format!("the round hangs: {world:?}")),
        };
        if world.slots[model].clients != everybody {
            return Err(format!(
                "somebody is not in the model: {:?}",
                world.slots[model]
            ));
        }
        let kept =
            |(number, slot): &(usize, &Slot)| slot.word.state != State::Free && *number != model;
        match world.slots.iter().enumerate().find(kept) {
            Some((number, slot)) => Err(format!("slot {number} leaks: {slot:?}")),
            None => Ok(()),
        }
    }
}

/// One leaf of three updates, and the top that finishes its partial.
fn chain(losses: Losses) -> Protocol {
    Protocol {
        parents: vec![1],
        leaves: vec![0, 0, 0],
        slots: 6,
        losses,
        fallible: 0,
        ready: false,
        mistake: Mistake::None,
    }
}

/// The same with two updates, which are there from the start.
fn recovering() -> Protocol {
    Protocol {
        leaves: vec![0, 0],
        ready: true,
        ..chain(Losses::Ended)
    }
}

/// The same, of which one may be refused.
fn refusing() -> Protocol {
    Protocol {
        fallible: 0b10,
        ..recovering()
    }
}

/// Two leaves that are merged, and the top.
fn merging(losses: Losses) -> Protocol {
    Protocol {
        parents: vec![2, 2],
        leaves: vec![0, 1],
        slots: 6,
        losses,
        fallible: 0,
        ready: true,
        mistake: Mistake::None,
    }
}

/// A leaf under a middle that passes its only partial on, and a leaf at the top, which merges. In this
/// order of updates the two workers share the places so that middle and top are apart.
fn passing(losses: Losses) -> Protocol {
    Protocol {
        parents: vec![2, 3, 3],
        leaves: vec![1, 0],
        slots: 6,
        losses,
        fallible: 0,
        ready: true,
        mistake: Mistake::None,
    }
}

fn check(protocol: &Protocol, losses: u8) {
    let found = explore(protocol, protocol.start(losses));
    let enough = found.as_ref().is_ok_and(|states| *states > 1000);
    assert!(enough, "{}", found.err().unwrap_or_default());
}

#[test]
fn folds_survive_a_crash_at_any_step() {
    check(&chain(Losses::Ended), 1);
}

#[test]
fn merges_survive_a_crash_at_any_step() {
    check(&merging(Losses::Ended), 1);
}

#[test]
fn passed_partials_survive_a_crash_at_any_step() {
    check(&passing(Losses::Ended), 1);
}

/// The second worker may die of what the first has left, and a third takes over.
#[test]
fn recovery_survives_a_crash_at_any_step() {
    check(&recovering(), 2);
}

/// Also by a second one, and whether or not the function fails on the update again.
#[test]
fn refusals_survive_a_crash_at_any_step() {
    check(&refusing(), 2);
}

/// The model is worth something: it notices what the protocol must not do.
#[test]
fn every_mistake_in_the_protocol_is_noticed() {
    let noticed = |mistake, protocol: Protocol, losses| {
        let protocol = Protocol {
            mistake,
            ..protocol
        };
        explore(&protocol, protocol.start(losses)).is_err()
    };
    assert!(noticed(Mistake::ForgetsPassed, passing(Losses::Ended), 1));
    assert!(noticed(Mistake::CountsTwice, merging(Losses::Ended), 1));
    assert!(noticed(Mistake::SweepsOnce, recovering(), 2));
    assert!(noticed(Mistake::FreesRefused, refusing(), 1));
    assert!(noticed(Mistake::ForgetsRefused, refusing(), 1));
}

/// A worker that was declared dead and has nothing more to write but state words: its commit fails, or
/// was in time; what it still releases is recognised by its generation.
#[test]
fn a_slow_worker_past_its_computation_is_harmless() {
    check(&merging(Losses::PastComputing), 1);
}

/// Why the agent takes a worker's slots back only when its process has ended: one that still writes
/// writes into a slot that is another's by then.
#[test]
fn a_worker_that_can_still_write_must_not_be_taken_for_dead() {
    let protocol = chain(Losses::Anywhere);
    assert!(explore(&protocol, protocol.start(1)).is_err());
}
