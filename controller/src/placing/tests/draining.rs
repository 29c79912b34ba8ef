//! Nodes that are drained, and nodes that are wanted again before they have left.

use super::*;

/// A job on two nodes, of which `a` leads, in round 4: `a` has five updates, `b` so many. One of them is drained.
fn draining(node: &str, updates_of_b: u32) -> (World, Placed) {
    let mut world = World::new(spread(), &["a", "b"]);
    world.settle();
    world.runs("a", 4, 5);
    world.runs("b", 4, updates_of_b);
    world.state(node, NodeState::Draining);
    let placed = world.decide().unwrap();
    (world, placed)
}

#[test]
fn a_drained_follower_hands_over_and_leaves_with_the_round() {
    let (mut world, placed) = draining("b", 2);
    assert_eq!(placed.cause, Cause::Drained);
    assert_eq!(
        members(&placed.placement),
        [("a", SERVING), ("b", DRAINING)]
    );
    assert_eq!(placed.placement.homes.nodes, [name("a")]);
    world.runs("b", 4, 2);
    assert_eq!(
        world.decide(),
        None,
        "its updates are still of the open round"
    );
    world.runs("a", 5, 0);
    let placement = world.decide().unwrap().placement;
    assert_eq!(members(&placement), [("a", SERVING)]);
}

/// Rounds are faster than reports: the node heard that it is drained in a later round than was known to be open.
#[test]
fn a_drained_node_leaves_with_the_round_in_which_it_heard() {
    let (mut world, _) = draining("b", 2);
    world.runs_since("b", Some(6), 6, 2);
    world.runs("a", 6, 3);
    assert_eq!(world.decide(), None, "its updates are of round 6");
    world.runs("a", 7, 0);
    assert_eq!(members(&world.settle()), [("a", SERVING)]);
}

#[test]
fn a_drained_node_without_updates_leaves_as_soon_as_it_knows() {
    let (mut world, _) = draining("b", 0);
    assert_eq!(
        world.decide(),
        None,
        "it does not know yet, and may take an update"
    );
    world.runs("b", 4, 0);
    assert_eq!(members(&world.settle()), [("a", SERVING)]);
}

#[test]
fn a_drained_leader_leads_until_the_round_is_over() {
    let (mut world, placed) = draining("a", 2);
    let placement = placed.placement;
    assert_eq!(placement.leader.as_str(), "a");
    assert_eq!(members(&placement), [("a", DRAINING), ("b", SERVING)]);
    world.runs("a", 5, 0);
    world.runs("b", 5, 0);
    let placement = world.settle();
    assert_eq!(placement.leader.as_str(), "b");
    assert_eq!(members(&placement), [("b", SERVING)]);
}

/// Its part of the round is closed, so clients that had their home there again could not be served.
#[test]
fn a_node_that_is_undrained_joins_the_next_round() {
    let (mut world, drained) = draining("b", 2);
    world.state("b", NodeState::Ready);
    assert_eq!(world.decide(), None, "it may hear that it was drained");
    world.runs("b", 4, 2);
    assert_eq!(world.decide(), None, "its updates are of the open round");
    world.runs("a", 5, 0);
    world.runs("b", 5, 0);
    let placement = world.settle();
    assert_eq!(members(&placement), [("a", SERVING), ("b", SERVING)]);
    let joined = world.placed["j"].joined[&name("b")];
    assert!(joined > drained.placement.generation, "it begins anew");
}

#[test]
fn a_leader_that_is_undrained_goes_on() {
    let (mut world, _) = draining("a", 2);
    world.state("a", NodeState::Ready);
    let placed = world.decide().unwrap();
    assert_eq!(members(&placed.placement), [("a", SERVING), ("b", SERVING)]);
    assert_eq!(placed.joined[&name("a")], 1, "it has never left");
}

#[test]
fn where_nobody_else_will_do_a_drained_node_begins_anew() {
    let (mut world, _) = draining("b", 2);
    world.state("a", NodeState::Lost);
    let placed = world.decide().unwrap();
    assert_eq!(members(&placed.placement), [("b", SERVING)]);
    assert_eq!(placed.joined[&name("b")], placed.placement.generation);
}
