//! A node that a job may use, in numbers.

use std::collections::BTreeMap;

/// Updates by the node's number.
pub(super) type Shares = BTreeMap<usize, u32>;

/// What division may lose: a node with room for 2.9999999 updates has room for 3.
const ROUNDING: f64 = 1e-6;

/// A node that a job may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its number; numbers follow names.
    pub(super) node: usize,
    /// Wishes of the job that it does not fulfil. Fewer is better.
    pub(super) tier: usize,
    /// Those of them that are about labels.
    pub(super) labels_missed: usize,
    /// MC.
    pub(super) concurrency: f64,
    /// What of MC is in use without this job.
    pub(super) load: f64,
    /// What of MC an update of this job takes.
    pub(super) cost: f64,
    /// Updates of this job that still fit.
    pub(super) room: u32,
    /// Updates of this job that it has already.
    pub(super) has: u32,
}

impl Candidate {
    /// The same node, with the room that it has.
    pub(super) fn with_room(mut self) -> Self {
        self.room = self.bearable(1.0);
        self
    }

    /// Updates that it can have when `limit` times its capacity may be used.
    pub(super) fn bearable(&self, limit: f64) -> u32 {
        let free = limit * self.concurrency - self.load;
        // A conversion of floating point to whole numbers saturates, and makes 0 of what is below.
        (free / self.cost + ROUNDING) as u32
    }

    /// The share of its capacity that is in use when it has `share` updates.
    pub(super) fn usage(&self, share: u32) -> f64 {
        (self.load + f64::from(share) * self.cost) / self.concurrency
    }

    /// The same node with `share` updates on it.
    pub(super) const fn with(mut self, share: u32) -> Self {
        self.room = self.room.saturating_sub(share);
        self.has += share;
        self
    }
}

/// All updates of `shares`.
pub(super) fn total(shares: &Shares) -> u64 {
    shares.values().map(|share| u64::from(*share)).sum()
}

/// All room of `candidates`.
pub(super) fn room<'a>(candidates: impl IntoIterator<Item = &'a Candidate>) -> u64 {
    let rooms = candidates.into_iter();
    rooms.map(|candidate| u64::from(candidate.room)).sum()
}
