//! Controllers that succeed each other.

use axum::{body::Body, http::Request};
use serde_json::json;
use tributary_api::fleet::NodeState;
use tributary_controller::Error;

use crate::{
    cluster::{Cluster, Leader, Store, until},
    world::{lines, with},
};

on_both!(
    a_leader_that_is_killed_is_succeeded,
    one_that_stops_is_succeeded_and_nothing_is_started_again,
    a_deposed_leader_changes_nothing,
    followers_answer_reads_and_send_writes_on,
    a_restart_of_everything_loses_nothing,
    desired_state_of_an_older_back_up_is_led,
    who_finds_jobs_placed_and_none_desired_does_not_begin_anew,
);

async fn cluster(store: Store) -> Cluster {
    let mut cluster = Cluster::new(store);
    for name in ["n1", "n2"] {
        cluster.add(name).await;
    }
    cluster
}

/// The other one leads now.
async fn leads(leader: &Leader) {
    until("another leader", || async {
        leader.is_refused().await.is_none().then_some(())
    })
    .await;
}

async fn a_leader_that_is_killed_is_succeeded(store: Store) {
    let cluster = cluster(store).await;
    let first = cluster.leader("c1", 2).await;
    let second = cluster.controller("c2").await;
    first.apply(&first.example().await).await;
    first.members("j", &["n1", "n2"]).await;
    cluster.take_logs();
    first.kill();
    leads(&second).await;
    // It goes on with what there is: the placement of before, and numbers that go on.
    second.members("j", &["n1", "n2"]).await;
    assert_eq!(cluster.take_logs(), Vec::<String>::new());
    let [f, j] = second.example().await;
    let results = second.apply(&[f, with(j, "/spec/rounds", 9)]).await;
    assert_eq!(
        lines(&results),
        ["unchanged Function f@1", "configured Job j@2"]
    );
    assert_eq!(cluster.take_logs(), ["n1: update j@2", "n2: update j@2"]);
}

async fn one_that_stops_is_succeeded_and_nothing_is_started_again(store: Store) {
    let cluster = cluster(store).await;
    let first = cluster.leader("c1", 2).await;
    first.apply(&first.example().await).await;
    first.members("j", &["n1", "n2"]).await;
    let generation = first.controller.placement("j").await.unwrap().generation;
    let second = cluster.controller("c2").await;
    cluster.take_logs();
    first.stop().await;
    leads(&second).await;
    second.members("j", &["n1", "n2"]).await;
    let placement = second.controller.placement("j").await.unwrap();
    assert_eq!(placement.generation, generation);
    // A node that it has not heard yet may be told its placement once more; nothing is started or stopped.
    let told = cluster.take_logs();
    let again = format!("place j g{generation}");
    assert!(told.iter().all(|line| line.ends_with(&again)), "{told:?}");
}

async fn a_deposed_leader_changes_nothing(store: Store) {
    let mut cluster = cluster(store).await;
    let first = cluster.leader("c1", 2).await;
    first.apply(&first.example().await).await;
    first.members("j", &["n1", "n2"]).await;
    let (module, _) = (first.upload(&b"\0asm other"[..]).await, ());
    let deposed = first.freeze();
    let second = cluster.leader("c2", 2).await;
    // What the second one does, the first one does not know.
    second.controller.delete_job("j").await.unwrap();
    cluster.take_logs();

    // It believes that the job is to run, and tells the nodes so.
    deposed.reconcile().await;
    assert_eq!(
        cluster.take_logs(),
        Vec::<String>::new(),
        "orders of an old term"
    );
    // A node that starts now has never heard of the new leader, and knows its term all the same.
    cluster.stop("n1").await;
    let node = cluster.add("n1").await;
    deposed.reconcile().await;
    assert_eq!(node.take_log(), Vec::<String>::new());

    let function = crate::world::function("g", module);
    let error = deposed.apply(&[function], false).await.unwrap_err();
    assert!(
        matches!(error, Error::NotLeading { .. } | Error::NoNode(_)),
        "{error}"
    );
    let error = deposed.drain("n1", true).await.unwrap_err();
    assert!(matches!(error, Error::NotLeading { .. }), "{error}");
    until("the node that came back", || async {
        (second.state("n1").await == Some(NodeState::Ready)).then_some(())
    })
    .await;
    assert_eq!(second.controller.functions().len(), 1);
}

async fn followers_answer_reads_and_send_writes_on(store: Store) {
    let cluster = cluster(store).await;
    let first = cluster.leader("c1", 2).await;
    let second = cluster.controller("c2").await;
    first.apply(&first.example().await).await;
    first.members("j", &["n1", "n2"]).await;
    second.members("j", &["n1", "n2"]).await;
    assert_eq!(second.controller.jobs().await.unwrap().len(), 1);
    assert_eq!(second.controller.functions().len(), 1);
    let location = until("a follower that knows its leader", || async {
        let request = Request::post("/v1/apply?dryRun=true").body(Body::from("[]"));
        let response = second.send(request.unwrap()).await;
        assert!(
            matches!(response.status().as_u16(), 307 | 503),
            "{response:?}"
        );
        let location = response.headers().get("location")?;
        Some(location.to_str().unwrap().to_owned())
    })
    .await;
    assert_eq!(location, "http://c1/v1/apply?dryRun=true");
    let metrics = Request::get("/metrics").body(Body::empty()).unwrap();
    let text = second.send(metrics).await.into_body();
    let text = axum::body::to_bytes(text, 1 << 20).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    for line in [
        "tributary_leader 0",
        "tributary_nats_connected 1",
        "tributary_nodes{state=\"ready\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

async fn a_restart_of_everything_loses_nothing(store: Store) {
    let mut cluster = cluster(store).await;
    let first = cluster.leader("c1", 2).await;
    let [f, j] = first.example().await;
    first.apply(&[f.clone(), j.clone()]).await;
    first.members("j", &["n1", "n2"]).await;
    first.controller.drain("n2", true).await.unwrap();
    first.members("j", &["n1"]).await;
    first.kill();
    cluster.kill("n1");
    cluster.kill("n2");

    cluster.add("n1").await;
    cluster.add("n2").await;
    let second = cluster.controller("c1").await;
    leads(&second).await;
    assert_eq!(second.members("j", &["n1"]).await, "n1");
    let logs = cluster.take_logs();
    assert_eq!(logs, ["n1: deploy f@1", "n1: start j@1 v1 with f@1"]);
    let results = second
        .apply(&[f, with(j, "/spec/tree", json!({"fanIn": 2}))])
        .await;
    assert_eq!(
        lines(&results),
        ["unchanged Function f@1", "configured Job j@2"]
    );
}

async fn desired_state_of_an_older_back_up_is_led(store: Store) {
    let cluster = cluster(store).await;
    let desired = cluster.store.connect().await.keys("desired", None).await;
    let desired = desired.unwrap();
    let first = cluster.leader("c1", 2).await;
    let [f, j] = first.example().await;
    first.apply(&[f.clone(), j.clone()]).await;
    let older = desired.get("heads").await.unwrap().unwrap();
    first.kill();
    let second = cluster.controller("c2").await;
    leads(&second).await;
    let changed = with(j.clone(), "/spec/rounds", 9);
    second.apply(&[f.clone(), changed.clone()]).await;
    second.members("j", &["n1", "n2"]).await;
    // Of an earlier term than nodes and the leader know.
    desired.put("heads", older.value).await.unwrap();
    until("a leader of what was restored", || async {
        let manifests = [f.clone(), changed.clone()];
        let applied = second.controller.apply(&manifests, false).await;
        let lines = lines(&applied.ok()?);
        (lines == ["unchanged Function f@1", "configured Job j@2"]).then_some(())
    })
    .await;
    second.members("j", &["n1", "n2"]).await;
}

async fn who_finds_jobs_placed_and_none_desired_does_not_begin_anew(store: Store) {
    let cluster = cluster(store).await;
    let desired = cluster.store.connect().await.keys("desired", None).await;
    let desired = desired.unwrap();
    let first = cluster.leader("c1", 2).await;
    first.apply(&first.example().await).await;
    first.members("j", &["n1", "n2"]).await;
    let heads = desired.get("heads").await.unwrap().unwrap();
    first.kill();
    desired.delete("heads").await.unwrap();
    cluster.take_logs();
    let second = cluster.controller("c2").await;
    until("a controller that says what is missing", || async {
        let refused = second.is_refused().await?.to_string();
        refused.contains("from a back-up").then_some(())
    })
    .await;
    // Restored, it is led, and nobody has stopped anything.
    desired.put("heads", heads.value).await.unwrap();
    leads(&second).await;
    second.members("j", &["n1", "n2"]).await;
    let told = cluster.take_logs();
    assert!(
        told.iter().all(|line| line.contains(": place ")),
        "{told:?}"
    );
}
