//! Nodes that are slow beside the others.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use serde_json::json;
use tributary_api::{
    fleet::PlacementDescription,
    placement::Duty,
    stages::{Awaited, NodeTimes, RoundTimes, StageTimes, Verdict},
};

use crate::{
    cluster::{Cluster, Leader, Store, until},
    world::with,
};

on_both!(
    a_slow_node_is_told_and_stays,
    a_slow_node_is_bypassed_and_comes_back,
    a_bypassed_node_is_better_than_none,
    another_leader_keeps_bypasses,
    a_node_whose_partial_does_not_come_is_given_up,
);

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Three nodes, of which the first leads job `j`.
async fn running(store: Store, policy: &str) -> (Cluster, Leader) {
    let mut cluster = Cluster::new(store);
    for name in NODES {
        cluster.add(name).await;
    }
    let leader = cluster.leader("c1", 3).await;
    let [f, j] = leader.example().await;
    let placement = json!({"policy": "spread", "stragglers": policy});
    leader
        .apply(&[f, with(j, "/spec/placement", placement)])
        .await;
    assert_eq!(leader.members("j", &NODES).await, "n1");
    (cluster, leader)
}

/// Round `number` is over; the third node took so many seconds to hand over, the others a tenth.
async fn round(cluster: &Cluster, leader: &Leader, number: u64, slow: f64) {
    let nodes = NODES.into_iter().map(|node| {
        let seconds = if node == "n3" { slow } else { 0.1 };
        NodeTimes {
            node: node.parse().unwrap(),
            stages: StageTimes {
                hand_over_microseconds: Some((seconds * 1e6) as u64),
                ..StageTimes::default()
            },
        }
    });
    let times = RoundTimes {
        round: number,
        nodes: nodes.collect(),
    };
    cluster.node("n1").finish("j", times);
    advance(cluster, leader, number + 1).await;
}

/// Round `version` is open on all nodes that run the job.
async fn advance(cluster: &Cluster, leader: &Leader, version: u64) {
    for node in NODES {
        if cluster.nodes.contains_key(node) && cluster.node(node).placement("j").is_some() {
            cluster.node(node).advance("j", version);
        }
    }
    until("a controller that knows the version", || async {
        let status = leader.controller.job("j").await.unwrap();
        (status.version == version).then_some(())
    })
    .await;
}

async fn slow_in(leader: &Leader, node: &str) -> usize {
    let nodes = leader.controller.nodes().await;
    let found = nodes.iter().find(|entry| entry.status.name == node);
    found.unwrap().slow_in.len()
}

async fn until_slow(leader: &Leader, node: &str, jobs: usize) {
    until("a verdict", || async {
        (slow_in(leader, node).await == jobs).then_some(())
    })
    .await;
}

async fn placement(leader: &Leader) -> PlacementDescription {
    leader.controller.placement("j").await.unwrap()
}

async fn gauge(leader: &Leader) -> String {
    let request = axum::http::Request::get("/metrics").body(axum::body::Body::empty());
    let answer = leader.send(request.unwrap()).await;
    let text = axum::body::to_bytes(answer.into_body(), 1 << 20)
        .await
        .unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("tributary_straggler_nodes{"));
    line.unwrap_or_default().to_owned()
}

async fn a_slow_node_is_told_and_stays(store: Store) {
    let (cluster, leader) = running(store, "report").await;
    for number in 1..=4 {
        round(&cluster, &leader, number, 3.0).await;
    }
    until_slow(&leader, "n3", 1).await;
    assert_eq!(slow_in(&leader, "n1").await, 0);
    let placement = placement(&leader).await;
    let verdicts: BTreeMap<_, _> = placement
        .members
        .iter()
        .map(|member| (member.node.as_str(), member.verdict))
        .collect();
    let expected = [
        ("n1", Verdict::Well),
        ("n2", Verdict::Well),
        ("n3", Verdict::Slow),
    ];
    assert_eq!(verdicts, expected.into());
    let third = placement.members.last().unwrap();
    assert_eq!(third.stages.hand_over_microseconds, Some(3_000_000));
    assert!(
        third.why.as_ref().unwrap().starts_with("hand-over"),
        "{third:?}"
    );
    assert!(
        placement
            .members
            .iter()
            .all(|member| member.duty == Duty::Serving)
    );
    assert_eq!(placement.generation, 1, "nothing was done about it");
    assert_eq!(
        gauge(&leader).await,
        r#"tributary_straggler_nodes{fl_job="j"} 1"#
    );
}

async fn a_slow_node_is_bypassed_and_comes_back(store: Store) {
    let (cluster, leader) = running(store, "bypass").await;
    let bus = cluster.store.connect().await.bus().await.unwrap();
    let mut events = bus.subscribe("events.node.>").await.unwrap();
    for number in 1..=3 {
        round(&cluster, &leader, number, 3.0).await;
    }
    leader.members("j", &["n1", "n2"]).await;
    let without = placement(&leader).await.bypassed;
    let without: Vec<_> = without
        .iter()
        .map(|one| (one.node.as_str(), one.until, one.times))
        .collect();
    assert_eq!(without, [("n3", 14, 1)]);
    advance(&cluster, &leader, 13).await;
    leader.members("j", &["n1", "n2"]).await;
    advance(&cluster, &leader, 14).await;
    leader.members("j", &NODES).await;
    assert_eq!(slow_in(&leader, "n3").await, 1, "it has shown nothing yet");
    for number in 14..=16 {
        round(&cluster, &leader, number, 3.0).await;
    }
    leader.members("j", &["n1", "n2"]).await;
    let without = placement(&leader).await.bypassed;
    assert_eq!((without[0].until, without[0].times), (37, 2));
    advance(&cluster, &leader, 37).await;
    leader.members("j", &NODES).await;
    for number in 37..=41 {
        round(&cluster, &leader, number, 0.1).await;
    }
    until_slow(&leader, "n3", 0).await;
    leader.members("j", &NODES).await;
    assert_eq!(
        gauge(&leader).await,
        r#"tributary_straggler_nodes{fl_job="j"} 0"#
    );
    // Each change was told once.
    for (kind, told) in [
        ("node.slow", "hand-over"),
        ("node.recovered", r#""job":"j""#),
    ] {
        let message = events.next().await.unwrap().unwrap();
        assert_eq!(message.subject, format!("events.{kind}.n3"));
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        assert!(payload.contains(told), "{payload}");
    }
}

async fn a_bypassed_node_is_better_than_none(store: Store) {
    let (mut cluster, leader) = running(store, "bypass").await;
    for number in 1..=3 {
        round(&cluster, &leader, number, 3.0).await;
    }
    leader.members("j", &["n1", "n2"]).await;
    cluster.kill("n2");
    leader.members("j", &["n1"]).await;
    cluster.kill("n1");
    leader.members("j", &["n3"]).await;
}

async fn another_leader_keeps_bypasses(store: Store) {
    let (cluster, first) = running(store, "bypass").await;
    let second = cluster.controller("c2").await;
    for number in 1..=3 {
        round(&cluster, &first, number, 3.0).await;
    }
    first.members("j", &["n1", "n2"]).await;
    let generation = placement(&first).await.generation;
    first.kill();
    until("another leader", || async {
        second.is_refused().await.is_none().then_some(())
    })
    .await;
    round(&cluster, &second, 4, 0.1).await;
    second.members("j", &["n1", "n2"]).await;
    let now = placement(&second).await;
    assert_eq!((now.generation, now.bypassed[0].until), (generation, 14));
}

async fn a_node_whose_partial_does_not_come_is_given_up(store: Store) {
    let (cluster, leader) = running(store, "bypass").await;
    for node in NODES {
        cluster.node(node).advance("j", 2);
        cluster
            .node(node)
            .accepted
            .store(3, std::sync::atomic::Ordering::Relaxed);
    }
    cluster.take_logs();
    *cluster.node("n1").awaited.lock().unwrap() = Some(Awaited {
        round: 2,
        microseconds: 6_000_000,
        nodes: vec!["n3".parse().unwrap()],
        handed_over_microseconds: vec![20_000, 30_000],
    });
    leader.members("j", &["n1", "n2"]).await;
    until_slow(&leader, "n3", 1).await;
    until("a node that was told to stop", || async {
        let logs = cluster.take_logs();
        logs.contains(&"n3: stop j".to_owned()).then_some(())
    })
    .await;
    assert_eq!(placement(&leader).await.bypassed[0].until, 12);
}
