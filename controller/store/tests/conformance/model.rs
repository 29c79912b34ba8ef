//! Any sequence of operations does what it would do to a map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tributary_store::{Change, Entry, Error, Keys};

use crate::bench::{Bench, bytes, next};

/// What an operation gives as the revision.
#[derive(Debug, Clone, Copy)]
enum Given {
    Current,
    /// One that the key had before.
    Old,
    /// One that nothing has ever had.
    Never,
}

#[derive(Debug, Clone)]
enum Operation {
    Get(usize),
    List(usize),
    Create(usize, u8),
    Update(usize, u8, Given),
    Put(usize, u8),
    Delete(usize),
    DeleteIf(usize, Given),
}

const KEYS: [&str; 6] = ["a", "a/b", "a.b", "a/b/c", "ab", "b"];
const PREFIXES: [&str; 5] = ["", "a", "a/", "a/b", "c"];

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let key = || 0..KEYS.len();
    let given = || prop_oneof![Just(Given::Current), Just(Given::Old), Just(Given::Never)];
    let operation = prop_oneof![
        key().prop_map(Operation::Get),
        (0..PREFIXES.len()).prop_map(Operation::List),
        (key(), any::<u8>()).prop_map(|(key, value)| Operation::Create(key, value)),
        (key(), any::<u8>(), given())
            .prop_map(|(key, value, given)| Operation::Update(key, value, given)),
        (key(), any::<u8>()).prop_map(|(key, value)| Operation::Put(key, value)),
        key().prop_map(Operation::Delete),
        (key(), given()).prop_map(|(key, given)| Operation::DeleteIf(key, given)),
    ];
    prop::collection::vec(operation, 1..40)
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    /// The revisions that each key once had.
    old: BTreeMap<String, Vec<u64>>,
    last: u64,
}

impl Model {
    fn revision(&self, key: &str, given: Given) -> u64 {
        let current = self.entries.get(key).map(|entry| entry.revision);
        let old = || self.old.get(key).and_then(|old| old.first().copied());
        match given {
            Given::Current => current.or_else(old).unwrap_or(0),
            Given::Old => old().unwrap_or(0),
            Given::Never => 1 << 60,
        }
    }

    fn is_at(&self, key: &str, revision: u64) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.revision == revision)
    }

    fn wrote(&mut self, key: &str, value: u8, revision: u64) {
        assert!(revision > self.last, "a revision went back");
        self.last = revision;
        self.old.entry(key.to_owned()).or_default().push(revision);
        let value = bytes(&value.to_string());
        self.entries
            .insert(key.to_owned(), Entry { value, revision });
    }

    async fn apply(&mut self, keys: &dyn Keys, operation: Operation) {
        match operation {
            Operation::Get(key) => {
                let expected = self.entries.get(KEYS[key]).cloned();
                assert_eq!(keys.get(KEYS[key]).await.unwrap(), expected);
            }
            Operation::List(prefix) => self.compare(keys, PREFIXES[prefix]).await,
            Operation::Create(key, value) => {
                let created = keys.create(KEYS[key], bytes(&value.to_string())).await;
                if self.entries.contains_key(KEYS[key]) {
                    let key = KEYS[key].to_owned();
                    assert_eq!(created, Err(Error::Exists { key }));
                } else {
                    self.wrote(KEYS[key], value, created.unwrap());
                }
            }
            Operation::Update(key, value, given) => {
                let expected = self.revision(KEYS[key], given);
                let updated = keys
                    .update(KEYS[key], bytes(&value.to_string()), expected)
                    .await;
                if self.is_at(KEYS[key], expected) {
                    self.wrote(KEYS[key], value, updated.unwrap());
                } else {
                    let key = KEYS[key].to_owned();
                    assert_eq!(updated, Err(Error::Conflict { key, expected }));
                }
            }
            Operation::Put(key, value) => {
                let revision = keys.put(KEYS[key], bytes(&value.to_string())).await;
                self.wrote(KEYS[key], value, revision.unwrap());
            }
            Operation::Delete(key) => {
                keys.delete(KEYS[key]).await.unwrap();
                self.entries.remove(KEYS[key]);
            }
            Operation::DeleteIf(key, given) => {
                let expected = self.revision(KEYS[key], given);
                let deleted = keys.delete_if(KEYS[key], expected).await;
                if self.is_at(KEYS[key], expected) {
                    deleted.unwrap();
                    self.entries.remove(KEYS[key]);
                } else {
                    let key = KEYS[key].to_owned();
                    assert_eq!(deleted, Err(Error::Conflict { key, expected }));
                }
            }
        }
    }

    async fn compare(&self, keys: &dyn Keys, prefix: &str) {
        let expected = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix));
        let expected: Vec<_> = expected
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        assert_eq!(keys.list(prefix).await.unwrap(), expected);
    }
}

async fn play(bench: &Bench, bucket: &str, operations: Vec<Operation>) {
    let keys = bench.backend.keys(bucket, None).await.unwrap();
    let mut watch = keys.watch("").await.unwrap();
    let mut model = Model::default();
    for operation in operations {
        model.apply(&*keys, operation).await;
    }
    model.compare(&*keys, "").await;
    // Who has watched from the beginning has the same map.
    let end = keys.put("end", bytes("0")).await.unwrap();
    model.wrote("end", 0, end);
    let mut seen = BTreeMap::new();
    while !seen.contains_key("end") {
        match next(&mut watch).await {
            Change::Put(key, entry) => drop(seen.insert(key, entry)),
            Change::Deleted(key) => drop(seen.remove(&key)),
            Change::UpToDate => {}
        }
    }
    assert_eq!(seen, model.entries);
}

pub(crate) async fn any_sequence_does_what_a_map_would(bench: Bench) {
    let runtime = tokio::runtime::Handle::current();
    let test = move || {
        let config = Config {
            cases: 48,
            failure_persistence: None,
            ..Config::default()
        };
        let case = std::cell::Cell::new(0);
        TestRunner::new(config)
            .run(&operations(), |operations| {
                case.set(case.get() + 1);
                let bucket = format!("case-{}", case.get());
                runtime.block_on(play(&bench, &bucket, operations));
                Ok(())
            })
            .unwrap();
    };
    tokio::task::spawn_blocking(test).await.unwrap();
}
