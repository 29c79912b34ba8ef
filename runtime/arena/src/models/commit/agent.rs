//! What the agent and its gateway do; each of these in one piece, because one task does them.

use super::worker::{Doing, Operation, is_counted};
use super::{
    At, CLIENTS, Letter, Life, Losses, Mistake, Next, Place, Protocol, RESERVE, WORKERS, Worker,
    World,
};
use crate::slot::{OWNER_AGENT, State};

impl Protocol {
    /// What the agent or the gateway can do next.
    pub(super) fn agent(&self, world: &World) -> Next<World> {
        let mut all = Vec::new();
        let mut can = |what, w, act: &dyn Fn(&mut World)| {
            let mut next = world.clone();
            act(&mut next);
            all.push(((what, [w, 0]), next));
        };
        let free = world
            .slots
            .iter()
            .filter(|slot| slot.word.state == State::Free);
        if world.accepted < self.leaves.len() && free.count() > RESERVE {
            can("an update is accepted", 0, &|next| self.accept(next));
        }
        if world.rung {
            can("the agent reads a record", 0, &|next| {
                next.rung = false;
                self.take_finished(next);
                // What was committed late.
                if next.published && self.mistake != Mistake::SweepsOnce {
                    sweep(next);
                }
            });
        }
        if world.finished.is_some() && !world.published {
            can("the model is published", 0, &publish);
        }
        for (w, worker) in world.workers.iter().enumerate() {
            if !worker.refusals.is_empty() {
                can("the agent hears of a refusal: worker", w, &|next| {
                    self.strike(next, w);
                });
            }
            match worker.life {
                // Its last words first.
                Life::Dead if worker.refusals.is_empty() => {
                    can("the agent hears of an end: worker", w, &|next| {
                        self.lost(next, w, Life::Gone);
                    })
                }
                Life::Gone if !world.published => can("a worker is replaced", w, &|next| {
                    next.workers[w] = Worker::new(next.next_owner, self.parents.len() + 1);
                    next.next_owner += 1;
                    self.send_again(next);
                }),
                _ => {}
            }
        }
        all
    }

    /// The losses that can happen next.
    pub(super) fn losses(&self, world: &World) -> Next<World> {
        let mut all = Vec::new();
        if world.losses_left == 0 {
            return all;
        }
        for (w, worker) in world.workers.iter().enumerate() {
            if worker.life != Life::Runs {
                continue;
            }
            let mut next = world.clone();
            next.losses_left -= 1;
            let mut slow = next.clone();
            let dead = &mut next.workers[w];
            dead.life = Life::Dead;
            dead.inbox.clear();
            dead.aggregators.fill(None);
            dead.doing = Doing::Nothing;
            all.push((("a worker is killed", [w, 0]), next));
            let past = match &worker.doing {
                Doing::Step(step) => !matches!(
                    step.next,
                    Operation::Claim | Operation::Compute | Operation::Write
                ),
                Doing::Nothing | Doing::Send(..) | Doing::Tell(..) | Doing::Refuse(..) => true,
            };
            if self.losses == Losses::Anywhere || (self.losses == Losses::PastComputing && past) {
                slow.workers[w].inbox.clear();
                self.lost(&mut slow, w, Life::Stale);
                all.push((("a worker is taken for dead", [w, 0]), slow));
            }
        }
        all
    }

    pub(super) fn accept(&self, world: &mut World) {
        let client = world.accepted;
        let free = world
            .slots
            .iter()
            .position(|slot| slot.word.state == State::Free);
        let Some(number) = free else { return };
        let slot = &mut world.slots[number];
        let Some(generation) = slot.change(|s| s.claim(OWNER_AGENT)) else {
            return;
        };
        let leaf = self.leaves[client];
        (slot.place, slot.sequence, slot.clients) = (leaf, 0, 1 << client);
        let mut content = [0; CLIENTS];
        content[client] = 1;
        slot.content = Some(content);
        slot.change(|s| s.publish(OWNER_AGENT, generation, State::Ready));
        world.accepted += 1;
        self.route(
            world,
            Letter::Input(
                leaf,
                At {
                    slot: number,
                    generation,
                },
            ),
        );
        for place in 0..=self.top() {
            // Told once: when the last update below is in.
            if self.is_below(leaf, place) {
                self.close(world, place);
            }
        }
    }

    /// Tells an aggregator how many it must hold, if all below it are in.
    fn close(&self, world: &mut World, place: Place) {
        let below = |client: &usize| self.is_below(self.leaves[*client], place);
        let all = (0..self.leaves.len()).filter(below);
        if all.clone().all(|client| client < world.accepted) {
            let expected = all.filter(|client| world.struck >> client & 1 == 0).count();
            self.route(world, Letter::Close(place, expected as u8));
        }
    }

    /// The sidecar, and the agent where it has no route.
    pub(super) fn route(&self, world: &mut World, letter: Letter) {
        let place = letter.to();
        if world.routes[place].is_none() {
            let hosts = |w: &usize| {
                world
                    .routes
                    .iter()
                    .filter(|host| **host == Some(*w))
                    .count()
            };
            let running = (0..WORKERS).filter(|w| world.workers[*w].life == Life::Runs);
            world.routes[place] = running.min_by_key(hosts);
        }
        // What has no host lies in the arena; what is sent to a dead one is lost.
        if let Some(host) = world.routes[place]
            && world.workers[host].life == Life::Runs
        {
            world.workers[host].inbox.insert(letter);
        }
    }

    fn lost(&self, world: &mut World, w: usize, life: Life) {
        world.workers[w].life = life;
        let owner = world.workers[w].owner;
        for host in &mut world.routes {
            *host = host.filter(|host| *host != w);
        }
        for slot in &mut world.slots {
            slot.change(|s| s.recover(owner));
        }
        self.take_finished(world);
        self.send_again(world);
    }

    /// The agent frees a refused input and strikes its client from the book, both at once.
    fn strike(&self, world: &mut World, w: usize) {
        let at = world.workers[w].refusals.remove(0);
        let counted = is_counted(world, at, &[State::Live, State::Sent, State::Model]);
        let slot = &mut world.slots[at.slot];
        if slot.change(|s| s.release(at.generation)) && !counted {
            world.struck |= slot.clients;
        }
        for place in 0..=self.top() {
            self.close(world, place);
        }
    }

    fn take_finished(&self, world: &mut World) {
        let made = world
            .slots
            .iter()
            .position(|slot| slot.word.state == State::Model);
        if world.accepted == self.leaves.len() && world.finished.is_none() {
            world.finished = made;
        }
    }

    fn send_again(&self, world: &mut World) {
        if world.published && self.mistake != Mistake::SweepsOnce {
            sweep(world);
        }
        // Whatever lies there is in the model.
        if world.finished.is_some() {
            return;
        }
        for slot in 0..world.slots.len() {
            let info = &world.slots[slot];
            let at = At {
                slot,
                generation: info.word.generation,
            };
            let to = match info.word.state {
                State::Ready => Some(info.place),
                State::Sent => self.parents.get(info.place).copied(),
                _ => None,
            };
            if let Some(to) = to {
                self.route(world, Letter::Input(to, at));
            }
        }
        for place in 0..=self.top() {
            self.close(world, place);
        }
    }
}

/// Hands the model out and frees what the round used.
fn publish(world: &mut World) {
    world.published = true;
    sweep(world);
}

/// Frees everything of an epoch that is over, but for the model.
fn sweep(world: &mut World) {
    for (number, slot) in world.slots.iter_mut().enumerate() {
        let generation = slot.word.generation;
        let is_over = !matches!(slot.word.state, State::Free | State::Filling);
        if is_over && Some(number) != world.finished {
            slot.change(|s| s.release(generation));
        }
    }
}
