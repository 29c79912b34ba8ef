//! Nodes that come, go, drain and are lost.

use std::{sync::atomic::Ordering, time::Instant};

use serde_json::json;
use tributary_api::{fleet::NodeState, placement::Duty, status::JobPhase};

use crate::{
    cluster::{BEAT, Cluster, Leader, Store, until},
    world::{lines, tenant, with},
};

on_both!(
    jobs_run_where_they_are_placed,
    a_node_that_joins_takes_part_at_once,
    a_lost_node_is_given_up_and_begins_anew,
    the_newest_model_leads_after_the_leader_is_lost,
    a_node_that_answers_is_lost_only_after_long_silence,
    a_node_that_ends_is_noticed_at_once,
    a_drained_node_hands_over_and_leaves,
    a_job_that_fits_nowhere_says_why,
    load_shows_what_a_node_can_take,
    a_node_that_cannot_start_a_job_is_left_out,
    a_deleted_job_leaves_nothing,
    what_changes_under_a_running_job_reaches_all_its_nodes,
    another_weight_reaches_all_nodes_without_a_restart,
    orders_that_are_lost_come_again_and_are_carried_out_once,
);

async fn running(store: Store) -> (Cluster, Leader) {
    let mut cluster = Cluster::new(store);
    for name in ["n1", "n2", "n3"] {
        cluster.add(name).await;
    }
    let leader = cluster.leader("c1", 3).await;
    leader.apply(&leader.example().await).await;
    leader.members("j", &["n1", "n2", "n3"]).await;
    (cluster, leader)
}

async fn jobs_run_where_they_are_placed(store: Store) {
    let mut cluster = Cluster::new(store);
    for name in ["n1", "n2"] {
        cluster.add(name).await;
    }
    let leader = cluster.leader("c1", 2).await;
    let [f, j] = leader.example().await;
    let results = leader.apply(&[f, with(j, "/spec/round/expected", 4)]).await;
    assert_eq!(lines(&results), ["created Function f@1", "created Job j@1"]);
    assert!(results[1].notes.is_empty(), "{results:?}");
    assert_eq!(leader.members("j", &["n1", "n2"]).await, "n1");
    let status = leader.controller.job("j").await.unwrap();
    assert_eq!(status.phase, JobPhase::Running);
    assert_eq!(status.node.as_deref(), Some("n1"));
    for node in ["n1", "n2"] {
        let placement = cluster.node(node).placement("j").unwrap();
        assert_eq!(placement.members[0].url, "http://n1");
        assert_eq!(placement.homes.nodes.len(), 2);
    }
    let response = leader.send(get("/v1/jobs/j/rounds/3?x=y")).await;
    assert_eq!(response.status(), 307);
    assert_eq!(
        response.headers()["location"],
        "http://n1/v1/jobs/j/rounds/3?x=y"
    );
    assert_eq!(leader.send(get("/v1/jobs/k/model")).await.status(), 404);
}

fn get(path: &str) -> axum::http::Request<axum::body::Body> {
    axum::http::Request::get(path)
        .body(axum::body::Body::empty())
        .unwrap()
}

async fn a_node_that_joins_takes_part_at_once(store: Store) {
    let (mut cluster, leader) = running(store).await;
    cluster.node("n1").advance("j", 5);
    cluster.take_logs();
    cluster.add("n4").await;
    let first = leader.members("j", &["n1", "n2", "n3", "n4"]).await;
    assert_eq!(first, "n1");
    let placement = cluster.node("n4").placement("j").unwrap();
    assert_eq!(placement.earlier.len(), 1, "homes moved within round 5");
    let logs = cluster.take_logs();
    let starts: Vec<_> = logs.iter().filter(|line| line.contains("start")).collect();
    assert_eq!(starts, ["n4: start j@1 v1 with f@1"], "{logs:?}");
}

async fn a_lost_node_is_given_up_and_begins_anew(store: Store) {
    let (mut cluster, leader) = running(store).await;
    let node = cluster.cut("n3");
    leader.members("j", &["n1", "n2"]).await;
    assert_eq!(leader.state("n3").await, Some(NodeState::Lost));
    assert!(
        node.placement("j").is_some(),
        "it runs on, and does not know"
    );
    node.take_log();
    cluster.mend("n3", node).await;
    leader.members("j", &["n1", "n2", "n3"]).await;
    let log = cluster.node("n3").take_log();
    assert!(
        log.contains(&"stop j".to_owned()),
        "what it has does not count: {log:?}"
    );
    assert!(log.contains(&"start j@1 v1 with f@1".to_owned()), "{log:?}");
}

async fn the_newest_model_leads_after_the_leader_is_lost(store: Store) {
    let (mut cluster, leader) = running(store).await;
    for (node, version) in [("n1", 7), ("n2", 6), ("n3", 7)] {
        cluster.node(node).advance("j", version);
    }
    for node in ["n1", "n2", "n3"] {
        leader.hears(node).await;
    }
    cluster.kill("n1");
    assert_eq!(leader.members("j", &["n2", "n3"]).await, "n3");
}

async fn a_node_that_answers_is_lost_only_after_long_silence(store: Store) {
    let mut cluster = Cluster::new(store);
    cluster.add_answering("n1").await;
    cluster.add("n2").await;
    let leader = cluster.leader("c1", 2).await;
    let cut = Instant::now();
    cluster.cut("n1");
    cluster.cut("n2");
    let is_lost = async |node| leader.state(node).await == Some(NodeState::Lost);
    until("a loss of who does not answer", || async {
        is_lost("n2").await.then_some(())
    })
    .await;
    until("a loss of who answers", || async {
        is_lost("n1").await.then_some(())
    })
    .await;
    // The last beat came a little before.
    assert!(cut.elapsed() > 4 * BEAT.believed, "{:?}", cut.elapsed());
}

async fn a_node_that_ends_is_noticed_at_once(store: Store) {
    let (mut cluster, leader) = running(store).await;
    cluster.stop("n2").await;
    until("a node that has said that it leaves", || async {
        (leader.state("n2").await == Some(NodeState::Lost)).then_some(())
    })
    .await;
    leader.members("j", &["n1", "n3"]).await;
}

async fn a_drained_node_hands_over_and_leaves(store: Store) {
    let (cluster, leader) = running(store).await;
    for node in ["n1", "n2", "n3"] {
        cluster.node(node).advance("j", 2);
        cluster.node(node).accepted.store(3, Ordering::Relaxed);
    }
    until("a report of updates", || async {
        (leader.controller.job("j").await.unwrap().accepted == 3).then_some(())
    })
    .await;
    leader.controller.drain("n2", true).await.unwrap();
    leader.members("j", &["n1", "n2", "n3"]).await;
    let placement = cluster.node("n2").placement("j").unwrap();
    assert_eq!(placement.member("n2").unwrap().duty, Duty::Draining);
    assert!(
        !placement
            .homes
            .nodes
            .iter()
            .any(|node| node.as_str() == "n2")
    );
    assert_eq!(leader.state("n2").await, Some(NodeState::Draining));

    cluster.node("n1").advance("j", 3);
    leader.members("j", &["n1", "n3"]).await;
    until("a node without jobs", || async {
        let drained = leader.state("n2").await == Some(NodeState::Drained);
        (drained && cluster.node("n2").placement("j").is_none()).then_some(())
    })
    .await;

    leader.controller.drain("n2", false).await.unwrap();
    leader.members("j", &["n1", "n2", "n3"]).await;
    let error = leader.controller.drain("n9", true).await.unwrap_err();
    assert!(error.to_string().contains("there is no node"), "{error}");
}

async fn a_job_that_fits_nowhere_says_why(store: Store) {
    let mut cluster = Cluster::new(store);
    cluster.add_labelled("n1", &[("zone", "us")]).await;
    let leader = cluster.leader("c1", 1).await;
    let [f, j] = leader.example().await;
    let selector = json!({"selector": {"zone": "eu"}});
    let results = leader
        .apply(&[f, with(j, "/spec/placement", selector)])
        .await;
    let note = &results[1].notes[0];
    assert!(
        note.contains("0 of 1 ready nodes match label zone=eu"),
        "{note}"
    );
    let status = leader.controller.job("j").await.unwrap();
    assert_eq!(status.phase, JobPhase::Failed);
    assert!(status.last_error.unwrap().contains("zone=eu"));
    cluster.add_labelled("n2", &[("zone", "eu")]).await;
    assert_eq!(leader.members("j", &["n2"]).await, "n2");
}

async fn load_shows_what_a_node_can_take(store: Store) {
    let mut cluster = Cluster::new(store);
    let node = cluster.add("n1").await;
    let leader = cluster.leader("c1", 1).await;
    let capacity = async || leader.entry("n1").await.unwrap().capacity.unwrap();
    // One core: eight updates at once, says nobody.
    let assumed = capacity().await;
    assert_eq!(
        (assumed.whence(), assumed.concurrency_milli),
        ("assumed", 8000)
    );
    until("what an update takes alone", || async {
        node.fold(10, 0);
        (9_900..=10_100)
            .contains(&capacity().await.update_microseconds)
            .then_some(())
    })
    .await;
    assert_eq!(capacity().await.whence(), "assumed");
    // Six at once take six times as long: one at a time is what it can do.
    until("less than was assumed", || async {
        node.fold(60, 5);
        let now = capacity().await;
        (now.whence() == "measured" && now.concurrency_milli < 7000).then_some(())
    })
    .await;
}

async fn a_node_that_cannot_start_a_job_is_left_out(store: Store) {
    let mut cluster = Cluster::new(store);
    for name in ["n1", "n2"] {
        cluster.add(name).await;
    }
    cluster.node("n2").busy.store(true, Ordering::Relaxed);
    let leader = cluster.leader("c1", 2).await;
    leader.apply(&leader.example().await).await;
    assert_eq!(leader.members("j", &["n1"]).await, "n1");
    // What went wrong on a node that has nothing of the job any more is no error of the job.
    let status = leader.controller.job("j").await.unwrap();
    assert_eq!(status.last_error, None);
}

async fn a_deleted_job_leaves_nothing(store: Store) {
    let (cluster, leader) = running(store).await;
    leader.controller.delete_job("j").await.unwrap();
    for node in ["n1", "n2", "n3"] {
        assert!(cluster.node(node).placement("j").is_none());
    }
    // The next job of the name begins with a placement of its own.
    leader.apply(&leader.example().await).await;
    leader.members("j", &["n1", "n2", "n3"]).await;
    let placement = leader.controller.placement("j").await.unwrap();
    assert!(
        placement.reason.starts_with("the job is new"),
        "{placement:?}"
    );
}

async fn what_changes_under_a_running_job_reaches_all_its_nodes(store: Store) {
    let (cluster, leader) = running(store).await;
    cluster.take_logs();
    let [f, j] = leader.example().await;
    leader
        .apply(&[f.clone(), with(j.clone(), "/spec/round/deadline", "5s")])
        .await;
    let logs = cluster.take_logs();
    assert_eq!(logs, ["n1: update j@2", "n2: update j@2", "n3: update j@2"]);
    // What cannot change under it begins anew everywhere, under another placement.
    leader
        .apply(&[f, with(j, "/spec/tree", json!({"fanIn": 2}))])
        .await;
    let generation = leader.controller.placement("j").await.unwrap().generation;
    assert_eq!(generation, 2);
    leader.members("j", &["n1", "n2", "n3"]).await;
    for line in cluster.take_logs() {
        let expected = ["stop j", "start j@3 v1 with f@1"];
        assert!(expected.iter().any(|end| line.ends_with(end)), "{line}");
    }
}

async fn another_weight_reaches_all_nodes_without_a_restart(store: Store) {
    let (cluster, leader) = running(store).await;
    let [f, j] = leader.example().await;
    let vision = |weight: f64| tenant("vision", &json!({ "weight": weight }));
    let j = with(with(j, "/spec/tenant", "vision"), "/spec/priority", 3);
    leader.apply(&[f, j, vision(2.0)]).await;
    cluster.take_logs();
    leader.apply(&[vision(0.7)]).await;
    let logs = cluster.take_logs();
    assert_eq!(logs, ["n1: update j@2", "n2: update j@2", "n3: update j@2"]);
    for node in ["n1", "n2", "n3"] {
        assert_eq!(cluster.node(node).sharing("j"), "vision 0.7 at 3");
    }
    let placement = leader.controller.placement("j").await.unwrap();
    assert_eq!(placement.generation, 1);
}

async fn orders_that_are_lost_come_again_and_are_carried_out_once(store: Store) {
    let mut cluster = Cluster::new(store);
    cluster.add_lossy("n1").await;
    let leader = cluster.leader("c1", 1).await;
    leader.apply(&leader.example().await).await;
    leader.members("j", &["n1"]).await;
    let done = ["n1: deploy f@1", "n1: start j@1 v1 with f@1"];
    assert_eq!(cluster.take_logs(), done);
}
