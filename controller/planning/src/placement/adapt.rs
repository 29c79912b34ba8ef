//! The previous plan, changed only where it has to be, and whether it is still good enough.

use std::collections::BTreeMap;

use super::Policy;
use super::candidate::{Candidate, Shares, total};
use super::fill::{fill, within};

/// The task of one job: what is to be divided among whom.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) policy: Policy,
    pub(super) candidates: &'a [Candidate],
    pub(super) demand: u32,
    pub(super) width: usize,
}

/// What `before` becomes when as little as possible moves, if that is worse than `fresh` by no more than `tolerance`.
pub(super) fn keep(
    task: Task<'_>,
    before: &Shares,
    fresh: &Shares,
    tolerance: f64,
) -> Option<Shares> {
    let slack = 1.0 + tolerance.max(0.0);
    let best = Quality::of(task, fresh);
    // Nobody can be less full than the fresh plan's fullest, if that is more than full.
    let limit = best.usage.max(1.0) * slack;
    let kept = adapt(task, before, limit)?;
    let quality = Quality::of(task, &kept);
    let good = quality.good_enough(&best, task.policy, slack, task.demand);
    good.then_some(kept)
}

/// How good a division is. Less is better, in everything.
struct Quality {
    nodes: usize,
    /// The use of the fullest node.
    usage: f64,
    /// The largest share.
    share: u32,
    /// Labels that are missed, once for each update. Affinity is left out: it decides where a job goes, and is no
    /// reason to go. One job that follows another, which flees, would never rest.
    missed: u64,
}

impl Quality {
    fn of(task: Task<'_>, shares: &Shares) -> Self {
        let mut quality = Self {
            nodes: shares.len(),
            usage: 0.0,
            share: 0,
            missed: 0,
        };
        for candidate in task.candidates {
            let Some(share) = shares.get(&candidate.node) else {
                continue;
            };
            quality.usage = quality.usage.max(candidate.usage(*share));
            quality.share = quality.share.max(*share);
            quality.missed += candidate.labels_missed as u64 * u64::from(*share);
        }
        quality
    }

    fn good_enough(&self, best: &Self, policy: Policy, slack: f64, demand: u32) -> bool {
        let nodes = (best.nodes as f64 * slack) as usize;
        let missed = best.missed as f64 + f64::from(demand) * (slack - 1.0);
        let even = match policy {
            Policy::BestFit | Policy::FirstFit => self.nodes <= nodes,
            Policy::WorstFit => self.usage <= best.usage * slack,
            Policy::Spread => f64::from(self.share) <= f64::from(best.share) * slack,
        };
        even && self.missed as f64 <= missed
    }
}

/// `before` for this task: what is on nodes that are no candidates, or beyond `limit` times a node's capacity, goes
/// elsewhere; the difference in demand comes or goes; all else stays.
fn adapt(task: Task<'_>, before: &Shares, limit: f64) -> Option<Shares> {
    let kept = task.candidates.iter().filter_map(|candidate| {
        let share = *before.get(&candidate.node)?;
        let share = share.min(candidate.bearable(limit));
        (share > 0).then_some((candidate.node, share))
    });
    let mut kept: Shares = kept.collect();
    let demand = u64::from(task.demand);
    if kept.len() > task.width {
        return None;
    }
    if total(&kept) < demand {
        return grow(task, kept);
    }
    if task.policy.packs() {
        shrink_smallest(&mut kept, demand);
    } else {
        shrink_largest(&mut kept, demand);
    }
    Some(kept)
}

/// Adds what is missing: to nodes that are in use if the policy packs, to all if it spreads.
fn grow(task: Task<'_>, mut kept: Shares) -> Option<Shares> {
    let candidates = task.candidates.iter().map(|candidate| {
        let share = kept.get(&candidate.node).copied().unwrap_or(0);
        candidate.with(share)
    });
    let (used, unused): (Vec<_>, Vec<_>) = candidates.partition(|candidate| candidate.has > 0);
    let mut rest = u32::try_from(u64::from(task.demand) - total(&kept)).ok()?;
    if !task.policy.packs() {
        let all: Vec<_> = used.into_iter().chain(unused).collect();
        let mut all = all;
        all.sort_by_key(|candidate| candidate.node);
        add(&mut kept, within(task.policy, &all, rest, task.width)?);
        return Some(kept);
    }
    let free = super::candidate::room(&used);
    let part = rest.min(u32::try_from(free).unwrap_or(u32::MAX));
    let width = task.width - kept.len();
    add(&mut kept, within(Policy::BestFit, &used, part, used.len())?);
    rest -= part;
    if rest == 0 {
        return Some(kept);
    }
    if unused.is_empty() {
        return None;
    }
    let opened = fill(task.policy, &unused, rest, width);
    add(&mut kept, opened.shares);
    (opened.overload == 0).then_some(kept)
}

fn add(shares: &mut Shares, more: Shares) {
    for (node, share) in more {
        *shares.entry(node).or_insert(0) += share;
    }
}

/// Takes away what is too much, from the smallest shares first: nodes become free.
fn shrink_smallest(shares: &mut Shares, demand: u64) {
    let mut surplus = total(shares) - demand;
    let mut by_size: Vec<(u32, usize)> = shares.iter().map(|(node, s)| (*s, *node)).collect();
    by_size.sort_unstable();
    for (share, node) in by_size {
        let part = share.min(u32::try_from(surplus).unwrap_or(u32::MAX));
        if part == 0 {
            return;
        }
        surplus -= u64::from(part);
        if part == share {
            shares.remove(&node);
        } else {
            shares.insert(node, share - part);
        }
    }
}

/// Takes away what is too much, from the largest shares first: they come down to one level.
fn shrink_largest(shares: &mut Shares, demand: u64) {
    let mut surplus = total(shares) - demand;
    let mut by_size = BTreeMap::<u32, Vec<usize>>::new();
    for (node, share) in &*shares {
        by_size.entry(*share).or_default().push(*node);
    }
    while surplus > 0 {
        let Some((share, mut nodes)) = by_size.pop_last() else {
            return;
        };
        let next = by_size.last_key_value().map_or(0, |(next, _)| *next);
        let each = u64::from(share - next).min(surplus.div_ceil(nodes.len() as u64));
        for node in &nodes {
            let part = each.min(surplus);
            surplus -= part;
            let left = share - u32::try_from(part).unwrap_or(share);
            shares.insert(*node, left);
        }
        by_size.entry(next).or_default().append(&mut nodes);
    }
    shares.retain(|_, share| *share > 0);
}
