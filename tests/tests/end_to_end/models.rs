//! Clients fetch models and hear of new ones.

use tributary_api::event::EventKind;
use tributary_tests::feed::Feed;
use tributary_tests::job::{read, updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    a_model_is_handed_out_unless_it_is_known,
    a_long_poll_waits_for_a_newer_model,
    a_version_of_another_life_is_not_waited_for,
    many_wait_and_all_are_served,
    every_event_of_a_round_is_heard,
];

fn a_model_is_handed_out_unless_it_is_known(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let initial = Model::random(LARGE, 1);
    let job = server.deploy(&Manifest::fedavg("known", "{ expected: 1 }"), &initial);
    let path = "/v1/jobs/known/model";
    let get = |headers: &[(&str, &str)]| server.client().send("GET", path, headers, &[]);

    let answer = get(&[]).expect(200);
    assert_eq!(read(&answer), (1, initial));
    assert_eq!(
        answer.header("content-length"),
        Some(answer.body.len().to_string().as_str())
    );
    let unchanged = get(&[("If-None-Match", "\"1\"")]).expect(304);
    assert_eq!(
        (unchanged.header("etag"), unchanged.body.len()),
        (Some("\"1\""), 0)
    );

    let update = Model::random(LARGE, 2);
    job.push("only", 1, 5.0, &update);
    assert_eq!(
        job.result(1).bits(),
        update.bits(),
        "the mean of one is itself"
    );
    let changed = get(&[("If-None-Match", "\"1\"")]).expect(200);
    assert_eq!(read(&changed), (2, update));

    let _ = server
        .client()
        .get("/v1/jobs/nobody/model")
        .refused(404, "unknown-job");
    let _ = server
        .client()
        .get("/v1/jobs/known/model?after=x")
        .refused(400, "bad-query");
    let _ = server
        .client()
        .get("/v1/jobs/known/model?afte=1")
        .refused(400, "bad-query");
    let _ = server
        .client()
        .get("/v1/jobs/known/rounds/99")
        .refused(404, "unknown-round");
    server.finish();
}

fn a_long_poll_waits_for_a_newer_model(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("polled", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    let nothing = server
        .client()
        .get("/v1/jobs/polled/model?after=1&wait=100ms")
        .expect(204);
    assert!(nothing.body.is_empty());
    assert_eq!(nothing.header("tributary-version"), Some("1"));
    let _ = server
        .client()
        .get("/v1/jobs/polled/model?after=1")
        .expect(204);
    // What is newer than asked for comes at once.
    assert_eq!(
        read(
            &server
                .client()
                .get("/v1/jobs/polled/model?after=0&wait=60s")
                .expect(200)
        )
        .0,
        1
    );

    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| job.result(1));
        let update = Model::random(SMALL, 1);
        job.push("only", 1, 1.0, &update);
        assert_eq!(waiting.join().unwrap(), update);
    });
    server.finish();
}

/// The job was made anew, or its models went back: no newer version than the client's may ever come.
fn a_version_of_another_life_is_not_waited_for(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let initial = Model::filled(SMALL, 0.0);
    let job = server.deploy(&Manifest::fedavg("anew", "{ expected: 1 }"), &initial);
    for (query, version) in [
        ("after=2&wait=60s", 1),
        ("after=7", 1),
        ("after=7&wait=60s", 1),
    ] {
        let answer = server.client().get(&format!("/v1/jobs/anew/model?{query}"));
        assert_eq!(read(&answer.expect(200)), (version, initial.clone()));
    }
    // Who has what is there still waits for what comes next.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| job.result(1));
        let update = Model::random(SMALL, 1);
        job.push("only", 1, 1.0, &update);
        assert_eq!(waiting.join().unwrap(), update);
    });
    server.finish();
}

fn many_wait_and_all_are_served(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("crowd", "{ expected: 4 }"),
        &Model::filled(LARGE, 0.0),
    );
    let updates = updates(LARGE, 4, 1);
    let models: Vec<Model> = std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..16).map(|_| scope.spawn(|| job.result(1))).collect();
        job.push_all(1, &updates);
        waiting
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    Mean::of(weighed(&updates)).assert_near(&models[0], 1e-12);
    assert!(
        models.iter().all(|model| *model == models[0]),
        "all get the same model"
    );
    server.finish();
}

fn every_event_of_a_round_is_heard(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let everything = Feed::listen(server.client(), "/v1/events");
    let job = server.deploy(
        &Manifest::fedavg("told", "{ expected: 3 }").with("rounds: 1"),
        &Model::filled(SMALL, 0.0),
    );
    let one_job = Feed::listen(server.client(), "/v1/events?job=told");
    let other = Feed::listen(server.client(), "/v1/events?job=other");
    let updates = updates(SMALL, 3, 1);
    job.push_all(1, &updates);

    let heard = everything.through(EventKind::JobCompleted.as_str());
    let node = server.node_status().name;
    let mut ids = std::collections::BTreeSet::new();
    for event in &heard {
        let data = &event.data;
        assert_eq!(data["specversion"], "1.0");
        assert_eq!(data["type"], event.event);
        assert_eq!(data["id"], event.id);
        assert_eq!(data["source"], format!("/nodes/{node}"));
        assert_eq!(data["datacontenttype"], "application/json");
        assert!(
            data["time"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z')),
            "{data}"
        );
        assert!(ids.insert(event.id.clone()), "{data}");
        if !event.event.contains(".worker.") {
            assert_eq!(data["subject"], "jobs/told", "{data}");
        }
    }
    let mut kinds: Vec<&str> = heard.iter().map(|event| event.event.as_str()).collect();
    assert!(kinds.contains(&"dev.tributary.worker.started"), "{kinds:?}");
    // Workers start, and the controller tells of the job, when it suits them.
    kinds.retain(|kind| !kind.contains(".worker.") && !kind.ends_with("job.applied"));
    let expected = [
        "round.opened",
        "update.accepted",
        "update.accepted",
        "update.accepted",
        "round.closed",
        "round.completed",
        "model.published",
        "job.completed",
    ];
    assert_eq!(kinds, expected.map(|kind| format!("dev.tributary.{kind}")));

    let accepted: Vec<_> = heard
        .iter()
        .filter(|event| event.event.ends_with("update.accepted"))
        .collect();
    assert_eq!(accepted[2].data["data"]["round"], 1);
    let completed = heard
        .iter()
        .find(|event| event.event.ends_with("round.completed"))
        .unwrap();
    assert_eq!(
        (
            &completed.data["data"]["round"],
            &completed.data["data"]["contributors"]
        ),
        (&1.into(), &3.into())
    );
    let published = heard
        .iter()
        .find(|event| event.event.ends_with("model.published"))
        .unwrap();
    assert_eq!(published.data["data"]["version"], 2);

    let of_job = one_job.through(EventKind::JobCompleted.as_str());
    assert!(
        of_job
            .iter()
            .all(|event| event.data["subject"] == "jobs/told")
    );
    // Nothing of another job: the first that this one hears is its own.
    let _ = server.deploy(
        &Manifest::fedavg("other", "{ expected: 3 }"),
        &Model::filled(SMALL, 0.0),
    );
    assert_eq!(other.next().data["subject"], "jobs/other");
    server.finish();
}
