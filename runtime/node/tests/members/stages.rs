//! What nodes take for their parts is measured where it happens, and told by who leads.

use crate::world::{JOB, SHAPES, World};
use tributary_api::control::NodeControl as _;
use tributary_api::stages::StageTimes;
use tributary_api::status::JobStatus;
use tributary_tests::job::updates;
use tributary_tests::wait::until;

const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;

fn status(world: &World, host: usize) -> JobStatus {
    let node = &world.host(host).node;
    let status = world
        .runtime
        .block_on(node.job_status(&JOB.parse().unwrap()));
    status.expect("the node runs the job")
}

fn send(world: &World, round: u64, at: &[usize]) {
    let updates = updates(SHAPES, 4 * at.len() as u64, round);
    let clients = at.iter().flat_map(|host| world.clients_of(*host, 4));
    for (client, update) in clients.zip(&updates) {
        world.push(0, &client, round, update);
    }
}

#[test]
fn every_node_with_updates_has_its_times_in_the_round() {
    let world = World::of(4, r#"{ "expected": 12 }"#, EXACT);
    for round in 1..=2 {
        send(&world, round, &[0, 1, 2]);
        let _ = world.model(0, round + 1);
    }
    let shares = world.round(0, 2).shares;
    let of = |host: usize| -> StageTimes {
        let name = &world.host(host).name;
        shares
            .iter()
            .find(|share| share.node == *name)
            .unwrap()
            .stages
    };
    assert!(
        (0..3).all(|host| of(host).fold_microseconds > Some(0)),
        "{shares:?}"
    );
    assert!(
        (0..3).all(|host| of(host).hand_over_microseconds.is_some()),
        "{shares:?}"
    );
    assert!(
        (1..3).all(|host| of(host).transfer_microseconds > Some(0)),
        "{shares:?}"
    );
    assert_eq!(
        of(0).transfer_microseconds,
        None,
        "the leader's does not travel"
    );
    assert_eq!(of(3), StageTimes::default(), "it had nothing to do");
    // The way is a part of the hand-over.
    assert!((1..3).all(|host| of(host).transfer_microseconds <= of(host).hand_over_microseconds));

    let told = status(&world, 0).times;
    assert_eq!(
        told.iter().map(|times| times.round).collect::<Vec<_>>(),
        [1, 2]
    );
    let newest = &told[1].nodes;
    assert!(
        shares
            .iter()
            .zip(newest)
            .all(|(share, times)| (&share.node, share.stages) == (&times.node, times.stages))
    );
    assert!(
        status(&world, 1).times.is_empty(),
        "who follows does not tell"
    );
}

#[test]
fn the_newest_rounds_are_told() {
    let world = World::of(2, r#"{ "expected": 8 }"#, EXACT);
    for round in 1..=7 {
        send(&world, round, &[0, 1]);
        let _ = world.model(0, round + 1);
    }
    let told = status(&world, 0).times;
    let rounds: Vec<u64> = told.iter().map(|times| times.round).collect();
    assert_eq!(rounds, [3, 4, 5, 6, 7]);
}

#[test]
fn a_closed_round_tells_whom_it_waits_for() {
    let mut world = World::of(3, r#"{ "expected": 12 }"#, EXACT);
    send(&world, 1, &[2]);
    until("the leader has heard of the updates", || {
        world.round(0, 1).accepted == 4
    });
    assert_eq!(status(&world, 0).awaited, None, "it is not closed");
    let lost = world.host(2).name.clone();
    world.lose(2);
    send(&world, 1, &[0, 1]);
    until("all but one have handed over", || {
        status(&world, 0).awaited.is_some_and(|awaited| {
            awaited.nodes == [lost.clone()] && awaited.handed_over_microseconds.len() == 2
        })
    });
    let first = status(&world, 0).awaited.unwrap();
    assert_eq!(first.round, 1);
    until("time passes", || {
        status(&world, 0)
            .awaited
            .is_some_and(|awaited| awaited.microseconds > first.microseconds)
    });
}
