//! What all processes do alike, whatever each was told.

use std::{sync::Arc, time::Duration};

use tributary_controller::{Agreement, Told};
use tributary_store::{Backend as _, nats::Nats};

use crate::cluster::Store;

const fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

async fn connect(store: &Store) -> Arc<Nats> {
    store.nats_connection().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_controller_says_and_all_others_follow() {
    let Some(store) = Store::nats() else { return };
    // A node that comes first makes nothing.
    let node = connect(&store).await;
    assert_eq!(Agreement::found(&node).await.unwrap(), None);
    assert_eq!(node.made("desired").await.unwrap(), None);
    let first = Told {
        lease: seconds(5),
        ..Told::default()
    };
    let agreed = Agreement::reached(&*connect(&store).await, first).await;
    let agreed = agreed.unwrap();
    assert_eq!(agreed.lease(), Duration::from_secs(5));
    assert_eq!(agreed.contradicts(first), None);
    let other = Told {
        replicas: Some(3),
        lease: seconds(9),
        believed: seconds(3),
        ..Told::default()
    };
    let followed = Agreement::reached(&*connect(&store).await, other).await;
    assert_eq!(followed.unwrap(), agreed);
    assert_eq!(Agreement::found(&node).await.unwrap(), Some(agreed.clone()));
    let line = agreed.contradicts(other).unwrap();
    for part in ["--nats-replicas is 1, not 3", "--lease is 5s, not 9s"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("--beat"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_version_made_stays_as_it_is() {
    let Some(store) = Store::nats() else { return };
    let nats = connect(&store).await;
    for (bucket, ttl) in [
        ("desired", None),
        ("leader", seconds(7)),
        ("nodes", seconds(8)),
    ] {
        nats.keys(bucket, ttl).await.unwrap();
    }
    let agreed = Agreement::reached(&nats, Told::default()).await.unwrap();
    assert_eq!(agreed.lease(), Duration::from_secs(7));
    assert_eq!(agreed.beat().believed, Duration::from_secs(8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_that_nobody_could_believe_are_refused() {
    let Some(store) = Store::nats() else { return };
    let told = Told {
        beat: seconds(3),
        ..Told::default()
    };
    let refused = Agreement::reached(&*connect(&store).await, told).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("--beat 3s"), "{refused}");
}
