//! Without the privilege to load the sidecar into the kernel.

use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::SMALL;
use tributary_tests::{Manifest, Model, Server, process};

#[test]
fn the_agent_routes_instead_and_the_node_says_why() {
    let server = Server::unprivileged();
    let job = server.deploy(
        &Manifest::fedavg("humble", "{ expected: 6 }"),
        &Model::filled(SMALL, 0.0),
    );
    for round in 1..=3 {
        let updates = updates(SMALL, 6, round);
        job.push_all(round, &updates);
        Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
    }
    let reason = server.node_status().sidecar_reason.expect("a reason");
    assert!(reason.contains("CAP_BPF"), "{reason}");
    assert!(
        server.log().contains("CAP_BPF"),
        "said at start: {}",
        server.log()
    );
    let shown = server
        .cli(&["describe", "node", &server.node_status().name])
        .expect(0);
    assert!(shown.stdout.contains("CAP_BPF"), "{}", shown.stdout);
    assert!(process::kernel_objects(server.pid(), "prog").is_empty());
    server.finish();
}

#[test]
fn a_demand_for_the_kernels_sidecar_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let ran = Server::refused_unprivileged_start(&home.path().join("state")).expect(1);
    assert!(ran.stderr.contains("CAP_BPF"), "{}", ran.stderr);
}
