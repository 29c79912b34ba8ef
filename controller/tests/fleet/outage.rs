//! NATS that goes away and comes back.

use std::time::Duration;

use tempfile::TempDir;
use tributary_api::{control::Checkpoints as _, fleet::NodeState};
use tributary_controller::{Beat, State};

use crate::{
    cluster::{BEAT, Cluster, Store, until},
    world::{lines, model, with},
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
    let name = "j".parse().unwrap();
    let file = |fill: u8| {
        let mut file = model(&[("w", 4)]);
        *file.last_mut().unwrap() = fill;
        file
    };
    let parts = |fill: u8| Box::new(std::iter::once(Ok(file(fill).into())));
    spool.save(&name, 2, parts(2)).await.unwrap();
    let stored = state.checkpoints();
    assert_eq!(stored.load(&name, 2).await.unwrap().unwrap(), file(2));

    let Store::Nats(server) = &mut store else {
        panic!("this test is about NATS")
    };
    server.kill();
    until("a connection that is lost", || async {
        (!backend.connected()).then_some(())
    })
    .await;
    for version in 3..=5 {
        spool
            .save(&name, u64::from(version), parts(version))
            .await
            .unwrap();
    }
    assert_eq!(spool.load(&name, 4).await.unwrap().unwrap(), file(4));
    server.start_again();
    let looking = async {
        until("the newest model in the store", || async {
            stored.load(&name, 5).await.ok()?
        })
        .await
    };
    tokio::select! {
        newest = looking => assert_eq!(newest, file(5)),
        () = spool.run() => {}
    }
    assert_eq!(
        stored.load(&name, 4).await.unwrap(),
        None,
        "the newest suffices"
    );
}
