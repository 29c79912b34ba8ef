//! A round's book: who has contributed, where each update goes, when it closes. Pure state, no I/O.
//!
//! An aggregator sends its partial on as soon as it holds a known number of contributors. The book
//! knows that number once no more updates can come below an aggregator: a leaf when it is full, a
//! middle when all its leaves are, and everything when the round closes. It tells them by
//! [`Close`]s; a client that is refused later makes the numbers smaller, and they are told again.
//!
//! An update is known by its client and the round that it was trained for. Where a round takes updates
//! that were trained for earlier ones, a client may have several in it, each with its own number.

use crate::tree::Tree;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tributary_api::ClientName;
use tributary_api::manifest::{Closing, Timer};
use tributary_api::placement::StalenessSum;
use tributary_arena::Contributors;
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

    /// The attempt at the round, from 0.
    pub(crate) fn attempt(self) -> u32 {
        self.0 & 0xff
    }

    /// The greatest epoch that is over when this one is open.
    pub(crate) fn before(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
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
    /// The window has passed and an update is in.
    Window,
}

/// An update, by its number.
#[derive(Debug)]
struct Entry {
    client: Arc<ClientName>,
    /// The round that it was trained for.
    trained: u64,
    digest: u128,
    leaf: u32,
    /// The update that the same client sent before it.
    earlier: Option<u32>,
    refused: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leaf {
    assigned: u32,
    refused: u32,
    told: Told,
}

impl Leaf {
    fn contributors(self) -> u32 {
        self.assigned - self.refused
    }
}

/// A middle, as the sum of its leaves.
#[derive(Clone, Copy, Debug, Default)]
struct Middle {
    /// Leaves that have at least one update.
    leaves: u32,
    /// Of those, the ones that take no more.
    full: u32,
    contributors: u32,
    told: Told,
}

/// The number that an aggregator has been told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told(Option<u32>);

impl Told {
    /// Notes what the aggregator must be told; true if that is news to it.
    fn is_news(&mut self, expected: u32) -> bool {
        expected > 0 && self.0.replace(expected) != Some(expected)
    }
}

/// What other nodes add to a round that this node leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// Updates that they have accepted.
    pub accepted: u32,
    /// Of those, the ones that will be, or are, inside their partials.
    pub contributors: u32,
    /// Partials of theirs are missing.
    pub missing: bool,
    /// When the first of them took its first update.
    pub first_update: Option<Instant>,
    pub staleness: StalenessSum,
}

/// One round.
#[derive(Debug)]
pub(crate) struct Round {
    pub epoch: Epoch,
    tree: Tree,
    closing: Closing,
    opened: Instant,
    first_update: Option<Instant>,
    last_update: Option<Instant>,
    entries: Vec<Entry>,
    /// Each client's newest update.
    newest: HashMap<Arc<ClientName>, u32>,
    staleness: StalenessSum,
    /// By index. A leaf without updates is not there yet: the lanes before it came first.
    leaves: Vec<Leaf>,
    middles: Vec<Middle>,
    refused: u32,
    closed: bool,
    /// What other nodes add, where this one leads.
    others: Others,
    /// This node follows another one: that one says when the round closes, and makes the model.
    follows: bool,
    /// Leaves that may have news for themselves or their middles since the last [`Self::closes`]. Only
    /// they are looked at, so that what an update costs does not grow with the round.
    changed: BTreeSet<u32>,
    told_top: Told,
    /// Updates of clients that were turned away, but show that nobody else is to be waited for.
    turned_away: u32,
    /// Clients that have come and are left out of the round for good.
    left_out: u32,
    /// It does not close before.
    resumes: Option<Instant>,
}

impl Round {
    pub(crate) fn new(epoch: Epoch, tree: Tree, closing: Closing, opened: Instant) -> Self {
        Self {
            epoch,
            tree,
            closing,
            opened,
            first_update: None,
            last_update: None,
            entries: Vec::new(),
            newest: HashMap::new(),
            staleness: StalenessSum::default(),
            leaves: Vec::new(),
            middles: Vec::new(),
            refused: 0,
            closed: false,
            others: Others::default(),
            follows: false,
            changed: BTreeSet::new(),
            told_top: Told::default(),
            turned_away: 0,
            left_out: 0,
            resumes: None,
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
        self.entries.len() as u32
    }

    /// Updates of this node inside the result.
    pub(crate) fn contributors(&self) -> u32 {
        self.accepted() - self.refused
    }

    /// The numbers of those.
    pub(crate) fn numbers(&self) -> Contributors {
        let (mut numbers, mut next) = (Contributors::default(), 0);
        for refused in self.refused() {
            numbers.extend(&Contributors::range(next..refused.client));
            next = refused.client + 1;
        }
        numbers.extend(&Contributors::range(next..self.accepted()));
        numbers
    }

    /// Updates accepted so far, on all nodes.
    pub(crate) fn accepted_everywhere(&self) -> u32 {
        self.accepted() + self.others.accepted
    }

    /// Clients inside the result, of all nodes.
    pub(crate) fn contributors_everywhere(&self) -> u32 {
        self.contributors() + self.others.contributors
    }

    /// The first update on any node.
    pub(crate) fn first_update(&self) -> Option<Instant> {
        let firsts = [self.first_update, self.others.first_update];
        firsts.into_iter().flatten().min()
    }

    /// The first update on this node, and the last one so far.
    pub(crate) fn updates_here(&self) -> (Option<Instant>, Option<Instant>) {
        (self.first_update, self.last_update)
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Gives a round another tree, as long as nothing is in it.
    pub(crate) fn replan(&mut self, tree: Tree) {
        if self.entries.is_empty() {
            self.tree = tree;
        }
    }

    /// How old the models were from which this node's updates were trained.
    pub(crate) fn staleness(&self) -> StalenessSum {
        self.staleness
    }

    /// As [`Self::staleness`], for the updates of all nodes.
    pub(crate) fn staleness_everywhere(&self) -> StalenessSum {
        let mut sum = self.staleness;
        sum.merge(self.others.staleness);
        sum
    }

    /// Takes over what other nodes add.
    pub(crate) fn set_others(&mut self, others: Others) {
        self.others = others;
    }

    /// Whether another node says when the round closes.
    pub(crate) fn set_follows(&mut self, follows: bool) {
        self.follows = follows;
    }

    pub(crate) fn leaves(&self) -> u32 {
        self.middles.iter().map(|middle| middle.leaves).sum()
    }

    pub(crate) fn middles(&self) -> u32 {
        self.middles.len() as u32
    }

    /// Changes the rule of closing under an open round.
    pub(crate) fn set_closing(&mut self, closing: Closing) {
        if !self.closed {
            self.closing = closing;
        }
    }

    /// The updates with which it closes at once.
    pub(crate) fn full(&self) -> u32 {
        self.closing.full
    }

    /// The fewest updates of which its model may be made.
    pub(crate) fn least(&self) -> u32 {
        self.closing.least().max(1)
    }

    pub(crate) fn set_turned_away(&mut self, aside: u32, left_out: u32) {
        (self.turned_away, self.left_out) = (aside, left_out);
    }

    /// Contributors, and clients that were turned away to find out without whom the model can be made.
    pub(crate) fn contributors_or_sought(&self) -> u32 {
        self.contributors_everywhere() + self.turned_away
    }

    /// It closes no sooner: attempts before this one have failed.
    pub(crate) fn set_resumes(&mut self, at: Instant) {
        self.resumes = Some(at);
    }

    pub(crate) fn resumes(&self) -> Option<Instant> {
        self.resumes
    }

    /// The client's update for the round `trained`.
    fn entry(&self, client: &ClientName, trained: u64) -> Option<&Entry> {
        let mut next = self.newest.get(client).copied();
        while let Some(entry) = next.and_then(|number| self.entries.get(number as usize)) {
            if entry.trained == trained {
                return Some(entry);
            }
            next = entry.earlier;
        }
        None
    }

    /// What the client has sent before for the round `trained`, if anything.
    pub(crate) fn known(&self, client: &ClientName, trained: u64, digest: u128) -> Option<Known> {
        let entry = self.entry(client, trained)?;
        Some(match &entry.refused {
            _ if entry.digest != digest => Known::Other,
            Some(why) => Known::Refused(why.clone()),
            None => Known::Same,
        })
    }

    /// True if the client has an update for the round `trained` in this round.
    pub(crate) fn has(&self, client: &ClientName, trained: u64) -> bool {
        self.entry(client, trained).is_some()
    }

    /// Enters an update that is not known yet; it was trained for the round `trained`, this one or one before.
    /// `None` once the round is closed.
    pub(crate) fn accept(
        &mut self,
        client: ClientName,
        trained: u64,
        digest: u128,
        now: Instant,
    ) -> Option<Placement> {
        if self.closed || self.has(&client, trained) {
            return None;
        }
        self.first_update.get_or_insert(now);
        self.last_update = Some(now);
        let number = self.accepted();
        let leaf = self.tree.leaf(number);
        self.assign(leaf);
        self.staleness.add(self.number().saturating_sub(trained));
        let client = Arc::new(client);
        let earlier = self.newest.insert(client.clone(), number);
        self.entries.push(Entry {
            client,
            trained,
            digest,
            leaf,
            earlier,
            refused: None,
        });
        Some(Placement {
            client: number,
            leaf,
        })
    }

    /// Counts an update below a leaf and its middle.
    fn assign(&mut self, leaf: u32) {
        let middle = self.tree.middle(leaf);
        grow(&mut self.leaves, leaf);
        grow(&mut self.middles, middle);
        let (below, above) = (
            &mut self.leaves[leaf as usize],
            &mut self.middles[middle as usize],
        );
        below.assigned += 1;
        above.contributors += 1;
        above.leaves += u32::from(below.assigned == 1);
        if below.assigned == self.tree.fan_in {
            above.full += 1;
            self.changed.insert(leaf);
        }
    }

    /// The clients of this node with these numbers.
    pub(crate) fn names(&self, numbers: &Contributors) -> BTreeSet<ClientName> {
        self.names_where(|number| !numbers.is_disjoint(&number))
    }

    /// The clients of this node inside the result without these numbers.
    pub(crate) fn names_beside(&self, numbers: &Contributors) -> BTreeSet<ClientName> {
        let inside = self.numbers();
        self.names_where(|number| inside.contains_all(&number) && numbers.is_disjoint(&number))
    }

    fn names_where(&self, is_one: impl Fn(Contributors) -> bool) -> BTreeSet<ClientName> {
        let entries = (0..).zip(&self.entries);
        let chosen = entries.filter(|(number, _)| is_one(Contributors::single(*number)));
        chosen.map(|(_, entry)| (*entry.client).clone()).collect()
    }

    /// Updates of this node on which the function failed.
    pub(crate) fn refusals(&self) -> u32 {
        self.refused
    }

    /// The name behind a client's number.
    pub(crate) fn client(&self, number: u32) -> Option<&ClientName> {
        self.entries
            .get(number as usize)
            .map(|entry| &*entry.client)
    }

    /// The function failed on a client's update: it is not part of the result. False if that is known.
    pub(crate) fn refuse(&mut self, client: u32, why: String) -> bool {
        let Some(entry) = self.entries.get_mut(client as usize) else {
            return false;
        };
        if entry.refused.is_some() {
            return false;
        }
        entry.refused = Some(why);
        let leaf = entry.leaf;
        self.refused += 1;
        self.leaves[leaf as usize].refused += 1;
        self.middles[self.tree.middle(leaf) as usize].contributors -= 1;
        self.changed.insert(leaf);
        true
    }

    /// The clients on whose updates the function failed.
    pub(crate) fn refused(&self) -> impl Iterator<Item = Placement> + '_ {
        let refused = (0..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.refused.is_some());
        refused.map(|(client, entry)| Placement {
            client,
            leaf: entry.leaf,
        })
    }

    /// Whether the round must close now, and by which rule.
    pub(crate) fn due(&self, now: Instant) -> Option<Reason> {
        let accepted = self.accepted_everywhere();
        let pauses = self.resumes.is_some_and(|at| now < at);
        if self.closed || pauses || accepted == 0 {
            return None;
        }
        // What is enough on one node is enough for all.
        if accepted + self.turned_away >= self.closing.full {
            return Some(Reason::Full);
        }
        // Nobody comes in the place of who is left out, if there are enough without.
        let enough = self.left_out > 0 && self.contributors_or_sought() >= self.least();
        if enough && accepted + self.turned_away + self.left_out >= self.closing.full {
            return Some(Reason::Full);
        }
        let passed = self.deadline().is_some_and(|deadline| now >= deadline);
        let reason = match self.closing.timer? {
            Timer::Deadline(..) => Reason::Deadline,
            Timer::Window(_) => Reason::Window,
        };
        (passed && self.contributors_or_sought() >= self.least()).then_some(reason)
    }

    /// When the deadline or the window passes, once a first update is in and if this node says when the round closes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let first = self.first_update().filter(|_| !self.follows)?;
        Some(match self.closing.timer? {
            Timer::Deadline(after, _) => first + after.duration(),
            Timer::Window(after) => self.opened + after.duration(),
        })
    }

    /// Takes no more updates.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.changed.extend(0..self.leaves.len() as u32);
    }

    /// The closes that must be told now: new ones, and those whose number has changed.
    pub(crate) fn closes(&mut self) -> Vec<Close> {
        let changed = std::mem::take(&mut self.changed);
        let mut middles: Vec<u32> = changed.iter().map(|leaf| self.tree.middle(*leaf)).collect();
        middles.dedup();
        let mut closes = Vec::new();
        for index in changed {
            let expected = self.expected_of_leaf(index);
            let leaf = &mut self.leaves[index as usize];
            closes.extend(
                expected
                    .filter(|n| leaf.told.is_news(*n))
                    .map(|n| close(Level::Leaf, index, n)),
            );
        }
        for index in middles {
            let expected = self.expected_of_middle(index);
            let middle = &mut self.middles[index as usize];
            closes.extend(
                expected
                    .filter(|n| middle.told.is_news(*n))
                    .map(|n| close(Level::Middle, index, n)),
            );
        }
        if let Some(expected) = self.expected_of_top()
            && self.told_top.is_news(expected)
        {
            closes.push(close(Level::Top, 0, expected));
        }
        closes
    }

    /// What the top must hold in the end, once all partials of other nodes are here. On a node that follows nobody
    /// tells the top: what it holds is handed over.
    fn expected_of_top(&self) -> Option<u32> {
        let complete = self.closed && !self.follows && !self.others.missing;
        complete.then(|| self.contributors_everywhere())
    }

    /// Every close that holds now, for aggregators that have to be told again.
    pub(crate) fn current_closes(&self) -> Vec<Close> {
        let leaves = (0..self.leaves.len() as u32)
            .filter_map(|index| Some(close(Level::Leaf, index, self.expected_of_leaf(index)?)));
        let middles = (0..self.middles.len() as u32)
            .filter_map(|index| Some(close(Level::Middle, index, self.expected_of_middle(index)?)));
        let top = self
            .expected_of_top()
            .map(|expected| close(Level::Top, 0, expected));
        let closes = leaves.chain(middles).chain(top);
        closes.filter(|close| close.expected > 0).collect()
    }

    /// What a leaf must hold in the end, if no more can come to it.
    fn expected_of_leaf(&self, index: u32) -> Option<u32> {
        let leaf = self.leaves[index as usize];
        let complete = self.closed || leaf.assigned == self.tree.fan_in;
        complete.then(|| leaf.contributors())
    }

    /// As [`Self::expected_of_leaf`], for a middle.
    fn expected_of_middle(&self, index: u32) -> Option<u32> {
        let middle = self.middles[index as usize];
        let complete = self.closed || middle.full == self.tree.fan_in;
        complete.then_some(middle.contributors)
    }
}

/// Makes a vector long enough for an index.
fn grow<T: Clone + Default>(all: &mut Vec<T>, index: u32) {
    let length = all.len().max(index as usize + 1);
    all.resize(length, T::default());
}

fn close(level: Level, index: u32, expected: u32) -> Close {
    Close {
        level: level as u8,
        index,
        expected,
    }
}

#[cfg(test)]
mod tests;
