//! What a node remembers of its part in a job that several nodes aggregate.

use super::homes::Moves;
use crate::round::{Others, Round};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tributary_api::placement::{Placement, Report, StalenessSum};
use tributary_api::stages::StageTimes;
use tributary_api::status::PlacementStatus;
use tributary_api::{ClientName, Name};

/// This node's part.
pub(super) struct Part {
    pub(super) placement: Arc<Placement>,
    pub(super) role: Role,
    pub(super) moves: Moves,
    /// Updates, by client and the round that they were trained for, that this node has promised to another home of the
    /// client, which had asked for them; by which placement it was the home.
    pub(super) promised: BTreeMap<(ClientName, u64), u64>,
    /// Updates of the round that are lost with their nodes.
    pub(super) lost: u32,
}

/// What is lost with nodes that are gone.
#[derive(Default)]
pub(super) struct Lost {
    pub(super) updates: Vec<(Name, u32)>,
    /// A partial is inside, and the round still takes updates of its clients.
    pub(super) nobody_knows: bool,
}

/// What is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    Next,
    Again,
}

pub(super) enum Role {
    Leads(BTreeMap<Name, Follower>),
    Follows(Bond),
}

/// What a leader knows of a follower in the open round.
#[derive(Default)]
pub(super) struct Follower {
    pub(super) report: Option<Report>,
    pub(super) heard: Option<Instant>,
    /// Its partial, once it is here.
    pub(super) partial: Option<Taken>,
    /// It has owed its partial for too long: the round goes on without it.
    pub(super) given_up: bool,
}

/// A follower's partial that has come.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) contributors: u32,
    pub(super) bytes: u64,
    pub(super) stages: StageTimes,
}

/// What a follower goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bond {
    /// The leader's attempt for which this node's book counts.
    pub(super) attempt: Option<u32>,
    pub(super) taken: bool,
}

impl Follower {
    /// Nothing of it will come any more in this round, or all is here.
    pub(super) fn is_settled(&self) -> bool {
        let nothing = |report: &Report| report.closed && report.contributors == 0;
        self.given_up || self.partial.is_some() || self.report.as_ref().is_some_and(nothing)
    }

    pub(super) fn accepted(&self) -> u32 {
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
            promised: BTreeMap::new(),
            lost: 0,
        }
    }

    pub(super) fn follows(&self) -> bool {
        matches!(self.role, Role::Follows(_))
    }

    /// Another round is open, or another attempt at the same one. It takes updates that were trained for rounds from
    /// `since` on.
    pub(super) fn reopen(&mut self, round: Opened, since: u64) {
        match round {
            Opened::Next => self.promised.retain(|(_, trained), _| *trained >= since),
            Opened::Again => self.promised.clear(),
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

    pub(super) fn others(&self) -> Others {
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
    pub(super) fn delivered(&self) -> u32 {
        let Role::Leads(followers) = &self.role else {
            return 0;
        };
        followers
            .values()
            .filter_map(|follower| follower.partial)
            .map(|taken| taken.contributors)
            .sum()
    }

    /// Gives up what followers have not handed over; gives their names and how many updates are lost with each.
    pub(super) fn give_up_missing(&mut self) -> Vec<(Name, u32)> {
        let Role::Leads(followers) = &mut self.role else {
            return Vec::new();
        };
        let missing = followers
            .iter_mut()
            .filter(|(_, follower)| !follower.is_settled());
        let lost: Vec<_> = missing
            .map(|(node, follower)| {
                let updates = follower.accepted();
                *follower = Follower {
                    given_up: true,
                    ..Follower::default()
                };
                (node.clone(), updates)
            })
            .collect();
        self.lost += lost.iter().map(|(_, updates)| updates).sum::<u32>();
        lost
    }

    /// Whether it leads, and there is somebody to lead.
    pub(super) fn has_followers(&self) -> bool {
        matches!(&self.role, Role::Leads(followers) if !followers.is_empty())
    }

    pub(super) fn status(&self) -> PlacementStatus {
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

    /// Takes another placement over while the round `open` is the newest, closed or not.
    pub(super) fn take_over(
        &mut self,
        placement: Placement,
        node: &Name,
        open: u64,
        closed: bool,
    ) -> Lost {
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
