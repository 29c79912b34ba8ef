//! What nodes take for their parts in a round, measured where it happens, by the clock of whoever measures: folds by
//! the workers, the way of a partial by the leader that waits for it.

use super::part::Part;
use super::{Inner, Job, Tally};
use crate::protocol::{Completion, Work};
use std::time::{Duration, Instant};
use tributary_api::stages::{NodeTimes, RoundTimes, StageTimes, microseconds};
use tributary_api::status::{RoundPhase, RoundStatus};
use tributary_arena::{SlotInfo, State};

/// Rounds whose times are told with a job's status.
const ROUNDS_TOLD: usize = 5;
/// Times that are told of all these rounds together; a status is one message, whatever the number of nodes. The newest
/// round is always told.
const TIMES_TOLD: usize = 256;

/// The folds of a round on this node.
#[derive(Clone, Copy, Default)]
pub(super) struct Folds {
    time: Duration,
    updates: u64,
}

impl Folds {
    pub(super) fn add(&mut self, completion: &Completion) {
        if completion.work == Work::Fold {
            self.time += Duration::from_nanos(completion.nanoseconds);
            self.updates += u64::from(completion.inputs);
        }
    }

    /// What an update took.
    pub(super) fn each(&self) -> Option<Duration> {
        let updates = u32::try_from(self.updates).unwrap_or(u32::MAX);
        self.time.checked_div(updates)
    }
}

impl Tally {
    /// The time since the round closed.
    pub(super) fn since_close(&self) -> Option<Duration> {
        self.closed.map(|(_, at)| at.elapsed())
    }

    /// This node's own times.
    pub(super) fn stages(&self) -> StageTimes {
        StageTimes {
            fold_microseconds: self.folds.each().map(microseconds),
            hand_over_microseconds: self.whole_after.map(microseconds),
            transfer_microseconds: None,
        }
    }
}

impl Job {
    /// On a node that leads: notes when its own part of a closed round is whole, wherever in the tree it lies.
    pub(super) fn note_own_part(&self, state: &mut Inner) {
        let Some((_, closed)) = state.tally.closed else {
            return;
        };
        let leads = state.part.as_ref().is_some_and(|part| part.has_followers());
        if !leads || state.tally.whole_after.is_some() || state.round.contributors() == 0 {
            return;
        }
        let (own, epoch) = (state.round.numbers(), state.round.epoch.raw());
        let whole = |info: &SlotInfo| {
            let committed = matches!(info.word.state, State::Live | State::Sent | State::Model);
            committed
                && info.round == epoch
                && self.arena.contributors(info.slot).contains_all(&own)
        };
        if self.arena.in_use().any(|info| whole(&info)) {
            state.tally.whole_after = Some(Instant::now().saturating_duration_since(closed));
        }
    }
}

impl Inner {
    /// What this node tells of rounds that are over, if it leads: followers only keep it for the time after.
    pub(super) fn times(&self) -> Vec<RoundTimes> {
        if self.part.as_ref().is_some_and(Part::follows) {
            return Vec::new();
        }
        told(self.history.iter())
    }
}

/// The times of the newest rounds that were completed, the newest last.
fn told<'a>(history: impl DoubleEndedIterator<Item = &'a RoundStatus>) -> Vec<RoundTimes> {
    let completed = history.rev();
    let completed = completed
        .filter(|round| round.phase == RoundPhase::Completed && !round.shares.is_empty())
        .take(ROUNDS_TOLD);
    let mut count = 0;
    let within = completed.take_while(|round| {
        let first = count == 0;
        count += round.shares.len();
        first || count <= TIMES_TOLD
    });
    let mut rounds: Vec<RoundTimes> = within.map(times).collect();
    rounds.reverse();
    rounds
}

fn times(round: &RoundStatus) -> RoundTimes {
    let nodes = round.shares.iter();
    RoundTimes {
        round: round.round,
        nodes: nodes
            .map(|share| NodeTimes {
                node: share.node.clone(),
                stages: share.stages,
            })
            .collect(),
    }
}
