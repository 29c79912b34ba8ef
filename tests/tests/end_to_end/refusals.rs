//! Updates that a function refuses, and what becomes of their rounds.

use std::collections::BTreeSet;

use tributary_api::event::EventKind;
use tributary_tests::fates::Fate;
use tributary_tests::feed::Feed;
use tributary_tests::tensors::SMALL;
use tributary_tests::wait::{eventually, until};
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, guest, on_both_sidecars};

on_both_sidecars![
    workers_die_around_a_refusal,
    a_round_is_not_made_of_fewer_than_its_quorum,
    who_is_to_blame_for_a_failing_finish_is_left_out,
];

/// A worker dies before or after it tells of a refused update: the update is refused once, and the others make the
/// model.
fn workers_die_around_a_refusal(sidecar: Sidecar) {
    let (server, fates) = Server::with_failpoints(sidecar, 2);
    let job = mischief(
        &server,
        "refusing",
        "{ expected: 5, quorum: 4, deadline: 1h }",
    );
    let good = Model::filled(SMALL, 1.0);
    let bad = good.clone().marked(guest::TRAP);
    for (round, failpoint) in (1..).zip(["refused.begun", "refused.told"]) {
        fates.put(failpoint, &[Fate::Kill]);
        job.push("bad", round, 1.0, &bad);
        for client in ["a", "b", "c", "d"] {
            job.push(client, round, 1.0, &good);
        }
        assert_eq!(job.result(round), Model::filled(SMALL, 4.0), "{failpoint}");
        let status = job.completed(round);
        let counted = (status.accepted, status.contributors, status.rejected);
        assert_eq!(counted, (5, 4, 1), "{failpoint}: {status:?}");
        assert_eq!(fates.clear(failpoint), 0, "nobody died at {failpoint}");
    }
    let losses = || server.scrape().sum("tributary_worker_losses_total", &[]);
    until("every death is told", || losses() >= 2.0);
    server.finish();
}

fn mischief(server: &Server, name: &str, round: &str) -> Job {
    let module = guest::stored(server.home(), "mischief", &guest::mischief());
    let manifest = Manifest::of("mischief", &module, name, round);
    server.deploy(&manifest, &Model::filled(SMALL, 0.0))
}

/// A quorum that is met only by updates that are refused is none.
fn a_round_is_not_made_of_fewer_than_its_quorum(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = mischief(
        &server,
        "quorate",
        "{ expected: 4, quorum: 3, deadline: 1h }",
    );
    let feed = Feed::listen(server.client(), "/v1/events?job=quorate");
    let good = Model::filled(SMALL, 1.0);
    for client in ["a", "b"] {
        job.push(client, 1, 1.0, &good);
    }
    for client in ["c", "d"] {
        job.push(client, 1, 1.0, &good.clone().marked(guest::TRAP));
    }
    let failed = feed.through(EventKind::RoundFailed.as_str()).pop().unwrap();
    let error = failed.data["data"]["error"].as_str().unwrap();
    let why = "2 updates are left, and the round needs 3; 2 updates were refused";
    assert!(error.starts_with(why), "{error}");
    for client in ["a", "b", "c", "d"] {
        job.push(client, 1, 1.0, &good);
    }
    assert_eq!(job.result(1), Model::filled(SMALL, 4.0));
    server.finish();
}

/// A finish fails as long as one client's update is inside, and nothing says whose: it is found, and the others make the
/// model.
fn who_is_to_blame_for_a_failing_finish_is_left_out(sidecar: Sidecar) {
    const CLIENTS: u32 = 6;
    const CULPRIT: u32 = 4;
    let server = Server::start(sidecar);
    let job = mischief(
        &server,
        "blaming",
        "{ expected: 6, quorum: 5, deadline: 1h }",
    );
    let update = |client: u32| {
        let mark = if client == CULPRIT {
            guest::FINISH_TRAP
        } else {
            0.0
        };
        Model::filled(SMALL, 1.0).marked(mark)
    };
    let mut left_out = BTreeSet::new();
    eventually("the model is made", || {
        for client in 0..CLIENTS {
            let answer = job.put(
                &format!("client-{client}"),
                "?round=1",
                &update(client).file(),
            );
            if answer.status == 422 && answer.text().contains("the round goes on without it") {
                left_out.insert(client);
            }
        }
        (job.status().version > 1).then_some(())
    });
    assert_eq!(left_out, BTreeSet::from([CULPRIT]));
    assert_eq!(job.completed(1).contributors, CLIENTS - 1);
    assert_eq!(
        job.model().1,
        Model::filled(SMALL, (CLIENTS - 1) as f32).marked(0.0)
    );
    server.finish();
}
