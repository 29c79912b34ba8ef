//! The node's events, to whoever listens.
//!
//! What happens to a round happens on each of the job's nodes. Those who listen to a node hear all of it; the world
//! hears it once, from the node that leads.

use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;
use tributary_api::Name;
use tributary_api::event::{Event, EventKind};

/// Events that a slow listener may be behind before it misses some (and is told so).
const BACKLOG: usize = 4096;

/// An event, and whose it is to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The event.
    pub event: Event,
    /// Another node tells the world: this one only says it to those who listen here.
    pub echo: bool,
}

/// A cheap handle for telling and hearing events.
#[derive(Clone, Debug)]
pub struct Events {
    node: Arc<str>,
    /// Tells this life of the node from others, so that event ids never repeat.
    life: u64,
    next: Arc<AtomicU64>,
    sender: broadcast::Sender<Arc<Told>>,
}

impl Events {
    /// Events of a node.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            life: crate::node::random_number(),
            next: Arc::default(),
            sender: broadcast::Sender::new(BACKLOG),
        }
    }

    /// Tells an event to whoever listens; `data` is made only if somebody does.
    pub fn tell(&self, kind: EventKind, job: Option<&Name>, data: impl FnOnce() -> Value) {
        self.send(kind, job, data, false);
    }

    /// Tells an event of a job that its leader tells as well.
    pub(crate) fn echo(&self, kind: EventKind, job: &Name, data: impl FnOnce() -> Value) {
        self.send(kind, Some(job), data, true);
    }

    fn send(&self, kind: EventKind, job: Option<&Name>, data: impl FnOnce() -> Value, echo: bool) {
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
        let _ = self.sender.send(Arc::new(Told { event, echo }));
    }

    /// Hears every event from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<Told>> {
        self.sender.subscribe()
    }
}
