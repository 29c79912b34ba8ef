//! Rounds over several hosts in which nothing goes wrong.

use crate::scene::{self, JOB, PARTIAL_BYTES};
use tributary_tests::wait::until;

#[test]
fn four_hosts_make_one_model_and_each_follower_sends_one_partial() {
    let cluster = scene::nodes(4);
    scene::deploy(&cluster, &scene::manifest("{ expected: 24 }"));
    cluster.until_members(JOB, 4);
    // The first round makes everything warm; homes may still be moving.
    let _ = scene::whole_round(&cluster, 1, 24);
    for round in 2..=4 {
        let clients = scene::clients(24, round);
        scene::send(&cluster, round, &clients[..23]);
        let before: Vec<_> = (0..4)
            .map(|node| cluster.network.bytes(node).unwrap())
            .collect();
        scene::send(&cluster, round, &clients[23..]);
        let status = scene::assert_model(&cluster, round, &clients);
        assert_eq!(
            (status.accepted, status.contributors, status.lost),
            (24, 24, 0)
        );
        let leader = cluster.leader(JOB);
        for (node, (sent, _)) in before
            .into_iter()
            .enumerate()
            .filter(|(node, _)| *node != leader)
        {
            let share = cluster.share(&status, node);
            let sent = cluster.network.bytes(node).unwrap().0 - sent;
            if share.contributors == 0 {
                assert!(
                    sent < PARTIAL_BYTES / 2,
                    "node {node} sent {sent} bytes and had nothing to say"
                );
            } else {
                let one = PARTIAL_BYTES..PARTIAL_BYTES * 3 / 2;
                assert!(
                    one.contains(&sent),
                    "node {node} sent {sent} bytes, its partial has {PARTIAL_BYTES}"
                );
            }
        }
    }
    until("the store has the newest model", || {
        let status: serde_json::Value = cluster.control().get("/v1/jobs/job").json();
        status["version"] == 5
    });
}

#[test]
fn a_job_that_fits_on_one_node_stays_there_and_all_others_tell_the_way() {
    let cluster = scene::nodes(3);
    let manifest =
        tributary_tests::Manifest::fedavg(JOB, "{ expected: 6 }").config("{ accumulate: exact }");
    scene::deploy(&cluster, &manifest);
    cluster.until_members(JOB, 1);
    let status = scene::whole_round(&cluster, 1, 6);
    assert_eq!((status.contributors, status.shares.len()), (6, 0));
    let leader = cluster.leader(JOB);
    for node in (0..3).filter(|node| *node != leader) {
        let answer = cluster.door(node).get("/v1/jobs/job/model");
        assert_eq!(answer.status, 307, "{}", answer.text());
        let home = cluster.door(leader).url("/v1/jobs/job/model");
        assert_eq!(answer.header("location"), Some(home.as_str()));
    }
}
