//! What is done for the hundredth time costs what it cost at first, and what is gone leaves nothing.

use std::time::Duration;

use bytes::Bytes;
use tributary_api::{
    Name,
    control::{Checkpoints as _, ModelKey},
    manifest::Checkpoint,
};
use tributary_controller::{Spool, State};
use tributary_tests::nats::stream::{held, requests};

use crate::{
    cluster::{Cluster, Store},
    world::{model, with},
};

/// The requests to JetStream that ten saves take, beside the messages themselves.
async fn ten_saves(checkpoints: &Spool, port: u16, job: &Name, from: u64) -> u64 {
    let file = Bytes::from(model(&[("w", 4)]));
    let before = requests(port).unwrap();
    for version in from..from + 10 {
        let parts = Box::new(std::iter::once(Ok(file.clone())));
        let model = ModelKey {
            job: job.clone(),
            life: 1,
            generation: 1,
            version,
        };
        let saved = checkpoints.save(&model, Checkpoint::Written, parts);
        saved.await.unwrap();
        // What is done behind counts as well.
        assert!(checkpoints.flush(None, Duration::from_secs(60)).await);
    }
    requests(port).unwrap() - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_costs_the_same_after_many_versions_of_many_jobs() {
    let Some(store) = Store::nats() else { return };
    let state = State::on(store.connect().await).await.unwrap();
    let checkpoints = state.checkpoints();
    let Store::Nats(server) = &store else {
        panic!("this test is about NATS")
    };
    let first: Name = "first".parse().unwrap();
    let _ = ten_saves(&checkpoints, server.port(), &first, 2).await;
    let early = ten_saves(&checkpoints, server.port(), &first, 12).await;
    for job in 0..10 {
        let job: Name = format!("j{job}").parse().unwrap();
        let _ = ten_saves(&checkpoints, server.port(), &job, 2).await;
    }
    for decade in 2..12 {
        let late = ten_saves(&checkpoints, server.port(), &first, decade * 10 + 2).await;
        assert_eq!(late, early);
    }
    // Of each job five models, and a piece of each.
    let messages = held(server.port(), "OBJ_tributary_models");
    assert_eq!(messages, Some(11 * 5 * 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_come_and_go_leave_nothing() {
    let Some(store) = Store::nats() else { return };
    let mut cluster = Cluster::new(store);
    cluster.add("n1").await;
    let leader = cluster.leader("c1", 1).await;
    let [f, j] = leader.example().await;
    let backend = cluster.store.connect().await;
    let desired = backend.keys("desired", None).await.unwrap();
    let placements = backend.keys("placements", None).await.unwrap();
    for number in 0..5 {
        let name = format!("job-{number}-of-a-name-that-is-never-used-again");
        let job = with(j.clone(), "/metadata/name", name.as_str());
        leader.apply(&[f.clone(), job]).await;
        leader.controller.delete_job(&name).await.unwrap();
    }
    let heads = desired.get("heads").await.unwrap().unwrap();
    let heads = String::from_utf8(heads.value.to_vec()).unwrap();
    assert!(!heads.contains("never-used-again"), "{heads}");
    let records = desired.list("revisions/Job/").await.unwrap();
    assert_eq!(records, []);
    assert_eq!(placements.list("").await.unwrap(), []);
}
