//! The side of the node that leads a job: it counts what all have accepted, and takes their partials.

use super::part::{Follower, Part, Role, Taken};
use super::shared::{MemberRefusal, NOBODY_KNOWS, Travel, WholePartial};
use super::{Inner, Job, descriptor};
use serde_json::json;
use std::time::Instant;
use tributary_api::Name;
use tributary_api::event::EventKind;
use tributary_api::placement::{Directive, Report};
use tributary_api::stages::{Awaited, StageTimes, microseconds};
use tributary_api::status::Share;
use tributary_arena::{
    Claim, Content, Contributors, Filling, Kind as SlotKind, Room, SCALARS_BYTES, State,
};
use tributary_sidecar_layout::{Destination, Kind, Level};

/// The number of the place that other nodes' partials take beside this node's own middles.
const REMOTE_MIDDLE: u32 = 0xff_ffff;

impl Job {
    /// Takes what a follower tells. True if it is ahead: then its model is newer.
    pub(crate) fn hear(&self, report: Report) -> Result<bool, MemberRefusal> {
        let mut state = self.lock();
        let (version, attempt) = (state.round.number(), state.round.epoch.attempt());
        let follower = follower(&mut state, &report.node)?;
        if (report.version, report.attempt) != (version, Some(attempt)) || follower.given_up {
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

impl Inner {
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

    /// Whether a partial of that round could be taken; false if it is here already.
    fn wants_partial(
        &mut self,
        node: &Name,
        version: u64,
        attempt: u32,
    ) -> Result<bool, MemberRefusal> {
        let (open, open_attempt) = (self.round.number(), self.round.epoch.attempt());
        let follower = follower(self, node)?;
        if follower.given_up {
            return Err(MemberRefusal::GivenUp { version });
        }
        let wanted = follower.partial.is_none();
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
