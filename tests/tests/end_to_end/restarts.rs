//! The server itself is killed, and comes back.

use tributary_tests::connection::Connection;
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::wait::until;
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars, process};

on_both_sidecars![
    after_a_kill_the_newest_model_is_there_and_the_job_goes_on,
    after_a_kill_of_everything_nothing_stays,
    after_a_clean_stop_everything_is_as_it_was,
];

fn run(server: &Server, rounds: std::ops::RangeInclusive<u64>) -> Model {
    let job = server.job("lasting");
    let mut model = None;
    for round in rounds {
        let updates = updates(LARGE, 4, round);
        job.push_all(round, &updates);
        let result = job.result(round);
        Mean::of(weighed(&updates)).assert_near(&result, 1e-12);
        model = Some(result);
    }
    model.expect("a round")
}

fn deploy(server: &Server) {
    let manifest = Manifest::fedavg("lasting", "{ expected: 4 }").with("tree: { fanIn: 2 }");
    server.deploy(&manifest, &Model::filled(LARGE, 0.0));
}

/// The node's segments are those of its jobs, and no others.
fn only_living_segments(server: &Server) {
    let segment = server
        .job("lasting")
        .status()
        .arena
        .expect("an arena")
        .segment;
    assert_eq!(server.segments(), [segment.trim_start_matches('/')]);
}

fn after_a_kill_the_newest_model_is_there_and_the_job_goes_on(sidecar: Sidecar) {
    let mut server = Server::start(sidecar);
    deploy(&server);
    let model = run(&server, 1..=3);
    // In mid-round: two updates are in, a third is half there.
    let job = server.job("lasting");
    let half = updates(LARGE, 4, 4);
    job.push_all(4, &half[..2]);
    let file = half[2].0.file();
    let mut connection = Connection::open(server.address());
    connection.send_head(
        &job.update_path("client-2", "?round=4"),
        &[&format!("Content-Length: {}", file.len())],
    );
    connection.send(&file[..file.len() / 2]);

    let workers = server.worker_pids();
    assert!(!workers.is_empty());
    server.kill();
    until("no worker outlives its agent", || {
        !workers.iter().any(|worker| process::is_worker(*worker))
    });
    assert!(
        !server.segments().is_empty(),
        "nobody was there to remove them"
    );

    server.start_again();
    only_living_segments(&server);
    let job = server.job("lasting");
    assert_eq!(job.model(), (4, model));
    let status = job.status();
    assert_eq!(
        (status.version, status.accepted, status.revision),
        (4, 0, 1)
    );
    // The open round begins anew: its clients send again.
    let _ = run(&server, 4..=6);
    server.finish();
}

fn after_a_kill_of_everything_nothing_stays(sidecar: Sidecar) {
    let mut server = Server::start(sidecar);
    deploy(&server);
    let mut version = 1;
    for _ in 0..3 {
        let _ = run(&server, version..=version);
        version += 1;
        server
            .job("lasting")
            .push("client-0", version, 1.0, &Model::random(LARGE, 77));
        server.kill_everything();
        server.start_again();
        only_living_segments(&server);
        assert_eq!(server.job("lasting").status().version, version);
    }
    server
        .job("lasting")
        .push("client-0", version, 1.0, &Model::random(LARGE, 77));
    tributary_tests::wait::until("the sidecar is used", || {
        server
            .scrape()
            .sum("tributary_read_in_place_bytes_total", &[])
            > 0.0
    });
    let _ = version;
    server.finish_idle();
}

fn after_a_clean_stop_everything_is_as_it_was(sidecar: Sidecar) {
    let mut server = Server::start(sidecar);
    deploy(&server);
    let model = run(&server, 1..=2);
    let _ = server.deploy(
        &Manifest::fedavg("done", "{ expected: 1 }").with("rounds: 1"),
        &Model::filled(SMALL, 0.0),
    );
    server
        .job("done")
        .push("only", 1, 1.0, &Model::random(SMALL, 5));
    let last = server.job("done").result(1);
    let (jobs, functions) = (
        server.cli(&["get", "jobs", "--output", "json"]),
        server.cli(&["get", "functions", "--output", "json"]),
    );
    server.restart();

    assert_eq!(server.job("lasting").model(), (3, model));
    assert_eq!(server.job("done").model(), (2, last));
    assert_eq!(server.job("done").status().phase.to_string(), "Completed");
    assert_eq!(
        server.cli(&["get", "functions", "--output", "json"]).stdout,
        functions.stdout
    );
    assert!(jobs.stdout.contains("lasting"));
    let _ = run(&server, 3..=3);
    server.finish();
}
