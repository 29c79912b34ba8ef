//! When rounds close.

use std::time::Duration;

use tributary_api::status::{JobPhase, RoundPhase};
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::SMALL;
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    a_quorum_alone_closes_at_once,
    a_deadline_closes_with_a_quorum,
    a_deadline_without_a_quorum_waits_for_it,
    all_expected_close_before_the_deadline,
    a_change_of_the_rule_closes_the_open_round,
    the_last_round_completes_the_job,
];

fn start(sidecar: Sidecar, manifest: &Manifest) -> (Server, tributary_tests::Job) {
    let server = Server::start(sidecar);
    let job = server.deploy(manifest, &Model::filled(SMALL, 0.0));
    (server, job)
}

fn a_quorum_alone_closes_at_once(sidecar: Sidecar) {
    let (server, job) = start(
        sidecar,
        &Manifest::fedavg("quorum", "{ expected: 10, quorum: 3 }"),
    );
    let updates = updates(SMALL, 3, 1);
    job.push_all(1, &updates);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    assert_eq!(job.completed(1).contributors, 3);
    server.finish();
}

fn a_deadline_closes_with_a_quorum(sidecar: Sidecar) {
    let (server, job) = start(
        sidecar,
        &Manifest::fedavg("timed", "{ expected: 10, quorum: 2, deadline: 500ms }"),
    );
    let updates = updates(SMALL, 3, 1);
    job.push_all(1, &updates);
    let model = job.result(1);
    let status = job.completed(1);
    assert_eq!((status.accepted, status.contributors), (3, 3));
    assert!(status.seconds.unwrap() >= 0.5, "{status:?}");
    Mean::of(weighed(&updates)).assert_near(&model, 1e-12);
    server.finish();
}

fn a_deadline_without_a_quorum_waits_for_it(sidecar: Sidecar) {
    let (server, job) = start(
        sidecar,
        &Manifest::fedavg("patient", "{ expected: 10, quorum: 2, deadline: 100ms }"),
    );
    let updates = updates(SMALL, 2, 1);
    job.push("first", 1, updates[0].1, &updates[0].0);
    // Three deadlines: it has passed, whatever the machine's load.
    std::thread::sleep(Duration::from_millis(300));
    let status = job.round(1);
    assert_eq!((status.phase, status.accepted), (RoundPhase::Open, 1));
    job.push("second", 1, updates[1].1, &updates[1].0);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    server.finish();
}

fn all_expected_close_before_the_deadline(sidecar: Sidecar) {
    let (server, job) = start(
        sidecar,
        &Manifest::fedavg("early", "{ expected: 3, quorum: 1, deadline: 10m }"),
    );
    let updates = updates(SMALL, 3, 1);
    job.push_all(1, &updates);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    server.finish();
}

fn a_change_of_the_rule_closes_the_open_round(sidecar: Sidecar) {
    let manifest = Manifest::fedavg("eased", "{ expected: 10 }");
    let (server, job) = start(sidecar, &manifest);
    let updates = updates(SMALL, 4, 1);
    job.push_all(1, &updates);
    assert_eq!(job.round(1).phase, RoundPhase::Open);

    let eased = manifest.round("{ expected: 10, quorum: 4 }");
    let applied = server
        .try_deploy(&eased, &Model::filled(SMALL, 0.0))
        .expect(0);
    assert!(
        applied.stdout.contains("job/eased configured"),
        "{}",
        applied.stdout
    );
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    assert_eq!(
        (job.completed(1).contributors, job.status().revision),
        (4, 2)
    );
    server.finish();
}

fn the_last_round_completes_the_job(sidecar: Sidecar) {
    let manifest = Manifest::fedavg("short", "{ expected: 2 }").with("rounds: 2");
    let (server, job) = start(sidecar, &manifest);
    let rounds: Vec<_> = (1..=2).map(|round| updates(SMALL, 2, round)).collect();
    for (round, updates) in (1..=2).zip(&rounds) {
        job.push_all(round, updates);
        let _ = job.result(round);
    }
    let status = job.status();
    assert_eq!(
        (status.phase, status.version, status.rounds),
        (JobPhase::Completed, 3, Some(2))
    );
    let late = job.put("late", "?round=3", &Model::random(SMALL, 9).file());
    let problem = late.refused(409, "job-completed");
    assert_eq!(problem.extensions["version"], 3);
    // The last model stays, and a client that lost its answer still gets it.
    Mean::of(weighed(&rounds[1])).assert_near(&job.model().1, 1e-12);
    let (update, weight) = &rounds[1][0];
    let _ = job
        .put(
            "client-0",
            &format!("?round=2&weight={weight}"),
            &update.file(),
        )
        .expect(200);

    // More rounds, and it goes on.
    let more = Manifest::fedavg("short", "{ expected: 2 }").with("rounds: 3");
    let _ = server
        .try_deploy(&more, &Model::filled(SMALL, 0.0))
        .expect(0);
    job.push_all(3, &rounds[0]);
    Mean::of(weighed(&rounds[0])).assert_near(&job.result(3), 1e-12);
    assert_eq!(job.status().phase, JobPhase::Completed);
    server.finish();
}
