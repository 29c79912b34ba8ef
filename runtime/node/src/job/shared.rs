//! A job that several nodes aggregate: this node's part in it.
//!
//! One node leads, the others follow. A follower accepts its clients' updates, folds them into one partial, and
//! hands that over; it opens the next round with the model that the leader has made. The leader counts what all
//! have accepted, says when the round closes, and merges what comes.
//!
//! ```text
//!   follower                                       leader
//!     report: accepted, contributors, closed -->     counts; closes the round when enough is in
//!     obey                                   <--     directive: round, attempt, closed, taken
//!     partial, once it is whole              -->     takes it once; tells the top when nothing is missing
//!     fetch the model, open its round        <--     directive: the next round
//! ```
//!
//! All of it may be repeated: a report replaces the one before, a partial is taken once, and a follower goes by
//! the directive that it heard last.

use super::homes::Moves;
use super::outcome::Made;
use super::{Inner, Job, ModelSlot, descriptor};
use crate::round::{Others, Round};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tributary_api::event::EventKind;
use tributary_api::manifest::Determinism;
use tributary_api::placement::{Directive, Duty, Member, Placement, Report, StalenessSum};
use tributary_api::stages::{Awaited, StageTimes, microseconds};
use tributary_api::status::{PlacementStatus, RoundStatus, Share, UpdateReceipt};
use tributary_api::{ClientName, Name};
use tributary_arena::{
    Claim, Content, Contributors, Filling, Kind as SlotKind, Room, SCALARS_BYTES, SlotInfo, State,
};
use tributary_sidecar_layout::{Destination, Kind, Level};

/// The number of the place that other nodes' partials take beside this node's own middles.
const REMOTE_MIDDLE: u32 = 0xff_ffff;

/// What is wrong with a partial whose node has forgotten who is inside: while the round is open its clients send again,
/// and nobody could tell their updates from those that are in it.
const NOBODY_KNOWS: &str = "a node that had handed its partial over is gone, and nobody knows any more whose updates are in it";

/// How long an update waits for its round to open on a node that follows.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Where a client's update belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Here,
    /// At the gateway with this URL.
    At(String),
    /// Here, unless one of these has an update of the client already: its homes earlier in the round.
    HereUnless(Vec<Member>),
}

/// Why a node does not get what it asks its leader for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MemberRefusal {
    #[error("the job has been stopped")]
    Stopped,
    #[error("this node does not lead the job; {0}")]
    NotLeading(String),
    #[error("node {0} is no member of the job")]
    Stranger(Name),
    #[error(
        "the partial is of round {version}, attempt {attempt}; round {open} is open, attempt {open_attempt}"
    )]
    OtherRound {
        version: u64,
        attempt: u32,
        open: u64,
        open_attempt: u32,
    },
    #[error("{0} more contributors do not fit into the round: it names at most {1} clients")]
    TooMany(u32, u32),
}

/// Why a job cannot have that placement here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("its leader {0} is no member of it")]
    NoLeader(Name),
    #[error("a job with determinism: ordered has one node, not {0}")]
    Ordered(usize),
    #[error("it was started for one node alone; start it again with a placement")]
    Alone,
}

/// A follower's partial, whole, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WholePartial {
    pub version: u64,
    pub attempt: u32,
    pub slot: u32,
    pub generation: u32,
    pub contributors: u32,
    /// What an update took to be folded.
    pub fold: Option<Duration>,
}

/// How a partial has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Travel {
    /// What it took to be read from the network.
    pub time: Duration,
    /// How often each byte was copied between the kernel and the slot, the kernel's own copy included.
    pub copies: u64,
}

/// This node's part.
pub(super) struct Part {
    pub(super) placement: Arc<Placement>,
    role: Role,
    pub(super) moves: Moves,
    /// Updates, by client and the round that they were trained for, whose clients' later homes have asked for them:
    /// they belong there.
    pub(super) moved: BTreeSet<(ClientName, u64)>,
    /// Updates of the round that are lost with their nodes.
    lost: u32,
}

/// What is lost with nodes that are gone.
#[derive(Default)]
struct Lost {
    updates: Vec<(Name, u32)>,
    /// A partial is inside, and the round still takes updates of its clients.
    nobody_knows: bool,
}

/// What is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    Next,
    Again,
}

enum Role {
    Leads(BTreeMap<Name, Follower>),
    Follows(Bond),
}

/// What a leader knows of a follower in the open round.
#[derive(Default)]
struct Follower {
    report: Option<Report>,
    heard: Option<Instant>,
    /// Its partial, once it is here.
    partial: Option<Taken>,
}

/// A follower's partial that has come.
#[derive(Clone, Copy)]
struct Taken {
    contributors: u32,
    bytes: u64,
    stages: StageTimes,
}

/// What a follower goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bond {
    /// The leader's attempt for which this node's book counts.
    attempt: Option<u32>,
    taken: bool,
}

impl Follower {
    /// Nothing of it will come any more in this round, or all is here.
    fn is_settled(&self) -> bool {
        let nothing = |report: &Report| report.closed && report.contributors == 0;
        self.partial.is_some() || self.report.as_ref().is_some_and(nothing)
    }

    fn accepted(&self) -> u32 {
        let reported = self.report.as_ref().map_or(0, |report| report.accepted);
        // The partial may overtake the last report.
        let delivered = self.partial.map_or(0, |taken| taken.contributors);
        reported.max(delivered)
    }

    fn contributors(&self) -> u32 {
        let reported = self.report.as_ref().map_or(0, |report| report.contributors);
        self.partial.map_or(reported, |taken| taken.contributors)
    }

    fn staleness(&self) -> StalenessSum {
        let report = self.report.as_ref();
        report.map_or_else(StalenessSum::default, |report| report.staleness)
    }

    fn first_update(&self) -> Option<Instant> {
        let ago = self.report.as_ref()?.first_update?;
        self.heard?.checked_sub(ago)
    }
}

impl Part {
    /// The part of a node that begins with a round.
    pub(super) fn new(placement: Placement, node: &Name, round: u64) -> Self {
        let role = Role::of(&placement, node);
        let moves = Moves::begin(&placement, node, round);
        let placement = Arc::new(placement);
        Self {
            placement,
            role,
            moves,
            moved: BTreeSet::new(),
            lost: 0,
        }
    }

    pub(super) fn follows(&self) -> bool {
        matches!(self.role, Role::Follows(_))
    }

    /// Another round is open, or another attempt at the same one. It takes updates that were trained for rounds from
    /// `since` on.
    fn reopen(&mut self, round: Opened, since: u64) {
        match round {
            Opened::Next => self.moved.retain(|(_, trained)| *trained >= since),
            Opened::Again => self.moved.clear(),
        }
        self.lost = 0;
        let members: BTreeSet<Name> = self
            .placement
            .members
            .iter()
            .map(|member| member.node.clone())
            .collect();
        match &mut self.role {
            Role::Leads(followers) => {
                followers.retain(|node, _| members.contains(node));
                followers
                    .values_mut()
                    .for_each(|follower| *follower = Follower::default());
            }
            // What the leader has said of a round counts for each attempt at it here.
            Role::Follows(bond) if round == Opened::Again => bond.taken = false,
            Role::Follows(bond) => *bond = Bond::default(),
        }
    }

    /// Tells a round that is opened who else is in it. Until a follower has said that it has nothing, it may have
    /// something: a round that its leader alone fills waits for that as well.
    pub(super) fn begin(&self, round: &mut Round) {
        round.set_follows(self.follows());
        round.set_others(self.others());
    }

    fn others(&self) -> Others {
        let Role::Leads(followers) = &self.role else {
            return Others::default();
        };
        let followers = || followers.values();
        Others {
            accepted: followers().map(Follower::accepted).sum(),
            contributors: followers().map(Follower::contributors).sum(),
            missing: !followers().all(Follower::is_settled),
            first_update: followers().filter_map(Follower::first_update).min(),
            staleness: followers().fold(StalenessSum::default(), |mut sum, follower| {
                sum.merge(follower.staleness());
                sum
            }),
        }
    }

    /// Contributors of the partials that have come.
    fn delivered(&self) -> u32 {
        let Role::Leads(followers) = &self.role else {
            return 0;
        };
        followers
            .values()
            .filter_map(|follower| follower.partial)
            .map(|taken| taken.contributors)
            .sum()
    }

    /// Whether it leads, and there is somebody to lead.
    pub(super) fn has_followers(&self) -> bool {
        matches!(&self.role, Role::Leads(followers) if !followers.is_empty())
    }

    fn lost(&self) -> u32 {
        self.lost
    }

    fn status(&self) -> PlacementStatus {
        PlacementStatus {
            generation: self.placement.generation,
            since: Some(self.moves.since),
            leader: self.placement.leader.clone(),
            members: self
                .placement
                .members
                .iter()
                .map(|member| member.node.clone())
                .collect(),
        }
    }
}

impl Role {
    fn of(placement: &Placement, node: &Name) -> Self {
        if placement.leader != *node {
            return Self::Follows(Bond::default());
        }
        let others = placement
            .members
            .iter()
            .filter(|member| member.node != *node);
        Self::Leads(
            others
                .map(|member| (member.node.clone(), Follower::default()))
                .collect(),
        )
    }
}

impl Job {
    /// The placement that the job follows here.
    pub(crate) fn placement(&self) -> Option<Arc<Placement>> {
        self.lock().part.as_ref().map(|part| part.placement.clone())
    }

    /// Grows whenever something of the job's part may have changed: its placement, its book, its round.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells those who wait for [`Self::changes`].
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Goes on with another placement; one that is not newer is ignored.
    pub(crate) fn place(&self, placement: Placement) -> Result<(), PlaceError> {
        if placement.leader().is_none() {
            return Err(PlaceError::NoLeader(placement.leader));
        }
        let mut state = self.lock();
        let several = placement.members.len();
        if several > 1 && state.spec.determinism == Determinism::Ordered {
            return Err(PlaceError::Ordered(several));
        }
        let (open, closed) = (state.round.number(), state.round.is_closed());
        let Some(part) = &mut state.part else {
            return Err(PlaceError::Alone);
        };
        if placement.generation <= part.placement.generation {
            return Ok(());
        }
        let led = !part.follows();
        let lost = part.take_over(placement, &self.node, open, closed);
        let (follows, leader) = (part.follows(), part.placement.leader.clone());
        state.round.set_follows(follows);
        if led && follows {
            // Another node leads because this one was taken for dead: its updates were given up.
            self.fail(
                &mut state,
                &format!("node {leader} leads the job now, without the updates of this node"),
            );
        }
        for (node, updates) in lost.updates {
            self.tell(
                EventKind::UpdatesLost,
                || json!({ "round": state.round.number(), "node": node, "updates": updates }),
            );
            tracing::warn!(job = %self.name, %node, updates, "updates are lost with their node; clients may send them again");
        }
        if lost.nobody_knows {
            self.fail(&mut state, NOBODY_KNOWS);
        }
        if state.hands_over_early(&self.node) {
            self.close_here(&mut state);
        }
        self.settle(&mut state);
        drop(state);
        self.changed();
        self.wake.notify_one();
        Ok(())
    }

    /// Draws the consequences of what other nodes have told: the round may close, its model may be made, or it may
    /// have lost too much.
    fn settle(&self, state: &mut Inner) {
        let Some(part) = &state.part else { return };
        let (others, lost) = (part.others(), part.lost());
        state.round.set_others(others);
        if part.follows() || state.finished || state.stopped {
            return;
        }
        let reason = state.round.due(Instant::now());
        self.close_if(state, reason);
        let enough = state.spec.closing().least().max(1);
        let over = state.round.is_closed() && !others.missing;
        if over && lost > 0 && state.round.contributors_everywhere() < enough {
            let why = format!(
                "{lost} updates were lost with their node, and the rest is fewer than {enough}"
            );
            self.fail(state, &why);
            return;
        }
        if state.has_nothing_left() {
            self.fail(state, "no update of the round can be folded");
            return;
        }
        self.send_closes(state);
    }

    // === clients ===

    /// Whether an update's home may depend on the round that it was trained for, which may be one before the open.
    pub(crate) fn home_needs_round(&self) -> bool {
        let state = self.lock();
        state.part.is_some() && state.carries()
    }

    /// The leader's gateway, if another node leads.
    pub(crate) fn leader_url(&self) -> Option<String> {
        let state = self.lock();
        let part = state.part.as_ref().filter(|part| part.follows())?;
        part.placement.leader().map(|leader| leader.url.clone())
    }

    /// On a node that follows: waits a while for the next round to open, whose model the client has from a node that was
    /// faster. No follower is further behind: a round ends only when all have told what they have in it.
    pub(crate) async fn catch_up_with(&self, round: u64) {
        if self.leader_url().is_none() || round != self.model().version + 1 {
            return;
        }
        let mut versions = self.versions();
        let open = versions.wait_for(|version| *version >= round || self.is_stopped());
        // One that is still behind then says which round is open here.
        let _ = tokio::time::timeout(CATCH_UP, open).await;
    }

    /// The receipt of the client's update for the round `trained`, if a round that is known here has it.
    pub(crate) fn receipt(&self, client: &ClientName, trained: u64) -> Option<UpdateReceipt> {
        let state = self.lock();
        let book = state.book_with(client, trained)?;
        Some(UpdateReceipt {
            job: self.name.clone(),
            client: client.clone(),
            round: book.number(),
            staleness: book.number() - trained,
            slot_state: "ready".into(),
            contributors: book.accepted(),
        })
    }

    // === the leader's side ===

    /// Takes what a follower tells. True if it is ahead: then its model is newer.
    pub(crate) fn hear(&self, report: Report) -> Result<bool, MemberRefusal> {
        let mut state = self.lock();
        let (version, attempt) = (state.round.number(), state.round.epoch.attempt());
        let follower = follower(&mut state, &report.node)?;
        if (report.version, report.attempt) != (version, Some(attempt)) {
            return Ok(report.version > version);
        }
        // Fewer than before: the follower has begun its part of the round anew.
        let dropped = follower.accepted().saturating_sub(report.accepted);
        let inside = follower
            .partial
            .is_some_and(|inside| report.accepted < inside.contributors);
        if follower.partial.is_none() {
            follower.report = Some(report);
            follower.heard = Some(Instant::now());
            if let Some(part) = &mut state.part {
                part.lost += dropped;
            }
        } else if inside && !state.round.is_closed() {
            self.fail(&mut state, NOBODY_KNOWS);
        }
        self.settle(&mut state);
        drop(state);
        self.wake.notify_one();
        Ok(false)
    }

    /// What the follower is to do.
    pub(crate) fn directive(&self, node: &Name) -> Result<Directive, MemberRefusal> {
        let mut state = self.lock();
        let taken = follower(&mut state, node)?.partial.is_some();
        let generation = state
            .part
            .as_ref()
            .map_or(0, |part| part.placement.generation);
        Ok(Directive {
            generation,
            version: state.round.number(),
            attempt: state.round.epoch.attempt(),
            closed: state.round.is_closed(),
            taken,
        })
    }

    /// Bytes of a partial on its way from node to node: its scalars and its vector.
    pub(crate) fn partial_content_bytes(&self) -> u64 {
        SCALARS_BYTES + self.plan.partial_bytes
    }

    /// A slot for a follower's partial, as soon as the workers here can spare one. `None` once the job is stopped.
    pub(crate) async fn claim_partial(&self) -> Result<Option<Filling>, tributary_arena::Error> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let reserve = self.plan.partial_reserve;
            if self.arena.more_free_than(Room::Partial, reserve)
                && let Some(filling) = self
                    .arena
                    .claim(tributary_arena::OWNER_AGENT, Room::Partial)?
            {
                return Ok(Some(filling));
            }
            if self.is_stopped() || changes.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Whether a partial of that round could be taken; false if it is here already.
    pub(crate) fn wants_partial(
        &self,
        node: &Name,
        version: u64,
        attempt: u32,
    ) -> Result<bool, MemberRefusal> {
        self.lock().wants_partial(node, version, attempt)
    }

    /// Enters a follower's partial, and sends it to the top. A second one of the round is let go.
    pub(crate) fn enter_partial(
        &self,
        node: &Name,
        partial: &WholePartial,
        travel: Travel,
        filling: Filling,
    ) -> Result<(), MemberRefusal> {
        let mut state = self.lock();
        if !state.wants_partial(node, partial.version, partial.attempt)? {
            return Ok(());
        }
        let epoch = state.round.epoch;
        let numbers = match state.numbers(partial.contributors, self.plan.geometry.clients) {
            Ok(numbers) => numbers,
            Err(refusal) => {
                // Nobody could take it later either: without this the round would wait for ever.
                self.fail(&mut state, &refusal.to_string());
                return Err(refusal);
            }
        };
        // The other node's top is a middle here: its parent is the top, as that of this node's own middles.
        let middle = Destination::new(self.number, Level::Middle, REMOTE_MIDDLE);
        let claim = Claim {
            kind: SlotKind::Partial,
            aggregator: middle,
            round: epoch.raw(),
            weight: 0.0,
            client: 0,
            sequence: 0,
            content: Content::default(),
            contributors: numbers,
        };
        let top = Destination::new(self.number, Level::Top, 0);
        let descriptor = descriptor(
            top,
            filling.slot(),
            filling.generation(),
            epoch,
            Kind::Partial,
        );
        if !filling.publish(State::Sent, &claim) {
            return Err(MemberRefusal::Stopped);
        }
        let stages = StageTimes {
            fold_microseconds: partial.fold.map(microseconds),
            hand_over_microseconds: state.tally.since_close().map(microseconds),
            transfer_microseconds: Some(microseconds(travel.time)),
        };
        follower(&mut state, node)?.partial = Some(Taken {
            contributors: partial.contributors,
            bytes: self.partial_content_bytes(),
            stages,
        });
        state.last_activity = Instant::now();
        self.count_partial("received", self.partial_content_bytes(), travel.copies);
        self.tell(
            EventKind::PartialMerged,
            || json!({ "round": epoch.round(), "node": node, "contributors": partial.contributors }),
        );
        self.outbox.send([descriptor]);
        self.settle(&mut state);
        drop(state);
        self.changed();
        Ok(())
    }

    // === the follower's side ===

    /// What this node tells its leader; `None` if it leads.
    pub(crate) fn report(&self) -> Option<Report> {
        let state = self.lock();
        let part = state.part.as_ref()?;
        let Role::Follows(Bond { attempt, .. }) = part.role else {
            return None;
        };
        let round = &state.round;
        Some(Report {
            node: self.node.clone(),
            generation: part.placement.generation,
            version: round.number(),
            attempt,
            accepted: round.accepted(),
            contributors: round.contributors(),
            closed: round.is_closed(),
            first_update: round.first_update().map(|first| first.elapsed()),
            staleness: round.staleness(),
        })
    }

    /// Does what the leader says; gives the version of a newer model that is to be fetched.
    pub(crate) fn obey(&self, directive: &Directive) -> Option<u64> {
        let mut state = self.lock();
        let (open, stopped) = (state.round.number(), state.stopped);
        let part = state.part.as_mut()?;
        let Role::Follows(bond) = &mut part.role else {
            return None;
        };
        part.moves.hear(part.placement.generation, directive, open);
        if directive.version != open || stopped {
            return (directive.version > open).then_some(directive.version);
        }
        let told = Bond {
            attempt: Some(directive.attempt),
            taken: directive.taken,
        };
        let before = std::mem::replace(bond, told);
        let anew = before
            .attempt
            .is_some_and(|attempt| attempt != directive.attempt);
        if anew {
            self.fail(&mut state, "the leader has begun the round anew");
        }
        let closes = directive.closed && !state.round.is_closed();
        if closes {
            self.close_here(&mut state);
        }
        drop(state);
        if anew || closes || before != told {
            self.changed();
        }
        None
    }

    /// Takes no more updates into the node's part of the round.
    pub(super) fn close_here(&self, state: &mut Inner) {
        state.round.close();
        state.tally.closed = Some((jiff::Timestamp::now(), Instant::now()));
        self.send_closes(state);
    }

    /// The node's partial, if it is whole and the leader does not have it.
    pub(crate) fn whole_partial(&self) -> Option<WholePartial> {
        let state = self.lock();
        let Role::Follows(Bond {
            attempt,
            taken: false,
        }) = state.part.as_ref()?.role
        else {
            return None;
        };
        let round = &state.round;
        if !round.is_closed() || round.contributors() == 0 {
            return None;
        }
        // Nothing can be added to a partial with all clients in it, wherever in the tree it lies: what still comes to it
        // is known already. It is not told when it is sent from place to place, so it is not waited for either.
        let committed = |info: &SlotInfo| matches!(info.word.state, State::Live | State::Sent);
        let whole = |info: &SlotInfo| {
            committed(info)
                && info.round == round.epoch.raw()
                && self.arena.contributors(info.slot).len() == round.contributors()
        };
        let info = self.arena.in_use().find(whole)?;
        Some(WholePartial {
            version: round.number(),
            attempt: attempt?,
            slot: info.slot,
            generation: info.word.generation,
            contributors: round.contributors(),
            fold: state.tally.folds.each(),
        })
    }

    /// Copies a piece of the partial out. False once its slot has been given up: what was copied is worth nothing then.
    pub(crate) fn read_partial(
        &self,
        partial: &WholePartial,
        offset: u64,
        piece: &mut [u8],
    ) -> bool {
        self.arena
            .read_content(partial.slot, partial.generation, offset, piece)
    }

    /// Counts bytes of a partial that went to the leader, and how often each was copied on its way to the kernel.
    pub(crate) fn count_sent(&self, bytes: u64, copies: u64) {
        self.count_partial("sent", bytes, copies);
    }

    fn count_partial(&self, direction: &str, bytes: u64, copies: u64) {
        let labels = [self.name.as_str(), direction];
        let count = |family: &prometheus::IntCounterVec, bytes| {
            family.with_label_values(&labels).inc_by(bytes);
        };
        count(&self.metrics.partial_bytes, bytes);
        count(&self.metrics.partial_copied, bytes * copies);
    }

    /// A slot for a model of another node. `None` while all are in use.
    pub(crate) fn claim_model(&self) -> Result<Option<Filling>, tributary_arena::Error> {
        self.arena.claim(tributary_arena::OWNER_AGENT, Room::Update)
    }

    /// Goes on with a model that another node has made, and remembers what that one told of its round.
    pub(crate) fn adopt_model(&self, version: u64, filling: Filling, told: Option<RoundStatus>) {
        let model = ModelSlot {
            version,
            slot: filling.slot(),
            generation: filling.generation(),
        };
        let newer = self.lock().model.version < version;
        if newer && filling.publish(State::Model, &super::memory::model_claim(self.number)) {
            self.go_on(model, Ok(()), Made::Elsewhere(told.map(Box::new)));
        }
    }

    // === status ===

    pub(super) fn shares(&self, state: &Inner) -> Vec<Share> {
        let Some(Role::Leads(followers)) = state.part.as_ref().map(|part| &part.role) else {
            return Vec::new();
        };
        if followers.is_empty() {
            return Vec::new();
        }
        let own = Share {
            node: self.node.clone(),
            accepted: state.round.accepted(),
            contributors: state.round.contributors(),
            bytes: 0,
            stages: state.tally.stages(),
        };
        let others = followers.iter().map(|(node, follower)| Share {
            node: node.clone(),
            accepted: follower.accepted(),
            contributors: follower.partial.map_or(0, |taken| taken.contributors),
            bytes: follower.partial.map_or(0, |taken| taken.bytes),
            stages: follower
                .partial
                .map_or_else(StageTimes::default, |taken| taken.stages),
        });
        std::iter::once(own).chain(others).collect()
    }
}

impl Part {
    /// Takes another placement over while the round `open` is the newest, closed or not.
    fn take_over(&mut self, placement: Placement, node: &Name, open: u64, closed: bool) -> Lost {
        self.moves = self.moves.next(&placement, node, open);
        let mut role = Role::of(&placement, node);
        let mut lost = Lost::default();
        match (&mut self.role, &mut role) {
            (Role::Leads(before), Role::Leads(now)) => {
                for (name, follower) in std::mem::take(before) {
                    let inside = follower.partial.is_some();
                    if let Some(kept) = now.get_mut(&name) {
                        *kept = follower;
                    } else if inside && closed {
                        // It is gone, and what it had is here.
                        now.insert(name, follower);
                    } else if follower.accepted() > 0 {
                        lost.nobody_knows |= inside;
                        lost.updates.push((name, follower.accepted()));
                    }
                }
            }
            (Role::Follows(before), Role::Follows(now))
                if self.placement.leader == placement.leader =>
            {
                *now = *before;
            }
            _ => {}
        }
        self.lost += lost.updates.iter().map(|(_, updates)| updates).sum::<u32>();
        (self.role, self.placement) = (role, Arc::new(placement));
        lost
    }
}

impl Inner {
    pub(super) fn placement_status(&self) -> Option<PlacementStatus> {
        self.part.as_ref().map(Part::status)
    }

    /// The part begins anew with a round that was opened.
    pub(super) fn reopen_part(&mut self, opened: Opened) {
        let since = self.taken_since();
        let Some(part) = &mut self.part else { return };
        part.reopen(opened, since);
        part.begin(&mut self.round);
    }

    /// Whether this node hosts the job's top.
    pub(super) fn leads(&self) -> bool {
        self.part.as_ref().is_none_or(|part| !part.follows())
    }

    /// The part of the clients that are at home on this node.
    pub(super) fn share(&self, node: &str) -> f64 {
        let part = self.part.as_ref();
        part.map_or(1.0, |part| part.placement.share(node))
    }

    pub(super) fn lost(&self) -> u32 {
        self.part.as_ref().map_or(0, Part::lost)
    }

    /// On a node that leads: what the closed round waits for.
    pub(super) fn awaited(&self) -> Option<Awaited> {
        let Role::Leads(followers) = &self.part.as_ref()?.role else {
            return None;
        };
        let since = self.tally.since_close()?;
        let missing = followers
            .iter()
            .filter(|(_, follower)| !follower.is_settled());
        let nodes: Vec<Name> = missing.map(|(node, _)| node.clone()).collect();
        let came = followers.values().filter_map(|follower| follower.partial);
        let own = std::iter::once(self.tally.stages());
        let stages = own.chain(came.map(|taken| taken.stages));
        (!nodes.is_empty()).then(|| Awaited {
            round: self.round.number(),
            microseconds: microseconds(since),
            nodes,
            handed_over_microseconds: stages
                .filter_map(|stages| stages.hand_over_microseconds)
                .collect(),
        })
    }

    /// The earliest round whose updates the open one may take.
    pub(super) fn taken_since(&self) -> u64 {
        let max = u64::from(self.spec.round.staleness_max());
        self.round.number().saturating_sub(max)
    }

    /// Whether an update of the client is refused here, because its later home has asked for it.
    pub(super) fn has_moved(&self, client: &ClientName, trained: u64) -> bool {
        let update = (client.clone(), trained);
        self.part
            .as_ref()
            .is_some_and(|part| part.moved.contains(&update))
    }

    /// Whether a partial of that round could be taken; false if it is here already.
    fn wants_partial(
        &mut self,
        node: &Name,
        version: u64,
        attempt: u32,
    ) -> Result<bool, MemberRefusal> {
        let (open, open_attempt) = (self.round.number(), self.round.epoch.attempt());
        let wanted = follower(self, node)?.partial.is_none();
        if (version, attempt) == (open, open_attempt) && !self.finished {
            Ok(wanted)
        } else {
            Err(MemberRefusal::OtherRound {
                version,
                attempt,
                open,
                open_attempt,
            })
        }
    }

    /// Whether this node follows, is being drained, and still takes updates.
    pub(super) fn hands_over_early(&self, node: &Name) -> bool {
        let Some(part) = self.part.as_ref().filter(|part| part.follows()) else {
            return false;
        };
        let own = part.placement.member(node.as_str());
        let draining = own.is_none_or(|member| member.duty == Duty::Draining);
        draining && !self.round.is_closed()
    }

    /// Whether the round is closed, and nobody is inside its result.
    pub(super) fn has_nothing_left(&self) -> bool {
        let Some(part) = &self.part else {
            return self.round.is_closed() && self.round.contributors() == 0;
        };
        let expected =
            part.follows() || part.others().missing || self.round.contributors_everywhere() > 0;
        self.round.is_closed() && !expected
    }

    /// Whether as many clients are named as can be: numbers count up here, and down for other nodes' clients.
    pub(super) fn is_full(&self, clients: u32) -> bool {
        let others = self.part.as_ref().map_or(0, Part::delivered);
        self.round.accepted() >= clients.saturating_sub(others)
    }

    /// Numbers for the clients of a partial: from the highest down, while those of this node are counted up.
    fn numbers(&self, contributors: u32, clients: u32) -> Result<Contributors, MemberRefusal> {
        let taken = self.part.as_ref().map_or(0, Part::delivered);
        let first = clients
            .checked_sub(taken)
            .and_then(|end| end.checked_sub(contributors));
        match first.filter(|first| *first >= self.round.accepted()) {
            Some(first) => Ok(Contributors::range(first..first + contributors)),
            None => Err(MemberRefusal::TooMany(contributors, clients)),
        }
    }
}

fn follower<'a>(state: &'a mut Inner, node: &Name) -> Result<&'a mut Follower, MemberRefusal> {
    if state.stopped {
        return Err(MemberRefusal::Stopped);
    }
    let part = state
        .part
        .as_mut()
        .ok_or_else(|| MemberRefusal::NotLeading("it has the job alone".into()))?;
    let leader = part.placement.leader.clone();
    match &mut part.role {
        Role::Leads(followers) => followers
            .get_mut(node)
            .ok_or_else(|| MemberRefusal::Stranger(node.clone())),
        Role::Follows(_) => Err(MemberRefusal::NotLeading(format!("node {leader} does"))),
    }
}
