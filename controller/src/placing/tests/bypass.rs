//! Slow nodes.

use super::*;

fn bypassing() -> Value {
    json!({"placement": {"policy": "spread", "stragglers": "bypass"}})
}

fn world(spec: Value) -> World {
    let mut world = World::new(spec, &["a", "b", "c"]);
    world.settle();
    for node in ["a", "b", "c"] {
        world.runs(node, 4, 2);
    }
    world
}

fn slow(nodes: &[&str]) -> Judged {
    let nodes: BTreeSet<_> = nodes.iter().map(|node| name(node)).collect();
    Judged {
        slow: nodes.clone(),
        now: nodes,
        overdue: BTreeSet::new(),
    }
}

impl World {
    fn judge(&mut self, judged: Judged) {
        self.verdicts = [(name("j"), judged)].into();
    }
}

#[test]
fn a_slow_node_is_only_told_unless_the_job_says_more() {
    let mut world = world(spread());
    world.judge(slow(&["c"]));
    assert_eq!(world.decide(), None);
}

#[test]
fn a_slow_node_hands_over_leaves_and_comes_back() {
    let mut world = world(bypassing());
    world.judge(slow(&["c"]));
    let placed = world.decide().unwrap();
    assert_eq!(placed.cause, Cause::Bypassed);
    assert_eq!(
        placed.reason,
        "a slow node is bypassed; spread takes a, b; c is slow and bypassed until round 14"
    );
    assert_eq!(
        members(&placed.placement),
        [("a", SERVING), ("b", SERVING), ("c", DRAINING)]
    );
    assert_eq!(placed.placement.homes.nodes, [name("a"), name("b")]);
    // What it has is of the open round; with the round it leaves.
    world.runs("c", 4, 2);
    assert_eq!(world.decide(), None);
    world.runs("a", 5, 0);
    assert_eq!(members(&world.settle()), [("a", SERVING), ("b", SERVING)]);
    world.runs("a", 13, 0);
    assert_eq!(members(&world.settle()), [("a", SERVING), ("b", SERVING)]);
    // Nothing is known of it since, and it is to be measured again.
    world.judge(Judged {
        now: BTreeSet::new(),
        ..slow(&["c"])
    });
    world.runs("a", 14, 0);
    let placed = world.decide().unwrap();
    assert_eq!(placed.cause, Cause::Joined);
    assert_eq!(placed.placement.members.len(), 3);
    assert_eq!(placed.joined[&name("c")], placed.placement.generation);
    world.runs("c", 14, 1);
    // It is as slow as before: twice as many rounds without it.
    world.judge(slow(&["c"]));
    world.runs("a", 17, 0);
    assert!(world.decide().unwrap().reason.ends_with("until round 37"));
}

#[test]
fn who_is_well_again_has_a_clean_slate() {
    let mut world = world(bypassing());
    world.judge(slow(&["c"]));
    world.settle();
    world.runs("a", 20, 0);
    world.judge(Judged::default());
    let placement = world.settle();
    assert_eq!(placement.members.len(), 3);
    assert_eq!(world.placed["j"].bypassed, Bypasses::new());
}

#[test]
fn a_job_that_is_not_reported_keeps_its_bypasses() {
    let mut world = world(bypassing());
    world.judge(slow(&["c"]));
    world.settle();
    world.verdicts.clear();
    assert_eq!(world.decide(), None);
    assert!(world.placed["j"].bypassed.contains_key(&name("c")));
}

#[test]
fn a_slow_leader_leads_until_the_round_is_over() {
    let mut world = world(bypassing());
    world.judge(slow(&["a"]));
    let placement = world.decide().unwrap().placement;
    assert_eq!(placement.leader.as_str(), "a");
    assert_eq!(
        members(&placement),
        [("a", DRAINING), ("b", SERVING), ("c", SERVING)]
    );
    for node in ["a", "b", "c"] {
        world.runs(node, 5, 0);
    }
    let placement = world.settle();
    assert_eq!(placement.leader.as_str(), "b");
    assert_eq!(members(&placement), [("b", SERVING), ("c", SERVING)]);
}

#[test]
fn the_last_node_is_never_bypassed() {
    let mut world = world(bypassing());
    world.judge(slow(&["a", "b", "c"]));
    assert_eq!(world.decide(), None, "nobody would be left");
    world.judge(slow(&["b", "c"]));
    assert_eq!(world.settle().homes.nodes, [name("a")]);
    // The one that was left is lost: the others are better than nothing.
    world.state("a", NodeState::Lost);
    assert_eq!(members(&world.settle()), [("b", SERVING), ("c", SERVING)]);
}

#[test]
fn a_node_without_which_the_job_has_none_is_not_bypassed() {
    let mut world = world(bypassing());
    let other = json!({"placement": {"policy": "spread", "nodes": {"max": 2}}});
    world.desired.jobs.insert(name("k"), record(1, 1, other));
    world.settle();
    let apart = json!({
        "placement": {"policy": "spread", "stragglers": "bypass", "antiAffinity": ["k"]}
    });
    world.desired.jobs.insert(name("j"), record(1, 1, apart));
    let nodes = world.settle().homes.nodes;
    assert_eq!(nodes.len(), 1, "two of three nodes are k's");
    world.judge(slow(&[nodes[0].as_str()]));
    assert_eq!(world.decide(), None);
    assert_eq!(world.placing().nowhere, BTreeMap::new());
}

#[test]
fn a_partial_that_is_overdue_is_given_up_with_its_node() {
    let mut world = world(bypassing());
    let overdue = Judged {
        slow: [name("c")].into(),
        now: BTreeSet::new(),
        overdue: [name("c")].into(),
    };
    world.judge(overdue.clone());
    let placed = world.decide().unwrap();
    assert_eq!(placed.cause, Cause::Bypassed);
    assert_eq!(members(&placed.placement), [("a", SERVING), ("b", SERVING)]);
    // An old report changes nothing; when it comes back it begins anew.
    assert_eq!(world.decide(), None);
    world.judge(Judged {
        overdue: BTreeSet::new(),
        ..overdue
    });
    world.runs("a", 14, 0);
    let placed = world.decide().unwrap();
    assert_eq!(placed.joined[&name("c")], placed.placement.generation);
}

#[test]
fn a_node_that_drains_too_slowly_is_given_up_as_well() {
    let mut world = world(bypassing());
    world.judge(slow(&["c"]));
    world.decide().unwrap();
    world.judge(Judged {
        overdue: [name("c")].into(),
        ..slow(&["c"])
    });
    assert_eq!(members(&world.settle()), [("a", SERVING), ("b", SERVING)]);
}

#[test]
fn without_leave_an_overdue_partial_is_waited_for() {
    let mut world = world(spread());
    world.judge(Judged {
        overdue: [name("c")].into(),
        ..slow(&["c"])
    });
    assert_eq!(world.decide(), None);
}

#[test]
fn what_is_stored_is_understood_by_the_version_before() {
    let mut world = world(bypassing());
    world.judge(slow(&["c"]));
    let placed = world.decide().unwrap();
    let stored = serde_json::to_value(&placed).unwrap();
    assert_eq!(stored["cause"], "drained");
    let read: Placed = serde_json::from_value(stored).unwrap();
    assert_eq!(read.bypassed, placed.bypassed);
}
