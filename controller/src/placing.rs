//! Where jobs go, and what becomes of the placements that they have: a pure function of desired jobs and nodes.
//!
//! [`tributary_planning`] says which nodes take how many updates. Here that becomes placements that nodes can follow
//! from the ones they follow now: generations grow, a member that is not wanted any more hands over before it goes, and
//! the homes that a round has had are remembered while it is open.

mod bypass;
mod homes;
mod planned;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tributary_api::{
    Name,
    placement::{Duty, Homes, Member, Placement},
    status::JobStatus,
};
use tributary_planning::placement::{self as planning, Outcome};

use crate::{
    link::NodeReport,
    store::{Desired, JobRecord},
    stragglers::Judged,
};
use bypass::Bypasses;
pub(crate) use bypass::active;
pub(crate) use record::{Cause, Placed};

/// A node, as far as placement is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) node: planning::Node,
    pub(crate) url: String,
    pub(crate) report: Arc<NodeReport>,
}

/// What is to change.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Placing {
    pub(crate) changed: BTreeMap<Name, Placed>,
    /// Why jobs have no node that would do.
    pub(crate) nowhere: BTreeMap<Name, String>,
}

/// Nodes that cannot have a job, by job: they could not start it. A round would wait for them.
pub(crate) type Unfit = BTreeMap<Name, BTreeSet<Name>>;

/// What is said of the nodes of jobs, by job; a job of which nothing was reported is not there.
pub(crate) type Verdicts = BTreeMap<Name, Judged>;

/// What placements are made of.
pub(crate) struct Given<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) sites: &'a BTreeMap<Name, Site>,
    /// What was decided before.
    pub(crate) placed: &'a BTreeMap<Name, Placed>,
    pub(crate) unfit: &'a Unfit,
    pub(crate) verdicts: &'a Verdicts,
}

/// Places all jobs. `secret` makes what members show each other.
pub(crate) fn place(given: &Given<'_>, mut secret: impl FnMut() -> String) -> Placing {
    let (plan, mut bypasses) = planned::plan(given);
    let mut placing = Placing::default();
    for (name, record) in &given.desired.jobs {
        let before = given.placed.get(name);
        let shares = match plan.jobs.get(name.as_str()) {
            Some(Outcome::Placed(planned)) => Wanted::of(planned),
            Some(Outcome::Unplaced(reason)) => {
                placing.nowhere.insert(name.clone(), reason.to_string());
                let left = before.map(|before| Wanted::left(before, given.sites));
                left.filter(|wanted| !wanted.shares.is_empty())
            }
            None => None,
        };
        let Some(wanted) = shares else { continue };
        let scene = Scene {
            name,
            record,
            given,
            bypasses: bypasses.remove(name).unwrap_or_default(),
        };
        let next = match before {
            None => Some(scene.first(&wanted, secret())),
            Some(before) => scene.next(before, &wanted, &mut secret),
        };
        placing
            .changed
            .extend(next.map(|next| (name.clone(), next)));
    }
    placing
}

/// The round of a job that is open, as far as reports know: the newest version of any member.
pub(crate) fn open_round(name: &Name, now: &Placement, sites: &BTreeMap<Name, Site>) -> u64 {
    let members = now.members.iter();
    let statuses = members.filter_map(|member| alive(sites, &member.node)?.report.job(name));
    let newest = statuses.map(|status| status.version).max();
    newest.unwrap_or(now.since)
}

/// What planning wants for a job.
struct Wanted {
    shares: BTreeMap<Name, u32>,
    top: Option<Name>,
    overload: u32,
}

impl Wanted {
    fn of(planned: &planning::Placement) -> Option<Self> {
        let shares = planned.shares.iter();
        Some(Self {
            shares: shares
                .filter_map(|(node, share)| Some((node.parse().ok()?, *share)))
                .collect(),
            top: planned.top.parse().ok(),
            overload: planned.overload,
        })
    }

    /// No node will do: those that have the job keep it, as long as they live.
    fn left(before: &Placed, sites: &BTreeMap<Name, Site>) -> Self {
        let leaving = before.handing_over();
        let members = before.placement.members.iter();
        let alive = members.filter(|member| alive(sites, &member.node).is_some());
        let (leave, stay): (Vec<_>, Vec<_>) =
            alive.partition(|member| leaving.contains(&member.node));
        let alive = if stay.is_empty() { leave } else { stay };
        let share = |node: &Name| before.shares.get(node).copied().unwrap_or(0).max(1);
        Self {
            shares: alive
                .into_iter()
                .map(|member| (member.node.clone(), share(&member.node)))
                .collect(),
            top: None,
            overload: 0,
        }
    }
}

/// One job and everything around it.
struct Scene<'a> {
    name: &'a Name,
    record: &'a JobRecord,
    given: &'a Given<'a>,
    bypasses: Bypasses,
}

impl Scene<'_> {
    fn first(&self, wanted: &Wanted, secret: String) -> Placed {
        let nodes: Vec<_> = wanted.shares.keys().cloned().collect();
        let leader = wanted.top.clone().unwrap_or_else(|| nodes[0].clone());
        let generation = 1;
        let cause = Cause::Created;
        Placed {
            placement: Placement {
                generation,
                leader,
                members: self.members(wanted, &[]),
                homes: homes::table(None, &wanted.shares),
                earlier: Vec::new(),
                since: 0,
                secret,
            },
            reason: self.reason(cause, wanted, 0),
            joined: nodes.into_iter().map(|node| (node, generation)).collect(),
            shares: wanted.shares.clone(),
            revision: self.record.revision,
            bypassed: self.bypasses.clone(),
            cause,
        }
    }

    /// What follows `before`, if it is anything else.
    fn next(
        &self,
        before: &Placed,
        wanted: &Wanted,
        secret: &mut impl FnMut() -> String,
    ) -> Option<Placed> {
        let now = &before.placement;
        let open = open_round(self.name, now, self.given.sites);
        let leaving: Vec<Name> = self.leaving(before, wanted, open);
        let members = self.members(wanted, &leaving);
        let leader = self.leader(now, wanted, &leaving);
        let anew = self.begins_anew(before);
        let stay = members == now.members && leader == now.leader && !anew;
        let homes = if stay && !now.earlier.is_empty() && !self.is_settled(now, open) {
            // Nodes under load are measured anew all the time. For other shares alone, homes move once in a round.
            now.homes.clone()
        } else {
            homes::table(Some(&now.homes), &wanted.shares)
        };
        let same = stay && homes == now.homes;
        if same {
            let planned = before.shares != wanted.shares || before.bypassed != self.bypasses;
            return planned.then(|| Placed {
                shares: wanted.shares.clone(),
                bypassed: self.bypasses.clone(),
                ..before.clone()
            });
        }
        let generation = now.generation + 1;
        let cause = self.cause(before, &members, open, anew);
        let (since, earlier) = self.earlier(now, &homes, open);
        let handing_over = before.handing_over();
        let joined = members.iter().map(|member| {
            let node = member.node.clone();
            // Where nobody else will do, a node takes part again that was about to leave.
            let anew = member.duty == Duty::Serving && handing_over.contains(&node);
            let before = before.joined.get(&node).copied().filter(|_| !anew);
            (node, before.unwrap_or(generation))
        });
        Some(Placed {
            joined: joined.collect(),
            placement: Placement {
                generation,
                leader,
                members,
                homes,
                earlier,
                since,
                // Who still runs the job as it was must not be understood by those who do not.
                secret: if anew { secret() } else { now.secret.clone() },
            },
            reason: self.reason(cause, wanted, open),
            shares: wanted.shares.clone(),
            revision: self.record.revision,
            bypassed: self.bypasses.clone(),
            cause,
        })
    }

    fn status(&self, node: &Name) -> Option<&JobStatus> {
        alive(self.given.sites, node)?.report.job(self.name)
    }

    /// Members that are not wanted any more, and have something to hand over.
    fn leaving(&self, before: &Placed, wanted: &Wanted, open: u64) -> Vec<Name> {
        let members = before.placement.members.iter();
        let unwanted = members.filter(|member| !wanted.shares.contains_key(&member.node));
        let unwanted = unwanted.filter(|member| !self.is_given_up(before, &member.node, open));
        let leaving = unwanted.filter(|member| match member.duty {
            Duty::Serving => self.status(&member.node).is_some(),
            Duty::Draining => self.has_something(before, &member.node, open),
        });
        leaving.map(|member| member.node.clone()).collect()
    }

    /// Whether a member that lives and is bypassed is not waited for: its partial of a closed round is overdue. Only a
    /// follower's can be.
    fn is_given_up(&self, before: &Placed, node: &Name, open: u64) -> bool {
        let verdict = self.given.verdicts.get(self.name);
        let overdue = verdict.is_some_and(|verdict| verdict.overdue.contains(node));
        overdue && active(&self.bypasses, open).contains(node) && before.placement.leader != *node
    }

    /// Whether a draining member may still have updates of the round in which it began to drain.
    fn has_something(&self, before: &Placed, node: &Name, open: u64) -> bool {
        let Some(status) = self.status(node) else {
            return false;
        };
        match followed(status, &before.placement) {
            // It takes no update since it follows this placement, and leaves with the round that was open then.
            Some(since) => open <= since && status.accepted > 0,
            None => true,
        }
    }

    /// Whether no update of a round that may still come can be at an earlier home: rounds go on while members learn of a
    /// placement one after the other, so each says in which one it did.
    fn is_settled(&self, now: &Placement, open: u64) -> bool {
        let kept = u64::from(self.record.spec.round.staleness_max());
        now.members.iter().all(|member| {
            let since = self
                .status(&member.node)
                .and_then(|status| followed(status, now));
            since.is_some_and(|since| open > since + kept)
        })
    }

    /// Earlier tables that count after homes change to `next`, and the round in which they changed last.
    fn earlier(&self, now: &Placement, next: &Homes, open: u64) -> (u64, Vec<Homes>) {
        let mut tables = if self.is_settled(now, open) {
            Vec::new()
        } else {
            now.earlier.clone()
        };
        if now.homes == *next {
            return (now.since, tables);
        }
        tables.push(now.homes.clone());
        (open, homes::layers(&tables))
    }

    fn members(&self, wanted: &Wanted, leaving: &[Name]) -> Vec<Member> {
        let serving = wanted.shares.keys().map(|node| (node, Duty::Serving));
        let draining = leaving.iter().map(|node| (node, Duty::Draining));
        let all: BTreeMap<_, _> = draining.chain(serving).collect();
        let members = all.into_iter().filter_map(|(node, duty)| {
            let url = self.given.sites.get(node)?.url.clone();
            let node = node.clone();
            Some(Member { node, url, duty })
        });
        members.collect()
    }

    /// Who leads stays leader as long as it lives and takes part: a change of leader costs what it has merged.
    fn leader(&self, now: &Placement, wanted: &Wanted, leaving: &[Name]) -> Name {
        let stays = wanted.shares.contains_key(&now.leader) || leaving.contains(&now.leader);
        let best = wanted.shares.iter().max_by_key(|(node, share)| {
            let version = self.status(node).map_or(0, |status| status.version);
            // The last of several equals is taken; of equal names there is one.
            (version, **share, std::cmp::Reverse((*node).clone()))
        });
        match best {
            Some((node, _)) if !stays => node.clone(),
            _ => now.leader.clone(),
        }
    }

    /// Whether the job's nodes have to start it anew, because it is not what it was.
    fn begins_anew(&self, before: &Placed) -> bool {
        if before.revision == self.record.revision {
            return false;
        }
        let record = self.given.desired.job_at(self.name, before.revision);
        record.is_none_or(|record| crate::reconcile::restarts(record, self.record))
    }

    fn cause(&self, before: &Placed, members: &[Member], open: u64, anew: bool) -> Cause {
        let was = |node: &Name| before.placement.member(node.as_str()).is_some();
        let lost = |member: &Member| alive(self.given.sites, &member.node).is_none();
        let drains = |member: &Member| {
            let node = self.given.sites.get(&member.node);
            let begins = member.duty == Duty::Serving;
            begins && node.is_some_and(|site| site.node.state == planning::NodeState::Draining)
        };
        let gone = |member: &&Member| !members.iter().any(|next| next.node == member.node);
        let former = &before.placement.members;
        if anew {
            Cause::Restarted
        } else if former.iter().any(lost) {
            Cause::Lost
        } else if !active(&self.bypasses, open).is_subset(&active(&before.bypassed, open)) {
            Cause::Bypassed
        } else if former.iter().any(drains) {
            Cause::Drained
        } else if members.iter().any(|member| !was(&member.node)) {
            Cause::Joined
        } else if former.iter().any(|member| gone(&member)) {
            Cause::Left
        } else {
            Cause::Moved
        }
    }

    fn reason(&self, cause: Cause, wanted: &Wanted, open: u64) -> String {
        let policy = self.record.spec.placement.policy.as_str();
        let nodes: Vec<_> = wanted.shares.keys().map(Name::as_str).collect();
        let mut reason = format!("{cause}; {policy} takes {}", nodes.join(", "));
        if wanted.overload > 0 {
            let beyond = format!(
                "; {} updates are beyond the nodes' capacity",
                wanted.overload
            );
            reason += &beyond;
        }
        for node in active(&self.bypasses, open) {
            let until = self.bypasses.get(&node).map_or(open, |bypass| bypass.until);
            reason += &format!("; {node} is slow and bypassed until round {until}");
        }
        reason
    }
}

/// The round that was open on a node when it took a placement over; `None` while it follows an earlier one.
fn followed(status: &JobStatus, placement: &Placement) -> Option<u64> {
    let follows = status.placement.as_ref()?;
    let since = || follows.since.unwrap_or(placement.since);
    (follows.generation >= placement.generation).then(since)
}

fn alive<'a>(sites: &'a BTreeMap<Name, Site>, node: &Name) -> Option<&'a Site> {
    let site = sites.get(node)?;
    (site.node.state != planning::NodeState::Lost).then_some(site)
}
