//! Keys in redb.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::engine::{Effect, Engine, Refusal, Written};
use super::expected::Expected;
use super::state::State;
use super::watchers::{self, Registration};
use super::{keys_counter, tables};
use crate::{Change, Entry, Error, Keys, Stream, names};

/// A bucket whose entries stay until they are deleted.
#[derive(Debug, Clone)]
pub(super) struct DurableKeys {
    engine: Arc<Engine>,
    bucket: Arc<str>,
}

impl DurableKeys {
    pub(super) fn new(engine: Arc<Engine>, bucket: &str) -> Self {
        let bucket = bucket.into();
        Self { engine, bucket }
    }

    async fn write(&self, key: &str, value: Bytes, expected: Expected) -> Result<u64, Error> {
        names::key(key)?;
        names::payload(key, value.len(), usize::MAX)?;
        let (bucket, key) = (self.bucket.clone(), key.to_owned());
        let change = move |transaction: &WriteTransaction| {
            expect(transaction, &bucket, &key, expected)?;
            let revision = tables::take(transaction, &keys_counter(&bucket), 1)?;
            let mut entries = transaction.open_table(tables::ENTRIES)?;
            entries.insert((&*bucket, key.as_str()), (revision, &*value))?;
            let change = Change::Put(key.clone(), Entry { value, revision });
            Ok(Written {
                answer: revision,
                effect: tell(bucket, key, change),
            })
        };
        self.engine.write(change).await
    }

    async fn remove(&self, key: &str, expected: Expected) -> Result<(), Error> {
        names::key(key)?;
        let (bucket, key) = (self.bucket.clone(), key.to_owned());
        let change = move |transaction: &WriteTransaction| {
            expect(transaction, &bucket, &key, expected)?;
            let mut entries = transaction.open_table(tables::ENTRIES)?;
            let found = entries.remove((&*bucket, key.as_str()))?.is_some();
            if !found {
                return Ok(Written::quietly(()));
            }
            let change = Change::Deleted(key.clone());
            Ok(Written {
                answer: (),
                effect: tell(bucket, key, change),
            })
        };
        self.engine.write(change).await
    }

    async fn register(self, prefix: String) -> Result<Registration, Error> {
        let bucket = self.bucket;
        let look = move |transaction: &ReadTransaction, state: &mut State| {
            let list = list(transaction, &bucket, &prefix)?;
            let watchers = state.watchers.entry((*bucket).to_owned()).or_default();
            Ok(watchers.register(prefix, list))
        };
        self.engine.look(look).await
    }
}

#[async_trait]
impl Keys for DurableKeys {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        names::key(key)?;
        let (bucket, key) = (self.bucket.clone(), key.to_owned());
        let look = move |transaction: &ReadTransaction, _: &mut State| {
            let entries = transaction.open_table(tables::ENTRIES)?;
            let row = entries.get((&*bucket, key.as_str()))?;
            Ok(row.map(|row| entry(row.value())))
        };
        self.engine.look(look).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        names::prefix(prefix)?;
        let (bucket, prefix) = (self.bucket.clone(), prefix.to_owned());
        let look =
            move |transaction: &ReadTransaction, _: &mut State| list(transaction, &bucket, &prefix);
        self.engine.look(look).await
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        self.write(key, value, Expected::Nothing).await
    }

    async fn update(&self, key: &str, value: Bytes, expected: u64) -> Result<u64, Error> {
        self.write(key, value, Expected::Revision(expected)).await
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        self.write(key, value, Expected::Anything).await
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        self.remove(key, Expected::Anything).await
    }

    async fn delete_if(&self, key: &str, revision: u64) -> Result<(), Error> {
        self.remove(key, Expected::Revision(revision)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Stream<Result<Change, Error>>, Error> {
        names::prefix(prefix)?;
        let (keys, prefix) = (self.clone(), prefix.to_owned());
        let register = move || keys.clone().register(prefix.clone());
        Ok(watchers::follow(register().await?, register))
    }
}

fn expect(
    transaction: &WriteTransaction,
    bucket: &str,
    key: &str,
    expected: Expected,
) -> Result<(), Refusal> {
    let entries = transaction.open_table(tables::ENTRIES)?;
    let found = entries.get((bucket, key))?.map(|row| row.value().0);
    Ok(expected.check(key, found)?)
}

fn list(
    transaction: &ReadTransaction,
    bucket: &str,
    prefix: &str,
) -> Result<Vec<(String, Entry)>, Refusal> {
    let entries = transaction.open_table(tables::ENTRIES)?;
    let mut list = Vec::new();
    for row in entries.range((bucket, prefix)..)? {
        let (name, row) = row?;
        let (found, key) = name.value();
        if found != bucket || !key.starts_with(prefix) {
            break;
        }
        list.push((key.to_owned(), entry(row.value())));
    }
    Ok(list)
}

fn entry((revision, value): (u64, &[u8])) -> Entry {
    let value = Bytes::copy_from_slice(value);
    Entry { value, revision }
}

fn tell(bucket: Arc<str>, key: String, change: Change) -> Effect {
    Box::new(move |state| {
        if let Some(watchers) = state.watchers.get_mut(&*bucket) {
            watchers.tell(&key, &change);
        }
    })
}
