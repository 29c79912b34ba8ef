//! The rows of stored messages: what is written when one is published, consumed, acknowledged.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::engine::Refusal;
use super::tables;
use crate::names::{self, Family};
use crate::{Error, Message};

/// Stores a message, unless its id was seen within `window`; its number.
pub(super) fn store(
    transaction: &WriteTransaction,
    family: Family,
    message: &Message,
    window: Duration,
) -> Result<Option<u64>, Refusal> {
    let (name, id) = (family.as_str(), message.id.as_str());
    let now = milliseconds(SystemTime::now());
    let oldest = now.saturating_sub(span(window));
    let mut ids = transaction.open_table(tables::IDS)?;
    let mut order = transaction.open_table(tables::ID_ORDER)?;
    let seen = ids.get((name, id))?.map(|row| row.value());
    if seen.is_some_and(|(_, time)| time >= oldest) {
        return Ok(None);
    }
    let number = tables::take(transaction, &counter(family), 1)?;
    // Two old ones for each new one, so that they do not pile up.
    for _ in 0..2 {
        forget_oldest(&mut ids, &mut order, name, oldest)?;
    }
    ids.insert((name, id), (number, now))?;
    order.insert((name, number), id)?;
    let mut messages = transaction.open_table(tables::MESSAGES)?;
    let row = (message.subject.as_str(), id, now, &*message.payload);
    messages.insert((name, number), row)?;
    Ok(Some(number))
}

/// Forgets the id that was stored first, if it is from before `oldest`.
fn forget_oldest(
    ids: &mut Table<(&'static str, &'static str), (u64, u64)>,
    order: &mut Table<(&'static str, u64), &'static str>,
    stream: &str,
    oldest: u64,
) -> Result<(), Refusal> {
    let mut rows = order.range((stream, 0)..=(stream, u64::MAX))?;
    let Some(row) = rows.next().transpose()? else {
        return Ok(());
    };
    let (number, id) = (row.0.value().1, row.1.value().to_owned());
    drop((row, rows));
    // The same id may have been stored again, later: then only the order knows this row.
    let newest = ids.get((stream, id.as_str()))?.map(|row| row.value());
    let (current, time) = newest.unwrap_or((0, 0));
    if current == number && time >= oldest {
        return Ok(());
    }
    order.remove((stream, number))?;
    if current == number {
        ids.remove((stream, id.as_str()))?;
    }
    Ok(())
}

/// Remembers that a durable name consumes; refuses work that is somebody else's.
pub(super) fn remember(
    transaction: &WriteTransaction,
    family: Family,
    durable: &str,
    filter: &str,
) -> Result<(), Refusal> {
    let name = family.as_str();
    let mut durables = transaction.open_table(tables::DURABLES)?;
    if family == Family::Updates {
        for row in durables.iter()? {
            let (key, other) = row?;
            let (of, other_name) = key.value();
            if of == name && other_name != durable && names::overlap(filter, other.value()) {
                return Err(Error::malformed(
                    format!("consumer {durable:?} of {filter:?}"),
                    format!(
                        "{other_name:?} consumes {:?} already, and each piece of work is done once",
                        other.value()
                    ),
                )
                .into());
            }
        }
    }
    durables.insert((name, durable), filter)?;
    Ok(())
}

/// Acknowledges; whether the message is gone by that.
pub(super) fn acknowledge(
    transaction: &WriteTransaction,
    family: Family,
    durable: &str,
    number: u64,
) -> Result<bool, Refusal> {
    let name = family.as_str();
    if family == Family::Updates {
        let mut messages = transaction.open_table(tables::MESSAGES)?;
        messages.remove((name, number))?;
        return Ok(true);
    }
    let messages = transaction.open_table(tables::MESSAGES)?;
    // What is forgotten already needs no mark, which nobody would remove.
    if messages.get((name, number))?.is_some() {
        let mut acknowledged = transaction.open_table(tables::ACKNOWLEDGED)?;
        acknowledged.insert((name, durable, number), ())?;
    }
    Ok(false)
}

/// A stored message.
pub(super) fn message(
    transaction: &ReadTransaction,
    name: &str,
    number: u64,
) -> Result<Option<Message>, redb::Error> {
    let messages = transaction.open_table(tables::MESSAGES)?;
    let row = messages.get((name, number))?;
    Ok(row.map(|row| {
        let (subject, id, _, payload) = row.value();
        Message {
            subject: subject.to_owned(),
            id: id.to_owned(),
            payload: Bytes::copy_from_slice(payload),
        }
    }))
}

/// The counter of a stream's numbers.
pub(super) fn counter(family: Family) -> String {
    format!("stream/{}", family.as_str())
}

/// Since 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    // A clock before 1970 makes everything old: nothing is recognised, and nothing is lost but age.
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, span)
}

/// In milliseconds.
pub(super) fn span(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
