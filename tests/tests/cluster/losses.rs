//! Nodes that die, and nodes that are drained.

use crate::scene::{self, JOB};
use tributary_api::fleet::NodeState;
use tributary_tests::wait::until;

#[test]
fn a_follower_and_then_the_leader_die_in_mid_round() {
    let mut cluster = scene::nodes(3);
    scene::deploy(&cluster, &scene::manifest("{ expected: 18 }"));
    cluster.until_members(JOB, 3);
    for round in 1..=2 {
        let clients = scene::clients(18, round);
        scene::send(&cluster, round, &clients[..15]);
        let leader = cluster.leader(JOB);
        let victim = if round == 1 { (leader + 1) % 3 } else { leader };
        cluster.kill_node(victim);
        cluster.until_members(JOB, 2);
        // Clients that heard of the loss send again, and so may all others: nobody counts twice.
        scene::send(&cluster, round, &clients);
        let status = scene::assert_model(&cluster, round, &clients);
        assert_eq!(status.contributors, 18);
        cluster.start_node(victim);
        cluster.until_members(JOB, 3);
    }
    let status = scene::whole_round(&cluster, 3, 18);
    assert_eq!((status.contributors, status.lost), (18, 0));
}

#[test]
fn a_drained_node_hands_over_and_leaves() {
    let cluster = scene::nodes(3);
    scene::deploy(&cluster, &scene::manifest("{ expected: 18 }"));
    cluster.until_members(JOB, 3);
    let clients = scene::clients(18, 1);
    scene::send(&cluster, 1, &clients[..12]);
    let leader = cluster.leader(JOB);
    let drained = (leader + 1) % 3;
    let _ = cluster
        .cli(&["drain", &cluster.node_name(drained)])
        .expect(0);
    scene::send(&cluster, 1, &clients[12..]);
    let status = scene::assert_model(&cluster, 1, &clients);
    assert_eq!((status.contributors, status.lost), (18, 0));
    cluster.until_members(JOB, 2);
    until("the node says that it is drained", || {
        cluster.node_state(drained) == Some(NodeState::Drained)
    });
    let _ = scene::whole_round(&cluster, 2, 18);
    // The leader leaves in the same way: between rounds.
    let leader = cluster.leader(JOB);
    let _ = cluster
        .cli(&["undrain", &cluster.node_name(drained)])
        .expect(0);
    cluster.until_members(JOB, 3);
    let clients = scene::clients(18, 3);
    scene::send(&cluster, 3, &clients[..9]);
    let _ = cluster
        .cli(&["drain", &cluster.node_name(leader)])
        .expect(0);
    scene::send(&cluster, 3, &clients[9..]);
    let status = scene::assert_model(&cluster, 3, &clients);
    assert_eq!((status.contributors, status.lost), (18, 0));
    cluster.until_members(JOB, 2);
    let _ = scene::whole_round(&cluster, 4, 18);
    assert_ne!(cluster.leader(JOB), leader);
}

/// Its part of the round is closed, so its clients are sent elsewhere until the next one.
#[test]
fn a_node_that_is_undrained_in_mid_round_keeps_nobody_waiting() {
    let cluster = scene::nodes(2);
    scene::deploy(&cluster, &scene::manifest("{ expected: 12 }"));
    cluster.until_members(JOB, 2);
    let clients = scene::clients(12, 1);
    scene::send(&cluster, 1, &clients[..8]);
    let drained = (cluster.leader(JOB) + 1) % 2;
    let name = cluster.node_name(drained);
    let _ = cluster.cli(&["drain", &name]).expect(0);
    until("the node has handed its partial over", || {
        let round = cluster.round(JOB, 1);
        cluster.share(&round, drained).bytes > 0
    });
    let _ = cluster.cli(&["undrain", &name]).expect(0);
    until("the node is ready", || {
        cluster.node_state(drained) == Some(NodeState::Ready)
    });
    scene::send(&cluster, 1, &clients[8..]);
    let status = scene::assert_model(&cluster, 1, &clients);
    assert_eq!((status.contributors, status.lost), (12, 0));
    cluster.until_members(JOB, 2);
    let status = scene::whole_round(&cluster, 2, 12);
    assert_eq!((status.contributors, status.lost), (12, 0));
}
