//! A round's book: who has contributed, where each update goes, when it closes. Pure state, no I/O.
//!
//! An aggregator sends its partial on as soon as it holds a known number of contributors. The book
//! knows that number once no more updates can come below an aggregator: a leaf when it is full, a
//! middle when all its leaves are, and everything when the round closes. It tells them by
//! [`Close`]s; a client that is refused later makes the numbers smaller, and they are told again.

use crate::tree::Tree;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tributary_api::ClientName;
use tributary_api::manifest::Closing;
use tributary_sidecar_layout::Level;

/// What slots and descriptors carry as their round: the number and, because a round that failed
/// opens again, which attempt at it. Later attempts and later rounds compare greater, so whatever a
/// slow worker still commits for an attempt that has ended is recognised and swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u32);

impl Epoch {
    /// Attempts at one round before its job is given up.
    pub(crate) const ATTEMPTS: u32 = 256;

    /// The last round that can be opened: rounds have 24 bits, attempts 8.
    pub(crate) const ROUND_MAX: u32 = (1 << 24) - 1;

    /// The first attempt at a round; `None` beyond [`Self::ROUND_MAX`].
    pub(crate) fn first(round: u64) -> Option<Self> {
        let round = u32::try_from(round)
            .ok()
            .filter(|round| *round <= Self::ROUND_MAX)?;
        Some(Self(round << 8))
    }

    pub(crate) fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub(crate) fn raw(self) -> u32 {
        self.0
    }

    pub(crate) fn round(self) -> u32 {
        self.0 >> 8
    }

    fn attempt(self) -> u32 {
        self.0 & 0xff
    }

    /// The next attempt at the same round; `None` when there were too many.
    pub(crate) fn again(self) -> Option<Self> {
        (self.attempt() + 1 < Self::ATTEMPTS).then(|| Self(self.0 + 1))
    }
}

/// Where an accepted update goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The client's number in the round: its bit in the contributors.
    pub client: u32,
    /// The leaf that folds it.
    pub leaf: u32,
}

/// What a client has sent in this round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The same bytes.
    Same,
    /// Other bytes.
    Other,
    /// An update that the function failed on; why.
    Refused(String),
}

/// The word that an aggregator's inputs are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Close {
    pub level: u8,
    pub index: u32,
    /// Contributors it must hold before its partial goes on.
    pub expected: u32,
}

/// Which rule closed a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Every expected update is in, or the quorum where no deadline is set.
    Full,
    /// The deadline has passed and the quorum is met.
    Deadline,
}

#[derive(Debug)]
struct Entry {
    digest: u128,
    placement: Placement,
    refused: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leaf {
    assigned: u32,
    refused: u32,
}

impl Leaf {
    fn contributors(self) -> u32 {
        self.assigned - self.refused
    }
}

/// One round.
#[derive(Debug)]
pub(crate) struct Round {
    pub epoch: Epoch,
    tree: Tree,
    closing: Closing,
    first_update: Option<Instant>,
    entries: HashMap<ClientName, Entry>,
    names: Vec<ClientName>,
    leaves: BTreeMap<u32, Leaf>,
    closed: bool,
    told: BTreeMap<(u8, u32), u32>,
}

impl Round {
    pub(crate) fn new(epoch: Epoch, tree: Tree, closing: Closing) -> Self {
        Self {
            epoch,
            tree,
            closing,
            first_update: None,
            entries: HashMap::new(),
            names: Vec::new(),
            leaves: BTreeMap::new(),
            closed: false,
            told: BTreeMap::new(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        u64::from(self.epoch.round())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Updates accepted so far, refused ones included.
    pub(crate) fn accepted(&self) -> u32 {
        self.names.len() as u32
    }

    /// Clients inside the result.
    pub(crate) fn contributors(&self) -> u32 {
        self.leaves.values().map(|leaf| leaf.contributors()).sum()
    }

    pub(crate) fn first_update(&self) -> Option<Instant> {
        self.first_update
    }

    pub(crate) fn leaves(&self) -> u32 {
        self.leaves.len() as u32
    }

    pub(crate) fn middles(&self) -> u32 {
        let mut middles: Vec<u32> = self
            .leaves
            .keys()
            .map(|leaf| self.tree.middle(*leaf))
            .collect();
        middles.dedup();
        middles.len() as u32
    }

    /// Changes the rule of closing under an open round.
    pub(crate) fn set_closing(&mut self, closing: Closing) {
        self.closing = closing;
    }

    /// What the client has sent before, if anything.
    pub(crate) fn known(&self, client: &ClientName, digest: u128) -> Option<Known> {
        let entry = self.entries.get(client)?;
        Some(match &entry.refused {
            _ if entry.digest != digest => Known::Other,
            Some(why) => Known::Refused(why.clone()),
            None => Known::Same,
        })
    }

    /// True if the client has an update in this round.
    pub(crate) fn has(&self, client: &ClientName) -> bool {
        self.entries.contains_key(client)
    }

    /// Enters an update of a client that is not known yet. `None` once the round is closed.
    pub(crate) fn accept(
        &mut self,
        client: ClientName,
        digest: u128,
        now: Instant,
    ) -> Option<Placement> {
        if self.closed || self.entries.contains_key(&client) {
            return None;
        }
        self.first_update.get_or_insert(now);
        let number = self.accepted();
        let placement = Placement {
            client: number,
            leaf: self.tree.leaf(number),
        };
        self.leaves.entry(placement.leaf).or_default().assigned += 1;
        self.names.push(client.clone());
        self.entries.insert(
            client,
            Entry {
                digest,
                placement,
                refused: None,
            },
        );
        Some(placement)
    }

    /// The function failed on a client's update: it is not part of the result.
    pub(crate) fn refuse(&mut self, client: u32, why: String) {
        let Some(entry) = self
            .names
            .get(client as usize)
            .and_then(|name| self.entries.get_mut(name))
        else {
            return;
        };
        if entry.refused.replace(why).is_none()
            && let Some(leaf) = self.leaves.get_mut(&entry.placement.leaf)
        {
            leaf.refused += 1;
        }
    }

    /// The clients on whose updates the function failed.
    pub(crate) fn refused(&self) -> impl Iterator<Item = Placement> + '_ {
        let refused = self
            .entries
            .values()
            .filter(|entry| entry.refused.is_some());
        refused.map(|entry| entry.placement)
    }

    /// Whether the round must close now, and by which rule.
    pub(crate) fn due(&self, now: Instant) -> Option<Reason> {
        if self.closed || self.accepted() == 0 {
            return None;
        }
        if self.accepted() >= self.closing.full {
            return Some(Reason::Full);
        }
        let (_, quorum) = self.closing.deadline?;
        let passed = self.deadline().is_some_and(|deadline| now >= deadline);
        (passed && self.contributors() >= quorum).then_some(Reason::Deadline)
    }

    /// When the deadline passes, once a first update is in.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let (after, _) = self.closing.deadline?;
        self.first_update
            .map(|first| first + Duration::from_millis(after.millis()))
    }

    /// Takes no more updates.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// The closes that must be told now: new ones, and those whose number has changed.
    pub(crate) fn closes(&mut self) -> Vec<Close> {
        let mut closes = self.current_closes();
        closes.retain(|close| {
            self.told.insert((close.level, close.index), close.expected) != Some(close.expected)
        });
        closes
    }

    /// Every close that holds now, for aggregators that have to be told again.
    pub(crate) fn current_closes(&self) -> Vec<Close> {
        let full = |leaf: &Leaf| self.closed || leaf.assigned == self.tree.fan_in;
        let mut closes = Vec::new();
        let mut middles: BTreeMap<u32, (u32, u32, bool)> = BTreeMap::new();
        for (index, leaf) in &self.leaves {
            let (count, contributors, complete) = middles
                .entry(self.tree.middle(*index))
                .or_insert((0, 0, true));
            *count += 1;
            *contributors += leaf.contributors();
            *complete &= full(leaf);
            if full(leaf) {
                closes.push(close(Level::Leaf, *index, leaf.contributors()));
            }
        }
        for (index, (leaves, contributors, complete)) in &middles {
            if *complete && (self.closed || *leaves == self.tree.fan_in) {
                closes.push(close(Level::Middle, *index, *contributors));
            }
        }
        if self.closed {
            closes.push(close(Level::Top, 0, self.contributors()));
        }
        closes.retain(|close| close.expected > 0);
        closes
    }
}

fn close(level: Level, index: u32, expected: u32) -> Close {
    Close {
        level: level as u8,
        index,
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tributary_api::quantity::Interval;

    fn name(n: u32) -> ClientName {
        format!("client-{n}").parse().unwrap()
    }

    fn round(full: u32, deadline: Option<(u32, u32)>) -> Round {
        let deadline = deadline.map(|(seconds, quorum)| (Interval::from_secs(seconds), quorum));
        Round::new(
            Epoch::first(3).unwrap(),
            Tree {
                fan_in: 2,
                lanes: 2,
            },
            Closing { full, deadline },
        )
    }

    #[test]
    fn closes_when_all_are_in() {
        let now = Instant::now();
        let mut round = round(2, None);
        assert_eq!(round.due(now), None);
        round.accept(name(0), 1, now).unwrap();
        assert_eq!(round.due(now + Duration::from_secs(1000)), None);
        round.accept(name(1), 1, now).unwrap();
        assert_eq!(round.due(now), Some(Reason::Full));
        round.close();
        assert_eq!(round.due(now), None, "closes once");
        assert_eq!(round.accept(name(2), 1, now), None, "late");
    }

    #[test]
    fn deadline_counts_from_the_first_update_and_waits_for_the_quorum() {
        let start = Instant::now();
        let mut round = round(9, Some((10, 2)));
        assert_eq!(
            round.due(start + Duration::from_secs(100)),
            None,
            "nothing came"
        );
        let first = start + Duration::from_secs(50);
        round.accept(name(0), 1, first).unwrap();
        let passed = first + Duration::from_secs(10);
        assert_eq!(round.deadline(), Some(passed));
        assert_eq!(round.due(passed), None, "no quorum");
        round.accept(name(1), 1, passed).unwrap();
        assert_eq!(round.due(passed - Duration::from_secs(1)), None);
        assert_eq!(round.due(passed), Some(Reason::Deadline));
        round.refuse(1, "trap".into());
        assert_eq!(round.due(passed), None, "a refused update is no quorum");
    }

    #[test]
    fn a_client_is_known_by_its_bytes() {
        let now = Instant::now();
        let mut round = round(9, None);
        round.accept(name(0), 7, now).unwrap();
        assert_eq!(round.known(&name(0), 7), Some(Known::Same));
        assert_eq!(round.known(&name(0), 8), Some(Known::Other));
        assert_eq!(round.known(&name(1), 7), None);
        assert_eq!(round.accept(name(0), 7, now), None);
        round.refuse(0, "division".into());
        assert_eq!(
            round.known(&name(0), 7),
            Some(Known::Refused("division".into()))
        );
    }

    #[test]
    fn a_full_leaf_is_closed_before_the_round() {
        let now = Instant::now();
        let mut round = round(9, None);
        round.accept(name(0), 1, now).unwrap();
        round.accept(name(1), 1, now).unwrap();
        assert_eq!(round.closes(), vec![], "two lanes, one update each");
        round.accept(name(2), 1, now).unwrap();
        assert_eq!(round.closes(), vec![close(Level::Leaf, 0, 2)]);
        round.accept(name(3), 1, now).unwrap();
        assert_eq!(
            round.closes(),
            vec![close(Level::Leaf, 1, 2), close(Level::Middle, 0, 4)]
        );
        round.close();
        assert_eq!(round.closes(), vec![close(Level::Top, 0, 4)]);
        round.refuse(2, "trap".into());
        let again = vec![
            close(Level::Leaf, 0, 1),
            close(Level::Middle, 0, 3),
            close(Level::Top, 0, 3),
        ];
        assert_eq!(round.closes(), again);
        assert_eq!(round.closes(), vec![]);
    }

    #[test]
    fn attempts_and_rounds_are_ordered() {
        let first = Epoch::first(3).unwrap();
        let again = first.again().unwrap();
        assert!(first < again && again < Epoch::first(4).unwrap());
        assert_eq!((again.round(), again.attempt()), (3, 1));
        assert_eq!(
            Epoch::from_raw(3 << 8 | (Epoch::ATTEMPTS - 1)).again(),
            None
        );
        assert!(Epoch::first(u64::from(Epoch::ROUND_MAX)).is_some());
        assert_eq!(Epoch::first(u64::from(Epoch::ROUND_MAX) + 1), None);
    }

    proptest! {
        /// Whatever arrives and is refused: after the close, the numbers told to the leaves add up
        /// to those of their middles, and these to the top's.
        #[test]
        fn closes_add_up(fan_in in 2u32..6, lanes in 1u32..4, updates in 1u32..80,
                         refused in proptest::collection::vec(0u32..80, 0..10)) {
            let now = Instant::now();
            let tree = Tree { fan_in, lanes };
            let mut round = Round::new(Epoch::first(1).unwrap(), tree, Closing { full: 1000, deadline: None });
            let mut told = BTreeMap::new();
            let mut hear = |closes: Vec<Close>| {
                for c in closes { told.insert((c.level, c.index), c.expected); }
            };
            for n in 0..updates {
                round.accept(name(n), 0, now).unwrap();
                hear(round.closes());
            }
            for client in &refused { round.refuse(*client, String::new()); }
            hear(round.closes());
            round.close();
            hear(round.closes());

            let gone = refused.iter().filter(|c| **c < updates).collect::<std::collections::BTreeSet<_>>().len() as u32;
            prop_assert_eq!(round.contributors(), updates - gone);
            let top = told.get(&(Level::Top as u8, 0)).copied().unwrap_or(0);
            prop_assert_eq!(top, updates - gone);
            let sum = |level: Level| told.iter().filter(|((l, _), _)| *l == level as u8).map(|(_, n)| *n).sum::<u32>();
            // A leaf whose clients were all refused is told nothing more; it has nothing to send.
            let empty_leaves: u32 = round.leaves.iter().filter(|(_, l)| l.contributors() == 0)
                .map(|(i, _)| told.get(&(Level::Leaf as u8, *i)).copied().unwrap_or(0)).sum();
            prop_assert_eq!(sum(Level::Leaf) - empty_leaves, top);
        }
    }
}
