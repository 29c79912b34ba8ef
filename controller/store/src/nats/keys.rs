//! Keys in a key-value bucket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::Stream;
use async_nats::{HeaderMap, header};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::sleep;

use super::MARKERS;
use super::connection::{Connection, Stored};
use super::follow::Follower;
use super::read::{self, Snapshot};
use super::streams::Plan;
use crate::resume::Known;
use crate::{Change, Entry, Error, Keys, names};

/// Revisions that are left out where a bucket is made anew.
const SKIPPED: u64 = 1 << 20;

/// The header that says what a message does to its key; absent for a value.
const OPERATION: &str = "KV-Operation";

/// Between two attempts to take a watch up again.
const PAUSE: Duration = Duration::from_millis(100);

/// Times that a key may change under a write before it gives up.
const CHANGES_MAX: usize = 8;

#[derive(Debug, Clone)]
pub(super) struct NatsKeys {
    connection: Arc<Connection>,
    stream: Stream,
    subjects: Arc<str>,
    /// How the bucket is made anew, if it may be.
    anew: Option<Arc<Plan>>,
    /// The highest revision that was seen here.
    seen: Arc<AtomicU64>,
}

/// What a write puts on the key's subject.
enum Write {
    Value(Bytes),
    Deletion,
}

impl NatsKeys {
    /// With `anew`, a bucket that is gone is made anew.
    pub(super) fn new(
        connection: Arc<Connection>,
        bucket: &str,
        stream: Stream,
        anew: Option<Plan>,
    ) -> Self {
        Self {
            connection,
            stream,
            subjects: format!("$KV.{bucket}.").into(),
            anew: anew.map(Arc::new),
            seen: Arc::default(),
        }
    }

    /// Makes the bucket anew if that is why a call has failed; who has called calls again.
    async fn mend<T>(&self, called: Result<T, Error>) -> Result<T, Error> {
        let lost = matches!(
            called,
            Err(Error::NotFound { .. } | Error::Unavailable { .. })
        );
        let Some(anew) = self.anew.as_ref().filter(|_| lost) else {
            return called;
        };
        if self.connection.state().borrow().up {
            let mut plan = Plan::clone(anew);
            // Revisions only grow, also for who has seen more of them than this process.
            let seen = self.seen.load(Ordering::Relaxed);
            plan.config.first_sequence = (seen > 0).then_some(seen + SKIPPED);
            if let Err(error) = self.connection.shared(&plan).await {
                tracing::debug!(%error, "a bucket is not made anew yet");
            }
        }
        called
    }

    /// The newest message of a subject.
    async fn newest(&self, subject: &str) -> Result<Option<StreamMessage>, Error> {
        let read = read::last(&self.connection, &self.stream, subject).await;
        let newest = self.mend(read).await?;
        if let Some(newest) = &newest {
            self.seen.fetch_max(newest.sequence, Ordering::Relaxed);
        }
        Ok(newest)
    }

    fn subject(&self, key: &str) -> Result<String, Error> {
        names::key(key)?;
        Ok(format!("{}{}", self.subjects, encode(key)))
    }

    /// Selects more than the keys that begin so, if the prefix ends within a segment.
    fn filter(&self, prefix: &str) -> String {
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..=end]);
        format!("{}{}>", self.subjects, encode(folder))
    }

    fn key(&self, subject: &str) -> Option<String> {
        subject.strip_prefix(&*self.subjects).map(decode)
    }

    /// Writes, if the key's newest message is the expected one; the new revision, or `None` if it is not.
    async fn write(
        &self,
        subject: &str,
        write: Write,
        expected: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let id = nuid::next();
        let mut message = PublishMessage::build().message_id(id.as_str());
        if let Some(expected) = expected {
            message = message.expected_last_subject_sequence(expected);
        }
        message = match write {
            Write::Value(value) => message.payload(value),
            Write::Deletion => message
                .header(OPERATION, "DEL")
                .header(header::NATS_MESSAGE_TTL, format!("{}s", MARKERS.as_secs())),
        };
        for _ in 0..CHANGES_MAX {
            let stored = self.connection.publish(subject, &message).await;
            match self.mend(stored).await? {
                Stored::At(revision) => {
                    self.seen.fetch_max(revision, Ordering::Relaxed);
                    return Ok(Some(revision));
                }
                Stored::Refused { repeated: false } => return Ok(None),
                Stored::Refused { repeated: true } => {}
            }
            // The server compares revisions before ids, so a repetition is refused because of itself.
            let newest = self.newest(subject).await?;
            let number = newest.as_ref().map_or(0, |newest| newest.sequence);
            if newest.is_some_and(|newest| has_id(&newest.headers, id.as_str())) {
                return Ok(Some(number));
            }
            if Some(number) != expected {
                break;
            }
            // Of two copies of this message one is still on its way into the stream.
            sleep(PAUSE).await;
        }
        let why = "the answer was lost, and others have written since; read it again";
        Err(Error::unavailable(subject, why))
    }

    async fn put_value(
        &self,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let subject = self.subject(key)?;
        self.connection.fits(key, value.len())?;
        self.write(&subject, Write::Value(value), expected).await
    }

    async fn snapshot(&self, prefix: &str) -> Result<(u64, Vec<(String, Entry)>), Error> {
        let filter = self.filter(prefix);
        let wanted = |subject: &str| self.key(subject).is_some_and(|key| key.starts_with(prefix));
        let read = read::snapshot(&self.connection, &self.stream, &filter, wanted).await;
        let Snapshot { last, messages } = self.mend(read).await?;
        self.seen.fetch_max(last, Ordering::Relaxed);
        let mut list: Vec<(String, Entry)> = messages
            .into_iter()
            .filter_map(|message| Some((self.key(&message.subject)?, entry(message)?)))
            .collect();
        list.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok((last, list))
    }
}

#[async_trait]
impl Keys for NatsKeys {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let subject = self.subject(key)?;
        let message = self.newest(&subject).await?;
        Ok(message.and_then(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        names::prefix(prefix)?;
        Ok(self.snapshot(prefix).await?.1)
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        // What was never there has no message: number 0. What was deleted has one that says so.
        let mut expected = 0;
        for _ in 0..CHANGES_MAX {
            let written = self.put_value(key, value.clone(), Some(expected)).await?;
            if let Some(revision) = written {
                return Ok(revision);
            }
            let subject = self.subject(key)?;
            let found = self.newest(&subject).await?;
            if found.as_ref().is_some_and(|found| !deletes(&found.headers)) {
                let key = key.to_owned();
                return Err(Error::Exists { key });
            }
            let number = found.map_or(0, |found| found.sequence);
            if number == expected {
                // What is in the way is still on its way into the stream.
                sleep(PAUSE).await;
            }
            expected = number;
        }
        Err(Error::unavailable(
            key,
            "it is created and deleted all the time",
        ))
    }

    async fn update(&self, key: &str, value: Bytes, expected: u64) -> Result<u64, Error> {
        let conflict = || Error::Conflict {
            key: key.to_owned(),
            expected,
        };
        names::key(key)?;
        // To the server, 0 means that the key is not there.
        if expected == 0 {
            return Err(conflict());
        }
        let written = self.put_value(key, value, Some(expected)).await?;
        written.ok_or_else(conflict)
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        let written = self.put_value(key, value, None).await?;
        written
            .ok_or_else(|| Error::unavailable(key, "the server compared what it was not asked to"))
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        let subject = self.subject(key)?;
        self.write(&subject, Write::Deletion, None).await?;
        Ok(())
    }

    async fn delete_if(&self, key: &str, revision: u64) -> Result<(), Error> {
        let subject = self.subject(key)?;
        let conflict = || Error::Conflict {
            key: key.to_owned(),
            expected: revision,
        };
        if revision == 0 {
            return Err(conflict());
        }
        let written = self
            .write(&subject, Write::Deletion, Some(revision))
            .await?;
        written.map(|_| ()).ok_or_else(conflict)
    }

    async fn watch(&self, prefix: &str) -> Result<crate::Stream<Result<Change, Error>>, Error> {
        names::prefix(prefix)?;
        let mut watch = Watch {
            keys: self.clone(),
            prefix: prefix.to_owned(),
            known: Known::default(),
            waiting: VecDeque::new(),
            follower: None,
        };
        watch.begin().await?;
        let changes = futures_util::stream::unfold(watch, |mut watch| async move {
            let change = watch.next().await;
            Some((change, watch))
        });
        Ok(changes.boxed())
    }
}

/// A watch that lists and follows, and again after each interruption: what expired meanwhile leaves no message for ever.
struct Watch {
    keys: NatsKeys,
    prefix: String,
    known: Known,
    waiting: VecDeque<Change>,
    follower: Option<Follower>,
}

impl Watch {
    async fn begin(&mut self) -> Result<(), Error> {
        let keys = &self.keys;
        let (last, list) = keys.snapshot(&self.prefix).await?;
        let filter = keys.filter(&self.prefix);
        let follower = Follower::begin(&keys.connection, &keys.stream, &filter, last).await?;
        self.waiting.extend(self.known.catch_up(list));
        self.follower = Some(follower);
        Ok(())
    }

    async fn next(&mut self) -> Result<Change, Error> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Ok(change);
            }
            let Some(follower) = &mut self.follower else {
                self.take_up().await;
                continue;
            };
            match follower.next().await {
                Ok((number, message)) => {
                    let change = self.change(number, message);
                    self.waiting.extend(change);
                }
                Err(error) => {
                    self.follower = None;
                    return Err(error);
                }
            }
        }
    }

    async fn take_up(&mut self) {
        if let Err(error) = self.begin().await {
            tracing::debug!(%error, "a watch is not taken up yet");
            sleep(PAUSE).await;
        }
    }

    fn change(&mut self, number: u64, message: async_nats::jetstream::Message) -> Option<Change> {
        let async_nats::Message {
            subject,
            payload,
            headers,
            ..
        } = message.message;
        let key = self.keys.key(&subject)?;
        if !key.starts_with(&self.prefix) {
            return None;
        }
        if headers.is_some_and(|headers| deletes(&headers)) {
            return self.known.deleted(key, number);
        }
        let entry = Entry {
            value: payload,
            revision: number,
        };
        self.known.news(Change::Put(key, entry))
    }
}

/// Whether a message with such headers ends its key: a deletion, or the server's mark that its time is over.
fn deletes(headers: &HeaderMap) -> bool {
    headers.get(header::NATS_MARKER_REASON).is_some()
        || headers
            .get(OPERATION)
            .is_some_and(|operation| operation.as_str() != "PUT")
}

fn has_id(headers: &HeaderMap, id: &str) -> bool {
    let found = headers.get(header::NATS_MESSAGE_ID);
    found.is_some_and(|found| found.as_str() == id)
}

fn entry(message: StreamMessage) -> Option<Entry> {
    let live = !deletes(&message.headers);
    live.then_some(Entry {
        value: message.payload,
        revision: message.sequence,
    })
}

/// A key as tokens of a subject: no key has a '=', and no token a '.'.
fn encode(key: &str) -> String {
    swap(key, &[('.', '='), ('/', '.')])
}

fn decode(subject: &str) -> String {
    swap(subject, &[('.', '/'), ('=', '.')])
}

fn swap(text: &str, pairs: &[(char, char)]) -> String {
    let swapped = |letter: char| {
        let pair = pairs.iter().find(|(from, _)| *from == letter);
        pair.map_or(letter, |(_, to)| *to)
    };
    text.chars().map(swapped).collect()
}
