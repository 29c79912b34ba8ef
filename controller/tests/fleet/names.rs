//! Processes that take one name, and orders that nobody understands.

use std::time::Duration;

use bytes::Bytes;
use tributary_api::fleet::NodeState;
use tributary_controller::Error;

use crate::cluster::{Cluster, Store, until};

on_both!(
    a_second_process_of_a_name_is_refused,
    a_name_goes_over_when_its_process_has_ended,
    who_is_replaced_at_its_own_address_ends,
    an_order_that_cannot_be_read_is_answered_at_once,
);

async fn a_second_process_of_a_name_is_refused(store: Store) {
    let mut cluster = Cluster::new(store);
    cluster.add("n1").await;
    let leader = cluster.leader("c1", 1).await;
    let second = cluster.serve("n1", "http://elsewhere").await;
    let error = second.await.unwrap().unwrap_err().to_string();
    let told =
        "another process at http://n1 is node n1 already; give each node a --name of its own";
    assert!(error.starts_with(told), "{error}");
    assert_eq!(leader.state("n1").await, Some(NodeState::Ready));
}

async fn a_name_goes_over_when_its_process_has_ended(store: Store) {
    let mut cluster = Cluster::new(store);
    cluster.add("n1").await;
    let leader = cluster.leader("c1", 1).await;
    cluster.kill("n1");
    let next = cluster.serve("n1", "http://elsewhere").await;
    until("the node at its new address", || async {
        let entry = leader.entry("n1").await?;
        (entry.url? == "http://elsewhere" && entry.state == NodeState::Ready).then_some(())
    })
    .await;
    assert!(!next.is_finished());
}

async fn who_is_replaced_at_its_own_address_ends(store: Store) {
    let cluster = Cluster::new(store);
    let first = cluster.serve("n1", "http://n1").await;
    let leader = cluster.leader("c1", 1).await;
    let second = cluster.serve("n1", "http://n1").await;
    let error = first.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NameTaken { .. }), "{error}");
    leader.hears("n1").await;
    assert!(!second.is_finished());
}

async fn an_order_that_cannot_be_read_is_answered_at_once(store: Store) {
    let mut cluster = Cluster::new(store);
    cluster.add("n1").await;
    let _leader = cluster.leader("c1", 1).await;
    let bus = cluster.store.connect().await.bus().await.unwrap();
    let order = Bytes::from_static(br#"{"id": "1", "term": 1, "command": {"fly": "j"}}"#);
    let answer = bus.request("nodes.n1", order, Duration::from_secs(60));
    let answer: serde_json::Value = serde_json::from_slice(&answer.await.unwrap()).unwrap();
    let about = &answer["Err"]["unsupported"];
    assert_eq!(about["node"], "n1", "{answer}");
    assert!(about["why"].as_str().unwrap().contains("fly"), "{answer}");
}
