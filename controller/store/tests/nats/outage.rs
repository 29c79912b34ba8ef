//! The only server is killed, and comes back with its store.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, TryFutureExt, join_all};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tributary_store::{Backend, Change, Error, Leadership, Role};
use tributary_tests::nats::{self, NatsServer};

use crate::bench::{bytes, connect, next, persist, soon, text};

const LEASE: Duration = Duration::from_secs(2);

/// Far more than `call_timeout`: only what hangs takes so long.
const HANGS: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_and_work_again() {
    if !nats::available() {
        return;
    }
    let mut server = NatsServer::start();
    let store = connect(&server).await;
    let keys = store.keys("things", None).await.unwrap();
    let bus = store.bus().await.unwrap();
    let objects = store.objects("models").await.unwrap();
    let revision = keys.create("a", bytes("one")).await.unwrap();
    let put = |text: &'static str| objects.put("a", stream::iter([Ok(bytes(text))]).boxed());
    put("one").await.unwrap();
    assert!(store.connected());
    let mut connection = store.connection();

    server.kill();
    soon(connection.wait_for(|connected| !connected))
        .await
        .unwrap();
    let second = Duration::from_secs(1);
    let calls: Vec<(&str, BoxFuture<Result<(), Error>>)> = vec![
        ("get", keys.get("a").map_ok(drop).boxed()),
        ("list", keys.list("").map_ok(drop).boxed()),
        ("create", keys.create("b", bytes("x")).map_ok(drop).boxed()),
        (
            "update",
            keys.update("a", bytes("x"), revision).map_ok(drop).boxed(),
        ),
        ("delete", keys.delete("a").boxed()),
        ("watch", keys.watch("").map_ok(drop).boxed()),
        ("publish", bus.publish("events.a", "1", bytes("x")).boxed()),
        ("subscribe", bus.subscribe("events.a").map_ok(drop).boxed()),
        (
            "consume",
            bus.consume("reader", "events.a").map_ok(drop).boxed(),
        ),
        (
            "request",
            bus.request("a", bytes("x"), second).map_ok(drop).boxed(),
        ),
        ("object", objects.get("a").map_ok(drop).boxed()),
        ("put", put("two").map_ok(drop).boxed()),
        ("keys", store.keys("things", None).map_ok(drop).boxed()),
    ];
    let calls = calls
        .into_iter()
        .map(|(name, call)| async move { (name, call.await) });
    let results = timeout(HANGS, join_all(calls)).await.expect("a call hangs");
    for (call, result) in results {
        assert!(
            matches!(result, Err(Error::Unavailable { .. })),
            "{call}: {result:?}"
        );
    }

    server.start_again();
    soon(connection.wait_for(|connected| *connected))
        .await
        .unwrap();
    let entry = persist(|| keys.get("a")).await.unwrap().unwrap();
    // Nothing of what failed has happened: it was never sent.
    assert_eq!((entry.value, entry.revision), (bytes("one"), revision));
    assert_eq!(keys.get("b").await.unwrap(), None);
    persist(|| keys.update("a", bytes("two"), revision))
        .await
        .unwrap();
    persist(|| bus.publish("events.a", "1", bytes("x")))
        .await
        .unwrap();
    assert_eq!(objects.size("a").await.unwrap(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on() {
    if !nats::available() {
        return;
    }
    let mut server = NatsServer::start();
    let store = connect(&server).await;
    let keys = store.keys("things", None).await.unwrap();
    keys.put("stays", bytes("0")).await.unwrap();
    keys.put("changes", bytes("0")).await.unwrap();
    keys.put("goes", bytes("0")).await.unwrap();
    let mut watch = keys.watch("").await.unwrap();
    let mut known = BTreeSet::new();
    loop {
        match next(&mut watch).await {
            Change::Put(key, _) => drop(known.insert(key)),
            Change::UpToDate => break,
            Change::Deleted(key) => panic!("{key} is there"),
        }
    }
    assert_eq!(known.len(), 3);
    for round in 1..4 {
        server.kill();
        let lost = soon(watch.next()).await.unwrap();
        assert!(lost.is_err_and(|error| error.is_unavailable()));
        server.start_again();
        // By somebody else, perhaps before the watch is back.
        let other = connect(&server).await.keys("things", None).await.unwrap();
        let text = round.to_string();
        let changed = persist(|| other.put("changes", bytes(&text)))
            .await
            .unwrap();
        persist(|| other.delete("goes")).await.unwrap();
        // Each change once, whether it came before the watch was back or after; "stays" is not told again.
        let mut told = BTreeSet::new();
        while told.len() < 3 {
            let news = match next(&mut watch).await {
                Change::Put(key, entry) => {
                    assert_eq!((key.as_str(), entry.revision), ("changes", changed));
                    key
                }
                Change::Deleted(key) => {
                    assert_eq!(key, "goes");
                    key
                }
                Change::UpToDate => "up to date".to_owned(),
            };
            assert!(told.insert(news.clone()), "{news} is told twice");
        }
        persist(|| other.put("goes", bytes("again"))).await.unwrap();
        while !matches!(next(&mut watch).await, Change::Put(key, _) if key == "goes") {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_neither_lost_nor_repeated() {
    if !nats::available() {
        return;
    }
    let mut server = NatsServer::start();
    let store = connect(&server).await;
    let bus = store.bus().await.unwrap();
    let mut events = bus.subscribe("events.>").await.unwrap();
    let mut work = bus.consume("worker", "updates.>").await.unwrap();
    let mut requests = bus.serve("questions").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let _ = request.respond(bytes("answer")).await;
        }
    });
    let publisher = tokio::spawn({
        let bus = bus.clone();
        async move {
            for number in 0..600 {
                let id = number.to_string();
                persist(|| bus.publish("events.a", &id, bytes(&id)))
                    .await
                    .unwrap();
                persist(|| bus.publish("updates.a", &id, bytes(&id)))
                    .await
                    .unwrap();
            }
        }
    });
    let worker = tokio::spawn(async move {
        let mut done = BTreeSet::new();
        while done.len() < 600 {
            let delivery = next(&mut work).await;
            let id = text(&delivery.message.payload);
            // What is not acknowledged comes again.
            if delivery.ack().await.is_ok() {
                done.insert(id);
            }
        }
    });
    for number in 0..600 {
        assert_eq!(text(&next(&mut events).await.payload), number.to_string());
        if number == 100 || number == 350 {
            server.kill();
            server.start_again();
        }
    }
    soon(publisher).await.unwrap();
    soon(worker).await.unwrap();
    let answer = persist(|| bus.request("questions", bytes("?"), HANGS)).await;
    assert_eq!(answer.unwrap(), bytes("answer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_subscription_stays_unheard() {
    if !nats::available() {
        return;
    }
    let mut server = NatsServer::start();
    let store = connect(&server).await;
    let bus = store.bus().await.unwrap();
    bus.publish("events.a", "1", bytes("old")).await.unwrap();
    let mut events = bus.subscribe("events.>").await.unwrap();
    server.kill();
    server.start_again();
    persist(|| bus.publish("events.a", "2", bytes("new")))
        .await
        .unwrap();
    assert_eq!(next(&mut events).await.payload, bytes("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_steps_down_and_another_term_begins() {
    if !nats::available() {
        return;
    }
    let mut server = NatsServer::start();
    let (one, two) = (connect(&server).await, connect(&server).await);
    let offices = [
        Leadership::open(&one, "leaders", LEASE).await.unwrap(),
        Leadership::open(&two, "leaders", LEASE).await.unwrap(),
    ];
    let campaigns = [offices[0].campaign("one"), offices[1].campaign("two")];
    let mut roles = [campaigns[0].role(), campaigns[1].role()];
    let mut last = 0;
    for _ in 0..2 {
        let term = soon(any_term(&mut roles)).await;
        assert!(term > last, "{term} after {last}");
        last = term;
        server.kill();
        for role in &mut roles {
            let follows = |role: &Role| matches!(role, Role::Follower { .. });
            soon(role.wait_for(follows)).await.unwrap();
        }
        server.start_again();
    }
    assert!(soon(any_term(&mut roles)).await > last);
}

/// The term of whoever leads first.
async fn any_term(roles: &mut [tokio::sync::watch::Receiver<Role>; 2]) -> u64 {
    let leads = |role: &Role| matches!(role, Role::Leader { .. });
    let [one, two] = roles;
    let role = tokio::select! {
        role = one.wait_for(leads) => role.unwrap().clone(),
        role = two.wait_for(leads) => role.unwrap().clone(),
    };
    match role {
        Role::Leader { term } => term,
        Role::Follower { .. } => unreachable!("it was waited for"),
    }
}
