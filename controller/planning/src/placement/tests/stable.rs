//! What moves, and what does not.

use super::*;

fn again(nodes: &[Node], jobs: &[Job], before: &Plan) -> Plan {
    plan(nodes, jobs, Some(before), &Settings::default())
}

fn moved(after: &Plan, before: &Plan, job: &str) -> u64 {
    placed(after, job).moved_since(placed(before, job))
}

#[test]
fn a_lost_node_moves_only_what_it_had() {
    for policy in POLICIES {
        let jobs = [Job {
            policy,
            ..job("j", 30)
        }];
        let mut all = nodes(&[10, 10, 10, 10, 10]);
        let before = fresh(&all, &jobs);
        let (lost, had) = shares(&before, "j").pop().unwrap();
        let lost = all.iter_mut().find(|node| node.name == lost).unwrap();
        lost.state = NodeState::Lost;
        let after = again(&all, &jobs, &before);
        assert_eq!(moved(&after, &before, "j"), u64::from(had), "{policy:?}");
    }
}

#[test]
fn a_full_node_that_becomes_a_little_slower_keeps_what_it_has() {
    let jobs = [job("j", 20)];
    let mut all = nodes(&[10, 10, 10]);
    let before = fresh(&all, &jobs);
    for node in &mut all {
        node.capacity.as_mut().unwrap().concurrency = 9.2;
    }
    assert_eq!(again(&all, &jobs, &before), before);
    // And a lot slower: what does not fit moves.
    for node in &mut all {
        node.capacity.as_mut().unwrap().concurrency = 7.5;
    }
    let after = again(&all, &jobs, &before);
    assert_eq!(placed(&after, "j").overload, 0);
    assert_eq!(moved(&after, &before, "j"), 4);
}

#[test]
fn a_new_node_takes_load_where_there_is_too_much() {
    let jobs = [job("j", 40)];
    let mut all = nodes(&[10, 10]);
    let before = fresh(&all, &jobs);
    assert_eq!(placed(&before, "j").overload, 20);
    all.push(node("n002", 20.0));
    let after = again(&all, &jobs, &before);
    assert_eq!(placed(&after, "j").overload, 0);
    assert!(placed(&after, "j").shares["n002"] >= 18);
    // And none where there is enough: it would be one partial more.
    let jobs = [job("j", 10)];
    let before = fresh(&all, &jobs);
    all.push(node("n003", 40.0));
    assert_eq!(again(&all, &jobs, &before), before);
}

#[test]
fn nodes_that_are_not_needed_become_free() {
    let all = nodes(&[10, 10, 10, 10]);
    let before = fresh(&all, &[job("j", 40)]);
    let after = again(&all, &[job("j", 12)], &before);
    assert_eq!(placed(&after, "j").shares.len(), 2);
    assert_eq!(moved(&after, &before, "j"), 0);
}

#[test]
fn a_newcomer_moves_nobody() {
    let all = nodes(&[10, 10, 10]);
    let before = fresh(&all, &[job("z", 15)]);
    let after = again(&all, &[job("a", 15), job("z", 15)], &before);
    assert_eq!(placed(&after, "z"), placed(&before, "z"));
    assert_eq!(placed(&after, "a").overload, 0);
}

#[test]
fn the_top_stays_where_nobody_has_more() {
    let all = nodes(&[10, 10, 10]);
    let jobs = [Job {
        policy: Policy::Spread,
        ..job("j", 9)
    }];
    let mut before = fresh(&all, &jobs);
    assert_eq!(placed(&before, "j").top, "n000");
    if let Some(Outcome::Placed(placement)) = before.jobs.get_mut("j") {
        placement.top = "n002".to_owned();
    }
    assert_eq!(placed(&again(&all, &jobs, &before), "j").top, "n002");
}

#[test]
fn rules_that_contradict_each_other_end() {
    let avoids = |name: &str, other: &str| Job {
        anti_affinity: [other.to_owned()].into(),
        affinity: [other.to_owned()].into(),
        ..job(name, 5)
    };
    let jobs = [avoids("a", "b"), avoids("b", "a")];
    let all = nodes(&[10]);
    let before = fresh(&all, &jobs);
    assert!(before.placement("a").is_some());
    assert!(matches!(
        before.jobs["b"],
        Outcome::Unplaced(Unplaced::Apart { .. })
    ));
    assert_eq!(again(&all, &jobs, &before), before);
}

proptest! {
    #[test]
    fn the_same_input_moves_nothing(all in any_nodes(), jobs in any_jobs()) {
        let mut before = fresh(&all, &jobs);
        // Jobs that depend on each other may need another look; never more than a few.
        for _ in 0..3 {
            before = again(&all, &jobs, &before);
        }
        prop_assert_eq!(again(&all, &jobs, &before), before);
    }

    #[test]
    fn a_job_alone_is_settled_at_once(
        all in any_nodes(), updates in 1_u32..200, policy in any_policy(),
    ) {
        let jobs = [Job { policy, ..job("j", updates) }];
        let before = fresh(&all, &jobs);
        prop_assert_eq!(again(&all, &jobs, &before), before);
    }

    #[test]
    fn a_small_change_of_capacity_moves_nothing(
        rooms in prop::collection::vec(20_u32..40, 1..9),
        change in prop::collection::vec(0.95_f64..1.05, 9),
        updates in 1_u32..300,
    ) {
        let jobs = [job("j", updates)];
        let mut all = nodes(&rooms);
        let before = fresh(&all, &jobs);
        prop_assume!(placed(&before, "j").overload == 0);
        for (node, change) in all.iter_mut().zip(change) {
            node.capacity.as_mut().unwrap().concurrency *= change;
        }
        let after = again(&all, &jobs, &before);
        let most = (fresh(&all, &jobs).nodes().len() as f64 * 1.1) as usize;
        if before.nodes().len() <= most {
            prop_assert_eq!(moved(&after, &before, "j"), 0);
        }
    }

    #[test]
    fn what_is_kept_is_worse_by_no_more_than_the_tolerance(
        before in any_nodes(), after in any_nodes(), first in 1_u32..200, second in 1_u32..200,
    ) {
        let old = fresh(&before, &[job("j", first)]);
        let jobs = [job("j", second)];
        let new = again(&after, &jobs, &old);
        let best = fresh(&after, &jobs);
        prop_assert_eq!(new.nodes().is_empty(), best.nodes().is_empty());
        prop_assume!(!best.nodes().is_empty());
        prop_assert!(new.nodes().len() <= (best.nodes().len() as f64 * 1.1) as usize);
        let sum: u32 = placed(&new, "j").shares.values().sum();
        prop_assert_eq!(sum, second);
        prop_assert_eq!(placed(&new, "j").overload, placed(&best, "j").overload);
    }
}
