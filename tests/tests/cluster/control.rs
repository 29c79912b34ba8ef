//! Controllers that die, fall asleep and start again.

use crate::scene::{self, JOB};
use tributary_tests::cluster::{Cluster, Size};
use tributary_tests::wait::until;
use tributary_tests::{Manifest, Sidecar};

fn two_controllers() -> Cluster {
    let cluster = Cluster::start(
        Sidecar::Ebpf,
        Size {
            nodes: 2,
            controllers: 2,
            nats: 3,
        },
    );
    scene::deploy(&cluster, &scene::manifest("{ expected: 12 }"));
    cluster.until_members(JOB, 2);
    cluster
}

#[test]
fn the_leading_controller_dies_in_mid_round_and_another_takes_over() {
    let mut cluster = two_controllers();
    let clients = scene::clients(12, 1);
    scene::send(&cluster, 1, &clients[..6]);
    let dead = cluster.leading();
    cluster.kill_controller(dead);
    until("another controller leads", || cluster.leading() != dead);
    scene::send(&cluster, 1, &clients[6..]);
    let status = scene::assert_model(&cluster, 1, &clients);
    assert_eq!((status.contributors, status.lost), (12, 0));
    // One of the three servers that keep the state goes as well; what is left goes on.
    cluster.nats.servers[0].kill();
    scene::deploy(&cluster, &Manifest::fedavg("second", "{ expected: 3 }"));
    let _ = scene::whole_round(&cluster, 2, 12);
}

/// Its connections stay open: whoever uses it has to notice, and what was asked through it has to be asked again.
#[test]
fn a_nats_server_that_falls_silent_holds_nobody_up() {
    let mut cluster = two_controllers();
    let clients = scene::clients(12, 1);
    scene::send(&cluster, 1, &clients[..6]);
    cluster.nats.servers[0].freeze();
    scene::deploy(&cluster, &Manifest::fedavg("second", "{ expected: 3 }"));
    scene::send(&cluster, 1, &clients[6..]);
    let status = scene::assert_model(&cluster, 1, &clients);
    assert_eq!((status.contributors, status.lost), (12, 0));
    cluster.nats.servers[0].kill();
    cluster.nats.servers[0].start_again();
    scene::deploy(&cluster, &Manifest::fedavg("third", "{ expected: 3 }"));
    let _ = scene::whole_round(&cluster, 2, 12);
}

#[test]
fn a_controller_that_wakes_up_late_commands_nothing() {
    let mut cluster = two_controllers();
    let asleep = cluster.leading();
    cluster.freeze_controller(asleep, true);
    until("another controller leads", || cluster.leading() != asleep);
    let _ = cluster.cli(&["drain", &cluster.node_name(0)]).expect(0);
    cluster.until_members(JOB, 1);
    let generation = cluster.generation(JOB);
    cluster.freeze_controller(asleep, false);
    // It sends whoever asks it to the one that leads now.
    until("the late one follows", || {
        let answer =
            cluster
                .controller_door(asleep)
                .try_send("PUT", "/v1/nodes/nobody/drain", &[], &[]);
        answer.is_ok_and(|answer| answer.status == 307)
    });
    let _ = scene::whole_round(&cluster, 1, 12);
    assert_eq!(
        cluster.generation(JOB),
        generation,
        "the placement is still the new leader's"
    );
}

#[test]
fn everything_starts_again_and_nothing_is_lost() {
    let mut cluster = two_controllers();
    for round in 1..=2 {
        let _ = scene::whole_round(&cluster, round, 12);
    }
    until("the store has the newest model", || {
        let status: serde_json::Value = cluster.control().get("/v1/jobs/job").json();
        status["version"] == 3
    });
    for controller in 0..2 {
        cluster.kill_controller(controller);
    }
    for node in 0..2 {
        cluster.kill_node(node);
    }
    for server in &mut cluster.nats.servers {
        server.start_again();
    }
    for node in 0..2 {
        cluster.start_node(node);
    }
    for controller in 0..2 {
        cluster.start_controller(controller);
    }
    cluster.until_members(JOB, 2);
    assert_eq!(cluster.model(JOB, 3).0, 3);
    let status = scene::whole_round(&cluster, 3, 12);
    assert_eq!(status.contributors, 12);
}
