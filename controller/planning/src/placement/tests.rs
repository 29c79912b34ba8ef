//! What placement promises.

mod one_by_one;
mod optimal;
mod reasons;
mod stable;

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::capacity::Capacity;

const POLICIES: [Policy; 4] = [
    Policy::BestFit,
    Policy::WorstFit,
    Policy::FirstFit,
    Policy::Spread,
];

/// A ready node with room for `concurrency` updates.
fn node(name: &str, concurrency: f64) -> Node {
    Node {
        capacity: Some(Capacity {
            concurrency,
            seconds_per_update: 0.1,
        }),
        ..Node::new(name, 4)
    }
}

/// Nodes `n000`, `n001`, ... with these capacities.
fn nodes(concurrencies: &[u32]) -> Vec<Node> {
    let all = concurrencies.iter().enumerate();
    all.map(|(at, concurrency)| node(&format!("n{at:03}"), f64::from(*concurrency)))
        .collect()
}

fn job(name: &str, updates: u32) -> Job {
    Job::new(name, "tenant", NonZeroU32::new(updates).unwrap())
}

fn labels(of: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let owned = of
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    owned.collect()
}

/// The plan without one before it.
fn fresh(nodes: &[Node], jobs: &[Job]) -> Plan {
    plan(nodes, jobs, None, &Settings::default())
}

fn placed<'a>(plan: &'a Plan, job: &str) -> &'a Placement {
    let found = plan.placement(job);
    found.unwrap_or_else(|| panic!("{job} has no place: {:?}", plan.jobs.get(job)))
}

fn shares(plan: &Plan, job: &str) -> Vec<(String, u32)> {
    let shares = &placed(plan, job).shares;
    shares
        .iter()
        .map(|(node, share)| (node.clone(), *share))
        .collect()
}

fn pairs(of: &[(&str, u32)]) -> Vec<(String, u32)> {
    of.iter()
        .map(|(node, share)| ((*node).to_owned(), *share))
        .collect()
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(&POLICIES[..])
}

fn any_nodes() -> impl Strategy<Value = Vec<Node>> {
    let state = prop_oneof![
        8 => Just(NodeState::Ready),
        1 => Just(NodeState::Draining),
        1 => Just(NodeState::Lost),
    ];
    let zone = prop::sample::select(vec!["eu", "us"]);
    let one = (1_u32..40, state, zone, (0_u32..100).prop_map(f64::from));
    prop::collection::vec(one, 1..10).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(at, (concurrency, state, zone, rate))| Node {
            state,
            labels: labels(&[("zone", zone)]),
            arrivals_per_second: rate,
            ..node(&format!("n{at:03}"), f64::from(concurrency))
        })
        .collect()
    })
}

fn any_jobs() -> impl Strategy<Value = Vec<Job>> {
    let rules = (0_u32..6, 0_u32..6, any::<bool>(), 0_u32..5);
    let one = (
        1_u32..100,
        any_policy(),
        rules,
        prop::option::of(0.1_f64..10.0),
    );
    prop::collection::vec(one, 1..6).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(at, (updates, policy, rules, arrival_seconds))| {
            let (zone, other, single_node, nodes_max) = rules;
            let mut job = Job {
                policy,
                priority: (updates % 3) as i32 - 1,
                arrival_seconds,
                single_node: single_node && nodes_max == 0,
                nodes_max: NonZeroU32::new(nodes_max),
                ..job(&format!("j{at}"), updates)
            };
            let wanted = labels(&[("zone", if zone % 2 == 0 { "eu" } else { "us" })]);
            match zone {
                0 | 1 => job.required_labels = wanted,
                2 | 3 => job.preferred_labels = wanted,
                _ => {}
            }
            let name = format!("j{}", other % 3);
            if other < 3 && name != job.name {
                job.anti_affinity.insert(name);
            } else if other < 5 && name != job.name {
                job.affinity.insert(name);
            }
            job
        })
        .collect()
    })
}

#[test]
fn what_fits_on_one_node_takes_the_one_that_is_left_with_the_least() {
    let plan = fresh(&nodes(&[30, 12, 10, 11]), &[job("j", 11)]);
    assert_eq!(shares(&plan, "j"), pairs(&[("n003", 11)]));
    assert_eq!(placed(&plan, "j").top, "n003");
}

#[test]
fn what_arrives_already_takes_its_part_of_a_node() {
    let mut all = nodes(&[20, 20]);
    // 150 a second, 0.1 s each: 15 in service.
    all[0].arrivals_per_second = 150.0;
    let plan = fresh(&all, &[job("j", 6)]);
    assert_eq!(shares(&plan, "j"), pairs(&[("n001", 6)]));
    // What is of the job itself is not counted twice.
    all[0].arrivals_of_jobs.insert("j".to_owned(), 150.0);
    let plan = fresh(&all, &[job("j", 6)]);
    assert_eq!(shares(&plan, "j"), pairs(&[("n000", 6)]));
}

#[test]
fn updates_that_come_over_time_take_less_of_a_node() {
    // 100 updates of 0.1 s in 10 s: one is in service at a time.
    let over_time = Job {
        arrival_seconds: Some(10.0),
        ..job("j", 100)
    };
    let plan = fresh(&nodes(&[2, 1]), &[over_time]);
    assert_eq!(shares(&plan, "j"), pairs(&[("n001", 100)]));
}

#[test]
fn policies_differ() {
    let all = nodes(&[4, 10, 6]);
    let by = |policy| {
        let job = Job {
            policy,
            ..job("j", 9)
        };
        shares(&fresh(&all, &[job]), "j")
    };
    assert_eq!(by(Policy::BestFit), pairs(&[("n001", 9)]));
    assert_eq!(by(Policy::FirstFit), pairs(&[("n000", 4), ("n001", 5)]));
    // Rooms of 4, 10 and 6 come down to 4, 4 and 3 or so.
    assert_eq!(
        by(Policy::WorstFit),
        pairs(&[("n000", 1), ("n001", 6), ("n002", 2)])
    );
    assert_eq!(
        by(Policy::Spread),
        pairs(&[("n000", 3), ("n001", 3), ("n002", 3)])
    );
}

#[test]
fn too_much_is_shared_by_capacity_and_reported() {
    let plan = fresh(&nodes(&[10, 30]), &[job("j", 60)]);
    assert_eq!(shares(&plan, "j"), pairs(&[("n000", 15), ("n001", 45)]));
    assert_eq!(placed(&plan, "j").overload, 20);
}

#[test]
fn a_node_that_was_not_measured_counts_by_its_cores() {
    let all = [Node::new("large", 16), Node::new("small", 2)];
    let plan = fresh(&all, &[job("j", 17)]);
    assert_eq!(shares(&plan, "j"), pairs(&[("large", 17)]));
    let plan = fresh(&all, &[job("j", 16)]);
    assert_eq!(shares(&plan, "j"), pairs(&[("small", 16)]));
}

#[test]
fn wishes_are_fulfilled_as_far_as_there_is_room() {
    let mut all = nodes(&[10, 10, 50]);
    all[0].labels = labels(&[("disk", "fast")]);
    let wishes = |updates, single_node| Job {
        preferred_labels: labels(&[("disk", "fast")]),
        single_node,
        ..job("j", updates)
    };
    let by = |job| shares(&fresh(&all, &[job]), "j");
    assert_eq!(by(wishes(8, false)), pairs(&[("n000", 8)]));
    assert_eq!(by(wishes(15, false)), pairs(&[("n000", 10), ("n001", 5)]));
    assert_eq!(by(wishes(15, true)), pairs(&[("n002", 15)]));
}

#[test]
fn a_node_has_so_many_jobs_and_what_is_there_stays() {
    let few = |jobs_max| Settings {
        jobs_max,
        ..Settings::default()
    };
    let all = nodes(&[10, 20]);
    let jobs = ["a", "b", "c"].map(|name| job(name, 2));
    let before = plan(&all, &jobs[..2], None, &few(1));
    assert_eq!(before.nodes().len(), 2, "one each: {before:?}");
    let after = plan(&all, &jobs, Some(&before), &few(1));
    let Outcome::Unplaced(reason) = &after.jobs["c"] else {
        panic!("{after:?}")
    };
    let told = "each of 2 matching nodes has 1 jobs, the most that a node can report";
    assert!(reason.to_string().starts_with(told), "{reason}");
    // Fewer may be there than before: nobody is sent away.
    let fewer = plan(&all, &jobs[..2], Some(&before), &few(0));
    assert_eq!(fewer, before);
}

#[test]
fn jobs_come_near_each_other_or_keep_apart() {
    let all = nodes(&[10, 20, 30]);
    let near = Job {
        affinity: ["a".to_owned()].into(),
        ..job("b", 5)
    };
    let plan = fresh(&all, &[job("a", 15), near]);
    assert_eq!(shares(&plan, "b"), pairs(&[("n001", 5)]));
    let apart = Job {
        anti_affinity: ["a".to_owned()].into(),
        ..job("b", 5)
    };
    let plan = fresh(&all, &[job("a", 8), apart]);
    assert_eq!(shares(&plan, "a"), pairs(&[("n000", 8)]));
    assert_eq!(shares(&plan, "b"), pairs(&[("n001", 5)]));
}

#[test]
fn every_tenant_comes_before_anyones_second_job() {
    let of = |name: &str, tenant: &str| Job {
        tenant: tenant.to_owned(),
        ..job(name, 10)
    };
    let all = [of("a1", "a"), of("a2", "a"), of("b1", "b")];
    let plan = fresh(&nodes(&[10, 10]), &all);
    let overload = ["a1", "a2", "b1"].map(|name| placed(&plan, name).overload);
    assert_eq!(overload, [0, 10, 0]);
}

fn urgent(name: &str, priority: i32) -> Job {
    Job {
        priority,
        ..job(name, 10)
    }
}

#[test]
fn jobs_of_higher_priority_come_first() {
    let all = [
        urgent("a", -1),
        urgent("b", 0),
        urgent("c", 5),
        urgent("d", 5),
    ];
    let plan = fresh(&nodes(&[10, 10]), &all);
    let overload = ["a", "b", "c", "d"].map(|name| placed(&plan, name).overload);
    assert_eq!(overload, [10, 10, 0, 0]);
}

#[test]
fn a_newcomer_of_higher_priority_moves_nobody() {
    let mut jobs = vec![urgent("a", 0)];
    let before = fresh(&nodes(&[10]), &jobs);
    jobs.push(urgent("b", 9));
    let after = plan(&nodes(&[10]), &jobs, Some(&before), &Settings::default());
    assert_eq!(placed(&after, "a"), placed(&before, "a"));
    assert_eq!(placed(&after, "b").overload, 10);
}

#[test]
fn what_is_left_after_a_loss_goes_to_the_job_of_higher_priority() {
    let (mut all, jobs) = (nodes(&[10, 10, 10]), [urgent("a", 0), urgent("b", 1)]);
    let before = fresh(&all, &jobs);
    assert_eq!(shares(&before, "b"), pairs(&[("n000", 10)]));
    assert_eq!(shares(&before, "a"), pairs(&[("n001", 10)]));
    all[0].state = NodeState::Lost;
    all[1].state = NodeState::Lost;
    let after = plan(&all, &jobs, Some(&before), &Settings::default());
    assert_eq!(
        ["a", "b"].map(|name| placed(&after, name).overload),
        [10, 0]
    );
}

proptest! {
    #[test]
    fn a_plan_keeps_every_rule(all in any_nodes(), jobs in any_jobs()) {
        let plan = fresh(&all, &jobs);
        for job in &jobs {
            let Some(placement) = plan.placement(&job.name) else {
                prop_assert!(matches!(plan.jobs[&job.name], Outcome::Unplaced(_)));
                continue;
            };
            let sum: u64 = placement.shares.values().map(|share| u64::from(*share)).sum();
            prop_assert_eq!(sum, u64::from(job.expected_updates.get()));
            prop_assert!(placement.shares.len() <= job.width());
            let most = placement.shares.values().max().unwrap();
            prop_assert_eq!(placement.shares.get(&placement.top), Some(most));
            for (name, share) in &placement.shares {
                let node = all.iter().find(|node| node.name == *name).unwrap();
                prop_assert!(*share > 0);
                prop_assert_eq!(node.state, NodeState::Ready);
                let labels = job.required_labels.iter();
                prop_assert!(labels.clone().all(|(key, value)| node.labels.get(key) == Some(value)));
                for other in &job.anti_affinity {
                    let other = plan.placement(other);
                    prop_assert!(other.is_none_or(|other| !other.shares.contains_key(name)));
                }
            }
        }
    }

    #[test]
    fn no_node_is_overloaded_while_a_job_alone_fits(all in any_nodes(), policy in any_policy()) {
        let room: u32 = all
            .iter()
            .filter(|node| node.state == NodeState::Ready)
            .map(|node| {
                let capacity = node.capacity.unwrap();
                (capacity.concurrency - node.arrivals_per_second * 0.1 + 1e-6) as u32
            })
            .sum();
        prop_assume!(room > 0);
        let whole = Job { policy, ..job("j", room) };
        let plan = fresh(&all, &[whole]);
        prop_assert_eq!(placed(&plan, "j").overload, 0);
        let more = Job { policy, ..job("j", room + 7) };
        let plan = fresh(&all, &[more]);
        prop_assert_eq!(placed(&plan, "j").overload, 7);
    }

    #[test]
    fn the_order_of_the_input_changes_nothing(all in any_nodes(), jobs in any_jobs()) {
        let plan = fresh(&all, &jobs);
        let reversed: Vec<_> = all.iter().rev().cloned().collect();
        let jobs: Vec<_> = jobs.iter().rev().cloned().collect();
        prop_assert_eq!(plan, fresh(&reversed, &jobs));
    }

    #[test]
    fn numbers_that_make_no_sense_do_no_harm(
        concurrency in prop::sample::select(vec![f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, 1e-300]),
        seconds in prop::sample::select(vec![f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, 1e-300]),
        rate in prop::sample::select(vec![f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, 1e-300]),
        policy in any_policy(),
    ) {
        let mut all = nodes(&[10, 10, 10]);
        all[0].capacity = Some(Capacity { concurrency, seconds_per_update: seconds });
        all[0].arrivals_per_second = rate;
        let job = Job { policy, arrival_seconds: Some(rate), ..job("j", 50) };
        let before = fresh(&all, std::slice::from_ref(&job));
        let sum: u32 = placed(&before, "j").shares.values().sum();
        prop_assert_eq!(sum, 50);
        let again = plan(&all, &[job], Some(&before), &Settings::default());
        prop_assert_eq!(again, before);
    }
}
