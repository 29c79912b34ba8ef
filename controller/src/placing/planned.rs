//! What planning is asked, and what it is not told of: nodes that a job shall not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use tributary_api::{
    Name,
    manifest::{Determinism, PlacementPolicy, StragglerPolicy},
};
use tributary_planning::placement::{self as planning, Outcome, Plan, Settings};

use super::{
    Given, Placed, Site,
    bypass::{self, Bypasses, active},
    open_round,
};
use crate::store::JobRecord;

/// The plan of all jobs, and what each does without. A job that no node would do for without a slow one keeps that.
pub(super) fn plan(given: &Given<'_>) -> (Plan, BTreeMap<Name, Bypasses>) {
    let known = given.placed.iter();
    let known = known.filter(|(name, _)| given.desired.jobs.contains_key(*name));
    let previous = Plan {
        jobs: known
            .map(|(name, placed)| (name.to_string(), placed.outcome()))
            .collect(),
    };
    let mut stuck = BTreeSet::new();
    loop {
        let mut nodes: Vec<_> = given.sites.values().map(|site| site.node.clone()).collect();
        let (mut jobs, mut bypasses) = (Vec::new(), BTreeMap::new());
        for (name, record) in &given.desired.jobs {
            let mut job = job(name, record, given.sites);
            let all = given.bypasses(name, record, &mut job, &mut nodes, stuck.contains(name));
            jobs.push(job);
            bypasses.insert(name.clone(), all);
        }
        let plan = planning::plan(&nodes, &jobs, Some(&previous), &Settings::default());
        let unplaced = |name: &&Name| {
            let outcome = plan.jobs.get(name.as_str());
            let without = given.without(name, bypasses.get(*name));
            matches!(outcome, Some(Outcome::Unplaced(_))) && !without.is_empty()
        };
        let more: Vec<_> = given
            .desired
            .jobs
            .keys()
            .filter(unplaced)
            .cloned()
            .collect();
        // A job that is added does without nobody any more, so this comes to an end.
        if more.is_empty() {
            return (plan, bypasses);
        }
        stuck.extend(more);
    }
}

impl Given<'_> {
    /// Keeps a job from nodes that cannot have it, or are handing over what they have of it, and from those that it does
    /// without; gives the latter. `stuck`: it has to do with whoever is there.
    fn bypasses(
        &self,
        name: &Name,
        record: &JobRecord,
        job: &mut planning::Job,
        nodes: &mut [planning::Node],
        stuck: bool,
    ) -> Bypasses {
        let before = self.placed.get(name);
        let bypasses = match (record.spec.placement.stragglers, before) {
            (StragglerPolicy::Bypass, Some(before)) => {
                let (open, verdict) = (self.open_round(name, before), self.verdicts.get(name));
                let is_member = |node: &Name| before.placement.member(node.as_str()).is_some();
                bypass::next(&before.bypassed, verdict, open, is_member)
            }
            _ => Bypasses::new(),
        };
        let unfit = self.unfit.get(name).cloned().unwrap_or_default();
        let leaving = before.map(Placed::handing_over).unwrap_or_default();
        let unable = &unfit | &leaving;
        let slow = self.without(name, Some(&bypasses));
        if slow.is_empty() {
            leave_out_first(&[&unable, &unfit], nodes, job);
            return bypasses;
        }
        if !stuck && leave_out(&(&slow | &unable), nodes, job) {
            return bypasses;
        }
        // What is there is better than nothing.
        leave_out_first(&[&unable, &unfit], nodes, job);
        before.map_or_else(Bypasses::new, |before| {
            bypass::lifted(&before.bypassed, self.open_round(name, before))
        })
    }

    /// The nodes that the job does without now.
    fn without(&self, name: &Name, bypasses: Option<&Bypasses>) -> BTreeSet<Name> {
        match (self.placed.get(name), bypasses) {
            (Some(before), Some(bypasses)) => active(bypasses, self.open_round(name, before)),
            _ => BTreeSet::new(),
        }
    }

    /// The round that is open, as far as reports know: the newest version of any member.
    fn open_round(&self, name: &Name, before: &Placed) -> u64 {
        open_round(name, &before.placement, self.sites)
    }
}

/// Keeps a job from the first of these sets of nodes that leaves it others.
fn leave_out_first(
    sets: &[&BTreeSet<Name>],
    nodes: &mut [planning::Node],
    job: &mut planning::Job,
) {
    for out in sets {
        if leave_out(out, nodes, job) {
            return;
        }
    }
}

/// Keeps a job from these nodes, if there are others: by a label that all nodes but these have.
fn leave_out(out: &BTreeSet<Name>, nodes: &mut [planning::Node], job: &mut planning::Job) -> bool {
    let fits = |node: &planning::Node| !out.contains(node.name.as_str());
    let may = |node: &planning::Node| {
        let mut required = job.required_labels.iter();
        let labels = required.all(|(key, value)| node.labels.get(key) == Some(value));
        node.state == planning::NodeState::Ready && labels && fits(node)
    };
    // What is left is better than nothing, and its status says what is wrong.
    if out.is_empty() || !nodes.iter().any(may) {
        return false;
    }
    // No label that a user can give has a space in it.
    let label = (format!("fit for {}", job.name), String::new());
    for node in nodes.iter_mut().filter(|node| fits(node)) {
        node.labels.extend([label.clone()]);
    }
    job.required_labels.extend([label]);
    true
}

fn job(name: &Name, record: &JobRecord, sites: &BTreeMap<Name, Site>) -> planning::Job {
    let spec = &record.spec;
    let wishes = &spec.placement;
    let expected = NonZeroU32::new(spec.expected()).unwrap_or(NonZeroU32::MIN);
    let names = |names: &BTreeSet<Name>| names.iter().map(Name::to_string).collect();
    planning::Job {
        policy: match wishes.policy {
            PlacementPolicy::BestFit => planning::Policy::BestFit,
            PlacementPolicy::WorstFit => planning::Policy::WorstFit,
            PlacementPolicy::FirstFit => planning::Policy::FirstFit,
            PlacementPolicy::Spread => planning::Policy::Spread,
        },
        required_labels: wishes.selector.clone(),
        preferred_labels: wishes.preferred.clone(),
        affinity: names(&wishes.affinity),
        anti_affinity: names(&wishes.anti_affinity),
        single_node: spec.determinism == Determinism::Ordered || in_place(name, sites),
        nodes_max: wishes.nodes.max.and_then(NonZeroU32::new),
        priority: spec.priority,
        ..planning::Job::new(name.as_str(), spec.tenant.as_str(), expected)
    }
}

/// Whether the job's sums are changed in place: one node said so when it planned the job.
fn in_place(name: &Name, sites: &BTreeMap<Name, Site>) -> bool {
    let statuses = sites.values().filter_map(|site| site.report.job(name));
    let mut plans = statuses.filter_map(|status| status.arena.as_ref());
    plans.any(|arena| arena.plan.in_place)
}
