//! A client may ask again, and is told when it is wrong about where it is.

use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    a_repeat_is_answered_as_before,
    of_many_at_once_exactly_one_counts,
    wrong_addresses_are_refused
];

fn a_repeat_is_answered_as_before(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("again", "{ expected: 3 }"),
        &Model::filled(SMALL, 0.0),
    );
    let first = updates(SMALL, 3, 1);
    let query = |round: u64| format!("?round={round}&weight={}", first[0].1);
    let (file, other) = (first[0].0.file(), Model::random(SMALL, 99).file());

    let accepted = job.put("client-0", &query(1), &file).expect(202);
    for _ in 0..3 {
        let repeated = job.put("client-0", &query(1), &file).expect(200);
        assert_eq!(repeated.body, accepted.body, "the same answer");
        let _ = job
            .put("client-0", &query(1), &other)
            .refused(409, "other-bytes");
        // The weight is part of the update.
        let _ = job
            .put("client-0", "?round=1&weight=77", &file)
            .refused(409, "other-bytes");
    }
    assert_eq!(job.status().accepted, 1);
    for (index, (update, weight)) in first.iter().enumerate().skip(1) {
        job.push(&format!("client-{index}"), 1, *weight, update);
    }
    Mean::of(weighed(&first)).assert_near(&job.result(1), 1e-12);
    assert_eq!(job.completed(1).contributors, 3);

    // The round is over, and the answer is still the same; the one before that is forgotten.
    let _ = job.put("client-0", &query(1), &file).expect(200);
    let _ = job
        .put("client-0", &query(1), &other)
        .refused(409, "other-bytes");
    let _ = job
        .put("late", &query(1), &file)
        .refused(409, "wrong-round");
    assert_eq!(job.round(1).late, 1);
    assert_eq!(
        job.round(2).rejected,
        1,
        "the other bytes; who is late counts once"
    );
    // A new round is a new update, even if its bytes are those of the last.
    job.push_all(2, &first);
    let _ = job.result(2);
    let _ = job
        .put("client-0", &query(1), &file)
        .refused(409, "wrong-round");
    let _ = job.put("client-0", &query(2), &file).expect(200);
    server.finish();
}

/// One client sends the same update several times at once, and another update with it.
fn of_many_at_once_exactly_one_counts(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("once", "{ expected: 3 }");
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.0));
    let free = job.free_slots();
    for round in 1..=3 {
        let [same, other, rest] = [1, 2, 3].map(|seed| Model::random(LARGE, 10 * round + seed));
        let (same_file, other_file) = (same.file(), other.file());
        let statuses: Vec<(bool, u16)> = std::thread::scope(|scope| {
            let sending: Vec<_> = (0..8)
                .map(|index| {
                    let (job, is_same) = (&job, index % 4 != 3);
                    let file = if is_same { &same_file } else { &other_file };
                    scope.spawn(move || {
                        (
                            is_same,
                            job.put("twice", &format!("?round={round}"), file).status,
                        )
                    })
                })
                .collect();
            sending
                .into_iter()
                .map(|sent| sent.join().unwrap())
                .collect()
        });
        let accepted: Vec<bool> = statuses
            .iter()
            .filter(|(_, status)| *status == 202)
            .map(|(same, _)| *same)
            .collect();
        let [same_won] = accepted[..] else {
            panic!("{statuses:?}")
        };
        for (is_same, status) in &statuses {
            let expected: &[u16] = if *is_same == same_won {
                &[200, 202]
            } else {
                &[409]
            };
            assert!(expected.contains(status), "{statuses:?}");
        }
        job.push("a", round, 1.0, &rest);
        job.push("b", round, 1.0, &rest);
        let winner = if same_won { &same } else { &other };
        Mean::of([(winner, 1.0), (&rest, 1.0), (&rest, 1.0)])
            .assert_near(&job.result(round), 1e-12);
        assert_eq!(job.completed(round).contributors, 3);
    }
    // The model before is kept beside the model.
    job.until_free(free - 1);
    server.finish();
}

fn wrong_addresses_are_refused(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("door", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    let update = Model::random(SMALL, 1);
    let file = update.file();
    let free = job.free_slots();
    let _ = server
        .client()
        .put("/v1/jobs/nobody/updates/c?round=1", &file)
        .refused(404, "unknown-job");
    let _ = server
        .client()
        .put("/v1/jobs/No%20Name/updates/c?round=1", &file)
        .refused(404, "unknown-job");
    for (round, open) in [("0", 1), ("2", 1), ("18446744073709551615", 1)] {
        let problem = job
            .put("c", &format!("?round={round}"), &file)
            .refused(409, "wrong-round");
        assert_eq!(problem.extensions["round"], open, "it names the open round");
    }
    let long = "c".repeat(129);
    for client in ["a%20b", "a%2Fb", "%C3%A4", long.as_str()] {
        let _ = job
            .put(client, "?round=1", &file)
            .refused(400, "malformed-update");
    }
    for query in [
        "?round=one",
        "?round=-1",
        "?round=1&wieght=2",
        "?round=1.5",
        "",
    ] {
        let _ = job.put("c", query, &file).refused(400, "malformed-update");
    }
    for weight in ["0", "-1", "nan", "inf", "heavy", "-0.0"] {
        let problem = job
            .put("c", &format!("?round=1&weight={weight}"), &file)
            .refused(422, "bad-weight");
        assert!(problem.detail.contains(weight), "{}", problem.detail);
    }
    for examples in ["0", "-3", "NaN", "many"] {
        let file = update.file_with(&[("num_examples", examples)]);
        let answer = job.put("c", "?round=1", &file);
        assert!(
            matches!(answer.status, 400 | 422),
            "{}: {}",
            answer.status,
            answer.text()
        );
        let problem = answer.problem();
        assert!(problem.detail.contains(examples), "{}", problem.detail);
    }
    for round in ["0.5", "x"] {
        let _ = job
            .put("c", "", &update.file_with(&[("round", round)]))
            .refused(400, "malformed-update");
    }
    for (method, path) in [
        ("DELETE", "/v1/jobs/door/model"),
        ("DELETE", "/v1/jobs/door/updates/c"),
    ] {
        assert_eq!(
            server.client().send(method, path, &[], &[]).status,
            405,
            "{method} {path}"
        );
    }
    assert_eq!(server.client().get("/v2").status, 404);

    assert_eq!(job.free_slots(), free);
    job.push("c", 1, 1.0, &update);
    assert_eq!(job.result(1), update);
    server.finish();
}
