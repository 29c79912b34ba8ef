//! Three servers, of which one is killed in the middle of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tributary_store::nats::{Nats, Options};
use tributary_store::{Backend, Bus, Change, Error, Keys, Leadership, Role};
use tributary_tests::nats::{self, NatsCluster};

use crate::bench::{bytes, next, options, persist, soon, text};

/// What each of the writers does.
const ROUNDS: u64 = 400;

/// A client that is connected to this server, and has heard of the others from it.
async fn connect(cluster: &NatsCluster, server: usize) -> Nats {
    let options = Options {
        replicas: Some(3),
        ..options(vec![cluster.servers[server].url()])
    };
    let store = persist(|| tributary_store::nats::connect(options.clone()))
        .await
        .unwrap();
    // Until the servers have found each other nothing can be made.
    persist(|| store.bus()).await.unwrap();
    store
}

/// Counts up in a key; every number that it was told is written must stay.
async fn count(keys: Arc<dyn Keys>, key: &str) {
    let mut revision = persist(|| keys.create(key, bytes("0"))).await.unwrap();
    for number in 1..=ROUNDS {
        let value = number.to_string();
        loop {
            match keys.update(key, bytes(&value), revision).await {
                Ok(next) => {
                    assert!(next > revision);
                    revision = next;
                    break;
                }
                // It may have happened: look.
                Err(Error::Unavailable { .. } | Error::Conflict { .. }) => {
                    let entry = persist(|| keys.get(key)).await.unwrap().unwrap();
                    let found: u64 = text(&entry.value).parse().unwrap();
                    assert!(
                        found + 1 >= number,
                        "{key} went back from {number} to {found}"
                    );
                    assert!(entry.revision >= revision);
                    revision = entry.revision;
                    if found == number {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn publish(bus: Arc<dyn Bus>) {
    for number in 0..ROUNDS {
        let id = number.to_string();
        persist(|| bus.publish("events.a", &id, bytes(&id)))
            .await
            .unwrap();
        persist(|| bus.publish("updates.a", &id, bytes(&id)))
            .await
            .unwrap();
    }
}

/// Does all the work; whatever came again, each piece was there.
async fn work(bus: Arc<dyn Bus>) {
    let mut work = persist(|| bus.consume("worker", "updates.>"))
        .await
        .unwrap();
    let mut done = BTreeSet::new();
    while (done.len() as u64) < ROUNDS {
        let delivery = next(&mut work).await;
        let id = text(&delivery.message.payload);
        if delivery.ack().await.is_ok() {
            done.insert(id);
        }
    }
}

/// Watches until both counters are at their end; no key goes back.
async fn watch(keys: Arc<dyn Keys>) {
    let mut watch = persist(|| keys.watch("")).await.unwrap();
    let mut seen: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let end = |seen: &BTreeMap<String, (u64, u64)>| {
        seen.len() == 2 && seen.values().all(|(_, number)| *number == ROUNDS)
    };
    while !end(&seen) {
        match next(&mut watch).await {
            Change::Put(key, entry) => {
                let number: u64 = text(&entry.value).parse().unwrap();
                let now = (entry.revision, number);
                let before = seen.insert(key.clone(), now).unwrap_or_default();
                assert!(
                    now > before && number >= before.1,
                    "{key} went back from {before:?} to {now:?}"
                );
            }
            Change::Deleted(key) => panic!("nobody has deleted {key}, last seen at {seen:?}"),
            Change::UpToDate => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_may_die() {
    if !nats::available() {
        return;
    }
    let mut cluster = NatsCluster::start(3);
    // One of the clients is connected to the server that will die.
    let (one, two) = (connect(&cluster, 0).await, connect(&cluster, 1).await);
    let keys = [
        persist(|| one.keys("counters", None)).await.unwrap(),
        persist(|| two.keys("counters", None)).await.unwrap(),
    ];
    let buses = [one.bus().await.unwrap(), two.bus().await.unwrap()];
    let lease = Duration::from_secs(3);
    let offices = [
        persist(|| Leadership::open(&one, "leaders", lease))
            .await
            .unwrap(),
        persist(|| Leadership::open(&two, "leaders", lease))
            .await
            .unwrap(),
    ];
    let campaigns = [offices[0].campaign("one"), offices[1].campaign("two")];
    let objects = persist(|| one.objects("models")).await.unwrap();
    let content =
        || futures_util::stream::iter((0..8).map(|_| Ok(vec![7; 1 << 18].into()))).boxed();
    persist(|| objects.put("before", content())).await.unwrap();

    let mut events = persist(|| buses[0].subscribe("events.>")).await.unwrap();
    let tasks = [
        tokio::spawn(watch(keys[0].clone())),
        tokio::spawn(watch(keys[1].clone())),
        tokio::spawn(work(buses[0].clone())),
        tokio::spawn({
            let keys = keys[0].clone();
            async move { count(keys, "one").await }
        }),
        tokio::spawn({
            let keys = keys[1].clone();
            async move { count(keys, "two").await }
        }),
        tokio::spawn(publish(buses[1].clone())),
    ];
    // Everything that was published, once, in order.
    for number in 0..ROUNDS {
        assert_eq!(text(&next(&mut events).await.payload), number.to_string());
        if number == ROUNDS / 4 {
            cluster.servers[0].kill();
        }
    }
    for task in tasks {
        soon(task).await.unwrap();
    }
    let list = persist(|| keys[0].list("")).await.unwrap();
    let values: Vec<String> = list.iter().map(|(_, entry)| text(&entry.value)).collect();
    assert_eq!(values, [ROUNDS.to_string(), ROUNDS.to_string()]);
    assert_eq!(
        persist(|| objects.size("before")).await.unwrap(),
        Some(8 << 18)
    );
    persist(|| objects.put("after", content())).await.unwrap();
    let leads = |role: &Role| matches!(role, Role::Leader { .. });
    let mut roles = [campaigns[0].role(), campaigns[1].role()];
    let [first, second] = &mut roles;
    soon(async {
        tokio::select! {
            role = first.wait_for(leads) => drop(role.unwrap()),
            role = second.wait_for(leads) => drop(role.unwrap()),
        }
    })
    .await;
    // With the server back, any other may go.
    cluster.servers[0].start_again();
    persist(|| keys[0].put("last", bytes("1"))).await.unwrap();
}

/// A host that is lost closes no connection: who is connected to it has to notice, and go to another.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_may_fall_silent() {
    if !nats::available() {
        return;
    }
    let cluster = NatsCluster::start(3);
    let (one, two) = (connect(&cluster, 0).await, connect(&cluster, 1).await);
    let keys = persist(|| one.keys("things", None)).await.unwrap();
    persist(|| keys.put("before", bytes("1"))).await.unwrap();
    let mut connected = one.connection();
    assert!(*connected.borrow_and_update());
    cluster.servers[0].freeze();
    soon(connected.wait_for(|connected| !connected))
        .await
        .unwrap();
    soon(connected.wait_for(|connected| *connected))
        .await
        .unwrap();
    persist(|| keys.put("after", bytes("2"))).await.unwrap();
    let others = persist(|| two.keys("things", None)).await.unwrap();
    let list = persist(|| others.list("")).await.unwrap();
    let names: Vec<&str> = list.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["after", "before"]);
}
