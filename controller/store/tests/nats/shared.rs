//! What all processes share: made once, changed by nobody who starts, bounded, and made anew where nothing is lost by it.

use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tributary_store::nats::{self, Options};
use tributary_store::{Backend, Error, Leadership, Objects, Retention, Role};
use tributary_tests::nats::{NatsCluster, NatsServer, available};

use crate::bench::{bytes, connect, options, persist, soon};

const LEASE: Duration = Duration::from_secs(1);

/// Makes everything that a cluster has.
async fn open(backend: &dyn Backend) {
    for name in ["desired", "placements"] {
        backend.keys(name, None).await.unwrap();
    }
    for name in ["leader", "nodes"] {
        backend.keys(name, Some(LEASE)).await.unwrap();
    }
    for name in ["blobs", "models"] {
        backend.objects(name).await.unwrap();
    }
    backend.inbox("updates", LEASE * 60).await.unwrap();
    backend.bus().await.unwrap();
}

async fn streams(url: String) -> Vec<jetstream::stream::Config> {
    let client = async_nats::connect(url).await.unwrap();
    let streams = jetstream::new(client).streams();
    let infos: Vec<_> = streams.try_collect().await.unwrap();
    infos.into_iter().map(|info| info.config).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_by_starting_what_all_share_and_everything_has_a_limit() {
    if !available() {
        return;
    }
    let server = NatsServer::start();
    open(&connect(&server).await).await;
    let made = streams(server.url()).await;
    assert_eq!(made.len(), 9);
    for config in &made {
        assert!(config.max_bytes > 0, "{config:?}");
        assert_eq!(config.num_replicas, 1);
    }
    let otherwise = Options {
        replicas: Some(3),
        retention: Retention {
            age: Duration::from_secs(60),
            ..Retention::default()
        },
        ..options(vec![server.url()])
    };
    let other = nats::connect(otherwise).await.unwrap();
    open(&other).await;
    assert_eq!(streams(server.url()).await, made);
    let lives_longer = other.keys("leader", Some(LEASE * 2)).await.unwrap_err();
    assert!(
        matches!(lives_longer, Error::Malformed { .. }),
        "{lives_longer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_hold_three_copies_whoever_starts() {
    if !available() {
        return;
    }
    let cluster = NatsCluster::start(3);
    let auto = options(cluster.urls());
    let alone = Options {
        replicas: Some(1),
        ..auto.clone()
    };
    for options in [auto, alone] {
        let nats = persist(|| nats::connect(options.clone())).await.unwrap();
        persist(|| nats.keys("desired", None)).await.unwrap();
        let made = persist(|| nats.made("desired")).await.unwrap();
        assert_eq!(made.unwrap().replicas, 3);
    }
}

/// Puts objects until one does not fit.
async fn fill(objects: &dyn Objects) -> Error {
    let content = || stream::iter([Ok(Bytes::from(vec![7; 1 << 18]))]).boxed();
    for number in 0..1000 {
        if let Err(error) = objects.put(&format!("j/{number}"), content()).await {
            return error;
        }
    }
    panic!("there was room for everything")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_full_refuses_and_leases_and_beats_go_on() {
    if !available() {
        return;
    }
    let server = NatsServer::storing("32MB");
    let nats = connect(&server).await;
    open(&nats).await;
    let office = Leadership::open(&nats, "leader", LEASE).await.unwrap();
    let campaign = office.campaign("one");
    let mut role = campaign.role();
    let leads = |role: &Role| matches!(role, Role::Leader { .. });
    let first = soon(role.wait_for(leads)).await.unwrap().clone();
    let inbox = nats.inbox("updates", LEASE * 60).await.unwrap();
    let objects = [
        nats.objects("models").await.unwrap(),
        nats.objects("blobs").await.unwrap(),
        inbox,
    ];
    for objects in &objects {
        let full = fill(&**objects).await;
        assert!(matches!(full, Error::Full { .. }), "{full}");
    }
    let bus = nats.bus().await.unwrap();
    let big = Bytes::from(vec![7; 1 << 19]);
    let mut full = Ok(());
    for number in 0..40 {
        let id = number.to_string();
        // Of events the oldest go.
        bus.publish("events.a", &id, big.clone()).await.unwrap();
        full = full.and(bus.publish("updates.j", &id, big.clone()).await);
    }
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");

    let nodes = nats.keys("nodes", Some(LEASE)).await.unwrap();
    let desired = nats.keys("desired", None).await.unwrap();
    for number in 0..20 {
        nodes.put("n1", bytes(&number.to_string())).await.unwrap();
        desired
            .put("heads", bytes(&number.to_string()))
            .await
            .unwrap();
    }
    let entry = office.leader().await.unwrap();
    assert_eq!(entry.as_deref(), Some("one"));
    assert_eq!(*campaign.role().borrow(), first);
    let rooms = nats.rooms().await.unwrap();
    let models = rooms.iter().find(|room| room.name.ends_with("models"));
    let models = models.unwrap();
    assert!(
        models.bytes * 10 > models.bytes_max.unwrap() * 8,
        "{models:?}"
    );
    // What is deleted makes room.
    objects[0].delete("j/0").await.unwrap();
    let content = stream::iter([Ok(Bytes::from(vec![7; 1 << 18]))]).boxed();
    objects[0].put("j/0", content).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_leases_that_is_lost_is_made_anew_and_its_terms_grow() {
    if !available() {
        return;
    }
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let office = Leadership::open(&nats, "leader", LEASE).await.unwrap();
    let campaign = office.campaign("one");
    let mut role = campaign.role();
    let leads = |role: &Role| matches!(role, Role::Leader { .. });
    let first = soon(role.wait_for(leads)).await.unwrap().clone();
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = jetstream::new(client);
    context.delete_stream("KV_tributary_leader").await.unwrap();
    let follows = |role: &Role| matches!(role, Role::Follower { .. });
    drop(soon(role.wait_for(follows)).await.unwrap());
    let second = soon(role.wait_for(leads)).await.unwrap().clone();
    let (Role::Leader { term: first }, Role::Leader { term: second }) = (first, second) else {
        panic!("it leads")
    };
    assert!(second > first, "{second} after {first}");
    assert!(campaign.holds().await.unwrap());
}
