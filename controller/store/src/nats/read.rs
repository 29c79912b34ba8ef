//! Reads of what a stream holds, from its leader.

use std::collections::BTreeMap;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind, Stream};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::connection::Connection;
use super::failure::Failure;
use crate::Error;

/// Reads that are under way at a time.
const READS_AHEAD: usize = 64;

/// The newest message of each subject, and a number that all newer messages are above.
pub(super) struct Snapshot {
    pub(super) last: u64,
    pub(super) messages: Vec<StreamMessage>,
}

/// The newest message of a subject.
pub(super) async fn last(
    connection: &Connection,
    stream: &Stream,
    subject: &str,
) -> Result<Option<StreamMessage>, Error> {
    let read = || async {
        found(
            subject,
            stream.get_last_raw_message_by_subject(subject).await,
        )
    };
    connection.call(subject, read).await
}

fn found(
    subject: &str,
    read: Result<StreamMessage, RawMessageError>,
) -> Result<Option<StreamMessage>, Failure> {
    match read {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(refusal) => Err(Failure::refused(subject, &refusal)),
            _ => Err(Failure::of(subject, &error)),
        },
    }
}

/// The first message of a subject that has this number, or a later one.
pub(super) async fn next(
    connection: &Connection,
    stream: &Stream,
    subject: &str,
    number: u64,
) -> Result<Option<StreamMessage>, Error> {
    let read = || async {
        let next = stream.get_first_raw_message_by_subject(subject, number);
        found(subject, next.await)
    };
    connection.call(subject, read).await
}

/// The newest message of each subject that the filter selects and that is `wanted`; no other is read.
pub(super) async fn snapshot(
    connection: &Connection,
    stream: &Stream,
    filter: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Snapshot, Error> {
    let (last, subjects) = subjects(connection, stream, filter).await?;
    let reads = subjects
        .into_keys()
        .filter(|subject| wanted(subject))
        .map(|subject| async move { self::last(connection, stream, &subject).await });
    let messages: Vec<Option<StreamMessage>> = stream::iter(reads)
        .buffer_unordered(READS_AHEAD)
        .try_collect()
        .await?;
    let messages = messages.into_iter().flatten().collect();
    Ok(Snapshot { last, messages })
}

/// A number that all newer messages are above, and the subjects that the filter selects, with how many messages each has.
pub(super) async fn subjects(
    connection: &Connection,
    stream: &Stream,
    filter: &str,
) -> Result<(u64, BTreeMap<String, usize>), Error> {
    let read = || async {
        let failed = |error| Failure::of(filter, &error);
        let info = stream.info_with_subjects(filter).await.map_err(failed)?;
        let last = info.info.state.last_sequence;
        // In pages: those that appear between two of them push some to the next one, where they come again.
        let subjects = info.try_collect().await;
        Ok((last, subjects.map_err(|error| Failure::of(filter, &error))?))
    };
    connection.call(filter, read).await
}

/// The number of the newest message.
pub(super) async fn newest(connection: &Connection, stream: &Stream) -> Result<u64, Error> {
    let what = "the stream's newest message";
    let read = || async {
        let info = stream.get_info().await;
        info.map(|info| info.state.last_sequence)
            .map_err(|error| Failure::of(what, &error))
    };
    connection.call(what, read).await
}
