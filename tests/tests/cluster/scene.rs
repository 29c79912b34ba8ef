//! A job of exact sums, whose clients are the test.

use tributary_api::status::RoundStatus;
use tributary_tests::cluster::{Cluster, Size};
use tributary_tests::job::updates;
use tributary_tests::tensors::{LARGE, Model};
use tributary_tests::{Manifest, Sidecar, reference};

pub(crate) const JOB: &str = "job";
/// Bytes of a partial of [`LARGE`] in exact sums: a page of scalars, and an i64 for each element.
pub(crate) const PARTIAL_BYTES: u64 = 4096 + 8 * 205_503;

/// A cluster with one controller and one NATS server.
pub(crate) fn nodes(nodes: usize) -> Cluster {
    Cluster::start(
        Sidecar::Ebpf,
        Size {
            nodes,
            controllers: 1,
            nats: 1,
        },
    )
}

/// A job that wants all nodes.
pub(crate) fn manifest(round: &str) -> Manifest {
    Manifest::fedavg(JOB, round)
        .config("{ accumulate: exact }")
        .with("placement: { policy: spread }")
}

pub(crate) fn deploy(cluster: &Cluster, manifest: &Manifest) {
    cluster.deploy(manifest, &Model::filled(LARGE, 0.0));
}

/// The updates of a round, with the clients that send them.
pub(crate) fn clients(count: u64, round: u64) -> Vec<(String, (Model, f64))> {
    let named = |(number, update)| (format!("client-{number}"), update);
    updates(LARGE, count, round)
        .into_iter()
        .enumerate()
        .map(named)
        .collect()
}

pub(crate) fn send(cluster: &Cluster, round: u64, clients: &[(String, (Model, f64))]) {
    for (client, update) in clients {
        let answer = cluster.push(JOB, client, round, update);
        assert!(
            matches!(answer.status, 200 | 202),
            "{client}: {} {}",
            answer.status,
            answer.text()
        );
    }
}

/// As [`send`], for clients that cannot reach one of the nodes.
pub(crate) fn send_around(
    cluster: &Cluster,
    round: u64,
    clients: &[(String, (Model, f64))],
    cut: usize,
) {
    for (client, update) in clients {
        let answer = cluster.push_around(JOB, client, round, update, Some(cut));
        assert!(
            matches!(answer.status, 200 | 202),
            "{client}: {} {}",
            answer.status,
            answer.text()
        );
    }
}

/// Checks that the round's model is that of all these updates, to the bit.
#[track_caller]
pub(crate) fn assert_model(
    cluster: &Cluster,
    round: u64,
    clients: &[(String, (Model, f64))],
) -> RoundStatus {
    let (version, model) = cluster.model(JOB, round + 1);
    assert_eq!(version, round + 1);
    let updates: Vec<(Model, f64)> = clients.iter().map(|(_, update)| update.clone()).collect();
    assert!(
        model.bits() == reference::exact(&updates).bits(),
        "the model of round {round} is another one"
    );
    cluster.round(JOB, round)
}

/// Runs a whole round.
#[track_caller]
pub(crate) fn whole_round(cluster: &Cluster, round: u64, count: u64) -> RoundStatus {
    let clients = clients(count, round);
    send(cluster, round, &clients);
    assert_model(cluster, round, &clients)
}
