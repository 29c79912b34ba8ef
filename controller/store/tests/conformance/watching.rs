//! Watches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tributary_store::{Change, Entry};

use crate::bench::{Bench, bytes, next, until};

fn put(key: &str, value: &str, revision: u64) -> Change {
    let value = bytes(value);
    Change::Put(key.to_owned(), Entry { value, revision })
}

pub(crate) async fn first_what_is_there_then_what_changes(bench: Bench) {
    let keys = bench.keys().await;
    let a = keys.put("a", bytes("one")).await.unwrap();
    let b = keys.put("b", bytes("two")).await.unwrap();
    keys.put("c", bytes("three")).await.unwrap();
    keys.delete("c").await.unwrap();
    let mut watch = keys.watch("").await.unwrap();
    let mut first = until(&mut watch, &Change::UpToDate).await;
    assert_eq!(first.pop(), Some(Change::UpToDate));
    assert_eq!(first, [put("a", "one", a), put("b", "two", b)]);
    let c = keys.create("c", bytes("four")).await.unwrap();
    assert_eq!(next(&mut watch).await, put("c", "four", c));
    keys.delete("a").await.unwrap();
    assert_eq!(next(&mut watch).await, Change::Deleted("a".into()));
    // What is deleted twice is told once.
    keys.delete("a").await.unwrap();
    let a = keys.create("a", bytes("five")).await.unwrap();
    assert_eq!(next(&mut watch).await, put("a", "five", a));
}

pub(crate) async fn only_keys_that_begin_so(bench: Bench) {
    let keys = bench.keys().await;
    let mut jobs = keys.watch("jobs/").await.unwrap();
    let mut one = keys.watch("jobs/a").await.unwrap();
    assert_eq!(next(&mut jobs).await, Change::UpToDate);
    assert_eq!(next(&mut one).await, Change::UpToDate);
    keys.put("job", bytes("other")).await.unwrap();
    keys.put("jobs.a", bytes("other")).await.unwrap();
    let b = keys.put("jobs/b", bytes("b")).await.unwrap();
    let a = keys.put("jobs/a", bytes("a")).await.unwrap();
    assert_eq!(next(&mut jobs).await, put("jobs/b", "b", b));
    assert_eq!(next(&mut jobs).await, put("jobs/a", "a", a));
    assert_eq!(next(&mut one).await, put("jobs/a", "a", a));
}

pub(crate) async fn expiry_is_told_as_deletion(bench: Bench) {
    let ttl = Some(Duration::from_secs(1));
    let keys = bench.backend.keys("leases", ttl).await.unwrap();
    let mut watch = keys.watch("").await.unwrap();
    assert_eq!(next(&mut watch).await, Change::UpToDate);
    let a = keys.put("a", bytes("one")).await.unwrap();
    let b = keys.put("b", bytes("two")).await.unwrap();
    assert_eq!(next(&mut watch).await, put("a", "one", a));
    assert_eq!(next(&mut watch).await, put("b", "two", b));
    let mut gone = [next(&mut watch).await, next(&mut watch).await];
    gone.sort_by_key(|change| format!("{change:?}"));
    assert_eq!(
        gone,
        [Change::Deleted("a".into()), Change::Deleted("b".into())]
    );
}

pub(crate) async fn a_new_life_is_told(bench: Bench) {
    let ttl = Some(Duration::from_secs(1));
    let keys = bench.backend.keys("leases", ttl).await.unwrap();
    let mut watch = keys.watch("").await.unwrap();
    assert_eq!(next(&mut watch).await, Change::UpToDate);
    for _ in 0..3 {
        let a = keys.create("a", bytes("one")).await.unwrap();
        assert_eq!(next(&mut watch).await, put("a", "one", a));
        assert_eq!(next(&mut watch).await, Change::Deleted("a".into()));
    }
}

pub(crate) async fn a_slow_watcher_sees_the_newest(bench: Bench) {
    let keys = bench.keys().await;
    let mut watch = keys.watch("").await.unwrap();
    assert_eq!(next(&mut watch).await, Change::UpToDate);
    let mut last = 0;
    for round in 0..1500 {
        let value = Bytes::from(format!("{round}"));
        last = keys
            .put(&format!("key-{}", round % 5), value)
            .await
            .unwrap();
    }
    let told = until(&mut watch, &put("key-4", "1499", last)).await;
    let mut revisions = BTreeMap::new();
    for change in told {
        if let Change::Put(key, entry) = change {
            let before = revisions.insert(key, entry.revision).unwrap_or(0);
            assert!(entry.revision > before, "a key went back");
        }
    }
    assert_eq!(revisions.len(), 5);
}

pub(crate) async fn keys_that_appear_meanwhile_are_told_once(bench: Bench) {
    let keys = bench.keys().await;
    let other = bench.another().await.keys("things", None).await.unwrap();
    let writer = tokio::spawn(async move {
        // Each before all others: what a list has shown already moves on in it.
        for number in (0..300).rev() {
            let key = format!("key-{number:03}");
            other.create(&key, bytes("value")).await.unwrap();
        }
    });
    while !writer.is_finished() {
        let list = keys.list("").await.unwrap();
        let names: BTreeSet<&str> = list.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(names.len(), list.len(), "a key is listed twice");
        let mut watch = keys.watch("").await.unwrap();
        let mut told = BTreeSet::new();
        for change in until(&mut watch, &Change::UpToDate).await {
            if let Change::Put(key, _) = change {
                assert!(told.insert(key), "a key is told twice");
            }
        }
    }
    writer.await.unwrap();
}

pub(crate) async fn watchers_agree_with_the_list(bench: Bench) {
    let keys = bench.keys().await;
    let other = bench.another().await.keys("things", None).await.unwrap();
    let writers = [keys.clone(), other.clone()];
    let writers = writers.into_iter().enumerate().map(|(writer, keys)| {
        tokio::spawn(async move {
            for round in 0..200 {
                let key = format!("key-{}", (round * 7 + writer) % 11);
                if round % 5 == writer {
                    keys.delete(&key).await.unwrap();
                } else {
                    keys.put(&key, Bytes::from(format!("{writer} {round}")))
                        .await
                        .unwrap();
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut watch = other.watch("").await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let mark = keys.put("mark", bytes("end")).await.unwrap();
    let mut seen = BTreeMap::new();
    for change in until(&mut watch, &put("mark", "end", mark)).await {
        match change {
            Change::Put(key, entry) => drop(seen.insert(key, entry)),
            Change::Deleted(key) => drop(seen.remove(&key)),
            Change::UpToDate => {}
        }
    }
    let list: BTreeMap<_, _> = keys.list("").await.unwrap().into_iter().collect();
    assert_eq!(seen, list);
}
