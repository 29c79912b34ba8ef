//! Which nodes take how many updates of which job, and where the top goes.
//!
//! A node's residual capacity is `RC = MC - k * E` (Little's law): the updates that it can have in service at once,
//! less those that arrive per second times the seconds that each takes. A job's updates are divisible, so [`BestFit`]
//! packs them on the fewest nodes: every node less is one partial less between nodes. A job that cannot be split
//! takes one node.
//!
//! [`plan`] places all jobs for a whole round. [`Assigner`] places one job's updates one by one, as they come, in
//! O(log n) each.
//!
//! A plan is stable. The one before is kept, and moved only where it has to be, as long as it is worse by no more
//! than [`Settings::tolerance`]. Rules that contradict each other end in a reason, never in a loop.
//!
//! [`BestFit`]: Policy::BestFit

mod adapt;
mod assigner;
mod book;
mod candidate;
mod fill;
mod input;
mod job;
mod output;
#[cfg(test)]
mod tests;

pub use assigner::{Assigned, Assigner};
pub use input::{Job, Node, NodeState, Policy, Settings};
pub use output::{Outcome, Placement, Plan, Unplaced};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use book::Book;
use candidate::Shares;

/// Times that all jobs are looked at again while something still moves. A bound, not a tuning: two are the rule.
const PASSES_MAX: usize = 4;

/// Places all `jobs` on `nodes`; what `previous` says is kept where it is nearly as good as anything else.
///
/// Of two nodes or jobs with one name the first counts. Work: O(nodes * log nodes) for each job.
#[must_use]
pub fn plan(nodes: &[Node], jobs: &[Job], previous: Option<&Plan>, settings: &Settings) -> Plan {
    let jobs = unique(jobs);
    let mut book = Book::new(nodes, &jobs, settings);
    let mut state: Vec<State> = jobs.iter().map(|_| State::New).collect();
    for (at, job) in jobs.iter().enumerate() {
        let before = previous.and_then(|plan| plan.placement(&job.name));
        if let Some(placement) = before {
            state[at] = State::Placed(Placed {
                shares: book.resolve(placement),
                top: book.node(&placement.top),
                overload: placement.overload,
            });
        }
    }
    let order = order(&jobs, &state);
    for &at in &order {
        if let Some(shares) = state[at].shares() {
            book.take(at, shares);
        }
    }
    for _ in 0..PASSES_MAX {
        let mut moved = false;
        for &at in &order {
            let next = job::place(&mut book, &jobs, at, state[at].placed(), settings);
            moved |= next.shares() != state[at].shares();
            state[at] = next;
        }
        if !moved {
            break;
        }
    }
    let outcomes = jobs.iter().zip(state);
    let outcomes = outcomes.filter_map(|(job, state)| {
        let outcome = state.outcome(&book)?;
        Some((job.name.clone(), outcome))
    });
    Plan {
        jobs: outcomes.collect(),
    }
}

/// Where a job stands while a plan is made.
enum State {
    New,
    Placed(Placed),
    Unplaced(Unplaced),
}

/// A placement by the nodes' numbers.
struct Placed {
    shares: Shares,
    top: Option<usize>,
    overload: u32,
}

impl State {
    const fn placed(&self) -> Option<&Placed> {
        match self {
            Self::Placed(placed) => Some(placed),
            Self::New | Self::Unplaced(_) => None,
        }
    }

    fn shares(&self) -> Option<&Shares> {
        self.placed().map(|placed| &placed.shares)
    }

    fn outcome(self, book: &Book<'_>) -> Option<Outcome> {
        match self {
            Self::New => None,
            Self::Unplaced(reason) => Some(Outcome::Unplaced(reason)),
            Self::Placed(placed) => Some(Outcome::Placed(Placement {
                top: book.name(placed.top?),
                shares: placed
                    .shares
                    .iter()
                    .map(|(node, share)| (book.name(*node), *share))
                    .collect(),
                overload: placed.overload,
            })),
        }
    }
}

/// Jobs by name, each once.
fn unique(jobs: &[Job]) -> Vec<&Job> {
    let mut names = BTreeMap::new();
    for job in jobs {
        names.entry(job.name.as_str()).or_insert(job);
    }
    names.into_values().collect()
}

/// Who is placed first: who is placed already, so that newcomers move nobody, and of those who fits before who does
/// not; then by priority, higher ones first; and of newcomers of one priority every tenant's first before anyone's
/// second.
fn order(jobs: &[&Job], state: &[State]) -> Vec<usize> {
    let mut of_tenant = BTreeMap::<(i32, &str), usize>::new();
    let mut rank = |at: usize| {
        let job = jobs[at];
        let (class, count) = match &state[at] {
            State::Placed(placed) => (usize::from(placed.overload > 0), 0),
            State::New | State::Unplaced(_) => {
                let count = of_tenant.entry((job.priority, &job.tenant)).or_default();
                *count += 1;
                (2, *count)
            }
        };
        (class, Reverse(job.priority), count)
    };
    let ranks: Vec<_> = (0..jobs.len()).map(&mut rank).collect();
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|at| ranks[*at]);
    order
}

/// The jobs that must not share a node with `job`, by either's word.
fn apart(jobs: &[&Job], at: usize) -> BTreeSet<usize> {
    let job = jobs[at];
    let others = jobs.iter().enumerate().filter(|(other, _)| *other != at);
    let apart = others.filter(|(_, other)| {
        job.anti_affinity.contains(&other.name) || other.anti_affinity.contains(&job.name)
    });
    apart.map(|(other, _)| other).collect()
}
