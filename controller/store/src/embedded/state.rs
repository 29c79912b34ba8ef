//! What the engine's thread knows beside the database: who watches, and who waits for messages.

use std::collections::HashMap;
use std::time::Instant;

use redb::Database;

use super::streams::Streams;
use super::watchers::Watchers;

/// Owned by the engine's thread.
pub(super) struct State {
    pub(super) watchers: HashMap<String, Watchers>,
    pub(super) streams: Streams,
}

impl State {
    pub(super) fn new(streams: Streams) -> Self {
        let watchers = HashMap::new();
        Self { watchers, streams }
    }

    /// When [`State::turn`] has something to do although nothing has happened.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.streams.next_due()
    }

    /// Hands out what can be handed out, after anything may have changed.
    pub(super) fn turn(&mut self, database: &Database, now: Instant) -> Result<(), redb::Error> {
        self.streams.turn(database, now)
    }
}
