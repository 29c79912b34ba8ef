//! The node's events, to whoever listens.

use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;
use tributary_api::Name;
use tributary_api::event::{Event, EventKind};

/// Events that a slow listener may be behind before it misses some (and is told so).
const BACKLOG: usize = 4096;

/// A cheap handle for telling and hearing events.
#[derive(Clone, Debug)]
pub struct Events {
    node: Arc<str>,
    /// Tells this life of the node from others, so that event ids never repeat.
    life: u64,
    next: Arc<AtomicU64>,
    sender: broadcast::Sender<Arc<Event>>,
}

impl Events {
    /// Events of a node.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let life = jiff::Timestamp::now().as_millisecond().unsigned_abs();
        Self {
            node: node.into(),
            life,
            next: Arc::default(),
            sender: broadcast::Sender::new(BACKLOG),
        }
    }

    /// Tells an event to whoever listens; `data` is made only if somebody does.
    pub fn tell(&self, kind: EventKind, job: Option<&Name>, data: impl FnOnce() -> Value) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        let id = format!(
            "{}-{}",
            self.life,
            self.next.fetch_add(1, Ordering::Relaxed)
        );
        let event = Event::new(&self.node, id, kind, job.map(Name::as_str), data());
        // The last listener may have gone in the meantime.
        let _ = self.sender.send(Arc::new(event));
    }

    /// Hears every event from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }
}
