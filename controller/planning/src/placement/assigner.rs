//! Updates one by one, as they come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::book::Book;
use super::candidate::{Candidate, room};
use super::{Job, Node, Policy, Settings, Unplaced, job};

/// Gives one job's updates to nodes as they come, each in O(log n).
///
/// After as many updates as the job expects it uses as many nodes as [`plan`](super::plan) does, for the same nodes
/// and a job that is alone on them.
#[derive(Clone, Debug)]
pub struct Assigner {
    policy: Policy,
    names: Vec<String>,
    places: Vec<Place>,
    /// Updates that are expected and did not come yet.
    expected: u32,
    width: usize,
    /// Nodes in use.
    used: usize,
    /// Nodes with room that the job may use next, best first.
    next: BTreeSet<Key>,
    /// Nodes with room that are not in use, smallest first; for `BestFit`, which opens them one by one.
    closed: BTreeSet<Key>,
    /// Nodes that may have an excess, the one with the smallest for its MC first. Empty until there is one.
    excess: BTreeSet<(u64, usize)>,
}

/// Where a node stands in an order: by missed wishes, then by policy, then by name.
type Key = (usize, Rank, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Least(u32),
    Most(Reverse<u32>),
}

#[derive(Clone, Debug)]
struct Place {
    candidate: Candidate,
    /// Updates of this job.
    share: u32,
    /// Those of them that found no room.
    excess: u32,
}

/// Where an update goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned<'a> {
    /// The node.
    pub node: &'a str,
    /// There was no room for it.
    pub overload: bool,
}

impl Assigner {
    /// For `job`, which is alone on `nodes` but for what arrives at them already.
    ///
    /// # Errors
    /// If there is no node that the job may use.
    pub fn new(nodes: &[Node], job: &Job, settings: &Settings) -> Result<Self, Unplaced> {
        let jobs = [job];
        let book = Book::new(nodes, &jobs, settings);
        let candidates = job::candidates(&book, &jobs, 0, None, settings)?;
        let names: Vec<_> = candidates.iter().map(|one| book.name(one.node)).collect();
        let places = candidates.into_iter().map(|candidate| Place {
            candidate,
            share: 0,
            excess: 0,
        });
        let mut assigner = Self {
            policy: job.policy,
            names,
            places: places.collect(),
            expected: job.expected_updates.get(),
            width: job.width(),
            used: 0,
            next: BTreeSet::new(),
            closed: BTreeSet::new(),
            excess: BTreeSet::new(),
        };
        assigner.choose_width();
        let open = (0..assigner.places.len()).filter(|at| assigner.places[*at].candidate.room > 0);
        let keys = open.map(|at| assigner.key(at)).collect();
        if assigner.policy == Policy::BestFit {
            assigner.closed = keys;
        } else {
            assigner.next = keys;
        }
        Ok(assigner)
    }

    /// Gives the next update to a node.
    pub fn assign_one(&mut self) -> Assigned<'_> {
        let (at, overload) = match self.choose() {
            Some(at) => (at, false),
            None => (self.least_excess(), true),
        };
        self.remove(at);
        let ordered = self.excess.remove(&self.excess_key(at));
        let place = &mut self.places[at];
        let opened = place.share == 0;
        place.share += 1;
        if overload {
            place.excess += 1;
        } else {
            place.candidate.room -= 1;
        }
        self.expected = self.expected.saturating_sub(1);
        self.insert(at);
        if ordered {
            self.excess.insert(self.excess_key(at));
        }
        if opened {
            self.used += 1;
            if self.used == self.width {
                // From now on only the nodes in use may have an excess.
                self.excess.clear();
            }
        }
        Assigned {
            node: &self.names[at],
            overload,
        }
    }

    /// Takes an update of `node` back: it was lost, or goes elsewhere. False if the node has none.
    pub fn release_one(&mut self, node: &str) -> bool {
        let Ok(at) = self.names.binary_search_by(|name| name.as_str().cmp(node)) else {
            return false;
        };
        if self.places[at].share == 0 {
            return false;
        }
        self.remove(at);
        let ordered = self.excess.remove(&self.excess_key(at));
        let place = &mut self.places[at];
        place.share -= 1;
        if place.excess > 0 {
            place.excess -= 1;
        } else {
            place.candidate.room += 1;
        }
        self.used -= usize::from(place.share == 0);
        self.expected = self.expected.saturating_add(1);
        self.insert(at);
        if ordered {
            self.excess.insert(self.excess_key(at));
        }
        true
    }

    /// Updates by node.
    #[must_use]
    pub fn shares(&self) -> BTreeMap<String, u32> {
        let shares = self.names.iter().zip(&self.places);
        let shares = shares.filter(|(_, place)| place.share > 0);
        shares
            .map(|(name, place)| (name.clone(), place.share))
            .collect()
    }

    /// A policy that would use all nodes must know from the start which ones it may.
    fn choose_width(&mut self) {
        if self.policy == Policy::BestFit || self.places.len() <= self.width {
            return;
        }
        let mut chosen: Vec<usize> = (0..self.places.len()).collect();
        let candidate = |at: usize| &self.places[at].candidate;
        chosen.sort_by_key(|at| (candidate(*at).tier, Reverse(candidate(*at).room), *at));
        if self.policy == Policy::FirstFit {
            let mut by_name = chosen.clone();
            by_name.retain(|at| candidate(*at).room > 0);
            by_name.sort_by_key(|at| (candidate(*at).tier, *at));
            by_name.truncate(self.width);
            let room = room(by_name.iter().map(|at| candidate(*at)));
            if room >= u64::from(self.expected) {
                chosen = by_name;
            }
        }
        chosen.truncate(self.width);
        chosen.sort_unstable();
        self.names = chosen.iter().map(|at| self.names[*at].clone()).collect();
        self.places = chosen.iter().map(|at| self.places[*at].clone()).collect();
    }

    /// The node for the next update, if one has room.
    fn choose(&self) -> Option<usize> {
        if let Some((_, _, at)) = self.next.first() {
            return Some(*at);
        }
        if self.used >= self.width {
            return None;
        }
        // The smallest that takes all that is to come, else the largest: as if the round was planned as a whole.
        let (tier, _, _) = *self.closed.first()?;
        let enough = (tier, Rank::Least(self.expected.max(1)), 0);
        let beyond = (tier + 1, Rank::Least(0), 0);
        let smallest = self.closed.range(enough..beyond).next();
        let (_, _, at) = smallest.or_else(|| self.largest(tier))?;
        Some(*at)
    }

    /// The closed node of a tier that has the most room; of several the first by name.
    fn largest(&self, tier: usize) -> Option<&Key> {
        let (_, rank, _) = self
            .closed
            .range(..(tier + 1, Rank::Least(0), 0))
            .next_back()?;
        self.closed.range((tier, *rank, 0)..).next()
    }

    /// Of the nodes that may be used, the one whose excess is smallest for its MC.
    fn least_excess(&mut self) -> usize {
        if self.excess.is_empty() {
            let full = self.used >= self.width;
            let all = 0..self.places.len();
            let allowed = all.filter(|at| !full || self.places[*at].share > 0);
            self.excess = allowed.map(|at| self.excess_key(at)).collect();
        }
        // There is always one: there is a candidate, and if no more may be used, one is used.
        self.excess.first().map_or(0, |(_, at)| *at)
    }

    fn excess_key(&self, at: usize) -> (u64, usize) {
        let place = &self.places[at];
        let relative = f64::from(place.excess + 1) / place.candidate.concurrency;
        // The bits of numbers that are not negative are in the numbers' order.
        (relative.to_bits(), at)
    }

    fn key(&self, at: usize) -> Key {
        let Place {
            candidate, share, ..
        } = &self.places[at];
        let rank = match self.policy {
            Policy::BestFit => Rank::Least(candidate.room),
            Policy::WorstFit => Rank::Most(Reverse(candidate.room)),
            Policy::FirstFit => Rank::Least(0),
            Policy::Spread => Rank::Least(*share),
        };
        (candidate.tier, rank, at)
    }

    fn insert(&mut self, at: usize) {
        let place = &self.places[at];
        if place.candidate.room == 0 {
            return;
        }
        let key = self.key(at);
        if self.policy == Policy::BestFit && place.share == 0 {
            self.closed.insert(key);
        } else {
            self.next.insert(key);
        }
    }

    fn remove(&mut self, at: usize) {
        let key = self.key(at);
        self.next.remove(&key);
        self.closed.remove(&key);
    }
}
