//! Values and their revisions.

use std::time::Duration;

use bytes::Bytes;
use tributary_store::{Error, Keys, PAYLOAD_BYTES_MAX};

use crate::bench::{Bench, PATIENCE, bytes, soon};

async fn value(keys: &dyn Keys, key: &str) -> Option<Bytes> {
    keys.get(key).await.unwrap().map(|entry| entry.value)
}

pub(crate) async fn what_is_written_is_read(bench: Bench) {
    let keys = bench.keys().await;
    assert_eq!(keys.get("a/b").await.unwrap(), None);
    let revision = keys.put("a/b", bytes("one")).await.unwrap();
    let entry = keys.get("a/b").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (bytes("one"), revision));
    keys.put("a/b", Bytes::new()).await.unwrap();
    assert_eq!(value(&*keys, "a/b").await, Some(Bytes::new()));
    let other = bench.another().await.keys("things", None).await.unwrap();
    assert_eq!(value(&*other, "a/b").await, Some(Bytes::new()));
}

pub(crate) async fn what_exists_is_not_created(bench: Bench) {
    let keys = bench.keys().await;
    keys.create("a", bytes("one")).await.unwrap();
    let again = keys.create("a", bytes("two")).await;
    assert_eq!(again, Err(Error::Exists { key: "a".into() }));
    assert_eq!(value(&*keys, "a").await, Some(bytes("one")));
}

pub(crate) async fn what_was_deleted_is_created_anew(bench: Bench) {
    let keys = bench.keys().await;
    let mut last = 0;
    for _ in 0..5 {
        let revision = keys.create("a", bytes("one")).await.unwrap();
        assert!(revision > last);
        last = revision;
        keys.delete("a").await.unwrap();
        assert_eq!(keys.get("a").await.unwrap(), None);
        let late = keys.update("a", bytes("late"), revision).await;
        assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    }
}

pub(crate) async fn an_update_needs_the_revision(bench: Bench) {
    let keys = bench.keys().await;
    let conflict = |expected| {
        let key = "a".to_owned();
        Err(Error::Conflict { key, expected })
    };
    assert_eq!(keys.update("a", bytes("x"), 7).await, conflict(7));
    assert_eq!(keys.update("a", bytes("x"), 0).await, conflict(0));
    let first = keys.create("a", bytes("one")).await.unwrap();
    let second = keys.update("a", bytes("two"), first).await.unwrap();
    assert!(second > first);
    assert_eq!(keys.update("a", bytes("x"), first).await, conflict(first));
    assert_eq!(keys.update("a", bytes("x"), 0).await, conflict(0));
    assert_eq!(value(&*keys, "a").await, Some(bytes("two")));
}

pub(crate) async fn a_deletion_may_need_the_revision(bench: Bench) {
    let keys = bench.keys().await;
    let first = keys.create("a", bytes("one")).await.unwrap();
    let second = keys.put("a", bytes("two")).await.unwrap();
    let stale = keys.delete_if("a", first).await;
    assert!(matches!(stale, Err(Error::Conflict { .. })), "{stale:?}");
    assert_eq!(value(&*keys, "a").await, Some(bytes("two")));
    keys.delete_if("a", second).await.unwrap();
    assert_eq!(keys.get("a").await.unwrap(), None);
    let gone = keys.delete_if("a", second).await;
    assert!(matches!(gone, Err(Error::Conflict { .. })), "{gone:?}");
}

pub(crate) async fn deleting_nothing_is_no_error(bench: Bench) {
    let keys = bench.keys().await;
    keys.delete("a").await.unwrap();
    keys.delete("a").await.unwrap();
    assert_eq!(keys.list("").await.unwrap(), []);
    keys.create("a", bytes("one")).await.unwrap();
}

pub(crate) async fn revisions_only_grow(bench: Bench) {
    let keys = bench.keys().await;
    let mut last = 0;
    for round in 0..20 {
        let key = format!("key-{}", round % 3);
        let revision = keys.put(&key, bytes("value")).await.unwrap();
        assert!(revision > last, "{revision} after {last}");
        last = revision;
        if round % 4 == 0 {
            keys.delete(&key).await.unwrap();
        }
    }
}

pub(crate) async fn lists_are_sorted_and_begin_with_their_prefix(bench: Bench) {
    let keys = bench.keys().await;
    for key in ["b", "a/c", "a.b", "a", "a/b/d", "ab", "a/b.c", "A_1", "a-1"] {
        keys.put(key, bytes(key)).await.unwrap();
    }
    keys.delete("b").await.unwrap();
    let list = async |prefix: &str| {
        let list = keys.list(prefix).await.unwrap();
        let names = list.iter().map(|(key, entry)| {
            assert_eq!(entry.value, bytes(key));
            key.clone()
        });
        names.collect::<Vec<_>>()
    };
    let all = ["A_1", "a", "a-1", "a.b", "a/b.c", "a/b/d", "a/c", "ab"];
    assert_eq!(list("").await, all);
    assert_eq!(list("a").await, all[1..]);
    assert_eq!(list("a/").await, ["a/b.c", "a/b/d", "a/c"]);
    assert_eq!(list("a/b").await, ["a/b.c", "a/b/d"]);
    assert_eq!(list("a/b/d").await, ["a/b/d"]);
    assert_eq!(list("nothing/").await, [""; 0]);
}

pub(crate) async fn buckets_are_apart(bench: Bench) {
    let keys = bench.keys().await;
    let other = bench.backend.keys("others", None).await.unwrap();
    keys.put("a", bytes("one")).await.unwrap();
    assert_eq!(other.get("a").await.unwrap(), None);
    other.create("a", bytes("two")).await.unwrap();
    assert_eq!(value(&*keys, "a").await, Some(bytes("one")));
    assert_eq!(other.list("").await.unwrap().len(), 1);
}

pub(crate) async fn bad_names_are_refused(bench: Bench) {
    let keys = bench.keys().await;
    let long = "x".repeat(513);
    for name in [
        "", "/", "a/", "/a", "a//b", "a b", "a*", ">", ".", "a/..", "ä", "a=b", &long,
    ] {
        let put = keys.put(name, bytes("value")).await;
        assert!(
            matches!(put, Err(Error::Malformed { .. })),
            "{name}: {put:?}"
        );
        let get = keys.get(name).await;
        assert!(
            matches!(get, Err(Error::Malformed { .. })),
            "{name}: {get:?}"
        );
    }
    for prefix in ["/", "a//", "a b", "*"] {
        let list = keys.list(prefix).await;
        assert!(
            matches!(list, Err(Error::Malformed { .. })),
            "{prefix}: {list:?}"
        );
    }
    for bucket in ["", "a/b", "a.b", "*"] {
        let opened = bench.backend.keys(bucket, None).await;
        assert!(matches!(opened, Err(Error::Malformed { .. })), "{bucket}");
    }
}

pub(crate) async fn what_is_too_large_is_refused(bench: Bench) {
    let keys = bench.keys().await;
    let most = Bytes::from(vec![7; PAYLOAD_BYTES_MAX]);
    keys.put("a", most.clone()).await.unwrap();
    assert_eq!(value(&*keys, "a").await, Some(most));
    let refused = keys
        .put("a", Bytes::from(vec![7; PAYLOAD_BYTES_MAX + 1]))
        .await;
    let expected = Error::TooLarge {
        what: "a".to_owned(),
        bytes: PAYLOAD_BYTES_MAX + 1,
        max: PAYLOAD_BYTES_MAX,
    };
    assert_eq!(refused, Err(expected));
}

pub(crate) async fn a_lifetime_ends(bench: Bench) {
    let ttl = Some(Duration::from_secs(1));
    let keys = bench.backend.keys("leases", ttl).await.unwrap();
    let first = keys.create("a", bytes("one")).await.unwrap();
    soon(async {
        while keys.get("a").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(keys.list("").await.unwrap(), []);
    let late = keys.update("a", bytes("late"), first).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    let second = keys.create("a", bytes("two")).await.unwrap();
    assert!(second > first);
}

pub(crate) async fn one_of_many_creates(bench: Bench) {
    let other = bench.another().await.keys("things", None).await.unwrap();
    let keys = bench.keys().await;
    for round in 0..10 {
        let key = format!("key-{round}");
        let attempts = (0..8).map(|index| {
            let keys = if index % 2 == 0 { &keys } else { &other };
            keys.create(&key, bytes("value"))
        });
        let results = tokio::time::timeout(PATIENCE, futures_util::future::join_all(attempts));
        let results = results.await.unwrap();
        let created = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(created, 1, "{results:?}");
        let exists = Err(Error::Exists { key });
        assert_eq!(
            results.iter().filter(|result| **result == exists).count(),
            7
        );
    }
}
