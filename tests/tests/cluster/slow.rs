//! Nodes that live, and are slow or do not move.

use crate::scene::{self, JOB};
use tributary_api::status::RoundPhase;
use tributary_tests::Manifest;
use tributary_tests::wait::until;

/// What a partial then takes half a second for. All other links have a hundred times that.
const SLOW: &str = "20mbit";
/// Rounds after which a node that is that slow has long been bypassed.
const ROUNDS_MAX: u64 = 60;

fn manifest(round: &str) -> Manifest {
    Manifest::fedavg(JOB, round)
        .config("{ accumulate: exact }")
        .with("placement: { policy: spread, stragglers: bypass }")
}

#[test]
fn a_node_on_a_slow_link_is_bypassed_and_no_update_is_lost() {
    let cluster = scene::nodes(4);
    scene::deploy(&cluster, &manifest("{ expected: 24 }"));
    cluster.until_members(JOB, 4);
    let slow = (cluster.leader(JOB) + 1) % 4;
    cluster.network.slow(slow, SLOW).unwrap();
    let mut round = 1;
    while !cluster.is_bypassed(JOB, slow) {
        assert!(round < ROUNDS_MAX, "nobody noticed");
        let status = scene::whole_round(&cluster, round, 24);
        assert_eq!((status.contributors, status.lost), (24, 0));
        round += 1;
    }
    let nodes = cluster.cli(&["get", "nodes"]).expect(0).stdout;
    let name = cluster.node_name(slow);
    let line = nodes.lines().find(|line| line.starts_with(&name));
    assert!(line.is_some_and(|line| line.contains(JOB)), "{nodes}");
    let described = cluster.cli(&["describe", "job", JOB]).expect(0).stdout;
    let bypassed = format!("{name} is bypassed until round");
    assert!(described.contains(&bypassed), "{described}");
    // It may still be a member that hands over, of the round that was open; then it is none.
    for _ in 0..2 {
        let status = scene::whole_round(&cluster, round, 24);
        assert_eq!((status.contributors, status.lost), (24, 0));
        round += 1;
    }
    let status = scene::whole_round(&cluster, round, 24);
    let mut shares = status.shares.iter();
    assert!(
        shares.all(|share| share.node.as_str() != name),
        "{status:?}"
    );
}

#[test]
fn a_node_that_lives_and_does_not_move_is_given_up() {
    let cluster = scene::nodes(3);
    scene::deploy(&cluster, &manifest("{ expected: 18 }"));
    cluster.until_members(JOB, 3);
    let _ = scene::whole_round(&cluster, 1, 18);
    let stuck = (cluster.leader(JOB) + 1) % 3;
    cluster.freeze_workers(stuck, true);
    let clients = scene::clients(18, 2);
    scene::send(&cluster, 2, &clients);
    until("the job does without the node", || {
        cluster.is_bypassed(JOB, stuck)
    });
    cluster.until_members(JOB, 2);
    // What it had is lost, and told so. Nodes hear one after the other that the round has begun anew, so clients send
    // until it is over, as the library does; nobody counts twice.
    until("the round is over", || {
        for (client, update) in &clients {
            let answer = cluster.push(JOB, client, 2, update);
            assert!(
                matches!(answer.status, 200 | 202 | 409),
                "{}",
                answer.text()
            );
        }
        cluster.round(JOB, 2).phase == RoundPhase::Completed
    });
    let status = scene::assert_model(&cluster, 2, &clients);
    assert_eq!(status.contributors, 18);
    let _ = scene::whole_round(&cluster, 3, 18);
    cluster.freeze_workers(stuck, false);
}
