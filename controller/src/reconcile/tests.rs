use serde_json::json;
use tributary_api::{
    control::Sharing,
    placement::{Duty, Homes, Member, Placement},
    status::PlacementStatus,
};

use super::*;
use crate::{
    placing::Cause,
    store::TenantRecord,
    testing::{name, record, report, status},
};

fn placed(generation: u64, members: &[(&str, u64)]) -> Placed {
    let members = || members.iter().map(|(node, joined)| (name(node), *joined));
    let member = |(node, _): (Name, u64)| Member {
        url: format!("http://{node}"),
        node,
        duty: Duty::Serving,
    };
    Placed {
        placement: Placement {
            generation,
            leader: name("n1"),
            members: members().map(member).collect(),
            homes: Homes::one(name("n1")),
            earlier: Vec::new(),
            since: 0,
            secret: String::new(),
        },
        shares: BTreeMap::new(),
        joined: members().collect(),
        revision: 1,
        bypassed: BTreeMap::new(),
        cause: Cause::Created,
        reason: String::new(),
    }
}

fn following(mut job: JobStatus, generation: u64) -> JobStatus {
    job.placement = Some(PlacementStatus {
        generation,
        since: None,
        leader: name("n1"),
        members: Vec::new(),
    });
    job
}

#[test]
fn each_difference_has_its_step() {
    let old = record(1, 1, json!({"round": {"quorum": 1}, "tree": {"fanIn": 2}}));
    let quorum = record(2, 1, json!({"round": {"quorum": 9}, "tree": {"fanIn": 2}}));
    let tree = record(2, 1, json!({"round": {"quorum": 1}, "tree": {"fanIn": 3}}));
    let function = record(2, 2, json!({"round": {"quorum": 1}, "tree": {"fanIn": 2}}));
    let unknown = record(8, 1, json!({"round": {"quorum": 1}, "tree": {"fanIn": 2}}));
    let j = || name("j");
    let cases = [
        (Some(&old), None, Some(Step::Start(j()))),
        (Some(&old), Some(1), None),
        (Some(&quorum), Some(1), Some(Step::Update(j()))),
        (Some(&tree), Some(1), Some(Step::Restart(j()))),
        (Some(&function), Some(1), Some(Step::Restart(j()))),
        // A revision that nobody remembers: what it was cannot be known.
        (Some(&unknown), Some(7), Some(Step::Restart(j()))),
        (None, Some(1), Some(Step::Stop(j()))),
        (None, None, None),
    ];
    for (wanted, running, expected) in cases {
        let mut desired = Desired::default();
        desired.remember(&j(), old.clone());
        desired
            .jobs
            .extend(wanted.map(|record| (j(), record.clone())));
        let jobs = running.map(|revision| status("j", revision));
        let report = report("n1", jobs.into_iter().collect());
        let steps = steps(&desired, &Goal::alone(&desired), &report);
        let expected = Vec::from_iter(expected);
        assert_eq!(steps, expected, "wanted {wanted:?}, running {running:?}");
    }
}

#[test]
fn stops_come_first() {
    let mut desired = Desired::default();
    desired.jobs.insert(name("a"), record(1, 1, json!({})));
    let report = report("n1", vec![status("z", 1)]);
    let steps = steps(&desired, &Goal::alone(&desired), &report);
    assert_eq!(steps, [Step::Stop(name("z")), Step::Start(name("a"))]);
}

#[test]
fn members_run_the_job_and_the_others_know_where_it_is() {
    let mut desired = Desired::default();
    desired.jobs.insert(name("j"), record(1, 1, json!({})));
    let placed = [(name("j"), placed(3, &[("n1", 1), ("n2", 3)]))].into();
    let on = |node: &str, jobs| {
        let report = report(node, jobs);
        let goal = Goal::among(&report, &desired, &placed);
        steps(&desired, &goal, &report)
    };
    let older = || following(status("j", 1), 2);
    let newest = || following(status("j", 1), 3);
    assert_eq!(on("n1", vec![]), [Step::Start(name("j"))]);
    assert_eq!(on("n1", vec![older()]), [Step::Place(name("j"))]);
    assert_eq!(on("n1", vec![newest()]), []);
    // It was a member once, was given up, and is one again: what it has does not count any more.
    assert_eq!(on("n2", vec![older()]), [Step::Restart(name("j"))]);
    let elsewhere: BTreeMap<_, _> = [(name("j"), "http://n1".to_owned())].into();
    let expected = [Step::Stop(name("j")), Step::Direct(elsewhere)];
    assert_eq!(on("n3", vec![older()]), expected);
}

#[test]
fn what_is_as_desired_is_left_alone() {
    let mut desired = Desired::default();
    desired.jobs.insert(name("j"), record(1, 1, json!({})));
    let placed = [(name("j"), placed(3, &[("n1", 1)]))].into();
    let mut report = report("n2", vec![]);
    report.elsewhere.insert(name("j"), "http://n1".into());
    let goal = Goal::among(&report, &desired, &placed);
    assert_eq!(steps(&desired, &goal, &report), []);
    // A node that learns it by itself is not told.
    report.elsewhere.clear();
    report.follows = true;
    let goal = Goal::among(&report, &desired, &placed);
    assert!(goal.elsewhere.is_empty() && steps(&desired, &goal, &report).is_empty());
}

#[test]
fn what_a_node_has_not_told_of_yet_is_not_started() {
    let mut desired = Desired::default();
    desired.jobs.insert(name("j"), record(1, 1, json!({})));
    let mut report = report("n1", vec![]);
    report.status.jobs = 1;
    assert_eq!(steps(&desired, &Goal::alone(&desired), &report), []);
    report.status.jobs = 0;
    let start = [Step::Start(name("j"))];
    assert_eq!(steps(&desired, &Goal::alone(&desired), &report), start);
}

#[test]
fn a_node_that_knows_another_weight_is_told_without_a_restart() {
    let mut desired = Desired::default();
    let spec = json!({"tenant": "vision", "priority": 7});
    desired.jobs.insert(name("j"), record(1, 1, spec));
    let told = |weight| Sharing {
        tenant: name("vision"),
        weight,
        priority: 7,
    };
    let mut vision = TenantRecord::default();
    vision.spec.weight = 2.5;
    desired.tenants.insert(name("vision"), vision);
    let placed = [(name("j"), placed(3, &[("n1", 1)]))].into();
    let steps = |generation, sharing| {
        let mut job = following(status("j", 1), generation);
        job.sharing = sharing;
        let report = report("n1", vec![job]);
        let goal = Goal::among(&report, &desired, &placed);
        steps(&desired, &goal, &report)
    };
    assert_eq!(steps(3, Some(told(2.5))), []);
    assert_eq!(steps(3, Some(told(1.0))), [Step::Update(name("j"))]);
    // A placement does not wait for it.
    let both = [Step::Update(name("j")), Step::Place(name("j"))];
    assert_eq!(steps(2, Some(told(1.0))), both);
    // A node of an earlier version says nothing of it, and would never be done.
    assert_eq!(steps(3, None), []);
}
