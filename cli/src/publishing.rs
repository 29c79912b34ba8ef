//! A node's own events, on the bus.
//!
//! Rounds go on while the bus is away. What happens meanwhile waits here and is told afterwards, in its order: as many
//! events as [`WAITING_MAX`]. Accepted updates are not among them: they come most and tell least, and would push out
//! what matters.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::broadcast::{Receiver, error::RecvError, error::TryRecvError},
    time::sleep,
};
use tributary_api::event::EventKind;
use tributary_controller::Publisher;
use tributary_node::events::Told;

/// Events that wait for the bus; the oldest goes when there are more.
const WAITING_MAX: usize = 4096;
/// The pause before an event is offered again.
const PAUSE: Duration = Duration::from_millis(500);

/// Publishes the events that it hears, for ever.
pub(crate) async fn publish(publisher: &Publisher, mut events: Receiver<Arc<Told>>) {
    let mut waiting = Waiting::default();
    loop {
        if waiting.events.is_empty() {
            match events.recv().await {
                Ok(event) => waiting.add(event),
                Err(RecvError::Lagged(missed)) => waiting.missed += missed,
                // The sender ends with the node.
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
        loop {
            match events.try_recv() {
                Ok(event) => waiting.add(event),
                Err(TryRecvError::Lagged(missed)) => waiting.missed += missed,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let Some(next) = waiting.events.front() else {
            continue;
        };
        match publisher.publish(&next.event).await {
            Ok(()) => waiting.told(),
            Err(error) => {
                if !waiting.away {
                    tracing::warn!(%error, "events wait until they can be published");
                }
                waiting.away = true;
                sleep(PAUSE).await;
            }
        }
    }
}

/// Events that are not published yet.
#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Arc<Told>>,
    /// The bus has not taken the last one.
    away: bool,
    /// Events that never will be published.
    missed: u64,
}

impl Waiting {
    fn add(&mut self, told: Arc<Told>) {
        if told.echo {
            return;
        }
        if self.away && told.event.kind == EventKind::UpdateAccepted {
            self.missed += 1;
            return;
        }
        if self.events.len() >= WAITING_MAX {
            self.events.pop_front();
            self.missed += 1;
        }
        self.events.push_back(told);
    }

    /// The first one is published.
    fn told(&mut self) {
        self.events.pop_front();
        self.away = false;
        let missed = std::mem::take(&mut self.missed);
        if missed > 0 {
            tracing::warn!(missed, "events were not published");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_api::event::Event;

    fn event(kind: EventKind, id: usize) -> Arc<Told> {
        let data = serde_json::Value::Null;
        let event = Event::new("n", id.to_string(), kind, Some("j"), data);
        Arc::new(Told { event, echo: false })
    }

    #[test]
    fn what_another_node_tells_is_not_told_again() {
        let mut waiting = Waiting::default();
        let mut echo = Told::clone(&event(EventKind::RoundCompleted, 0));
        echo.echo = true;
        waiting.add(Arc::new(echo));
        assert!(waiting.events.is_empty());
    }

    #[test]
    fn what_happens_meanwhile_waits_in_its_order_and_updates_do_not() {
        let mut waiting = Waiting::default();
        waiting.add(event(EventKind::UpdateAccepted, 0));
        waiting.away = true;
        waiting.add(event(EventKind::RoundCompleted, 1));
        waiting.add(event(EventKind::UpdateAccepted, 2));
        waiting.add(event(EventKind::ModelPublished, 3));
        let ids: Vec<&str> = waiting
            .events
            .iter()
            .map(|told| told.event.id.as_str())
            .collect();
        assert_eq!((ids, waiting.missed), (vec!["0", "1", "3"], 1));
        waiting.told();
        assert_eq!(
            (waiting.events.len(), waiting.away, waiting.missed),
            (2, false, 0)
        );
    }

    #[test]
    fn so_many_wait_and_the_oldest_goes() {
        let mut waiting = Waiting::default();
        for id in 0..=WAITING_MAX {
            waiting.add(event(EventKind::RoundCompleted, id));
        }
        let first = waiting.events.front().map(|told| told.event.id.as_str());
        assert_eq!((waiting.events.len(), first), (WAITING_MAX, Some("1")));
    }
}
