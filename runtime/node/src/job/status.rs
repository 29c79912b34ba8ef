//! What a job says of itself.

use super::{Inner, Job};
use crate::metrics::ARENA_SLOTS;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tributary_api::status::{
    AggregatorCounts, ArenaStatus, JobPhase, JobStatus, RoundPhase, RoundStaleness, RoundStatus,
};
use tributary_arena::Room;

impl Inner {
    fn phase(&self) -> JobPhase {
        match (&self.failed, self.completed) {
            (Some(_), _) => JobPhase::Failed,
            (None, true) => JobPhase::Completed,
            (None, false) => JobPhase::Running,
        }
    }
}

impl Inner {
    /// How old the models were from which the open round's updates were trained, if the job takes such updates.
    fn describe_staleness(&self) -> Option<RoundStaleness> {
        let _ = self.spec.round.staleness?;
        let (accepted, sum) = (
            self.round.accepted_everywhere(),
            self.round.staleness_everywhere(),
        );
        Some(RoundStaleness {
            mean: sum.total as f64 / f64::from(accepted.max(1)),
            max: sum.max,
        })
    }
}

impl Inner {
    /// Updates that wait for the open round's model.
    fn waiting(&self) -> u32 {
        match self.phase() {
            JobPhase::Running => self.round.accepted_everywhere(),
            _ => 0,
        }
    }

    /// How long the open round's model has been due: since the round closed, or since its deadline passed without a
    /// quorum.
    fn overdue(&self, now: Instant) -> Duration {
        let closed = self.tally.closed.map(|(_, at)| at);
        let due = closed.or_else(|| self.round.deadline());
        match (self.phase(), due) {
            (JobPhase::Running, Some(due)) => now.saturating_duration_since(due),
            _ => Duration::ZERO,
        }
    }
}

impl Job {
    /// The job's status on the node of that name.
    pub(crate) fn status(&self, node: &str) -> JobStatus {
        let (geometry, sharing) = (self.arena.geometry(), Some(self.sharing()));
        let state = self.lock();
        JobStatus {
            name: self.name.clone(),
            phase: state.phase(),
            function: self.function.name.clone(),
            function_revision: self.function.revision,
            revision: state.revision,
            version: state.model.version,
            rounds: state.spec.rounds,
            expected: state.spec.expected(),
            accepted: state.round.accepted_everywhere(),
            parameters: self.layout.elements(),
            model_bytes: self.layout.data_bytes(),
            last_error: state.failed.clone().or_else(|| state.last_error.clone()),
            node: Some(node.to_owned()),
            arena: Some(ArenaStatus {
                segment: self.arena.name().to_owned(),
                slots: geometry.slots(),
                free: self.arena.free_slots(Room::Update) + self.arena.free_slots(Room::Partial),
                bytes: self.arena.reserved_bytes(),
                plan: self.plan.status(),
            }),
            workers: self.workers.load(Ordering::Relaxed),
            autoscaler: state.scaled.clone(),
            placement: state.placement_status(),
            times: state.times(),
            awaited: state.awaited(),
            sharing,
            bounds: Some(self.bounds(&state)),
        }
    }

    /// A round that is open or remembered.
    pub(crate) fn round_status(&self, round: u64) -> Option<RoundStatus> {
        let state = self.lock();
        if !state.completed && state.round.number() == round {
            let open = self.describe_round(&state);
            // A round that failed and opened again has both; the open one matters until it ends.
            return Some(open);
        }
        state
            .history
            .iter()
            .rev()
            .find(|status| status.round == round)
            .cloned()
    }

    /// The rounds that are open or remembered, newest first.
    pub(crate) fn rounds(&self) -> Vec<RoundStatus> {
        let state = self.lock();
        let open = (!state.completed).then(|| self.describe_round(&state));
        open.into_iter()
            .chain(state.history.iter().rev().cloned())
            .collect()
    }

    pub(super) fn describe_round(&self, state: &Inner) -> RoundStatus {
        let (round, tally) = (&state.round, &state.tally);
        let failed = state
            .history
            .back()
            .filter(|status| status.round == round.number());
        RoundStatus {
            job: self.name.clone(),
            round: round.number(),
            phase: if round.is_closed() {
                RoundPhase::Closing
            } else {
                RoundPhase::Open
            },
            expected: state.spec.expected(),
            accepted: round.accepted_everywhere(),
            contributors: round.contributors_everywhere(),
            rejected: tally.rejected,
            late: 0,
            lost: state.lost(),
            shares: self.shares(state),
            staleness: state.describe_staleness(),
            opened_at: Some(tally.opened_at),
            closed_at: tally.closed.map(|(at, _)| at),
            completed_at: None,
            aggregation_seconds: None,
            seconds: None,
            bytes_copied: tally.bytes_copied,
            bytes_read_in_place: tally.bytes_in_place,
            aggregators: AggregatorCounts {
                leaf: round.leaves(),
                middle: round.middles(),
                top: u32::from(round.accepted_everywhere() > 0),
            },
            error: failed.and_then(|status| status.error.clone()),
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn observe(&self) {
        let state = self.lock();
        if state.stopped {
            return;
        }
        let (waiting, overdue) = (state.waiting(), state.overdue(Instant::now()));
        let name = self.name.as_str();
        self.metrics.observe_round(name, waiting, overdue);
        self.observe_arena(&state);
    }

    fn observe_arena(&self, state: &Inner) {
        let slots = self.arena.geometry().slots();
        let free = self.arena.free_slots(Room::Update) + self.arena.free_slots(Room::Partial);
        let touched = self.arena.reserved_slots();
        let (leased, overdue) = state.count_leases();
        let name = self.name.as_str();
        let counts = [free, slots - free, touched, leased, overdue];
        for (state, slots) in ARENA_SLOTS.into_iter().zip(counts) {
            self.metrics
                .arena_slots
                .with_label_values(&[name, state])
                .set(i64::from(slots));
        }
        self.metrics
            .arena_bytes
            .with_label_values(&[name])
            .set(self.arena.reserved_bytes() as i64);
    }
}
