//! Nodes that are lost in the middle of a round.

use crate::world::{JOB, SHAPES, World};
use tributary_api::control::NodeControl as _;
use tributary_api::status::RoundPhase;
use tributary_arena::{Arena, SlotInfo, State};
use tributary_tests::job::updates;
use tributary_tests::reference;
use tributary_tests::wait::until;
use tributary_tests::{Model, process};

const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;

/// Six clients at each of three nodes, with their updates of round 1.
fn clients(world: &World) -> Vec<Vec<(String, (Model, f64))>> {
    let mut updates = updates(SHAPES, 18, 1).into_iter();
    let at = |host| {
        let clients = world.clients_of(host, 6).into_iter();
        clients.zip(updates.by_ref()).collect()
    };
    (0..3).map(at).collect()
}

fn expected(clients: &[Vec<(String, (Model, f64))>]) -> Vec<u32> {
    let updates: Vec<(Model, f64)> = clients
        .iter()
        .flatten()
        .map(|(_, update)| update.clone())
        .collect();
    reference::exact(&updates).bits()
}

fn send(world: &World, at: usize, clients: &[(String, (Model, f64))]) {
    for (client, update) in clients {
        world.push(at, client, 1, update);
    }
}

fn until_accepted(world: &World, leader: usize, updates: u32) {
    until("the leader has heard of the updates", || {
        world.round(leader, 1).accepted == updates
    });
}

#[test]
fn a_lost_followers_clients_send_again_elsewhere() {
    let mut world = World::of(3, r#"{ "expected": 18 }"#, EXACT);
    let clients = clients(&world);
    send(&world, 0, &clients[0]);
    send(&world, 1, &clients[1]);
    send(&world, 2, &clients[2][..4]);
    until_accepted(&world, 0, 16);
    world.lose(2);
    world.move_homes(world.spread(&[0, 1]));
    let placement = world.placement(0, &[0, 1]);
    world.place(&[0, 1], &placement);
    let status = world.round(0, 1);
    assert_eq!(
        (status.phase, status.accepted, status.lost),
        (RoundPhase::Open, 12, 4)
    );
    // All of them are told the way by any node.
    send(&world, 1, &clients[2]);
    assert!((0..2).all(|host| world.model(host, 2).bits() == expected(&clients)));
    let status = world.round(0, 1);
    assert_eq!(
        (
            status.accepted,
            status.contributors,
            status.lost,
            status.error
        ),
        (18, 18, 4, None)
    );
}

#[test]
fn a_lost_leaders_round_goes_on_under_another() {
    let mut world = World::of(3, r#"{ "expected": 18 }"#, EXACT);
    let clients = clients(&world);
    send(&world, 0, &clients[0]);
    send(&world, 1, &clients[1]);
    send(&world, 2, &clients[2][..4]);
    until_accepted(&world, 0, 16);
    world.lose(0);
    world.move_homes(world.spread(&[1, 2]));
    let placement = world.placement(2, &[1, 2]);
    world.place(&[1, 2], &placement);
    send(&world, 1, &clients[2][4..]);
    send(&world, 1, &clients[0]);
    assert!((1..3).all(|host| world.model(host, 2).bits() == expected(&clients)));
    let status = world.round(2, 1);
    assert_eq!((status.accepted, status.contributors), (18, 18));
    assert_eq!(
        world.host(2).kept.versions(),
        [2],
        "the new leader keeps the model"
    );
}

/// A drained node hands its partial over while the round is open, and dies with the names of those who are in it. Their
/// clients do not know that they are, and send again.
#[test]
fn a_partial_whose_node_was_lost_in_the_open_round_is_made_again() {
    let mut world = World::of(3, r#"{ "expected": 18 }"#, EXACT);
    let clients = clients(&world);
    // Node 2 is drained: its partial is handed over before the round closes.
    send(&world, 2, &clients[2]);
    until_accepted(&world, 0, 6);
    world.move_homes(world.spread(&[0, 1]));
    let placement = world.placement_with(0, &[0, 1, 2], &[2]);
    world.place(&[0, 1, 2], &placement);
    until("the drained node's partial is here", || {
        world
            .round(0, 1)
            .shares
            .iter()
            .any(|share| share.contributors == 6 && share.bytes > 0)
    });
    world.lose(2);
    let placement = world.placement(0, &[0, 1]);
    world.place(&[0, 1], &placement);
    until("the round has begun anew", || {
        world.round(0, 1).error.is_some()
    });
    for at in [2, 0, 1] {
        send(&world, 0, &clients[at]);
    }
    assert!((0..2).all(|host| world.model(host, 2).bits() == expected(&clients)));
    assert_eq!(world.round(0, 1).contributors, 18);
}

/// The leader hears later than another member that a node is given up, and would still take that node's partial.
#[test]
fn a_lost_nodes_clients_wait_until_the_leader_knows_as_well() {
    let mut world = World::of(3, r#"{ "expected": 18 }"#, EXACT);
    let clients = clients(&world);
    send(&world, 2, &clients[2]);
    until_accepted(&world, 0, 6);
    world.move_homes(world.spread(&[1]));
    let placement = world.placement(0, &[0, 1]);
    world.place(&[1], &placement);
    let (client, (update, weight)) = &clients[2][0];
    let path = format!("/v1/jobs/{JOB}/updates/{client}?round=1&weight={weight}");
    let answer = world.door(1).put(&path, &update.file());
    let _ = answer.refused(503, "home-unknown");
    world.place(&[0], &placement);
    for at in [2, 0, 1] {
        send(&world, 1, &clients[at]);
    }
    assert!((0..2).all(|host| world.model(host, 2).bits() == expected(&clients)));
}

/// A follower that answers no more when the round closes: it is given up, and what is left is not enough.
#[test]
fn a_closed_round_that_lost_too_much_begins_anew() {
    let mut world = World::of(2, r#"{ "expected": 12 }"#, EXACT);
    let updates = updates(SHAPES, 12, 1);
    let (here, there) = (world.clients_of(0, 6), world.clients_of(1, 6));
    for (client, update) in there.iter().zip(&updates[6..]) {
        world.push(1, client, 1, update);
    }
    until_accepted(&world, 0, 6);
    world.lose(1);
    for (client, update) in here.iter().zip(&updates) {
        world.push(0, client, 1, update);
    }
    until("the round is closing", || {
        world.round(0, 1).phase == RoundPhase::Closing
    });
    world.move_homes(world.spread(&[0]));
    let placement = world.placement(0, &[0]);
    world.place(&[0], &placement);
    until("the round is open again", || {
        world.round(0, 1).phase == RoundPhase::Open
    });
    let error = world.round(0, 1).error.expect("what went wrong");
    assert!(error.contains("6 updates were lost"), "{error}");
    for (client, update) in here.iter().chain(&there).zip(&updates) {
        world.push(0, client, 1, update);
    }
    assert!(world.model(0, 2).bits() == reference::exact(&updates).bits());
}

#[test]
fn a_closed_round_with_its_quorum_goes_on_without_the_lost() {
    let mut world = World::of(
        2,
        r#"{ "expected": 12, "quorum": 5, "deadline": "1h" }"#,
        EXACT,
    );
    let updates = updates(SHAPES, 12, 1);
    let (here, there) = (world.clients_of(0, 6), world.clients_of(1, 6));
    for (client, update) in there.iter().zip(&updates[6..]) {
        world.push(1, client, 1, update);
    }
    until_accepted(&world, 0, 6);
    world.lose(1);
    for (client, update) in here.iter().zip(&updates) {
        world.push(0, client, 1, update);
    }
    world.move_homes(world.spread(&[0]));
    let placement = world.placement(0, &[0]);
    world.place(&[0], &placement);
    assert!(world.model(0, 2).bits() == reference::exact(&updates[..6]).bits());
    let status = world.round(0, 1);
    assert_eq!((status.contributors, status.lost), (6, 6));
}

/// The leader's process dies and comes back under the same placement, with nothing in memory.
#[test]
fn a_leader_that_starts_again_hears_everything_again() {
    let world = World::of(2, r#"{ "expected": 12 }"#, EXACT);
    let updates = updates(SHAPES, 12, 1);
    let (here, there) = (world.clients_of(0, 6), world.clients_of(1, 6));
    for (client, update) in here.iter().take(3).zip(&updates) {
        world.push(0, client, 1, update);
    }
    for (client, update) in there.iter().zip(&updates[6..]) {
        world.push(1, client, 1, update);
    }
    until_accepted(&world, 0, 9);
    let placement = world.placement_now(0, &[0, 1]);
    world.start_job(0, 1, &placement);
    until_accepted(&world, 0, 6);
    for (client, update) in here.iter().zip(&updates) {
        world.push(0, client, 1, update);
    }
    assert!((0..2).all(|host| world.model(host, 2).bits() == reference::exact(&updates).bits()));
}

/// It was taken for dead, but lives: what it had was given up, so it must not count.
#[test]
fn a_leader_that_was_deposed_brings_nothing_along() {
    let mut world = World::of(2, r#"{ "expected": 12 }"#, EXACT);
    let updates = updates(SHAPES, 12, 1);
    let (here, there) = (world.clients_of(0, 6), world.clients_of(1, 6));
    for (client, update) in here.iter().take(3).zip(&updates) {
        world.push(0, client, 1, update);
    }
    world.move_homes(world.spread(&[1]));
    let placement = world.placement(1, &[0, 1]);
    world.place(&[1, 0], &placement);
    for (client, update) in here.iter().chain(&there).zip(&updates) {
        world.push(0, client, 1, update);
    }
    assert!((0..2).all(|host| world.model(host, 2).bits() == reference::exact(&updates).bits()));
    let path = format!("/v1/jobs/{JOB}/rounds/1");
    let contributors = world
        .door(1)
        .get(&path)
        .json::<tributary_api::status::RoundStatus>()
        .contributors;
    assert_eq!(contributors, 12);
}

/// An accumulator is gone, and so is the worker that knew of it: nobody can ever complete the round.
#[test]
fn updates_that_nobody_has_any_more_are_named_and_the_round_begins_anew() {
    let world = World::of(1, r#"{ "expected": 3 }"#, EXACT);
    let updates = updates(SHAPES, 3, 1);
    let push = |clients: &[&str]| {
        for (client, update) in ["a", "b", "c"].into_iter().zip(&updates) {
            if clients.contains(&client) {
                world.push(0, client, 1, update);
            }
        }
    };
    push(&["a", "b"]);
    let (node, job) = (&world.host(0).node, JOB.parse().unwrap());
    let status = world.runtime.block_on(node.job_status(&job)).unwrap();
    let arena = Arena::open(&status.arena.unwrap().segment).unwrap();
    let alone = || {
        let mut used = arena
            .in_use()
            .filter(|info| info.word.state != State::Model);
        let only: Option<SlotInfo> = used.next();
        let both = |info: &SlotInfo| arena.contributors(info.slot).len() == 2;
        only.filter(|info| used.next().is_none() && info.word.state == State::Live && both(info))
    };
    until("both are folded", || alone().is_some());
    let accumulator = alone().unwrap();
    assert!(arena.release(accumulator.slot, accumulator.word.generation));
    for worker in process::workers_of(std::process::id()) {
        assert!(process::kill(worker));
    }
    push(&["c"]);
    let why = "2 of the 3 updates are in no partial any more, and nobody has them: a, b";
    until("the round has failed", || {
        world.round(0, 1).error.as_deref() == Some(why)
    });
    push(&["a", "b", "c"]);
    assert!(world.model(0, 2).bits() == reference::exact(&updates).bits());
}
