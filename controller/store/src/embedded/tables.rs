//! The tables of `store.redb`.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::engine::Refusal;

/// Bucket and key to revision and value.
pub(super) const ENTRIES: TableDefinition<(&str, &str), (u64, &[u8])> =
    TableDefinition::new("entries");

/// The last number that was given out: `keys/<bucket>` for revisions, `stream/<name>` for messages.
pub(super) const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");

/// Subject, id, time (milliseconds since 1970) and payload.
type MessageRow = (&'static str, &'static str, u64, &'static [u8]);

/// Stream and number to the message.
pub(super) const MESSAGES: TableDefinition<(&str, u64), MessageRow> =
    TableDefinition::new("messages");

/// Stream and id to the message's number and time, for as long as duplicates are recognised.
pub(super) const IDS: TableDefinition<(&str, &str), (u64, u64)> = TableDefinition::new("ids");

/// Stream and number to id: the rows of `ids` in order of age.
pub(super) const ID_ORDER: TableDefinition<(&str, u64), &str> = TableDefinition::new("id_order");

/// Stream and durable name to the filter.
pub(super) const DURABLES: TableDefinition<(&str, &str), &str> = TableDefinition::new("durables");

/// Stream, durable name and number: an acknowledged event. Acknowledged work is deleted instead.
pub(super) const ACKNOWLEDGED: TableDefinition<(&str, &str, u64), ()> =
    TableDefinition::new("acknowledged");

/// Makes the tables that are not there yet, so that readers find them.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), redb::TableError> {
    transaction.open_table(ENTRIES)?;
    transaction.open_table(COUNTERS)?;
    transaction.open_table(MESSAGES)?;
    transaction.open_table(IDS)?;
    transaction.open_table(ID_ORDER)?;
    transaction.open_table(DURABLES)?;
    transaction.open_table(ACKNOWLEDGED)?;
    Ok(())
}

/// Takes `count` numbers; the first of them.
pub(super) fn take(
    transaction: &WriteTransaction,
    counter: &str,
    count: u64,
) -> Result<u64, Refusal> {
    let mut counters = transaction.open_table(COUNTERS)?;
    let last = counters.get(counter)?.map_or(0, |row| row.value());
    counters.insert(counter, last + count)?;
    Ok(last + 1)
}
