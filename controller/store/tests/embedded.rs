//! What an embedded store has on its disk after a restart.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not take their helpers for tests"
)]

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tributary_store::embedded::{self, Embedded, Options};
use tributary_store::{Backend, Change, Error, Leadership, Role};

fn open(folder: &tempfile::TempDir) -> Embedded {
    embedded::open(folder.path(), Options::default()).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn keys_and_their_revisions_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..3 {
        let store = open(&folder);
        let keys = store.keys("things", None).await.unwrap();
        let found = keys.get("a").await.unwrap();
        assert_eq!(found.is_some(), round > 0);
        assert!(found.is_none_or(|entry| entry.revision <= last));
        keys.put("b", bytes("deleted")).await.unwrap();
        keys.delete("b").await.unwrap();
        let revision = keys.put("a", bytes("one")).await.unwrap();
        assert!(revision > last);
        last = revision;
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let keys = store.keys("things", None).await.unwrap();
    drop(store);
    let second = embedded::open(folder.path(), Options::default());
    let error = second.unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error:?}");
    assert!(error.to_string().contains("store.redb"), "{error}");
    // A watch holds the store, as everything does that comes from it.
    let mut watch = keys.watch("").await.unwrap();
    drop(keys);
    assert_eq!(watch.next().await, Some(Ok(Change::UpToDate)));
    assert!(embedded::open(folder.path(), Options::default()).is_err());
    drop(watch);
    open(&folder);
}

#[tokio::test]
async fn leases_end_with_the_process_and_terms_grow() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        // What the campaign's task holds is dropped soon after the campaign.
        let store = loop {
            match embedded::open(folder.path(), Options::default()) {
                Ok(store) => break store,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        // Much longer than the test: a lease that stayed would keep everybody waiting.
        let lease = Duration::from_secs(3600);
        let office = Leadership::open(&store, "leaders", lease).await.unwrap();
        let campaign = office.campaign("me");
        let mut role = campaign.role();
        let leads = |role: &Role| matches!(role, Role::Leader { .. });
        let role = role.wait_for(leads).await.unwrap().clone();
        let Role::Leader { term } = role else {
            unreachable!("it was waited for");
        };
        assert!(term > last);
        last = term;
        drop(campaign);
    }
}

#[tokio::test]
async fn messages_and_their_acknowledgements_stay() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = open(&folder);
        let bus = store.bus().await.unwrap();
        for id in ["1", "2", "3"] {
            bus.publish("events.a", id, bytes(id)).await.unwrap();
            bus.publish("updates.a", id, bytes(id)).await.unwrap();
        }
        for filter in ["events.>", "updates.>"] {
            let mut messages = bus.consume("reader", filter).await.unwrap();
            messages.next().await.unwrap().unwrap().ack().await.unwrap();
            // Taken, not acknowledged.
            messages.next().await.unwrap().unwrap();
        }
    }
    let store = open(&folder);
    let bus = store.bus().await.unwrap();
    for filter in ["events.>", "updates.>"] {
        // Its id is remembered too, whether it is still stored or not.
        let subject = filter.replace('>', "a");
        for id in ["1", "2", "4"] {
            bus.publish(&subject, id, bytes(id)).await.unwrap();
        }
        let mut messages = bus.consume("reader", filter).await.unwrap();
        for expected in ["2", "3", "4"] {
            let delivery = messages.next().await.unwrap().unwrap();
            assert_eq!(delivery.message.id, expected);
            delivery.ack().await.unwrap();
        }
    }
    let overlapping = bus.consume("other", "updates.a").await.map(drop);
    assert!(
        matches!(overlapping, Err(Error::Malformed { .. })),
        "{overlapping:?}"
    );
}

#[tokio::test]
async fn old_messages_and_ids_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let publish = async |options: Options, id: &str, text: &str| {
        let store = embedded::open(folder.path(), options).unwrap();
        let bus = store.bus().await.unwrap();
        bus.publish("events.a", id, bytes(text)).await.unwrap();
    };
    let read = async |durable: &str| {
        let bus = open(&folder).bus().await.unwrap();
        let messages = bus.consume(durable, "events.>").await.unwrap();
        let texts = messages.map(|delivery| delivery.unwrap().message.payload);
        texts.take(2).collect::<Vec<Bytes>>().await
    };
    publish(Options::default(), "same", "one").await;
    publish(Options::default(), "same", "a duplicate").await;
    let mut short = Options::default();
    short.retention.duplicates = Duration::from_millis(1);
    std::thread::sleep(Duration::from_millis(5));
    publish(short.clone(), "same", "two").await;
    assert_eq!(read("before").await, [bytes("one"), bytes("two")]);
    short.retention.age = Duration::from_millis(1);
    std::thread::sleep(Duration::from_millis(5));
    // What is old is looked for when the store opens, before anything else.
    drop(embedded::open(folder.path(), short).unwrap());
    publish(Options::default(), "other", "three").await;
    publish(Options::default(), "another", "four").await;
    assert_eq!(read("after").await, [bytes("three"), bytes("four")]);
}

#[tokio::test]
async fn objects_stay_and_what_was_begun_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    {
        let objects = open(&folder).objects("models").await.unwrap();
        let content = stream::iter([Ok(bytes("one"))]).boxed();
        objects.put("a/b", content).await.unwrap();
    }
    let staged = folder.path().join("objects/models/a/c#1");
    std::fs::write(&staged, "begun").unwrap();
    let objects = open(&folder).objects("models").await.unwrap();
    assert_eq!(objects.list("").await.unwrap(), [("a/b".to_owned(), 3)]);
    let object = objects.get("a/b").await.unwrap().unwrap();
    let content: Vec<Bytes> = object.content.try_collect().await.unwrap();
    assert_eq!(content.concat(), b"one");
    assert!(!staged.exists());
}
