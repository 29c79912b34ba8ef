//! Homes that come back to where they were in the same round.

use crate::world::{JOB, SHAPES, World};
use tributary_api::placement::Homes;
use tributary_tests::http::Answer;
use tributary_tests::job::updates;
use tributary_tests::reference;

const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;

/// A job of so many clients whose home was node 1, and is node 0 now by the placement that both follow; and the homes of
/// before.
fn moved(count: usize) -> (World, Vec<String>, Homes) {
    let mut world = World::of(2, &format!(r#"{{ "expected": {count} }}"#), EXACT);
    let clients = world.clients_of(1, count);
    let before = world.spread(&[0, 1]);
    world.move_homes(world.spread(&[0]));
    let placement = world.placement(0, &[0, 1]);
    world.place(&[0, 1], &placement);
    (world, clients, before)
}

/// A node's answer to a client whose update of round 1 has no byte.
fn knock(world: &World, at: usize, client: &str) -> Answer {
    let path = format!("/v1/jobs/{JOB}/updates/{client}?round=1&weight=1");
    world.door(at).send("PUT", &path, &[], &[])
}

#[test]
fn a_home_that_comes_back_takes_its_clients_updates_again() {
    let (mut world, clients, before) = moved(4);
    let updates = updates(SHAPES, 4, 1);
    for client in &clients {
        // Their new home asks the earlier one before it looks at the body.
        let _ = knock(&world, 0, client).refused(400, "malformed-update");
    }
    world.push(0, &clients[0], 1, &updates[0]);
    world.move_homes(before);
    let placement = world.placement(0, &[0, 1]);
    world.place(&[0, 1], &placement);
    for (number, (client, update)) in clients.iter().zip(&updates).enumerate() {
        let status = world.send(1, client, 1, update).status;
        assert_eq!(status, if number == 0 { 200 } else { 202 }, "{client}");
    }
    assert!((0..2).all(|host| world.model(host, 2).bits() == reference::exact(&updates).bits()));
    assert_eq!(world.round(0, 1).contributors, 4);
}

#[test]
fn of_two_nodes_that_think_they_are_the_home_the_later_one_is() {
    let (mut world, clients, before) = moved(2);
    let updates = updates(SHAPES, 2, 1);
    world.move_homes(before);
    let placement = world.placement(0, &[0, 1]);
    world.place(&[1], &placement);
    let _ = knock(&world, 0, &clients[0]).refused(503, "home-unknown");
    world.push(1, &clients[0], 1, &updates[0]);
    // Nor once the later home has asked.
    let _ = knock(&world, 1, &clients[1]).refused(400, "malformed-update");
    let _ = knock(&world, 0, &clients[1]).refused(503, "home-unknown");
    world.place(&[0], &placement);
    world.push(0, &clients[1], 1, &updates[1]);
    assert!((0..2).all(|host| world.model(host, 2).bits() == reference::exact(&updates).bits()));
}
