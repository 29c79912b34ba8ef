//! Updates into a round: who may send, what is known of them, when the round closes.

use super::fillers::STANDSTILL;
use super::{Inner, Job, descriptor};
use crate::gateway::is_rejection;
use crate::round::{Close, Placement, Reason};
use serde_json::json;
use std::time::{Duration, Instant};
use tributary_api::ClientName;
use tributary_api::event::EventKind;
use tributary_api::model::SlotLayout;
use tributary_arena::{
    Claim, Content, Contributors, Filling, Kind as SlotKind, OWNER_AGENT, Room, State,
};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};

/// How long an update that comes while its round is closing waits for the next one. Until it has a slot, waiting
/// costs nothing: the body stays in the client's socket.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);

/// Why an update is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another round is open.
    WrongRound { open: u64 },
    /// The update was trained for a round too long before the open one.
    Stale { open: u64, staleness: u64, max: u32 },
    /// The update was trained for a round of which this node knows no updates: it could be a repeat.
    Forgotten { open: u64, since: u64 },
    /// The round takes no more updates; its model is being made.
    Closing { round: u64 },
    /// All rounds are done.
    Completed { version: u64 },
    /// The client has sent other bytes for this round.
    OtherBytes,
    /// The function failed on this update before.
    Function(String),
    /// The job has failed; why.
    Failed(String),
    /// The job has been stopped.
    Stopped,
    /// The client's updates belong to another node now.
    Moved,
}

/// An update that was accepted, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub repeated: bool,
    pub contributors: u32,
    /// The round that took it.
    pub round: u64,
    /// How many rounds before that it was trained for.
    pub staleness: u64,
}

/// Why an update is not entered.
enum NotEntered {
    Refused(Refusal),
    /// The round takes no more, and the next one will take it.
    Late(Filling),
}

impl From<Refusal> for NotEntered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A checked update, ready to be entered.
pub(crate) struct Update {
    pub client: ClientName,
    /// The round that it was trained for.
    pub round: u64,
    pub weight: f64,
    pub digest: u128,
    /// Bytes of its body.
    pub bytes: u64,
    /// Bytes copied to bring it into its slot.
    pub copied: u64,
    /// How its slot is to be read.
    pub slot: SlotLayout,
}

impl Job {
    /// Whether an update for `round` could be accepted, now or once the next round opens.
    pub(crate) fn check_round(&self, round: u64) -> Result<(), Refusal> {
        self.lock().check_round(round)
    }

    /// Waits while the open round is closing, if updates for `round` are carried into the next one.
    pub(crate) async fn until_open(&self, round: u64) -> Result<(), Refusal> {
        let open = async {
            loop {
                let opened = self.opened.notified();
                if !self.lock().would_be_late(round)? {
                    return Ok(());
                }
                opened.await;
            }
        };
        let open = tokio::time::timeout(CLOSING_PATIENCE, open).await;
        open.unwrap_or_else(|_| Err(self.closing()))
    }

    /// The open round takes no more updates.
    fn closing(&self) -> Refusal {
        let round = self.lock().round.number();
        Refusal::Closing { round }
    }

    /// Counts an update that came for a round that has ended.
    pub(crate) fn count_late(&self, round: u64) {
        if let Some(status) = self
            .lock()
            .history
            .iter_mut()
            .find(|status| status.round == round)
        {
            status.late += 1;
        }
    }

    /// Counts an update by its outcome: `accepted`, `repeated`, or the slug of a problem.
    pub(crate) fn count_outcome(&self, outcome: &str) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        if is_rejection(outcome) {
            state.tally.rejected += 1;
        }
        if outcome != "accepted" {
            // Its slot, if it had one, has been given up.
            self.slot_freed.notify_one();
        }
        let labels = [self.name.as_str(), outcome];
        self.metrics.updates.with_label_values(&labels).inc();
    }

    /// Counts an update whose file lay elsewhere, by its outcome, and what was fetched of it.
    pub(crate) fn count_reference(&self, outcome: &str, fetched: u64) {
        if self.lock().stopped {
            return;
        }
        let job = self.name.as_str();
        let references = self.metrics.references.with_label_values(&[job, outcome]);
        references.inc();
        let bytes = self.metrics.reference_bytes.with_label_values(&[job]);
        bytes.inc_by(fetched);
    }

    /// Counts an update whose client wrote it into its slot, if it is new.
    pub(crate) fn count_local(&self, accepted: &Accepted) {
        let state = self.lock();
        if accepted.repeated || state.stopped {
            return;
        }
        let labels = [self.name.as_str()];
        self.metrics.local_updates.with_label_values(&labels).inc();
    }

    /// True if an update of the client for that round is known: another body of it needs no slot.
    pub(crate) fn has(&self, client: &ClientName, round: u64) -> bool {
        self.lock().book_with(client, round).is_some()
    }

    /// Answers a client whose update for that round is known; `None` if it has none.
    pub(crate) fn repeated(
        &self,
        client: &ClientName,
        round: u64,
        digest: u128,
    ) -> Option<Result<Accepted, Refusal>> {
        self.lock().answer_known(client, round, digest)
    }

    /// Enters an update, publishes its slot and sends its descriptor. One whose round has begun to close waits for
    /// the next one, if that may take it.
    pub(crate) async fn accept(
        &self,
        update: &Update,
        mut filling: Filling,
    ) -> Result<Accepted, Refusal> {
        let patience = tokio::time::Instant::now() + CLOSING_PATIENCE;
        loop {
            let opened = self.opened.notified();
            filling = match self.enter(update, filling) {
                Ok(accepted) => return Ok(accepted),
                Err(NotEntered::Refused(refusal)) => return Err(refusal),
                Err(NotEntered::Late(filling)) => filling,
            };
            if tokio::time::timeout_at(patience, opened).await.is_err() {
                return Err(self.closing());
            }
        }
    }

    fn enter(&self, update: &Update, filling: Filling) -> Result<Accepted, NotEntered> {
        let mut state = self.lock();
        if let Some(answer) = state.answer_known(&update.client, update.round, update.digest) {
            return Ok(answer?);
        }
        state.check_round(update.round)?;
        state.check_client(&self.node, &update.client, update.round)?;
        self.check_blame(&mut state, &update.client)?;
        let round = state.round.number();
        let staleness = round.saturating_sub(update.round);
        let now = Instant::now();
        let first = state.round.first_update().is_none();
        let epoch = state.round.epoch;
        let Some(placement) = self.enroll(&mut state, update, now) else {
            // A slot may be kept over the end of a round if the finished model has one of its own.
            return Err(if state.carries() && self.plan.reserve > 0 {
                NotEntered::Late(filling)
            } else {
                Refusal::Closing { round }.into()
            });
        };
        let least = self.bounds(&state).weight_min;
        let weight = state.spec.round.weigh(update.weight, staleness, least);
        let leaf = Destination::new(self.number, Level::Leaf, placement.leaf);
        let descriptor = descriptor(
            leaf,
            filling.slot(),
            filling.generation(),
            epoch,
            Kind::Update,
        );
        let claim = Claim {
            kind: SlotKind::Update,
            aggregator: leaf,
            round: epoch.raw(),
            weight,
            client: placement.client,
            sequence: 0,
            content: Content {
                encoding: update.slot.encoding.code(),
                count: update.slot.count,
            },
            contributors: Contributors::single(placement.client),
        };
        if !filling.publish(State::Ready, &claim) {
            // Only this process recovers its own slots, at its end.
            return Err(Refusal::Stopped.into());
        }
        self.count_taken(&mut state, update, staleness);
        state.flow.arrive(now);
        state.last_activity = now;
        let accepted = state.round.accepted_everywhere();
        self.tell(
            EventKind::UpdateAccepted,
            || json!({ "round": epoch.round(), "accepted": accepted, "staleness": staleness }),
        );
        let reason = state.round.due(now);
        self.close_if(&mut state, reason);
        let closes = self.new_closes(&mut state);
        drop(state);
        self.outbox.send(std::iter::once(descriptor).chain(closes));
        self.changed();
        if first {
            self.wake.notify_one();
        }
        Ok(Accepted {
            repeated: false,
            contributors: accepted,
            round,
            staleness,
        })
    }

    /// Turns away a client whose update may be the one on which attempts at the round have failed. It has come: the round
    /// need not wait for another in its place.
    fn check_blame(&self, state: &mut Inner, client: &ClientName) -> Result<(), Refusal> {
        let Some(why) = state.blame.refusal(client) else {
            return Ok(());
        };
        if state.blame.note(client) {
            let (aside, left_out) = state.blame.came();
            state.round.set_turned_away(aside, left_out);
            let reason = state.round.due(Instant::now());
            self.close_if(state, reason);
            self.send_closes(state);
        }
        Err(Refusal::Function(why))
    }

    /// Enters an update into the book, unless the round is closed or has no number left.
    fn enroll(&self, state: &mut Inner, update: &Update, now: Instant) -> Option<Placement> {
        if state.is_full(self.plan.geometry.clients) {
            return None;
        }
        let client = update.client.clone();
        state.round.accept(client, update.round, update.digest, now)
    }

    fn count_taken(&self, state: &mut Inner, update: &Update, staleness: u64) {
        let name = self.name.as_str();
        state.tally.bytes_copied += update.copied;
        self.metrics
            .bytes_copied
            .with_label_values(&[name])
            .inc_by(update.copied);
        self.metrics
            .update_bytes
            .with_label_values(&[name, update.slot.encoding.name()])
            .inc_by(update.bytes);
        self.metrics.accepted.inc();
        if state.spec.round.staleness.is_some() {
            self.metrics.observe_staleness(name, staleness);
        }
    }

    /// Closes the round if its deadline has passed and its quorum is met.
    pub(crate) fn close_if_due(&self, now: Instant) {
        let mut state = self.lock();
        let reason = state.round.due(now);
        if reason.is_some() {
            self.close_if(&mut state, reason);
            self.send_closes(&mut state);
        }
    }

    pub(super) fn close_if(&self, state: &mut Inner, reason: Option<Reason>) {
        let Some(reason) = reason else { return };
        state.round.close();
        state.tally.close();
        self.note_own_part(state);
        let reason = match reason {
            Reason::Full => "full",
            Reason::Deadline => "deadline",
            Reason::Window => "window",
        };
        self.tell_round(state, EventKind::RoundClosed, || {
            json!({ "round": state.round.number(), "accepted": state.round.accepted_everywhere(), "reason": reason })
        });
        self.fail_if_short(state);
        self.changed();
    }

    pub(super) fn send_closes(&self, state: &mut Inner) {
        self.outbox.send(self.new_closes(state));
    }

    fn new_closes(&self, state: &mut Inner) -> Vec<Descriptor> {
        let closes = state.round.closes();
        let closes = closes.into_iter();
        closes
            .map(|close| self.close_descriptor(state, close))
            .collect()
    }

    pub(super) fn close_descriptor(&self, state: &Inner, close: Close) -> Descriptor {
        let level = Level::from_raw(close.level).unwrap_or(Level::Leaf);
        let to = Destination::new(self.number, level, close.index);
        descriptor(
            to,
            close.expected,
            state.model.slot,
            state.round.epoch,
            Kind::Close,
        )
    }

    /// Claims a slot for an update whose body comes at `pace` bytes in a second; waits up to `patience` for one to
    /// become free. `None`: no slot.
    pub(crate) async fn claim_slot(
        &self,
        pace: f64,
        patience: Duration,
    ) -> Result<Option<Filling>, tributary_arena::Error> {
        let slot = tokio::time::timeout(patience, self.next_slot(pace));
        slot.await.unwrap_or(Ok(None))
    }

    async fn next_slot(&self, pace: f64) -> Result<Option<Filling>, tributary_arena::Error> {
        // One looks at a time, in the order in which they came: a slot that becomes free wakes one.
        let _turn = self.admission.lock().await;
        loop {
            let freed = self.slot_freed.notified();
            // A round that is closed needs room for its model, and nothing else.
            let closed = self.lock().round.is_closed();
            let reserve = self.plan.reserve.max(u32::from(closed));
            if self.arena.more_free_than(Room::Update, reserve)
                && let Some(filling) = self.arena.claim(OWNER_AGENT, Room::Update)?
            {
                return Ok(Some(filling));
            }
            if self.is_stopped() {
                return Ok(None);
            }
            if tokio::time::timeout(STANDSTILL, freed).await.is_err() {
                let least = self.ingest().min_rate.bytes() as f64;
                self.fillers.make_room(least, pace, Instant::now());
            }
        }
    }

    /// Who waits for a slot looks again: workers may have freed some.
    pub(crate) fn slots_freed(&self) {
        self.slot_freed.notify_one();
    }
}

impl Inner {
    /// Whether an update for that round would be taken by the next round only.
    fn would_be_late(&self, round: u64) -> Result<bool, Refusal> {
        self.check_round(round)?;
        Ok(self.round.is_closed() && self.carries())
    }
}
