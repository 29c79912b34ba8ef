//! What a worker does, one operation that others can see at a time.

use super::{
    At, CLIENTS, Clients, Content, INPUTS_MAX, Letter, Life, Mistake, Next, Place, Protocol, World,
};
use crate::models::What;
use crate::slot::State;

/// A partial, as a worker remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Partial {
    at: At,
    clients: Clients,
    sequence: u8,
}

/// What a worker remembers of an aggregator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Aggregator {
    live: Option<Partial>,
    pending: Vec<At>,
    expected: Option<u8>,
    done: bool,
    /// Inputs to take one at a time, because the call with all of them failed.
    singly: usize,
    refused: Vec<At>,
}

/// The next operation of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Claim,
    /// Begin to read and write: B is torn.
    Compute,
    /// Write the rest of B, and its header.
    Write,
    Publish,
    /// So many inputs are released.
    Release(usize),
    ReleasePrevious,
    Record,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Claim => "claims B: worker, place",
            Self::Compute => "computes: worker, place",
            Self::Write => "has written B: worker, place",
            Self::Publish => "publishes B: worker, place",
            Self::Release(_) => "releases an input: worker, place",
            Self::ReleasePrevious => "releases A: worker, place",
            Self::Record => "records: worker, place",
        }
    }
}

/// A fold, merge or finish under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Step {
    place: Place,
    previous: Option<Partial>,
    inputs: Vec<At>,
    clients: Clients,
    pub(super) next: Operation,
    output: Option<At>,
    sum: Content,
}

impl Step {
    /// What comes when so many inputs are released.
    fn after_inputs(&self, released: usize) -> Operation {
        match &self.previous {
            _ if released < self.inputs.len() => Operation::Release(released),
            Some(_) => Operation::ReleasePrevious,
            None => Operation::Record,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    Nothing,
    Step(Step),
    /// The partial is about to become Sent.
    Send(Place, Partial),
    /// Its descriptor is about to go out.
    Tell(Place, At),
    /// The agent is about to be told of a refused input.
    Refuse(Place, At),
}

impl Protocol {
    /// What a worker can do next.
    pub(super) fn worker(&self, world: &World, w: usize) -> Next<World> {
        let worker = &world.workers[w];
        if !matches!(worker.life, Life::Runs | Life::Stale) {
            return Vec::new();
        }
        let mut next = world.clone();
        match worker.doing.clone() {
            Doing::Nothing if worker.life == Life::Stale => {
                // Its sockets are closed.
                next.workers[w].life = Life::Gone;
                vec![(("a stale worker ends", [w, 0]), next)]
            }
            Doing::Nothing => self.choices(world, w),
            Doing::Step(step) => {
                let told = (step.next.name(), [w, step.place]);
                let fails = self.fail(world, w, &step);
                let went = self.operate(&mut next, w, step);
                went.then_some((told, next))
                    .into_iter()
                    .chain(fails)
                    .collect()
            }
            Doing::Send(place, partial) => {
                let sent = next.slots[partial.at.slot].change(|s| s.send_on(partial.at.generation));
                next.workers[w].doing = Doing::Tell(place, partial.at);
                // What was passed on may have to be passed on again.
                if let Some(aggregator) = &mut next.workers[w].aggregators[place] {
                    let done = sent || self.mistake == Mistake::ForgetsPassed;
                    (aggregator.live, aggregator.done) = (None, done);
                }
                vec![(("sends on: worker, place", [w, place]), next)]
            }
            Doing::Tell(place, at) => {
                next.workers[w].doing = Doing::Nothing;
                self.route(&mut next, Letter::Input(self.parents[place], at));
                vec![(("tells the parent: worker, place", [w, place]), next)]
            }
            Doing::Refuse(place, at) => {
                next.workers[w].doing = Doing::Nothing;
                next.workers[w].refusals.push(at);
                vec![(
                    ("tells the agent of a refusal: worker, place", [w, place]),
                    next,
                )]
            }
        }
    }

    /// The call fails: several inputs are taken one at a time, a single one is refused.
    fn fail(&self, world: &World, w: usize, step: &Step) -> Option<(What, World)> {
        let output = step.output.filter(|_| step.next == Operation::Compute)?;
        let inputs = step.inputs.iter();
        let clients = inputs.fold(0, |all, at| all | world.slots[at.slot].clients);
        if !self.is_leaf(step.place) || clients & self.fallible == 0 {
            return None;
        }
        let mut next = world.clone();
        next.slots[output.slot].change(|s| s.release(output.generation));
        let worker = &mut next.workers[w];
        let aggregator = worker.aggregators[step.place].as_mut()?;
        worker.doing = match step.inputs[..] {
            [only] => {
                if self.mistake != Mistake::ForgetsRefused {
                    aggregator.refused.push(only);
                }
                if self.mistake == Mistake::FreesRefused {
                    next.slots[only.slot].change(|s| s.release(only.generation));
                }
                Doing::Refuse(step.place, only)
            }
            _ => {
                aggregator.singly += step.inputs.len();
                aggregator.pending.splice(0..0, step.inputs.iter().copied());
                Doing::Nothing
            }
        };
        Some((("fails: worker, place", [w, step.place]), next))
    }

    fn choices(&self, world: &World, w: usize) -> Next<World> {
        let mut all = Vec::new();
        // One order of reading is enough: how late each arrives differs all the same.
        if let Some(letter) = world.workers[w].inbox.first() {
            let mut next = world.clone();
            read(&mut next, w, *letter);
            all.push((
                ("reads a descriptor: worker, place", [w, letter.to()]),
                next,
            ));
        }
        for place in 0..=self.top() {
            if self.has_work(world, w, place) {
                let mut next = world.clone();
                self.begin(&mut next, w, place);
                all.push((("begins: worker, place", [w, place]), next));
            }
        }
        all
    }

    fn has_work(&self, world: &World, w: usize, place: Place) -> bool {
        let Some(aggregator) = &world.workers[w].aggregators[place] else {
            return false;
        };
        let whole = |clients: Clients| aggregator.expected == Some(clients.count_ones() as u8);
        match (&aggregator.live, &aggregator.pending[..]) {
            _ if aggregator.done => false,
            (Some(live), pending) => !pending.is_empty() || whole(live.clients),
            (None, pending) if self.is_leaf(place) => !pending.is_empty(),
            (None, []) => false,
            (None, [lone]) => whole(world.slots[lone.slot].clients),
            (None, _) => true,
        }
    }

    /// Chooses inputs, or sends on; or releases one input that is counted already.
    fn begin(&self, world: &mut World, w: usize, place: Place) {
        let Some(mut aggregator) = world.workers[w].aggregators[place].clone() else {
            return;
        };
        let expected = aggregator.expected;
        let whole = |partial: &Partial| expected == Some(partial.clients.count_ones() as u8);
        if let Some(live) = aggregator.live.clone().filter(whole) {
            world.workers[w].doing = self.complete(place, live);
            return;
        }
        let adopts = !self.is_leaf(place) && aggregator.live.is_none();
        let most = if aggregator.singly > 0 { 1 } else { INPUTS_MAX };
        let before = aggregator.live.as_ref().map_or(0, |live| live.clients);
        let mut clients = before;
        let mut inputs = Vec::new();
        while inputs.len() < most + usize::from(adopts) && !aggregator.pending.is_empty() {
            let at = aggregator.pending.remove(0);
            let elsewhere =
                aggregator.live.is_none() && is_counted(world, at, &[State::Live, State::Sent]);
            let slot = &mut world.slots[at.slot];
            if !slot.is(at, &[State::Ready, State::Sent]) {
                continue;
            }
            let counted = slot.clients & clients != 0 || elsewhere;
            if counted && self.mistake != Mistake::CountsTwice {
                slot.change(|s| s.release(at.generation));
                aggregator.pending.splice(0..0, inputs);
                world.workers[w].aggregators[place] = Some(aggregator);
                return;
            }
            clients |= slot.clients;
            inputs.push(at);
        }
        aggregator.singly = aggregator.singly.saturating_sub(inputs.len());
        let mut previous = aggregator.live.clone();
        if adopts && !inputs.is_empty() {
            let at = inputs.remove(0);
            let first = Partial {
                at,
                clients: world.slots[at.slot].clients,
                sequence: 0,
            };
            if inputs.is_empty() && whole(&first) {
                world.workers[w].aggregators[place] = Some(aggregator);
                world.workers[w].doing = self.complete(place, first);
                return;
            }
            if inputs.is_empty() {
                aggregator.pending.push(at);
            }
            previous = Some(first);
        }
        world.workers[w].aggregators[place] = Some(aggregator);
        if !inputs.is_empty() {
            world.workers[w].doing = step(place, previous, inputs, clients);
        }
    }

    fn complete(&self, place: Place, partial: Partial) -> Doing {
        if place == self.top() {
            let clients = partial.clients;
            step(place, Some(partial), Vec::new(), clients)
        } else {
            Doing::Send(place, partial)
        }
    }

    /// One operation of a step. False if it has to wait.
    fn operate(&self, world: &mut World, w: usize, mut step: Step) -> bool {
        let owner = world.workers[w].owner;
        let is_finish = step.inputs.is_empty();
        match (step.next, step.output) {
            (Operation::Claim, _) => {
                let free = world
                    .slots
                    .iter()
                    .position(|slot| slot.word.state == State::Free);
                let Some(slot) = free else { return false };
                let generation = world.slots[slot].change(|s| s.claim(owner));
                step.output = generation.map(|generation| At { slot, generation });
                step.next = Operation::Compute;
            }
            // Not guarded by anything: who claims a slot owns its bytes.
            (Operation::Compute, Some(output)) => {
                world.slots[output.slot].content = None;
                step.sum = sum(world, &step);
                step.next = Operation::Write;
            }
            (Operation::Write, Some(output)) => {
                let unchanged = sum(world, &step) == step.sum;
                let slot = &mut world.slots[output.slot];
                slot.content = step.sum.filter(|_| unchanged);
                (slot.place, slot.clients) = (step.place, step.clients);
                slot.sequence = step.previous.as_ref().map_or(0, |p| p.sequence) + 1;
                step.next = Operation::Publish;
            }
            (Operation::Publish, Some(output)) => {
                let to = if is_finish { State::Model } else { State::Live };
                let slot = &mut world.slots[output.slot];
                if !slot.change(|s| s.publish(owner, output.generation, to)) {
                    world.workers[w].life = Life::Gone;
                    world.workers[w].doing = Doing::Nothing;
                    return true;
                }
                step.next = step.after_inputs(0);
            }
            (Operation::Release(number), _) => {
                let at = step.inputs[number];
                world.slots[at.slot].change(|s| s.release(at.generation));
                step.next = step.after_inputs(number + 1);
            }
            (Operation::ReleasePrevious, _) => {
                if let Some(Partial { at, .. }) = step.previous {
                    world.slots[at.slot].change(|s| s.release(at.generation));
                }
                step.next = Operation::Record;
            }
            (Operation::Record, Some(at)) => {
                // Other records matter only when they come late.
                world.rung |= is_finish || world.published;
                let sequence = world.slots[at.slot].sequence;
                if let Some(aggregator) = &mut world.workers[w].aggregators[step.place] {
                    aggregator.done = is_finish;
                    let live = Partial {
                        at,
                        clients: step.clients,
                        sequence,
                    };
                    aggregator.live = (!is_finish).then_some(live);
                }
                world.workers[w].doing = Doing::Nothing;
                return true;
            }
            (_, None) => return false,
        }
        world.workers[w].doing = Doing::Step(step);
        true
    }
}

fn step(place: Place, previous: Option<Partial>, inputs: Vec<At>, clients: Clients) -> Doing {
    Doing::Step(Step {
        place,
        previous,
        inputs,
        clients,
        next: Operation::Claim,
        output: None,
        sum: None,
    })
}

/// Whether all clients of an input are inside another slot of these states: its worker died before it could release it.
pub(super) fn is_counted(world: &World, input: At, states: &[State]) -> bool {
    let clients = world.slots[input.slot].clients;
    let others = world.slots.iter().enumerate();
    let mut partials =
        others.filter(|(slot, info)| *slot != input.slot && states.contains(&info.word.state));
    partials.any(|(_, info)| info.clients & clients == clients)
}

/// What a step reads; `None` as soon as anything of it is another's.
fn sum(world: &World, step: &Step) -> Content {
    let previous = step.previous.iter().map(|partial| partial.at);
    let mut sum = [0; CLIENTS];
    for at in previous.chain(step.inputs.iter().copied()) {
        let slot = &world.slots[at.slot];
        let whole = slot.is(at, &[State::Ready, State::Live, State::Sent]);
        let content = slot.content.filter(|_| whole)?;
        sum.iter_mut()
            .zip(content)
            .for_each(|(sum, more)| *sum += more);
    }
    Some(sum)
}

/// Reads a descriptor; before the first of an aggregator, adopts what it finds of it.
fn read(world: &mut World, w: usize, letter: Letter) {
    let place = letter.to();
    if world.workers[w].aggregators[place].is_none() {
        let mut found: Vec<At> = Vec::new();
        for (slot, info) in world.slots.iter().enumerate() {
            if info.word.state == State::Live && info.place == place {
                found.push(At {
                    slot,
                    generation: info.word.generation,
                });
            }
        }
        found.sort_by_key(|at| world.slots[at.slot].sequence);
        if found.len() > 1 {
            // One superseded accumulator at a time; the descriptor waits.
            world.slots[found[0].slot].change(|s| s.release(found[0].generation));
            return;
        }
        let live = found.pop().map(|at| Partial {
            at,
            clients: world.slots[at.slot].clients,
            sequence: world.slots[at.slot].sequence,
        });
        world.workers[w].aggregators[place] = Some(Aggregator {
            live,
            ..Aggregator::default()
        });
    }
    world.workers[w].inbox.remove(&letter);
    let Some(aggregator) = &mut world.workers[w].aggregators[place] else {
        return;
    };
    match letter {
        Letter::Input(_, at) if aggregator.refused.contains(&at) => {}
        Letter::Input(_, at) if !aggregator.pending.contains(&at) => aggregator.pending.push(at),
        Letter::Input(..) => {}
        // Refusals make it smaller, and nothing makes it larger again.
        Letter::Close(_, told) => {
            aggregator.expected = Some(aggregator.expected.map_or(told, |known| known.min(told)));
        }
    }
}
