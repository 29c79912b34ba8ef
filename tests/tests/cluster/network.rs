//! Links that are cut, and NATS away.

use crate::scene::{self, JOB};
use std::time::{Duration, Instant};
use tributary_tests::nats::stream;
use tributary_tests::wait::until;

#[test]
fn a_node_whose_link_is_cut_is_replaced_and_comes_back() {
    let cluster = scene::nodes(3);
    scene::deploy(&cluster, &scene::manifest("{ expected: 18 }"));
    cluster.until_members(JOB, 3);
    let clients = scene::clients(18, 1);
    scene::send(&cluster, 1, &clients[..12]);
    let cut = (cluster.leader(JOB) + 1) % 3;
    cluster.network.cut(cut).unwrap();
    cluster.until_members(JOB, 2);
    scene::send_around(&cluster, 1, &clients, cut);
    let status = scene::assert_model(&cluster, 1, &clients);
    assert_eq!(status.contributors, 18);
    cluster.network.mend(cut).unwrap();
    cluster.until_members(JOB, 3);
    let status = scene::whole_round(&cluster, 2, 18);
    assert_eq!((status.contributors, status.lost), (18, 0));
}

/// Longer than leases, beats and every attempt to reach a server last.
const AWAY: Duration = Duration::from_secs(30);

#[test]
fn rounds_go_on_while_nats_is_away() {
    let mut cluster = scene::nodes(3);
    scene::deploy(&cluster, &scene::manifest("{ expected: 18 }"));
    cluster.until_members(JOB, 3);
    let _ = scene::whole_round(&cluster, 1, 18);
    // It goes in the middle of a round, and comes back in the middle of another one.
    let clients = scene::clients(18, 2);
    scene::send(&cluster, 2, &clients[..9]);
    cluster.nats.servers[0].kill();
    let away = Instant::now();
    scene::send(&cluster, 2, &clients[9..]);
    let status = scene::assert_model(&cluster, 2, &clients);
    assert_eq!((status.contributors, status.lost), (18, 0));
    let mut round = 3;
    while away.elapsed() < AWAY {
        let status = scene::whole_round(&cluster, round, 18);
        assert_eq!((status.contributors, status.lost), (18, 0));
        round += 1;
        // A few rounds tell as much as many; what is waited for is the end of the outage.
        std::thread::sleep(AWAY / 8);
    }
    let clients = scene::clients(18, round);
    scene::send(&cluster, round, &clients[..9]);
    cluster.nats.servers[0].start_again();
    until("all nodes are heard again", || cluster.ready_nodes() == 3);
    scene::send(&cluster, round, &clients[9..]);
    let status = scene::assert_model(&cluster, round, &clients);
    assert_eq!((status.contributors, status.lost), (18, 0));
    // Nobody was taken for lost: the placement is the one from before.
    cluster.until_members(JOB, 3);
    until("the controllers know the newest version", || {
        let status: serde_json::Value = cluster.control().get("/v1/jobs/job").json();
        status["version"] == round + 1
    });
    // What happened meanwhile is told afterwards, every round once.
    let port = cluster.nats.servers[0].port();
    let subject = "tributary.events.round.completed.job";
    until("all rounds are told", || {
        let told = stream::messages(port, "TRIBUTARY_EVENTS", subject).unwrap_or_default();
        let rounds = told
            .iter()
            .filter_map(|event| event["data"]["round"].as_u64());
        rounds.collect::<Vec<_>>() == (1..=round).collect::<Vec<_>>()
    });
}
