//! Keys that vanish when they are not written again: in memory, because a restart takes longer than they live.
//!
//! Only their revisions must not go back over a restart. So a thousand at a time are taken from the database before
//! they are given out; a restart goes on behind them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redb::WriteTransaction;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until};

use super::engine::{Engine, Written};
use super::expected::Expected;
use super::watchers::{self, Registration, Watchers};
use super::{keys_counter, tables};
use crate::{Change, Entry, Error, Keys, Stream, names};

/// Revisions taken from the database at a time.
const TAKEN: u64 = 1000;

/// A bucket whose entries have a lifetime.
#[derive(Debug)]
pub(super) struct LeasedKeys {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    counter: String,
    ttl: Duration,
    inner: Mutex<Inner>,
    /// The bucket is not empty any more, or not there any more.
    filled: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    /// When each write is over. All live equally long, so the order of writes is the order of ends.
    ends: VecDeque<(Instant, String, u64)>,
    watchers: Watchers,
    /// The last revision given out, and the last that may be.
    last: u64,
    taken: u64,
}

impl LeasedKeys {
    pub(super) fn new(engine: Arc<Engine>, bucket: &str, ttl: Duration) -> Self {
        let shared = Arc::new(Shared {
            engine,
            counter: keys_counter(bucket),
            ttl,
            inner: Mutex::default(),
            filled: Arc::default(),
        });
        tokio::spawn(sweep(Arc::downgrade(&shared)));
        Self { shared }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.shared.ttl
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.filled.notify_one();
    }
}

impl Shared {
    async fn write(&self, key: &str, value: Bytes, expected: Expected) -> Result<u64, Error> {
        names::key(key)?;
        names::payload(key, value.len(), usize::MAX)?;
        let mut inner = self.inner.lock().await;
        inner.expire(Instant::now());
        expected.check(key, inner.revision(key))?;
        if inner.last == inner.taken {
            let first = self.take().await?;
            (inner.last, inner.taken) = (first - 1, first - 1 + TAKEN);
        }
        inner.write(key, value, Instant::now() + self.ttl);
        self.filled.notify_one();
        Ok(inner.last)
    }

    async fn take(&self) -> Result<u64, Error> {
        let counter = self.counter.clone();
        let change = move |transaction: &WriteTransaction| {
            let first = tables::take(transaction, &counter, TAKEN)?;
            Ok(Written::quietly(first))
        };
        self.engine.write(change).await
    }

    async fn remove(&self, key: &str, expected: Expected) -> Result<(), Error> {
        names::key(key)?;
        let mut inner = self.inner.lock().await;
        inner.expire(Instant::now());
        expected.check(key, inner.revision(key))?;
        if inner.entries.remove(key).is_some() {
            inner.watchers.tell(key, &Change::Deleted(key.to_owned()));
        }
        Ok(())
    }

    async fn register(self: Arc<Self>, prefix: String) -> Result<Registration, Error> {
        let mut inner = self.inner.lock().await;
        inner.expire(Instant::now());
        let list = inner.list(&prefix);
        Ok(inner.watchers.register(prefix, list))
    }
}

impl Inner {
    fn revision(&self, key: &str) -> Option<u64> {
        self.entries.get(key).map(|entry| entry.revision)
    }

    fn list(&self, prefix: &str) -> Vec<(String, Entry)> {
        let from = self.entries.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect()
    }

    fn write(&mut self, key: &str, value: Bytes, end: Instant) {
        self.last += 1;
        let revision = self.last;
        let entry = Entry { value, revision };
        self.ends.push_back((end, key.to_owned(), revision));
        self.entries.insert(key.to_owned(), entry.clone());
        self.watchers.tell(key, &Change::Put(key.to_owned(), entry));
    }

    /// Removes what is over; when to look again.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some((_, key, revision)) = self.ends.pop_front_if(|(end, ..)| *end <= now) {
            // Unless it was written again, or deleted, in the meantime.
            if self.revision(&key) == Some(revision) {
                self.entries.remove(&key);
                self.watchers.tell(&key, &Change::Deleted(key.clone()));
            }
        }
        self.ends.front().map(|(end, ..)| *end)
    }
}

/// Tells watchers of what is over even if nobody writes.
async fn sweep(shared: Weak<Shared>) {
    while let Some(keys) = shared.upgrade() {
        let (next, filled) = (
            keys.inner.lock().await.expire(Instant::now()),
            keys.filled.clone(),
        );
        drop(keys);
        match next {
            Some(next) => sleep_until(next).await,
            None => filled.notified().await,
        }
    }
}

#[async_trait]
impl Keys for LeasedKeys {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        names::key(key)?;
        let mut inner = self.shared.inner.lock().await;
        inner.expire(Instant::now());
        Ok(inner.entries.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        names::prefix(prefix)?;
        let mut inner = self.shared.inner.lock().await;
        inner.expire(Instant::now());
        Ok(inner.list(prefix))
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        self.shared.write(key, value, Expected::Nothing).await
    }

    async fn update(&self, key: &str, value: Bytes, expected: u64) -> Result<u64, Error> {
        let expected = Expected::Revision(expected);
        self.shared.write(key, value, expected).await
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        self.shared.write(key, value, Expected::Anything).await
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        self.shared.remove(key, Expected::Anything).await
    }

    async fn delete_if(&self, key: &str, revision: u64) -> Result<(), Error> {
        self.shared.remove(key, Expected::Revision(revision)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Stream<Result<Change, Error>>, Error> {
        names::prefix(prefix)?;
        let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
        let register = move || shared.clone().register(prefix.clone());
        Ok(watchers::follow(register().await?, register))
    }
}
