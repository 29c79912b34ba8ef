//! Tells what the controller does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::time::sleep;
use tributary_api::{
    Name,
    control::NodeControl,
    event::{Event, EventKind},
};
use tributary_store::Bus;

use crate::random;

/// Times that an event is offered to the bus.
const ATTEMPTS: u32 = 5;

const PAUSE: Duration = Duration::from_secs(1);

/// Who hears of what the controller does.
pub(crate) enum Voice {
    /// Those who listen to the node of this process.
    Node(Arc<dyn NodeControl>),
    /// Those who listen to the bus.
    Bus(Publisher),
}

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum About<'a> {
    Job(&'a Name),
    Node(&'a Name),
}

/// Publishes events of one process on the bus, as `events.<kind>.<job or node>`.
#[derive(Debug, Clone)]
pub struct Publisher {
    bus: Arc<dyn Bus>,
    source: String,
    /// Tells this life of the process from others, so that event ids never repeat.
    life: u64,
    next: Arc<AtomicU64>,
}

impl Voice {
    pub(crate) fn tell(&self, kind: EventKind, about: About<'_>, data: Value) {
        match (self, about) {
            (Self::Node(node), About::Job(job)) => node.announce(kind, job, data),
            // The node of this process neither comes nor goes.
            (Self::Node(_), About::Node(_)) => {}
            (Self::Bus(publisher), about) => publisher.tell(kind, about, data),
        }
    }
}

impl Publisher {
    /// A publisher for a process, such as `/controllers/c1`.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, source: String) -> Self {
        Self {
            bus,
            source,
            life: random::number(),
            next: Arc::default(),
        }
    }

    fn tell(&self, kind: EventKind, about: About<'_>, data: Value) {
        let id = format!(
            "{}-{}",
            self.life,
            self.next.fetch_add(1, Ordering::Relaxed)
        );
        let mut event = Event::new("", id, kind, None, data);
        event.source.clone_from(&self.source);
        event.subject = Some(match about {
            About::Job(job) => format!("jobs/{job}"),
            About::Node(node) => format!("nodes/{node}"),
        });
        let publisher = self.clone();
        tokio::spawn(async move {
            for _ in 0..ATTEMPTS {
                match publisher.publish(&event).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, kind = kind.as_str(), "no event"),
                }
                sleep(PAUSE).await;
            }
            tracing::warn!(kind = kind.as_str(), "an event could not be published");
        });
    }

    /// Publishes an event. The same event is stored once, however often it is published.
    ///
    /// # Errors
    /// As the bus fails.
    pub async fn publish(&self, event: &Event) -> Result<(), tributary_store::Error> {
        let id = format!("{}-{}", event.source.replace('/', "-"), event.id);
        let payload = serde_json::to_vec(event).unwrap_or_default();
        self.bus.publish(&subject(event), &id, payload.into()).await
    }
}

/// `events.round.completed.digits`.
fn subject(event: &Event) -> String {
    let kind = event.kind.as_str();
    let kind = kind.strip_prefix("dev.tributary.").unwrap_or(kind);
    let about = event
        .subject
        .as_deref()
        .and_then(|subject| subject.split('/').nth(1));
    let node = || event.source.rsplit('/').next().unwrap_or_default();
    format!("events.{kind}.{}", about.unwrap_or_else(node))
}
