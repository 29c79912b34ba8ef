//! Nodes that join, drain and lead in the middle of rounds.

use crate::world::{SHAPES, World};
use tributary_tests::job::updates;
use tributary_tests::reference;
use tributary_tests::wait::until;

const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;

#[test]
fn a_node_that_joins_takes_clients_at_once_and_counts_nobody_twice() {
    let mut world = World::without_job(2, r#"{ "expected": 20 }"#, EXACT);
    let placement = world.placement(0, &[0]);
    world.start_job(0, 1, &placement);
    let updates = updates(SHAPES, 20, 1);
    let clients: Vec<String> = (0..20).map(|number| format!("client-{number}")).collect();
    for (client, update) in clients.iter().zip(&updates).take(10) {
        world.push(0, client, 1, update);
    }
    world.move_homes(world.spread(&[0, 1]));
    let placement = world.placement(0, &[0, 1]);
    world.start_job(1, 1, &placement);
    world.place(&[0], &placement);
    // Those that have sent before send again, to both: they are told that it is known, wherever they ask.
    for (client, update) in clients.iter().zip(&updates).take(10) {
        for at in 0..2 {
            assert_eq!(
                world.send(at, client, 1, update).status,
                200,
                "{client} at node {at}"
            );
        }
    }
    for (client, update) in clients.iter().zip(&updates).skip(10) {
        world.push(1, client, 1, update);
    }
    assert!((0..2).all(|host| world.model(host, 2).bits() == reference::exact(&updates).bits()));
    let status = world.round(0, 1);
    assert_eq!((status.accepted, status.contributors), (20, 20));
    assert!(
        status.shares.iter().all(|share| share.contributors > 0),
        "{:?}",
        status.shares
    );
}

#[test]
fn a_node_that_joins_late_fetches_the_model_first() {
    let mut world = World::without_job(2, r#"{ "expected": 2 }"#, EXACT);
    let placement = world.placement(0, &[0]);
    world.start_job(0, 1, &placement);
    let clients = world.clients_of(0, 2);
    for round in 1..=3 {
        for (client, update) in clients.iter().zip(&updates(SHAPES, 2, round)) {
            world.push(0, client, round, update);
        }
        let _ = world.model(0, round + 1);
    }
    world.move_homes(world.spread(&[1]));
    let placement = world.placement(0, &[0, 1]);
    // It is started with the first model, and learns of the newest from the leader.
    world.start_job(1, 1, &placement);
    world.place(&[0], &placement);
    until("the node has the newest model", || {
        world
            .door(1)
            .get("/v1/jobs/job/model")
            .header("tributary-version")
            == Some("4")
    });
    let updates = updates(SHAPES, 2, 4);
    for (client, update) in clients.iter().zip(&updates) {
        world.push(0, client, 4, update);
    }
    assert!((0..2).all(|host| world.model(host, 5).bits() == reference::exact(&updates).bits()));
}

#[test]
fn a_drained_node_hands_over_what_it_has_and_takes_no_more() {
    let mut world = World::of(2, r#"{ "expected": 12 }"#, EXACT);
    let updates = updates(SHAPES, 12, 1);
    let clients = world.clients_of(1, 12);
    for (client, update) in clients.iter().zip(&updates).take(5) {
        world.push(1, client, 1, update);
    }
    world.move_homes(world.spread(&[0]));
    let placement = world.placement_with(0, &[0, 1], &[1]);
    world.place(&[1, 0], &placement);
    until("the leader has the drained node's partial", || {
        world
            .round(0, 1)
            .shares
            .iter()
            .any(|share| share.bytes > 0 && share.contributors == 5)
    });
    // Its own clients ask it again: those inside are known there, all others go to the leader.
    for (number, (client, update)) in clients.iter().zip(&updates).enumerate() {
        let answer = world.send(1, client, 1, update);
        assert_eq!(
            answer.status,
            if number < 5 { 200 } else { 202 },
            "{client}"
        );
    }
    assert!((0..2).all(|host| world.model(host, 2).bits() == reference::exact(&updates).bits()));
    // In the next round it takes nothing at all, and the round is complete without it.
    for (client, update) in clients.iter().zip(&updates) {
        world.push(1, client, 2, update);
    }
    assert!(world.model(0, 3).bits() == reference::exact(&updates).bits());
    assert_eq!(world.round(0, 2).shares[1].accepted, 0);
}

/// The follower's model is newer than that of the node that leads now: the leader fetches it.
#[test]
fn a_leader_that_is_behind_catches_up() {
    let mut world = World::without_job(2, r#"{ "expected": 2 }"#, EXACT);
    let placement = world.placement(0, &[0]);
    world.start_job(0, 1, &placement);
    let clients = world.clients_of(0, 2);
    let first = updates(SHAPES, 2, 1);
    for (client, update) in clients.iter().zip(&first) {
        world.push(0, client, 1, update);
    }
    let _ = world.model(0, 2);
    let placement = world.placement(1, &[0, 1]);
    world.start_job(1, 1, &placement);
    world.place(&[0], &placement);
    assert!(world.model(1, 2).bits() == reference::exact(&first).bits());
    let second = updates(SHAPES, 2, 2);
    for (client, update) in clients.iter().zip(&second) {
        world.push(1, client, 2, update);
    }
    assert!((0..2).all(|host| world.model(host, 3).bits() == reference::exact(&second).bits()));
}

/// The client has the model from the leader, and its home is a node that does not have it yet.
#[test]
fn a_client_may_be_ahead_of_its_home() {
    let world = World::of(2, r#"{ "expected": 4 }"#, EXACT);
    let mut clients = world.clients_of(0, 2);
    clients.extend(world.clients_of(1, 2));
    for round in 1..=20 {
        let updates = updates(SHAPES, 4, round);
        for (client, update) in clients.iter().zip(&updates) {
            world.push(1, client, round, update);
        }
        // As soon as the leader has it: the follower fetches it at the same time.
        let expected = reference::exact(&updates).bits();
        assert!(world.model(0, round + 1).bits() == expected);
    }
}
