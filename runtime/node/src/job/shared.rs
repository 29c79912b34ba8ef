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

use super::part::{Opened, Part};
use super::{Inner, Job};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tributary_api::manifest::Determinism;
use tributary_api::placement::{Member, Placement};
use tributary_api::status::{PlacementStatus, UpdateReceipt};
use tributary_api::{ClientName, Name};

/// What is wrong with a partial whose node has forgotten who is inside: while the round is open its clients send again,
/// and nobody could tell their updates from those that are in it.
pub(super) const NOBODY_KNOWS: &str = "a node that had handed its partial over is gone, and nobody knows any more whose updates are in it";

/// Where a client's update belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Here,
    /// At the gateway with this URL.
    At(String),
    /// Here by this placement, unless one of these has an update of the client already: its homes earlier in the round.
    HereUnless(Vec<Member>, u64),
}

/// Why a node does not get what it asks its leader for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MemberRefusal {
    #[error("the job has been stopped")]
    Stopped,
    #[error("by placement {own}, which is newer than {asked}, this node is the client's home")]
    Behind { asked: u64, own: u64 },
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
    #[error(
        "round {version} goes on without this node, which has not handed its partial over in spec.round.timeout"
    )]
    GivenUp { version: u64 },
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
            self.tell_lost(&state, &node, updates);
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
    pub(super) fn settle(&self, state: &mut Inner) {
        let Some(part) = &state.part else { return };
        let others = part.others();
        state.round.set_others(others);
        if part.follows() || state.finished || state.stopped {
            return;
        }
        let reason = state.round.due(Instant::now());
        self.close_if(state, reason);
        if !self.fail_if_short(state) {
            self.send_closes(state);
        }
    }

    /// Whether an update's home may depend on the round that it was trained for, which may be one before the open.
    pub(crate) fn home_needs_round(&self) -> bool {
        let state = self.lock();
        state.part.is_some() && state.carries()
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

    /// Counts bytes of a partial that went to the leader, and how often each was copied on its way to the kernel.
    pub(crate) fn count_sent(&self, bytes: u64, copies: u64) {
        self.count_partial("sent", bytes, copies);
    }

    pub(super) fn count_partial(&self, direction: &str, bytes: u64, copies: u64) {
        let labels = [self.name.as_str(), direction];
        let count = |family: &prometheus::IntCounterVec, bytes| {
            family.with_label_values(&labels).inc_by(bytes);
        };
        count(&self.metrics.partial_bytes, bytes);
        count(&self.metrics.partial_copied, bytes * copies);
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
        self.part.as_ref().map_or(0, |part| part.lost)
    }

    /// The earliest round whose updates the open one may take.
    pub(super) fn taken_since(&self) -> u64 {
        let max = u64::from(self.spec.round.staleness_max());
        self.round.number().saturating_sub(max)
    }

    /// Why the round's model cannot be made, if so: too few are inside, and no more can come.
    pub(super) fn shortage(&self) -> Option<String> {
        let missing = self.part.as_ref().is_some_and(|part| part.others().missing);
        if !self.leads() || missing || !self.round.is_closed() {
            return None;
        }
        let (inside, least) = (self.round.contributors_everywhere(), self.round.least());
        if inside > 0 && self.round.contributors_or_sought() >= least {
            return None;
        }
        let mut why = format!("{inside} updates are left, and the round needs {least}");
        if self.lost() > 0 {
            why += &format!("; {} updates were lost with their nodes", self.lost());
        }
        if self.round.refusals() > 0 {
            let last = self.last_error.as_deref().unwrap_or_default();
            why += &format!(
                "; {} updates were refused, the last because {last}",
                self.round.refusals()
            );
        }
        Some(why)
    }
}
