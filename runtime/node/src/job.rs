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

mod blame;
mod books;
mod fillers;
mod flow;
mod follower;
mod homes;
mod intake;
mod leader;
mod lease;
mod memory;
mod outcome;
mod overdue;
mod part;
mod scaled;
mod shared;
mod stages;
mod status;

pub(crate) use fillers::{Filler, Seat};
#[cfg(test)]
pub(crate) use flow::Passed;
pub(crate) use flow::{Look, RoundLook};
pub(crate) use homes::Holding;
pub(crate) use intake::{Accepted, Refusal, Update};
pub(crate) use overdue::Watched;
pub(crate) use shared::{Home, MemberRefusal, Travel, WholePartial};

use crate::clock::monotonic_ns;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::plan::Plan;
use crate::round::{Epoch, Round};
use crate::tree::Tree;
use fillers::Fillers;
use jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};
use tributary_api::Name;
use tributary_api::control::{FunctionRevision, Sharing};
use tributary_api::event::EventKind;
use tributary_api::manifest::{IngestSpec, JobSpec, UpdateBounds};
use tributary_api::model::{Encodings, ModelLayout};
use tributary_api::placement::Placement;
use tributary_api::status::{AutoscalerStatus, RoundStatus};
use tributary_arena::{Arena, SlotInfo, State};
use tributary_sidecar_layout::{Descriptor, Destination, Kind};
use twox_hash::XxHash3_128;

/// A published model: its version and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModelSlot {
    pub version: u64,
    pub slot: u32,
    pub generation: u32,
}

/// What a job is made of.
pub(crate) struct Parts {
    /// The node's name.
    pub node: Name,
    pub name: Name,
    pub number: u32,
    pub revision: u64,
    /// Tells it from a job of the same name that was deleted before.
    pub life: u64,
    pub spec: JobSpec,
    pub function: FunctionRevision,
    /// The encodings of updates that the function folds.
    pub encodings: Encodings,
    pub layout: Arc<ModelLayout>,
    pub plan: Plan,
    pub arena: Arc<Arena>,
    pub outbox: Outbox,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    /// Wakes the agent: a deadline may have come nearer.
    pub wake: Arc<Notify>,
    /// The job's nodes, if it may have several.
    pub placement: Option<Placement>,
    /// What it may claim of the node.
    pub sharing: Sharing,
}

pub(crate) struct Job {
    /// The node's name.
    pub node: Name,
    pub name: Name,
    /// Its number in destinations.
    pub number: u32,
    life: u64,
    pub function: FunctionRevision,
    /// The encodings of updates that the function folds.
    pub encodings: Encodings,
    pub layout: Arc<ModelLayout>,
    /// Tells the layout from others.
    pub fingerprint: String,
    pub plan: Plan,
    pub arena: Arc<Arena>,
    outbox: Outbox,
    events: Events,
    pub metrics: Arc<Metrics>,
    wake: Arc<Notify>,
    /// Workers that host its aggregators, for its status.
    pub workers: AtomicU32,
    /// Heard by the one who holds `admission`.
    slot_freed: Notify,
    /// Held from looking for a free slot to having it: the reserve is kept whatever comes at once, and
    /// who came first is served first.
    admission: tokio::sync::Mutex<()>,
    /// Those who fill a slot now.
    fillers: Fillers,
    /// One for each slot that local clients may hold at a time.
    lease_turns: Arc<Semaphore>,
    /// Heard by updates that wait for the next round.
    opened: Notify,
    version: watch::Sender<u64>,
    /// Counts what other nodes may want to hear of.
    changes: watch::Sender<u64>,
    state: Mutex<Inner>,
    /// Whether the job has been stopped. The last field: when its receivers hear that it is gone, so is the arena.
    ended: watch::Sender<bool>,
}

struct Inner {
    spec: JobSpec,
    revision: u64,
    sharing: Sharing,
    round: Round,
    /// The tree of rounds to come.
    tree: Tree,
    /// The rounds before, newest first: a client that lost our answer may ask again.
    before: VecDeque<Round>,
    /// This node's part in the job, if other nodes may have one.
    part: Option<part::Part>,
    tally: Tally,
    /// What the open round's failed attempts have taught.
    blame: blame::Blame,
    flow: flow::Flow,
    /// What the autoscaler decided last.
    scaled: Option<AutoscalerStatus>,
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
    /// Slots that local clients fill, by their numbers.
    leases: BTreeMap<u32, lease::Lease>,
    history: VecDeque<RoundStatus>,
}

/// What is counted in a round.
struct Tally {
    opened_at: Timestamp,
    closed: Option<(Timestamp, Instant)>,
    /// Since when it waits for those that it waits for now.
    waits_since: Option<Instant>,
    seen: Option<overdue::Seen>,
    bytes_copied: u64,
    bytes_in_place: u64,
    rejected: u64,
    folds: stages::Folds,
    /// On a node that leads others: the time from the close until its own part was whole.
    whole_after: Option<Duration>,
}

impl Tally {
    fn close(&mut self) {
        let now = Instant::now();
        (self.closed, self.waits_since) = (Some((Timestamp::now(), now)), Some(now));
    }

    fn new() -> Self {
        Self {
            opened_at: Timestamp::now(),
            closed: None,
            waits_since: None,
            seen: None,
            bytes_copied: 0,
            bytes_in_place: 0,
            rejected: 0,
            folds: stages::Folds::default(),
            whole_after: None,
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
        let epoch = Epoch::first(version);
        let failed = epoch.is_none().then(|| outcome::too_many_rounds(version));
        let epoch = epoch.unwrap_or(Epoch::from_raw(u32::MAX));
        let closing = parts.spec.closing();
        let mut round = Round::new(epoch, parts.plan.tree, closing, Instant::now());
        let part = parts
            .placement
            .map(|placement| part::Part::new(placement, &parts.node, version));
        if let Some(part) = &part {
            part.begin(&mut round);
        }
        let completed = parts
            .spec
            .rounds
            .is_some_and(|rounds| version > u64::from(rounds));
        let job = Self {
            state: Mutex::new(Inner {
                spec: parts.spec,
                revision: parts.revision,
                sharing: parts.sharing,
                round,
                tree: parts.plan.tree,
                before: VecDeque::new(),
                part,
                tally: Tally::new(),
                blame: blame::Blame::default(),
                flow: flow::Flow::new(Instant::now(), parts.metrics.meter.clone()),
                scaled: None,
                model: slot,
                model_before: None,
                finished: false,
                completed,
                failed,
                stopped: false,
                last_error: None,
                last_activity: Instant::now(),
                leases: BTreeMap::new(),
                history: VecDeque::new(),
            }),
            node: parts.node,
            name: parts.name,
            number: parts.number,
            life: parts.life,
            function: parts.function,
            encodings: parts.encodings,
            fingerprint: fingerprint(&parts.layout),
            layout: parts.layout,
            plan: parts.plan,
            arena: parts.arena,
            outbox: parts.outbox,
            events: parts.events,
            metrics: parts.metrics,
            wake: parts.wake,
            workers: AtomicU32::new(0),
            slot_freed: Notify::new(),
            admission: tokio::sync::Mutex::new(()),
            fillers: Fillers::default(),
            lease_turns: Arc::new(Semaphore::new(parts.plan.leases() as usize)),
            opened: Notify::new(),
            version: watch::Sender::new(version),
            changes: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        };
        job.metrics
            .model_version
            .with_label_values(&[job.name.as_str()])
            .set(version as i64);
        if !completed {
            let opened = || json!({ "round": version });
            job.tell_round(&job.lock(), EventKind::RoundOpened, opened);
        }
        Ok(job)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held leaves arithmetic undone at worst; the round's contributors
        // are checked against the arena before anything is published.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, kind: EventKind, data: impl FnOnce() -> serde_json::Value) {
        self.events.tell(kind, Some(&self.name), data);
    }

    /// Tells what happens to the job's round, which its leader tells the world.
    fn tell_round(&self, state: &Inner, kind: EventKind, data: impl FnOnce() -> serde_json::Value) {
        if state.part.as_ref().is_some_and(part::Part::follows) {
            self.events.echo(kind, &self.name, data);
        } else {
            self.events.tell(kind, Some(&self.name), data);
        }
    }

    /// What the job's manifest says now.
    pub(crate) fn spec(&self) -> JobSpec {
        self.lock().spec.clone()
    }

    /// What the job may claim of the node.
    pub(crate) fn sharing(&self) -> Sharing {
        self.lock().sharing.clone()
    }

    /// How updates are taken in.
    pub(crate) fn ingest(&self) -> IngestSpec {
        self.lock().spec.ingest.clone()
    }

    /// What it takes of one update.
    pub(crate) fn update_bounds(&self) -> UpdateBounds {
        self.bounds(&self.lock())
    }

    fn bounds(&self, state: &Inner) -> UpdateBounds {
        state.spec.update_bounds(self.plan.geometry.clients)
    }

    /// The model that is handed out.
    pub(crate) fn model(&self) -> ModelSlot {
        self.lock().model
    }

    /// Hears of every new version.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Changes what can change under a running job.
    pub(crate) fn update(&self, spec: JobSpec, revision: u64, sharing: Sharing) {
        let mut state = self.lock();
        state.round.set_closing(spec.closing());
        let version = state.model.version;
        state.completed = spec
            .rounds
            .is_some_and(|rounds| version > u64::from(rounds));
        state.spec = spec;
        state.revision = revision;
        state.sharing = sharing;
        let reason = state.round.due(Instant::now());
        self.close_if(&mut state, reason);
        self.send_closes(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    /// No update is accepted any more; who waits is told, and lets go of the job.
    pub(crate) fn stop(&self) {
        {
            // Under the lock, as is every count: what is forgotten here does not come back.
            let mut state = self.lock();
            state.stopped = true;
            state.flow.clear(Instant::now());
            self.metrics.forget_job(self.name.as_str());
        }
        self.slot_freed.notify_one();
        self.opened.notify_waiters();
        // A receiver that waits for a version sees the sender's change and looks again.
        self.version.send_modify(|_| {});
        self.changed();
        self.ended.send_replace(true);
    }

    /// Hears of the job's end, and is closed when its memory has gone.
    pub(crate) fn end(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Waits for the job's end. Who waits for a peer with the job in hand waits for this as well.
    pub(crate) async fn ended(&self) {
        // It fails only when the job is gone, and here is one who has it.
        let _ = self.end().wait_for(|ended| *ended).await;
    }

    /// True once [`Self::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// How long nothing has happened, if nothing is under way that a worker would have to do.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let state = self.lock();
        let idle = !self.is_working(&state);
        idle.then(|| now.saturating_duration_since(state.last_activity))
    }

    /// Whether something is under way that a worker has to do.
    pub(crate) fn is_under_way(&self) -> bool {
        self.is_working(&self.lock())
    }

    fn is_working(&self, state: &Inner) -> bool {
        let waits = |info: SlotInfo| info.word.state == State::Ready;
        let open = state.failed.is_none() && !state.stopped;
        open && (state.round.is_closed() || self.arena.in_use().any(waits))
    }
}

/// The same for the same names, types, shapes and places, on every node.
fn fingerprint(layout: &ModelLayout) -> String {
    format!("{:032x}", XxHash3_128::oneshot(&layout.header_bytes(&[])))
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
