//! How policies divide a round's updates among nodes that have room.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::Policy;
use super::candidate::{Candidate, Shares, room, total};
use crate::apportion::apportion;

/// Updates by node, and how many of them found no room.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filled {
    pub(super) shares: Shares,
    pub(super) overload: u32,
}

/// Divides `demand` updates among at most `width` of `candidates`, of which there is at least one.
///
/// Nodes that fulfil more of the job's wishes are filled first. Wishes give way where they would not let the job fit.
pub(super) fn fill(policy: Policy, candidates: &[Candidate], demand: u32, width: usize) -> Filled {
    let fitting = by_tiers(policy, candidates, demand, width).or_else(|| {
        let mut prefixes = tiers(candidates).into_iter();
        prefixes.find_map(|tier| {
            let to_it = candidates.iter().filter(|candidate| candidate.tier <= tier);
            within(policy, &to_it.copied().collect::<Vec<_>>(), demand, width)
        })
    });
    match fitting {
        Some(shares) => Filled {
            shares,
            overload: 0,
        },
        None => overload(candidates, demand, width),
    }
}

fn tiers(candidates: &[Candidate]) -> BTreeSet<usize> {
    candidates.iter().map(|candidate| candidate.tier).collect()
}

/// Fills the best tier, then the next with what is left.
fn by_tiers(policy: Policy, candidates: &[Candidate], demand: u32, width: usize) -> Option<Shares> {
    let mut shares = Shares::new();
    let mut rest = demand;
    for tier in tiers(candidates) {
        let here = candidates.iter().filter(|candidate| candidate.tier == tier);
        let here: Vec<Candidate> = here.copied().collect();
        let left = width.checked_sub(shares.len())?;
        let most = room(&roomiest(&here, left));
        let part = rest.min(u32::try_from(most).unwrap_or(u32::MAX));
        shares.extend(within(policy, &here, part, left)?);
        rest -= part;
    }
    (rest == 0).then_some(shares)
}

/// Divides `demand` among at most `width` of `candidates`; `None` if it does not fit.
pub(super) fn within(
    policy: Policy,
    candidates: &[Candidate],
    demand: u32,
    width: usize,
) -> Option<Shares> {
    if demand == 0 {
        return Some(Shares::new());
    }
    match policy {
        Policy::BestFit => best_fit(candidates, demand, width),
        Policy::FirstFit => first_fit(candidates, demand, width)
            .or_else(|| first_fit(&roomiest(candidates, width), demand, width)),
        Policy::WorstFit => worst_fit(&roomiest(candidates, width), demand),
        Policy::Spread => spread(&roomiest(candidates, width), demand),
    }
}

/// The `width` candidates with the most room, in the order of their names. Those that have updates already come first.
fn roomiest(candidates: &[Candidate], width: usize) -> Vec<Candidate> {
    let mut chosen = candidates.to_vec();
    if chosen.len() > width {
        chosen.sort_by_key(|candidate| {
            let idle = candidate.has == 0;
            (idle, Reverse(candidate.room), candidate.node)
        });
        chosen.truncate(width);
        chosen.sort_by_key(|candidate| candidate.node);
    }
    chosen
}

/// The fewest nodes. The *k* largest rooms hold more than any other *k*, so whatever fits on *k* nodes fits on those;
/// and the last of them may be exchanged for the smallest that holds what is left.
fn best_fit(candidates: &[Candidate], demand: u32, width: usize) -> Option<Shares> {
    let mut by_room: Vec<&Candidate> = candidates.iter().filter(|one| one.room > 0).collect();
    by_room.sort_by_key(|candidate| (Reverse(candidate.room), candidate.node));
    let mut shares = Shares::new();
    let mut rest = demand;
    for (at, largest) in by_room.iter().enumerate() {
        if shares.len() == width {
            return None;
        }
        if rest <= largest.room {
            let enough = by_room[at..].partition_point(|candidate| candidate.room >= rest);
            // Of equal ones the first by name.
            let smallest = by_room[at + enough - 1].room;
            let first = by_room[at..].partition_point(|candidate| candidate.room > smallest);
            shares.insert(by_room[at + first].node, rest);
            return Some(shares);
        }
        shares.insert(largest.node, largest.room);
        rest -= largest.room;
    }
    None
}

fn first_fit(candidates: &[Candidate], demand: u32, width: usize) -> Option<Shares> {
    let mut shares = Shares::new();
    let mut rest = demand;
    for candidate in candidates.iter().filter(|one| one.room > 0) {
        if rest == 0 || shares.len() == width {
            break;
        }
        let part = rest.min(candidate.room);
        shares.insert(candidate.node, part);
        rest -= part;
    }
    (rest == 0).then_some(shares)
}

/// Fills the largest rooms down to one level, as water does upside down.
fn worst_fit(candidates: &[Candidate], demand: u32) -> Option<Shares> {
    let above = |candidate: &Candidate, level: u32| candidate.room.saturating_sub(level);
    // The higher the level, the fewer updates are above it.
    level(candidates, demand, |candidate, depth| {
        above(candidate, u32::MAX - depth)
    })
}

/// Raises what each node has to one level, as far as there is room.
fn spread(candidates: &[Candidate], demand: u32) -> Option<Shares> {
    level(candidates, demand, |candidate, level| {
        level.saturating_sub(candidate.has).min(candidate.room)
    })
}

/// Gives each candidate `part(candidate, level)`, at the lowest level at which that is enough; what is too much is
/// taken back one by one from those whom the last step gave something, the last by name first.
fn level(
    candidates: &[Candidate],
    demand: u32,
    part: impl Fn(&Candidate, u32) -> u32,
) -> Option<Shares> {
    if room(candidates) < u64::from(demand) {
        return None;
    }
    let at = |level: u32| -> u64 {
        let parts = candidates.iter().map(|one| u64::from(part(one, level)));
        parts.sum()
    };
    let (mut low, mut high) = (0, u32::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        if at(middle) < u64::from(demand) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let mut surplus = at(low) - u64::from(demand);
    let mut shares = Shares::new();
    for candidate in candidates.iter().rev() {
        let mut share = part(candidate, low);
        if surplus > 0 && low > 0 && share > part(candidate, low - 1) {
            share -= 1;
            surplus -= 1;
        }
        if share > 0 {
            shares.insert(candidate.node, share);
        }
    }
    Some(shares)
}

/// More than fits: all rooms are filled, and the rest is shared in proportion to MC.
fn overload(candidates: &[Candidate], demand: u32, width: usize) -> Filled {
    let mut chosen = candidates.to_vec();
    chosen.sort_by(|a, b| {
        let size = b.concurrency.total_cmp(&a.concurrency);
        b.room.cmp(&a.room).then(size).then(a.node.cmp(&b.node))
    });
    chosen.truncate(width);
    let filled = chosen.iter().map(|one| (one.node, one.room)).collect();
    let excess = u64::from(demand).saturating_sub(total(&filled));
    let overload = u32::try_from(excess).unwrap_or(u32::MAX);
    let weights: Vec<u64> = chosen.iter().map(weight).collect();
    let extra = apportion(overload, &weights, &[]);
    let shares = chosen.iter().zip(extra).filter_map(|(candidate, extra)| {
        let share = candidate.room + extra;
        (share > 0).then_some((candidate.node, share))
    });
    Filled {
        shares: shares.collect(),
        overload,
    }
}

/// MC in thousandths: proportions of whole numbers are exact.
fn weight(candidate: &Candidate) -> u64 {
    ((candidate.concurrency * 1000.0) as u64).max(1)
}
