//! Who waits for which message. The messages themselves lie in the database; here are their numbers and subjects.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use tokio::sync::oneshot;

use super::engine::Refusal;
use super::messages::{counter, message, milliseconds, span};
use super::tables;
use crate::names::{self, Family};
use crate::{Message, Retention};

/// The shortest and the longest time between two looks for what is too old.
const PRUNE_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Both streams.
pub(super) struct Streams {
    retention: Retention,
    events: Stream,
    updates: Stream,
    prune_at: Instant,
}

/// A message on its way to one who consumes.
pub(super) struct Taken {
    pub(super) number: u64,
    pub(super) attempt: u64,
    pub(super) message: Message,
}

/// Messages for one who reads along.
pub(super) struct Next {
    pub(super) number: u64,
    pub(super) message: Message,
}

pub(super) struct Stream {
    name: &'static str,
    /// Number to subject of what is stored.
    index: BTreeMap<u64, String>,
    /// The number of the last message, stored or gone.
    pub(super) last: u64,
    durables: BTreeMap<String, Durable>,
    readers: Vec<Reader>,
}

/// Those who consume under one name.
#[derive(Default)]
struct Durable {
    filter: String,
    /// To be delivered.
    ready: BTreeSet<u64>,
    /// Delivered or put off, and when to deliver again.
    out: BTreeMap<u64, Instant>,
    attempts: HashMap<u64, u64>,
    waiting: VecDeque<oneshot::Sender<Taken>>,
}

/// Somebody who reads along.
struct Reader {
    filter: String,
    after: u64,
    sender: oneshot::Sender<Next>,
}

impl Streams {
    pub(super) fn load(
        transaction: &ReadTransaction,
        retention: Retention,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            retention,
            events: Stream::load(transaction, Family::Events)?,
            updates: Stream::load(transaction, Family::Updates)?,
            prune_at: Instant::now(),
        })
    }

    pub(super) fn of(&mut self, family: Family) -> &mut Stream {
        match family {
            Family::Events => &mut self.events,
            Family::Updates => &mut self.updates,
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let durables = [&self.events, &self.updates]
            .into_iter()
            .flat_map(|stream| stream.durables.values());
        // What nobody waits for need not wake anybody.
        let due = durables
            .filter(|durable| !durable.waiting.is_empty())
            .flat_map(|durable| durable.out.values().copied());
        due.chain([self.prune_at]).min()
    }

    pub(super) fn turn(&mut self, database: &Database, now: Instant) -> Result<(), redb::Error> {
        if now >= self.prune_at {
            self.prune_at = now + (self.retention.age / 4).clamp(PRUNE_EVERY.0, PRUNE_EVERY.1);
            let oldest = milliseconds(SystemTime::now()).saturating_sub(span(self.retention.age));
            self.events.prune(database, oldest)?;
            self.updates.prune(database, oldest)?;
        }
        let again = now + self.retention.acknowledge;
        self.events.hand_out(database, now, again)?;
        self.updates.hand_out(database, now, again)
    }
}

impl Stream {
    fn load(transaction: &ReadTransaction, family: Family) -> Result<Self, Refusal> {
        let name = family.as_str();
        let mut stream = Self {
            name,
            index: BTreeMap::new(),
            last: 0,
            durables: BTreeMap::new(),
            readers: Vec::new(),
        };
        let counters = transaction.open_table(tables::COUNTERS)?;
        if let Some(last) = counters.get(counter(family).as_str())? {
            stream.last = last.value();
        }
        let messages = transaction.open_table(tables::MESSAGES)?;
        for row in messages.range((name, 0)..=(name, u64::MAX))? {
            let (key, message) = row?;
            let subject = message.value().0.to_owned();
            stream.index.insert(key.value().1, subject);
        }
        let durables = transaction.open_table(tables::DURABLES)?;
        for row in durables.iter()? {
            let (key, filter) = row?;
            let (of, durable) = key.value();
            if of == name {
                stream.consume(transaction, durable, filter.value())?;
            }
        }
        Ok(stream)
    }

    /// Begins, or goes on, to hold messages for a durable name.
    pub(super) fn consume(
        &mut self,
        transaction: &ReadTransaction,
        durable: &str,
        filter: &str,
    ) -> Result<(), Refusal> {
        if self
            .durables
            .get(durable)
            .is_some_and(|known| known.filter == filter)
        {
            return Ok(());
        }
        let acknowledged = transaction.open_table(tables::ACKNOWLEDGED)?;
        let mut ready = BTreeSet::new();
        for (number, subject) in &self.index {
            let done = acknowledged.get((self.name, durable, *number))?.is_some();
            if !done && names::matches(filter, subject) {
                ready.insert(*number);
            }
        }
        let known = self.durables.entry(durable.to_owned()).or_default();
        ready.retain(|number| !known.out.contains_key(number));
        known.filter = filter.to_owned();
        known.ready = ready;
        Ok(())
    }

    /// Waits for the next message of a durable name.
    pub(super) fn take(&mut self, durable: &str, sender: oneshot::Sender<Taken>) {
        if let Some(durable) = self.durables.get_mut(durable) {
            durable.waiting.push_back(sender);
        }
    }

    /// Waits for the first message after `after`.
    pub(super) fn read(&mut self, filter: String, after: u64, sender: oneshot::Sender<Next>) {
        let reader = Reader {
            filter,
            after,
            sender,
        };
        self.readers.push(reader);
    }

    /// A message has been stored.
    pub(super) fn stored(&mut self, number: u64, subject: String) {
        for durable in self.durables.values_mut() {
            if names::matches(&durable.filter, &subject) {
                durable.ready.insert(number);
            }
        }
        self.index.insert(number, subject);
        self.last = self.last.max(number);
    }

    /// A message has been acknowledged; `gone` if it is not stored any more.
    pub(super) fn acknowledged(&mut self, durable: &str, number: u64, gone: bool) {
        if gone {
            self.index.remove(&number);
        }
        if let Some(durable) = self.durables.get_mut(durable) {
            durable.forget(number);
        }
    }

    /// A message is to be delivered again, at that time.
    pub(super) fn put_off(&mut self, durable: &str, number: u64, until: Instant) {
        let stored = self.index.contains_key(&number);
        if let Some(durable) = self.durables.get_mut(durable)
            && stored
            && durable.out.contains_key(&number)
        {
            durable.out.insert(number, until);
        }
    }

    fn hand_out(
        &mut self,
        database: &Database,
        now: Instant,
        again: Instant,
    ) -> Result<(), redb::Error> {
        let idle = self
            .durables
            .values()
            .all(|durable| durable.waiting.is_empty());
        if idle && self.readers.is_empty() {
            return Ok(());
        }
        let transaction = database.begin_read()?;
        let name = self.name;
        let message = |number: u64| message(&transaction, name, number);
        for durable in self.durables.values_mut() {
            durable.hand_out(now, again, message)?;
        }
        let readers = std::mem::take(&mut self.readers);
        for reader in readers {
            self.readers.extend(reader.hand_out(&self.index, message)?);
        }
        Ok(())
    }

    /// Forgets messages from before `oldest`.
    fn prune(&mut self, database: &Database, oldest: u64) -> Result<(), redb::Error> {
        let old = self.older(&database.begin_read()?, oldest)?;
        if old.is_empty() {
            return Ok(());
        }
        let transaction = database.begin_write()?;
        {
            let mut messages = transaction.open_table(tables::MESSAGES)?;
            let mut acknowledged = transaction.open_table(tables::ACKNOWLEDGED)?;
            for number in &old {
                messages.remove((self.name, *number))?;
                for durable in self.durables.keys() {
                    acknowledged.remove((self.name, durable.as_str(), *number))?;
                }
            }
        }
        transaction.commit()?;
        for number in old {
            self.index.remove(&number);
            self.durables
                .values_mut()
                .for_each(|durable| durable.forget(number));
        }
        Ok(())
    }

    fn older(&self, transaction: &ReadTransaction, oldest: u64) -> Result<Vec<u64>, redb::Error> {
        let messages = transaction.open_table(tables::MESSAGES)?;
        let mut old = Vec::new();
        for row in messages.range((self.name, 0)..=(self.name, u64::MAX))? {
            let (key, message) = row?;
            if message.value().2 >= oldest {
                break;
            }
            old.push(key.value().1);
        }
        Ok(old)
    }
}

impl Durable {
    fn forget(&mut self, number: u64) {
        self.ready.remove(&number);
        self.out.remove(&number);
        self.attempts.remove(&number);
    }

    fn hand_out(
        &mut self,
        now: Instant,
        again: Instant,
        message: impl Fn(u64) -> Result<Option<Message>, redb::Error>,
    ) -> Result<(), redb::Error> {
        self.waiting.retain(|sender| !sender.is_closed());
        if self.waiting.is_empty() {
            return Ok(());
        }
        let late = self.out.extract_if(.., |_, until| *until <= now);
        self.ready.extend(late.map(|(number, _)| number));
        while !self.waiting.is_empty()
            && let Some(number) = self.ready.pop_first()
        {
            let Some(message) = message(number)? else {
                self.forget(number);
                continue;
            };
            self.deliver(number, message, again);
        }
        Ok(())
    }

    fn deliver(&mut self, number: u64, message: Message, again: Instant) {
        let attempt = self
            .attempts
            .get(&number)
            .map_or(1, |attempts| attempts + 1);
        let mut taken = Taken {
            number,
            attempt,
            message,
        };
        while let Some(sender) = self.waiting.pop_front() {
            match sender.send(taken) {
                Ok(()) => {
                    self.attempts.insert(number, attempt);
                    self.out.insert(number, again);
                    return;
                }
                // Gone in the meantime: the next one.
                Err(back) => taken = back,
            }
        }
        self.ready.insert(number);
    }
}

impl Reader {
    /// Hands out the next message; itself again if there is none.
    fn hand_out(
        self,
        index: &BTreeMap<u64, String>,
        message: impl Fn(u64) -> Result<Option<Message>, redb::Error>,
    ) -> Result<Option<Self>, redb::Error> {
        if self.sender.is_closed() {
            return Ok(None);
        }
        let wanted = |(_, subject): &(&u64, &String)| names::matches(&self.filter, subject);
        for (number, _) in index.range(self.after + 1..).filter(wanted) {
            let number = *number;
            if let Some(message) = message(number)? {
                let _ = self.sender.send(Next { number, message });
                return Ok(None);
            }
        }
        Ok(Some(self))
    }
}
