//! The side of a node that follows: it tells what it has, does what it hears, and hands its partial over.

use super::outcome::Made;
use super::part::{Bond, Role};
use super::shared::WholePartial;
use super::{Inner, Job, ModelSlot};
use std::time::Duration;
use tributary_api::Name;
use tributary_api::placement::{Directive, Duty, Report};
use tributary_api::status::RoundStatus;
use tributary_arena::{Filling, Room, SlotInfo, State};

/// How long an update waits for its round to open on a node that follows.
const CATCH_UP: Duration = Duration::from_secs(10);

impl Job {
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

    /// How long this node may be without a version that its client has from a faster one.
    pub(crate) fn lag_max(&self, version: u64) -> Duration {
        let may_be_behind = self.leader_url().is_some() && version == self.model().version + 1;
        if may_be_behind {
            CATCH_UP
        } else {
            Duration::ZERO
        }
    }

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
        state.tally.close();
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
            self.go_on(model, Made::Elsewhere(told.map(Box::new)));
        }
    }
}

impl Inner {
    /// Whether this node follows, is being drained, and still takes updates.
    pub(super) fn hands_over_early(&self, node: &Name) -> bool {
        let Some(part) = self.part.as_ref().filter(|part| part.follows()) else {
            return false;
        };
        let own = part.placement.member(node.as_str());
        let draining = own.is_none_or(|member| member.duty == Duty::Draining);
        draining && !self.round.is_closed()
    }
}
