//! A round that does not get on: what it waits for is sent again, given up, or found to be nowhere.

use super::part::Part;
use super::{Inner, Job, Tally};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tributary_api::ClientName;
use tributary_api::event::EventKind;
use tributary_arena::{Contributors, OWNER_AGENT, SlotInfo, State, StateWord};
use tributary_sidecar_layout::{Destination, Level};

/// How often a closed round is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Clients that an error or an event names.
pub(super) const NAMES: usize = 8;

/// A closed round, as it was looked at last.
pub(super) struct Seen {
    at: Instant,
    /// Its slots. Generations only grow: what is the same twice was the same in between.
    slots: Vec<(u32, StateWord)>,
}

/// What workers are to do for a round that does not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Nothing.
    Well,
    /// They owe a part of it for longer than it may take: end them.
    Overdue,
}

impl Job {
    /// When the agent must look at this job again, if at all.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let state = self.lock();
        let round = &state.round;
        if state.stopped || state.failed.is_some() {
            return None;
        }
        let times = if round.is_closed() {
            let looked = state.tally.seen.as_ref().map_or(now, |seen| seen.at);
            [Some(looked + LOOK), state.overdue_at(), None]
        } else {
            [round.deadline(), round.resumes(), state.overdue_at()]
        };
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Looks at a round that is closed, or that has been open for too long.
    pub(crate) fn watch(&self, now: Instant) -> Watched {
        let mut state = self.lock();
        if state.stopped || state.failed.is_some() || state.finished {
            return Watched::Well;
        }
        let overdue = state.overdue_at().is_some_and(|at| now >= at);
        if !state.round.is_closed() {
            if overdue {
                self.end_open(&mut state);
            }
            return Watched::Well;
        }
        let infos: Vec<SlotInfo> = self.arena.in_use().collect();
        if overdue && self.awaits_only_others(&state, &infos) {
            self.give_others_up(&mut state, now);
            return Watched::Well;
        }
        if !state.tally.is_still(now, &infos) {
            return Watched::Well;
        }
        if overdue {
            let timeout = state.spec.timeout();
            let why = format!(
                "its model was not made in {timeout} after it closed (spec.round.timeout): the workers here did not do their part"
            );
            self.fail(&mut state, &why);
            return Watched::Overdue;
        }
        if self.is_worked_on(&infos) {
            return Watched::Well;
        }
        if let Some(missing) = self.lacks(&state, &infos) {
            self.fail(&mut state, &missing);
        } else {
            // Whatever became of the word of it.
            drop(state);
            self.send_again();
        }
        Watched::Well
    }

    /// Whether a worker is in the middle of a step.
    fn is_worked_on(&self, infos: &[SlotInfo]) -> bool {
        let fills =
            |info: &SlotInfo| info.word.state == State::Filling && info.word.owner != OWNER_AGENT;
        let geometry = self.arena.geometry();
        let has_journals = geometry.journal.lanes > 0;
        let mut journals = 0..geometry.rings;
        infos.iter().any(fills)
            || (has_journals && journals.any(|at| self.arena.journal(at).step().is_some()))
    }

    /// What this node's part of a closed round waits for and nobody has, if so: nothing is on its way or being worked on,
    /// and no partial is whole.
    fn lacks(&self, state: &Inner, infos: &[SlotInfo]) -> Option<String> {
        let round = &state.round;
        let own = round.numbers();
        let others = state.part.as_ref().map(Part::others).unwrap_or_default();
        let waits_for_others = !state.leads() || others.missing;
        if own.is_empty() && waits_for_others {
            return None;
        }
        let expected: BTreeMap<Destination, u32> = round
            .current_closes()
            .into_iter()
            .filter_map(|close| {
                let level = Level::from_raw(close.level)?;
                Some((
                    Destination::new(self.number, level, close.index),
                    close.expected,
                ))
            })
            .collect();
        let mut held = Contributors::default();
        let committed =
            |info: &&SlotInfo| info.round == round.epoch.raw() && info.word.state != State::Filling;
        for info in infos.iter().filter(committed) {
            let inside = self.arena.contributors(info.slot);
            let whole = expected.get(&info.aggregator) == Some(&inside.len());
            let rests = info.word.state == State::Live && !whole;
            if !rests || (waits_for_others && inside.contains_all(&own)) {
                return None;
            }
            held.extend(&inside);
        }
        let missing = round.names_beside(&held);
        let all = round.contributors_everywhere();
        Some(format!(
            "{} of the {all} updates are in no partial any more, and nobody has them: {}",
            all.saturating_sub(held.len()),
            listed(missing.iter())
        ))
    }

    /// Ends an attempt that has been open for too long.
    fn end_open(&self, state: &mut Inner) {
        let (inside, full) = (state.round.contributors_everywhere(), state.round.full());
        let timeout = state.spec.timeout();
        let why = format!(
            "{inside} of {full} updates were in {timeout} after the first one (spec.round.timeout)"
        );
        self.fail(state, &why);
    }

    /// Whether this node has done its part, and another one has not.
    fn awaits_only_others(&self, state: &Inner, infos: &[SlotInfo]) -> bool {
        let (own, epoch) = (state.round.numbers(), state.round.epoch.raw());
        let whole = |info: &SlotInfo| {
            matches!(info.word.state, State::Live | State::Sent)
                && info.round == epoch
                && self.arena.contributors(info.slot).contains_all(&own)
        };
        let missing = state
            .part
            .as_ref()
            .is_some_and(|part| part.others().missing);
        let awaits = missing || !state.leads();
        awaits && (own.is_empty() || infos.iter().any(whole))
    }

    /// Goes on without the followers whose partials have not come.
    fn give_others_up(&self, state: &mut Inner, now: Instant) {
        state.tally.waits_since = Some(now);
        let Some(part) = &mut state.part else { return };
        for (node, updates) in part.give_up_missing() {
            self.tell_lost(state, &node, updates);
        }
        self.settle(state);
        self.changed();
    }

    /// Tells that updates are lost with a node that does not hand them over, or is gone.
    pub(super) fn tell_lost(&self, state: &Inner, node: &tributary_api::Name, updates: u32) {
        let round = state.round.number();
        self.tell(
            EventKind::UpdatesLost,
            || json!({ "round": round, "node": node, "updates": updates }),
        );
        tracing::warn!(job = %self.name, round, %node, updates, "updates are lost with their node; clients may send them again");
    }
}

impl Tally {
    /// Whether a closed round's slots are as they were when it was looked at last, a while ago.
    fn is_still(&mut self, now: Instant, infos: &[SlotInfo]) -> bool {
        if self.seen.as_ref().is_some_and(|seen| now < seen.at + LOOK) {
            return false;
        }
        let slots = infos.iter().map(|info| (info.slot, info.word)).collect();
        let seen = self.seen.replace(Seen { at: now, slots });
        seen.is_some_and(|before| {
            self.seen
                .as_ref()
                .is_some_and(|now| now.slots == before.slots)
        })
    }
}

impl Inner {
    /// When the open attempt has taken too long: from its close, or, where the manifest says so, from its first update.
    fn overdue_at(&self) -> Option<Instant> {
        let timeout = self.spec.timeout().duration();
        if self.round.is_closed() {
            return Some(self.tally.waits_since? + timeout);
        }
        let _ = self.spec.round.timeout.filter(|_| self.leads())?;
        Some(self.round.first_update()? + timeout)
    }
}

/// Clients by name, as many as fit an error.
pub(super) fn listed<'a>(clients: impl Iterator<Item = &'a ClientName>) -> String {
    let names: Vec<_> = clients.map(ToString::to_string).collect();
    let more = names.len().saturating_sub(NAMES);
    let listed = names[..names.len() - more].join(", ");
    match more {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}
