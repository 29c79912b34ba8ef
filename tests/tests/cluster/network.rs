//! Links that are cut, and NATS away.

use crate::scene::{self, JOB};
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

#[test]
fn rounds_go_on_while_nats_is_away() {
    let mut cluster = scene::nodes(3);
    scene::deploy(&cluster, &scene::manifest("{ expected: 18 }"));
    cluster.until_members(JOB, 3);
    let _ = scene::whole_round(&cluster, 1, 18);
    cluster.nats.servers[0].kill();
    for round in 2..=3 {
        let status = scene::whole_round(&cluster, round, 18);
        assert_eq!((status.contributors, status.lost), (18, 0));
    }
    cluster.nats.servers[0].start_again();
    until("all nodes are heard again", || cluster.ready_nodes() == 3);
    cluster.until_members(JOB, 3);
    let status = scene::whole_round(&cluster, 4, 18);
    assert_eq!((status.contributors, status.lost), (18, 0));
    until("the controllers know the newest version", || {
        let status: serde_json::Value = cluster.control().get("/v1/jobs/job").json();
        status["version"] == 5
    });
}
