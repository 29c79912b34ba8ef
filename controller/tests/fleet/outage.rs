//! NATS that goes away and comes back.

use std::time::Duration;

use tempfile::TempDir;
use tributary_api::{
    control::{Checkpoints as _, ModelKey, Undelivered},
    fleet::NodeState,
    manifest::Checkpoint,
};
use tributary_controller::{Beat, State};

use crate::{
    cluster::{BEAT, Cluster, Store, until},
    world::{self, lines, with},
};

/// Longer than a connection takes to come back, and shorter than the outage.
const BELIEVED: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lost_because_nats_was_away() {
    let Some(store) = Store::nats() else { return };
    let beat = Beat {
        believed: BELIEVED,
        ..BEAT
    };
    let mut cluster = Cluster::with_beat(store, beat);
    for name in ["n1", "n2"] {
        cluster.add(name).await;
    }
    let first = cluster.leader("c1", 2).await;
    let second = cluster.controller("c2").await;
    let [f, j] = first.example().await;
    first.apply(&[f.clone(), j.clone()]).await;
    first.members("j", &["n1", "n2"]).await;
    second.members("j", &["n1", "n2"]).await;
    cluster.take_logs();

    let Store::Nats(server) = &mut cluster.store else {
        panic!("this test is about NATS")
    };
    server.kill();
    tokio::time::sleep(BELIEVED + Duration::from_secs(1)).await;
    for controller in [&first, &second] {
        // What is known is answered, and nobody changes anything.
        assert_eq!(controller.controller.jobs().await.unwrap().len(), 1);
        assert_eq!(controller.state("n1").await, Some(NodeState::Ready));
        let refused = controller.is_refused().await.unwrap();
        assert_eq!(refused.problem().status, 503, "{refused}");
    }
    let Store::Nats(server) = &mut cluster.store else {
        panic!("this test is about NATS")
    };
    server.start_again();
    let leader = until("a leader after the outage", || async {
        let all = [&first, &second];
        let mut leaders = Vec::new();
        for controller in all {
            if controller.is_refused().await.is_none() {
                leaders.push(controller);
            }
        }
        leaders.pop()
    })
    .await;
    leader.members("j", &["n1", "n2"]).await;
    let placement = leader.controller.placement("j").await.unwrap();
    assert_eq!(placement.generation, 1, "{}", placement.reason);
    assert_eq!(cluster.take_logs(), Vec::<String>::new());
    let results = leader.apply(&[f, with(j, "/spec/rounds", 9)]).await;
    assert_eq!(
        lines(&results),
        ["unchanged Function f@1", "configured Job j@2"]
    );
    leader.members("j", &["n1", "n2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_wait_on_the_nodes_disk_while_nats_is_away() {
    let Some(mut store) = Store::nats() else {
        return;
    };
    let backend = store.connect().await;
    let state = State::on(backend.clone()).await.unwrap();
    let directory = TempDir::new().unwrap();
    let spool = state.spool(directory.path().join("spool")).await.unwrap();
    let model = |version| ModelKey {
        job: "j".parse().unwrap(),
        life: 1,
        generation: 1,
        version,
    };
    let name = model(1).job;
    let file = |fill: u8| {
        let mut file = world::model(&[("w", 4)]);
        *file.last_mut().unwrap() = fill;
        file
    };
    let save = async |fill: u8| {
        let parts = Box::new(std::iter::once(Ok(file(fill).into())));
        let model = model(fill.into());
        spool
            .save(&model, Checkpoint::Written, parts)
            .await
            .unwrap();
    };
    let stored = state.checkpoints();
    save(2).await;
    assert!(spool.flush(None, Duration::from_secs(60)).await);
    assert_eq!(stored.load(&name, 2).await.unwrap().unwrap(), file(2));

    let Store::Nats(server) = &mut store else {
        panic!("this test is about NATS")
    };
    server.kill();
    for version in 3..=5 {
        save(version).await;
    }
    assert_eq!(spool.load(&name, 5).await.unwrap().unwrap(), file(5));
    server.start_again();
    assert!(spool.flush(None, Duration::from_secs(60)).await);
    assert_eq!(stored.load(&name, 5).await.unwrap().unwrap(), file(5));
    assert_eq!(spool.undelivered(), Undelivered::default());
}
