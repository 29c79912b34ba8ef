//! A job on this node, as gateway and agent share it.
//!
//! One lock guards the round's book and the model's slots; it is held for arithmetic only, never
//! across I/O. The order of things in a round:
//!
//! ```text
//!   gateway: accept -> publish slot -> descriptor [-> closes]       (any number, concurrently)
//!   workers: fold ... merge ... finish -> slot in state Model
//!   agent:   finished -> checkpoint -> publish -> sweep -> next round
//! ```

mod memory;
mod status;

use crate::clock::monotonic_ns;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::plan::Plan;
use crate::protocol::{Completion, Work};
use crate::round::{Close, Epoch, Known, Reason, Round};
use crate::tree;
use jiff::Timestamp;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tributary_api::control::FunctionRevision;
use tributary_api::event::EventKind;
use tributary_api::manifest::JobSpec;
use tributary_api::model::ModelLayout;
use tributary_api::status::RoundStatus;
use tributary_api::{ClientName, Name};
use tributary_arena::{
    Arena, Claim, Contributors, Filling, Kind as SlotKind, OWNER_AGENT, SlotInfo, State,
};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};

/// Rounds whose status is remembered.
const HISTORY: usize = 256;

/// A published model: its version and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModelSlot {
    pub version: u64,
    pub slot: u32,
    pub generation: u32,
}

/// Why an update is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another round is open.
    WrongRound { open: u64 },
    /// The round takes no more updates; its model is being made.
    Closing { round: u64 },
    /// All rounds are done.
    Completed { version: u64 },
    /// The client has sent other bytes in this round.
    OtherBytes,
    /// The function failed on this update before.
    Function(String),
    /// The job has failed; why.
    Failed(String),
    /// The job has been stopped.
    Stopped,
}

/// An update that was accepted, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub repeated: bool,
    pub contributors: u32,
}

/// A checked update, ready to be entered.
pub(crate) struct Update {
    pub client: ClientName,
    pub round: u64,
    pub weight: f64,
    pub digest: u128,
    /// Bytes copied to bring it into its slot.
    pub copied: u64,
}

/// What a job is made of.
pub(crate) struct Parts {
    pub name: Name,
    pub number: u32,
    pub revision: u64,
    pub spec: JobSpec,
    pub function: FunctionRevision,
    pub layout: Arc<ModelLayout>,
    pub plan: Plan,
    pub arena: Arc<Arena>,
    pub outbox: Outbox,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    /// Wakes the agent: a deadline may have come nearer.
    pub wake: Arc<Notify>,
}

pub(crate) struct Job {
    pub name: Name,
    /// Its number in destinations.
    pub number: u32,
    pub function: FunctionRevision,
    pub layout: Arc<ModelLayout>,
    pub plan: Plan,
    pub arena: Arc<Arena>,
    outbox: Outbox,
    events: Events,
    pub metrics: Arc<Metrics>,
    wake: Arc<Notify>,
    /// Workers that host its aggregators, for its status.
    pub workers: AtomicU32,
    slot_freed: Notify,
    version: watch::Sender<u64>,
    state: Mutex<Inner>,
}

struct Inner {
    spec: JobSpec,
    revision: u64,
    round: Round,
    /// The round before: a client that lost our answer may ask again.
    round_before: Option<Round>,
    tally: Tally,
    model: ModelSlot,
    /// The version before, kept for clients that are still fetching it.
    model_before: Option<ModelSlot>,
    /// The slot that holds the open round's result, once it is made.
    finished: bool,
    completed: bool,
    /// Why no round can be opened any more.
    failed: Option<String>,
    stopped: bool,
    last_error: Option<String>,
    last_activity: Instant,
    history: VecDeque<RoundStatus>,
}

/// What is counted in a round.
struct Tally {
    opened_at: Timestamp,
    closed: Option<(Timestamp, Instant)>,
    bytes_copied: u64,
    bytes_in_place: u64,
    rejected: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            opened_at: Timestamp::now(),
            closed: None,
            bytes_copied: 0,
            bytes_in_place: 0,
            rejected: 0,
        }
    }
}

impl Job {
    /// Starts a job whose model of `version` lies in `model`, in canonical order.
    pub(crate) fn new(
        parts: Parts,
        version: u64,
        model: &[u8],
    ) -> Result<Self, memory::ModelError> {
        let slot = memory::place_model(&parts.arena, parts.number, version, model)?;
        let round = Round::new(
            Epoch::new(version as u32, 0),
            parts.plan.tree,
            parts.spec.closing(),
        );
        let completed = parts
            .spec
            .rounds
            .is_some_and(|rounds| version > u64::from(rounds));
        let job = Self {
            state: Mutex::new(Inner {
                spec: parts.spec,
                revision: parts.revision,
                round,
                round_before: None,
                tally: Tally::new(),
                model: slot,
                model_before: None,
                finished: false,
                completed,
                failed: None,
                stopped: false,
                last_error: None,
                last_activity: Instant::now(),
                history: VecDeque::new(),
            }),
            name: parts.name,
            number: parts.number,
            function: parts.function,
            layout: parts.layout,
            plan: parts.plan,
            arena: parts.arena,
            outbox: parts.outbox,
            events: parts.events,
            metrics: parts.metrics,
            wake: parts.wake,
            workers: AtomicU32::new(0),
            slot_freed: Notify::new(),
            version: watch::Sender::new(version),
        };
        job.metrics
            .model_version
            .with_label_values(&[job.name.as_str()])
            .set(version as i64);
        if !completed {
            job.tell(EventKind::RoundOpened, json!({ "round": version }));
        }
        Ok(job)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held leaves arithmetic undone at worst; the round's contributors
        // are checked against the arena before anything is published.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, kind: EventKind, data: serde_json::Value) {
        self.events.tell(kind, Some(&self.name), data);
    }

    /// What the job's manifest says now.
    pub(crate) fn spec(&self) -> JobSpec {
        self.lock().spec.clone()
    }

    // === updates ===

    /// Whether an update for `round` could be accepted now.
    pub(crate) fn check_round(&self, round: u64) -> Result<(), Refusal> {
        self.lock().check_round(round)
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

    /// Counts an update that was turned away.
    pub(crate) fn count_rejected(&self) {
        self.lock().tally.rejected += 1;
    }

    /// True if the client has an update in the open round or the one before: another body of it
    /// needs no slot.
    pub(crate) fn has(&self, client: &ClientName, round: u64) -> bool {
        self.lock().book(round).is_some_and(|book| book.has(client))
    }

    /// Answers a client that has an update in the round already; `None` if it has none.
    pub(crate) fn repeated(
        &self,
        client: &ClientName,
        round: u64,
        digest: u128,
    ) -> Option<Result<Accepted, Refusal>> {
        self.lock().answer_known(client, round, digest)
    }

    /// Enters an update, publishes its slot and sends its descriptor.
    pub(crate) fn accept(&self, update: Update, filling: Filling) -> Result<Accepted, Refusal> {
        let mut state = self.lock();
        state.check_round(update.round)?;
        if let Some(answer) = state.answer_known(&update.client, update.round, update.digest) {
            return answer;
        }
        let now = Instant::now();
        let epoch = state.round.epoch;
        let Some(placement) = state.round.accept(update.client, update.digest, now) else {
            return Err(Refusal::Closing {
                round: update.round,
            });
        };
        let leaf = Destination::new(self.number, Level::Leaf, placement.leaf);
        let mut contributors = Contributors::empty(self.arena.geometry().contributor_words());
        contributors.insert(placement.client);
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
            weight: update.weight,
            client: placement.client,
            sequence: 0,
            contributors,
        };
        if !filling.publish(State::Ready, &claim) {
            // Only this process recovers its own slots, at its end.
            return Err(Refusal::Stopped);
        }
        state.tally.bytes_copied += update.copied;
        state.last_activity = now;
        let accepted = state.round.accepted();
        self.outbox.send([descriptor]);
        let reason = state.round.due(now);
        self.close_if(&mut state, reason);
        self.send_closes(&mut state);
        drop(state);
        if accepted == 1 {
            self.wake.notify_one();
        }
        self.tell(
            EventKind::UpdateAccepted,
            json!({ "round": epoch.round(), "accepted": accepted }),
        );
        Ok(Accepted {
            repeated: false,
            contributors: accepted,
        })
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

    /// When the agent must look at this job again, if at all.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let state = self.lock();
        if state.round.is_closed() {
            None
        } else {
            state.round.deadline()
        }
    }

    fn close_if(&self, state: &mut Inner, reason: Option<Reason>) {
        let Some(reason) = reason else { return };
        state.round.close();
        state.tally.closed = Some((Timestamp::now(), Instant::now()));
        let reason = match reason {
            Reason::Full => "full",
            Reason::Deadline => "deadline",
        };
        let data = json!({ "round": state.round.number(), "accepted": state.round.accepted(), "reason": reason });
        self.tell(EventKind::RoundClosed, data);
    }

    fn send_closes(&self, state: &mut Inner) {
        let closes = state.round.closes();
        self.outbox.send(
            closes
                .into_iter()
                .map(|close| self.close_descriptor(state, close)),
        );
    }

    fn close_descriptor(&self, state: &Inner, close: Close) -> Descriptor {
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

    // === what workers report ===

    /// Everything of the open round that has not been counted yet, sent again: after a worker was
    /// lost, or when the job is attached after it had none. Descriptors that arrive twice are
    /// harmless: slot, generation and contributors tell.
    pub(crate) fn send_again(&self) {
        let state = self.lock();
        let epoch = state.round.epoch;
        let target = |info: &SlotInfo| match info.word.state {
            State::Ready if info.round == epoch.raw() => Some((info.aggregator, Kind::Update)),
            State::Sent if info.round == epoch.raw() => {
                tree::parent(info.aggregator, self.plan.tree.fan_in)
                    .map(|parent| (parent, Kind::Partial))
            }
            _ => None,
        };
        let waiting = self.arena.in_use().filter_map(|info| {
            let (to, kind) = target(&info)?;
            Some(descriptor(to, info.slot, info.word.generation, epoch, kind))
        });
        self.outbox.send(waiting);
        let closes = state.round.current_closes();
        self.outbox.send(
            closes
                .into_iter()
                .map(|close| self.close_descriptor(&state, close)),
        );
    }

    /// Counts a committed step. True if it says that the open round's model is made.
    pub(crate) fn completed_step(&self, completion: &Completion) -> bool {
        let mut state = self.lock();
        state.last_activity = Instant::now();
        let bytes = match completion.work {
            Work::Fold => self.layout.data_bytes(),
            Work::Merge | Work::Finish | Work::Pass => self.plan.partial_bytes,
        } * u64::from(completion.inputs);
        let name = self.name.as_str();
        self.metrics
            .bytes_in_place
            .with_label_values(&[name])
            .inc_by(bytes);
        if let Some(level) = completion.destination.level() {
            let seconds = Duration::from_nanos(completion.nanoseconds).as_secs_f64();
            self.metrics
                .step
                .with_label_values(&[name, level.name()])
                .observe(seconds);
        }
        self.slot_freed.notify_waiters();
        if Epoch::from_raw(completion.round) != state.round.epoch {
            return false;
        }
        state.tally.bytes_in_place += bytes;
        completion.work == Work::Finish
    }

    /// The function failed on one client's update: the round goes on without it.
    pub(crate) fn refuse_update(&self, epoch: Epoch, client: u32, error: String) {
        let mut state = self.lock();
        if state.round.epoch != epoch {
            return;
        }
        self.metrics
            .updates
            .with_label_values(&[self.name.as_str(), "function_failed"])
            .inc();
        state.tally.rejected += 1;
        state.last_error = Some(error.clone());
        state.round.refuse(client, error);
        self.send_closes(&mut state);
        self.slot_freed.notify_waiters();
        let nothing_left = state.round.is_closed() && state.round.contributors() == 0;
        if nothing_left {
            let why = state.last_error.clone().unwrap_or_default();
            self.fail(&mut state, why);
        }
    }

    /// The open round has no result: everything of it is dropped, and it opens again.
    pub(crate) fn fail_round(&self, epoch: Epoch, error: String) {
        let mut state = self.lock();
        if state.round.epoch == epoch && !state.finished {
            self.fail(&mut state, error);
        }
    }

    /// As [`Self::fail_round`], whichever attempt is open.
    pub(crate) fn fail_open_round(&self, error: String) {
        let mut state = self.lock();
        if !state.finished {
            self.fail(&mut state, error);
        }
    }

    fn fail(&self, state: &mut Inner, error: String) {
        let mut status = self.describe_round(state);
        status.phase = tributary_api::status::RoundPhase::Failed;
        status.error = Some(error.clone());
        state.remember(status);
        self.metrics
            .rounds
            .with_label_values(&[self.name.as_str(), "failed"])
            .inc();
        self.tell(
            EventKind::RoundFailed,
            json!({ "round": state.round.number(), "error": error }),
        );
        state.last_error = Some(error.clone());
        memory::sweep(&self.arena, state.round.epoch, &state.kept_models());
        match state.round.epoch.again() {
            Some(epoch) => self.open_round(state, epoch),
            None => {
                state.failed = Some(format!(
                    "round {} failed too often: {error}",
                    state.round.number()
                ))
            }
        }
    }

    /// The slot that holds the open round's result, if a worker has made it and nobody has taken it.
    pub(crate) fn take_finished(&self) -> Option<ModelSlot> {
        let mut state = self.lock();
        if state.finished || !state.round.is_closed() {
            return None;
        }
        let epoch = state.round.epoch;
        let made = |info: &SlotInfo| info.word.state == State::Model && info.round == epoch.raw();
        let info = self.arena.in_use().find(made)?;
        state.finished = true;
        Some(ModelSlot {
            version: u64::from(epoch.round()) + 1,
            slot: info.slot,
            generation: info.word.generation,
        })
    }

    /// Hands a model out, frees what the round used, and opens the next round.
    pub(crate) fn publish(&self, model: ModelSlot, checkpoint: Result<(), String>) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        let before = std::mem::replace(&mut state.model, model);
        let oldest = state.model_before.replace(before);
        if let Some(oldest) = oldest {
            self.arena.release(oldest.slot, oldest.generation);
        }
        let mut status = self.describe_round(&state);
        status.phase = tributary_api::status::RoundPhase::Completed;
        status.completed_at = Some(Timestamp::now());
        status.aggregation_seconds = state.tally.closed.map(|(_, at)| at.elapsed().as_secs_f64());
        status.seconds = state
            .round
            .first_update()
            .map(|at| at.elapsed().as_secs_f64());
        let name = self.name.as_str();
        let observe = |family: &prometheus::HistogramVec, seconds: Option<f64>| {
            family
                .with_label_values(&[name])
                .observe(seconds.unwrap_or_default());
        };
        observe(&self.metrics.aggregation, status.aggregation_seconds);
        observe(&self.metrics.round, status.seconds);
        self.metrics
            .rounds
            .with_label_values(&[name, "completed"])
            .inc();
        self.metrics
            .model_version
            .with_label_values(&[name])
            .set(model.version as i64);
        if let Err(error) = checkpoint {
            self.metrics
                .checkpoint_failures
                .with_label_values(&[name])
                .inc();
            state.last_error = Some(error);
        }
        let data = json!({ "round": status.round, "contributors": status.contributors, "seconds": status.seconds });
        state.remember(status);
        memory::sweep(&self.arena, state.round.epoch, &state.kept_models());
        self.tell(EventKind::RoundCompleted, data);
        self.tell(
            EventKind::ModelPublished,
            json!({ "version": model.version }),
        );
        state.completed = state
            .spec
            .rounds
            .is_some_and(|rounds| model.version > u64::from(rounds));
        self.open_round(&mut state, Epoch::new(model.version as u32, 0));
        drop(state);
        self.version.send_replace(model.version);
        self.slot_freed.notify_waiters();
    }

    fn open_round(&self, state: &mut Inner, epoch: Epoch) {
        let next = Round::new(epoch, self.plan.tree, state.spec.closing());
        let before = std::mem::replace(&mut state.round, next);
        state.round_before = (before.epoch.round() < epoch.round()).then_some(before);
        state.tally = Tally::new();
        state.finished = false;
        if state.completed {
            self.tell(
                EventKind::JobCompleted,
                json!({ "version": state.model.version }),
            );
        } else {
            self.tell(
                EventKind::RoundOpened,
                json!({ "round": state.model.version }),
            );
        }
    }

    // === the rest ===

    /// The model that is handed out.
    pub(crate) fn model(&self) -> ModelSlot {
        self.lock().model
    }

    /// Hears of every new version.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Changes what can change under a running job.
    pub(crate) fn update(&self, spec: JobSpec, revision: u64) {
        let mut state = self.lock();
        state.round.set_closing(spec.closing());
        let version = state.model.version;
        state.completed = spec
            .rounds
            .is_some_and(|rounds| version > u64::from(rounds));
        state.spec = spec;
        state.revision = revision;
        let reason = state.round.due(Instant::now());
        self.close_if(&mut state, reason);
        self.send_closes(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    /// No update is accepted any more; who waits is told.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.slot_freed.notify_waiters();
        // A receiver that waits for a version sees the sender's change and looks again.
        self.version.send_modify(|_| {});
        self.metrics.forget_job(self.name.as_str());
    }

    /// True once [`Self::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// How long nothing has happened, if nothing is under way that a worker would have to do.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let state = self.lock();
        let closing = state.round.is_closed();
        (!closing).then(|| now.saturating_duration_since(state.last_activity))
    }

    /// Claims a slot for an update; waits up to `patience` for one to become free. `None`: no slot.
    pub(crate) async fn claim_slot(
        &self,
        patience: Duration,
    ) -> Result<Option<Filling>, tributary_arena::Error> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let freed = self.slot_freed.notified();
            if self.arena.free_slots() > self.plan.reserve
                && let Some(filling) = self.arena.claim(OWNER_AGENT)?
            {
                return Ok(Some(filling));
            }
            if self.is_stopped() || tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Ok(None);
            }
        }
    }
}

impl Inner {
    fn check_round(&self, round: u64) -> Result<(), Refusal> {
        let open = self.round.number();
        if self.stopped {
            Err(Refusal::Stopped)
        } else if let Some(why) = &self.failed {
            Err(Refusal::Failed(why.clone()))
        } else if self.completed {
            Err(Refusal::Completed { version: open })
        } else if round != open {
            Err(Refusal::WrongRound { open })
        } else {
            Ok(())
        }
    }

    /// The book of the open round or of the one before.
    fn book(&self, round: u64) -> Option<&Round> {
        let books = std::iter::once(&self.round).chain(&self.round_before);
        books.into_iter().find(|book| book.number() == round)
    }

    /// The answer to a client that the round knows, or to everybody once it is closed.
    fn answer_known(
        &self,
        client: &ClientName,
        round: u64,
        digest: u128,
    ) -> Option<Result<Accepted, Refusal>> {
        let book = self.book(round)?;
        match book.known(client, digest) {
            Some(Known::Same) => Some(Ok(Accepted {
                repeated: true,
                contributors: book.accepted(),
            })),
            Some(Known::Other) => Some(Err(Refusal::OtherBytes)),
            Some(Known::Refused(why)) => Some(Err(Refusal::Function(why))),
            None if book.is_closed() && round == self.round.number() => {
                Some(Err(Refusal::Closing { round }))
            }
            None => None,
        }
    }

    fn kept_models(&self) -> Vec<u32> {
        let before = self.model_before.map(|model| model.slot);
        std::iter::once(self.model.slot).chain(before).collect()
    }

    fn remember(&mut self, status: RoundStatus) {
        self.history.push_back(status);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }
}

fn descriptor(to: Destination, slot: u32, generation: u32, epoch: Epoch, kind: Kind) -> Descriptor {
    let (destination, round, kind) = (to.raw(), epoch.raw(), kind as u32);
    Descriptor {
        destination,
        sent_ns: monotonic_ns(),
        slot,
        generation,
        round,
        kind,
    }
}
