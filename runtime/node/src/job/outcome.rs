//! What becomes of a round: steps that workers report, its failure, its model, the next round.

use super::blame::Blame;
use super::overdue::{NAMES, listed};
use super::part::Opened;
use super::{Inner, Job, ModelSlot, Tally, descriptor, memory};
use crate::protocol::{Completion, Work};
use crate::round::{Epoch, Placement, Round};
use crate::tree;
use jiff::Timestamp;
use serde_json::json;
use std::time::{Duration, Instant};
use tributary_api::control::ModelKey;
use tributary_api::event::EventKind;
use tributary_api::manifest::Determinism;
use tributary_api::status::{RoundPhase, RoundStatus};
use tributary_arena::{Contributors, SlotInfo, SlotRef, State};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};

/// Rounds whose status is remembered.
const HISTORY: usize = 256;

/// Who has made a model.
pub(super) enum Made {
    /// This node: it tells who is in it.
    Here,
    /// Another one, and what it tells of the round, if it could be asked. Who leads after it answers for the round.
    Elsewhere(Option<Box<RoundStatus>>),
}

impl Job {
    /// Everything of the open round that has not been counted yet, sent again: after a worker was
    /// lost, or when the job is attached after it had none. Descriptors that arrive twice are
    /// harmless: slot, generation and contributors tell.
    pub(crate) fn send_again(&self) {
        let state = self.lock();
        // The worker that was lost may have committed something for an epoch that was over.
        self.sweep_before(&state);
        if state.finished {
            return; // Whatever lies there is in the model, which would only be made twice.
        }
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
        self.outbox.send(self.skips(&state));
        let closes = state.round.current_closes();
        self.outbox.send(
            closes
                .into_iter()
                .map(|close| self.close_descriptor(&state, close)),
        );
    }

    /// Tells a leaf that takes its updates in order for which it need not wait.
    fn skips(&self, state: &Inner) -> Vec<Descriptor> {
        if state.spec.determinism != Determinism::Ordered {
            return Vec::new();
        }
        let epoch = state.round.epoch;
        let skip = |placement: Placement| {
            let leaf = Destination::new(self.number, Level::Leaf, placement.leaf);
            descriptor(leaf, placement.client, 0, epoch, Kind::Skip)
        };
        state.round.refused().map(skip).collect()
    }

    /// Counts a committed step. True if it says that the open round's model is made.
    pub(crate) fn completed_step(&self, completion: &Completion) -> bool {
        let mut state = self.lock();
        if state.stopped {
            return false;
        }
        let now = Instant::now();
        state.last_activity = now;
        state
            .flow
            .work(Duration::from_nanos(completion.nanoseconds).as_secs_f64());
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
            self.metrics.busy.inc_by(seconds);
        }
        if let Some(activation) = completion.activation {
            self.metrics.observe_activation(activation);
        }
        self.changed();
        if Epoch::from_raw(completion.round) != state.round.epoch {
            // A slow worker has committed this after the round's end: nobody else would free it before
            // the next round's.
            self.sweep_before(&state);
            return false;
        }
        state.tally.bytes_in_place += bytes;
        if completion.work == Work::Fold {
            state.flow.fold(now, completion.inputs);
        }
        state.tally.folds.add(completion);
        self.note_own_part(&mut state);
        completion.work == Work::Finish
    }

    /// Frees what workers have committed for epochs that were over by then.
    fn sweep_before(&self, state: &Inner) {
        if let Some(over) = state.round.epoch.before() {
            memory::sweep(&self.arena, over, &state.kept_models());
        }
    }

    /// The function failed on one client's update, which lies at `input`: the round goes on without it. Its slot is freed
    /// with the entry in the book, not by the worker: a worker's death would part the two.
    pub(crate) fn refuse_update(&self, epoch: Epoch, client: u32, input: SlotRef, error: String) {
        let mut state = self.lock();
        if state.stopped || state.round.epoch != epoch {
            return;
        }
        // One that is in the result already was left by a worker that died before it could release it.
        let counted = self.is_inside(epoch, client, input);
        let freed = self.arena.release(input.slot, input.generation);
        self.slot_freed.notify_one();
        if counted || !freed || !state.round.refuse(client, error.clone()) {
            return;
        }
        if let Some(client) = state.round.client(client) {
            let round = state.round.number();
            tracing::warn!(job = %self.name, round, %client, error, "the function failed on an update, which is left out");
        }
        self.metrics
            .updates
            .with_label_values(&[self.name.as_str(), "function-failed"])
            .inc();
        state.tally.rejected += 1;
        state.flow.leave(Instant::now(), 1);
        state.last_error = Some(error);
        self.outbox.send(self.skips(&state));
        self.send_closes(&mut state);
        self.slot_freed.notify_one();
        self.changed();
        self.fail_if_short(&mut state);
    }

    /// Whether a client is in another slot than the one of its update.
    fn is_inside(&self, epoch: Epoch, client: u32, input: SlotRef) -> bool {
        let client = Contributors::single(client);
        let committed = |info: &SlotInfo| {
            matches!(info.word.state, State::Live | State::Sent | State::Model)
                && info.round == epoch.raw()
                && info.slot != input.slot
        };
        let mut committed = self.arena.in_use().filter(committed);
        committed.any(|info| self.arena.contributors(info.slot).contains_all(&client))
    }

    /// Fails the round if too few are inside and no more can come.
    pub(super) fn fail_if_short(&self, state: &mut Inner) -> bool {
        let short = state.shortage();
        if let Some(why) = &short {
            self.fail(state, why);
        }
        short.is_some()
    }

    /// A merge or finish has failed on a partial with these clients `inside`: everything of the round is dropped, and it
    /// opens again.
    pub(crate) fn fail_round(&self, epoch: Epoch, inside: &Contributors, error: &str) {
        let mut state = self.lock();
        if state.stopped || state.round.epoch != epoch || state.finished {
            return;
        }
        state.lay_blame(inside, error);
        self.fail(&mut state, error);
    }

    /// As [`Self::fail_round`], whichever attempt is open, and through no client's fault.
    pub(crate) fn fail_open_round(&self, error: &str) {
        let mut state = self.lock();
        if !state.stopped && !state.finished {
            self.fail(&mut state, error);
        }
    }

    pub(super) fn fail(&self, state: &mut Inner, error: &str) {
        let mut status = self.describe_round(state);
        status.phase = RoundPhase::Failed;
        status.error = Some(error.to_owned());
        state.remember(status);
        self.metrics
            .rounds
            .with_label_values(&[self.name.as_str(), "failed"])
            .inc();
        let (round, attempt) = (state.round.number(), state.round.epoch.attempt());
        self.tell_round(state, EventKind::RoundFailed, || {
            let suspects: Vec<_> = state.blame.suspects().take(NAMES).collect();
            let left_out: Vec<_> = state.blame.out().take(NAMES).collect();
            json!({ "round": round, "attempt": attempt, "error": error, "suspects": suspects, "leftOut": left_out })
        });
        let suspects = listed(state.blame.suspects());
        let left_out = listed(state.blame.out());
        let pause = state.blame.count_failure();
        tracing::warn!(job = %self.name, round, attempt, error, suspects, left_out, ?pause, "a round failed, and begins anew");
        state.last_error = Some(error.to_owned());
        memory::sweep(&self.arena, state.round.epoch, &state.kept_models());
        self.slot_freed.notify_one();
        match state.round.epoch.again() {
            Some(epoch) => {
                drop(self.open_round(state, epoch));
                state.round.set_resumes(Instant::now() + pause);
            }
            None => {
                let round = state.round.number();
                state.failed = Some(format!("round {round} failed too often: {error}"));
                self.opened.notify_waiters();
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
        let (inside, least) = (state.round.contributors_everywhere(), state.round.least());
        if inside < least {
            state.blame.is_aside();
            let why = format!(
                "the model can be made of {inside} updates, and the round needs {least}: one of those that were set aside is the reason"
            );
            self.fail(&mut state, &why);
            return None;
        }
        state.finished = true;
        Some(ModelSlot {
            version: u64::from(epoch.round()) + 1,
            slot: info.slot,
            generation: info.word.generation,
        })
    }

    /// The open round's result is not published: as a `finish` that fails.
    pub(crate) fn fail_finished(&self, model: ModelSlot, error: &str) {
        let mut state = self.lock();
        let open = u64::from(state.round.epoch.round()) + 1 == model.version;
        if !state.stopped && state.finished && open && self.has_model(&model) {
            let inside = state.round.numbers();
            state.lay_blame(&inside, error);
            self.fail(&mut state, error);
        }
    }

    /// Tells that the round is completed, and who is in it.
    fn tell_completed(&self, state: &Inner, status: &RoundStatus) {
        self.tell_round(state, EventKind::RoundCompleted, || {
            let mut data = json!({ "round": status.round, "contributors": status.contributors, "seconds": status.seconds });
            if let Some(staleness) = status.staleness {
                data["staleness"] = json!(staleness);
            }
            if !status.shares.is_empty() {
                data["shares"] = json!(status.shares);
            }
            data
        });
    }

    /// Hands a model out that was made here, frees what the round used, and opens the next round.
    pub(crate) fn publish(&self, model: ModelSlot) {
        self.go_on(model, Made::Here);
    }

    /// Tells that a model cannot be kept, and so is not published yet; whether it still can be.
    pub(crate) fn not_kept(&self, model: ModelSlot, error: String) -> bool {
        let mut state = self.lock();
        if state.stopped || model.version <= state.model.version || !self.has_model(&model) {
            return false;
        }
        self.metrics
            .checkpoint_failures
            .with_label_values(&[self.name.as_str()])
            .inc();
        state.last_error = Some(error);
        true
    }

    /// Under which name a model is kept.
    pub(crate) fn model_key(&self, version: u64) -> ModelKey {
        let placement = self.placement();
        ModelKey {
            job: self.name.clone(),
            life: self.life,
            generation: placement.map_or(0, |placement| placement.generation),
            version,
        }
    }

    /// As [`Self::publish`], also with a model that another node has made.
    pub(super) fn go_on(&self, model: ModelSlot, made: Made) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        // While it was written, one may have come from another node, or this attempt at the round may have been given up.
        if model.version <= state.model.version || !self.has_model(&model) {
            self.arena.release(model.slot, model.generation);
            self.slot_freed.notify_one();
            return;
        }
        let before = std::mem::replace(&mut state.model, model);
        let oldest = if self.plan.models_kept > 1 {
            state.model_before.replace(before)
        } else {
            Some(before)
        };
        if let Some(oldest) = oldest {
            self.arena.release(oldest.slot, oldest.generation);
        }
        let mut status = self.describe_round(&state);
        status.phase = RoundPhase::Completed;
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
        match made {
            Made::Here => {
                self.tell_completed(&state, &status);
                state.remember(status);
            }
            Made::Elsewhere(Some(told)) => state.remember(*told),
            Made::Elsewhere(None) => {}
        }
        memory::sweep(&self.arena, state.round.epoch, &state.kept_models());
        self.tell_round(
            &state,
            EventKind::ModelPublished,
            || json!({ "version": model.version }),
        );
        state.completed = state
            .spec
            .rounds
            .is_some_and(|rounds| model.version > u64::from(rounds));
        let forgotten = match Epoch::first(model.version) {
            Some(epoch) => self.open_round(&mut state, epoch),
            None => {
                state.failed = Some(too_many_rounds(model.version));
                self.opened.notify_waiters();
                Vec::new()
            }
        };
        drop(state);
        self.version.send_replace(model.version);
        self.slot_freed.notify_one();
        // A large book takes its time to go: not while others wait for the lock.
        drop(forgotten);
    }

    /// Whether a model is still in its slot.
    fn has_model(&self, model: &ModelSlot) -> bool {
        let is_it = |info: &SlotInfo| {
            info.slot == model.slot
                && info.word.generation == model.generation
                && info.word.state == State::Model
        };
        self.arena.in_use().any(|info| is_it(&info))
    }

    /// Opens a round; gives the books that are not needed any more.
    fn open_round(&self, state: &mut Inner, epoch: Epoch) -> Vec<Round> {
        let closing = state.spec.closing();
        let now = Instant::now();
        let next = Round::new(epoch, state.tree, closing, now);
        state.flow.clear(now);
        let again = state.round.epoch.round() == epoch.round();
        if !again {
            state.blame = Blame::default();
        }
        let forgotten = state.turn_over(next);
        state.reopen_part(if again { Opened::Again } else { Opened::Next });
        state.tally = Tally::new();
        state.finished = false;
        if state.hands_over_early(&self.node) {
            self.close_here(state);
        }
        self.changed();
        self.opened.notify_waiters();
        if state.completed {
            self.tell_round(
                state,
                EventKind::JobCompleted,
                || json!({ "version": state.model.version }),
            );
        } else {
            self.tell_round(
                state,
                EventKind::RoundOpened,
                || json!({ "round": state.model.version }),
            );
        }
        forgotten
    }
}

/// What a job that has used up all round numbers says.
pub(super) fn too_many_rounds(version: u64) -> String {
    let last = Epoch::ROUND_MAX;
    format!(
        "round {version} cannot be opened: {last} is the last one; start a new job from this model"
    )
}

impl Inner {
    fn kept_models(&self) -> Vec<u32> {
        let before = self.model_before.map(|model| model.slot);
        std::iter::once(self.model.slot).chain(before).collect()
    }

    /// A merge or finish has failed with these numbers inside. Clients of other nodes have no names here.
    fn lay_blame(&mut self, inside: &Contributors, error: &str) {
        let clients = self.round.names(inside);
        if !clients.is_empty() {
            self.blame.fall_on(clients, error);
        }
    }

    fn remember(&mut self, status: RoundStatus) {
        self.history.push_back(status);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }
}
