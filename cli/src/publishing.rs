//! A node's own events, on the bus.
//!
//! Rounds go on while the bus is away or slow. What happens meanwhile waits here and is told afterwards: as many events as
//! [`WAITING_MAX`]. What is more is counted and dropped, what tells least first: accepted updates, which come most, and
//! last of all a finished job or a new model. Several events are under way at a time, begun in their order; one that
//! fails is told again, before those that have not begun.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::sleep,
};
use tributary_api::event::EventKind;
use tributary_controller::Publisher;
use tributary_node::events::Told;

/// Events that wait for the bus.
const WAITING_MAX: usize = 4096;
/// Events that are under way to the bus at a time: as many are told in one time of its answer.
const UNDER_WAY_MAX: usize = 64;
/// The pause before an event is offered again.
const PAUSE: Duration = Duration::from_millis(500);

/// Publishes the events that it hears, for ever; `dropped` hears how many never will be published.
pub(crate) async fn publish(
    publisher: &Publisher,
    mut events: Receiver<Arc<Told>>,
    dropped: impl Fn(u64),
) {
    let mut waiting = Waiting::default();
    let mut under_way = FuturesOrdered::new();
    loop {
        while under_way.len() < waiting.under_way_max()
            && let Some(next) = waiting.next()
        {
            under_way.push_back(offer(publisher, next, waiting.away));
        }
        tokio::select! {
            // What happens is heard whatever the bus does: who listens too late misses any event, not the least.
            heard = events.recv() => match heard {
                Ok(event) => waiting.add(event),
                Err(RecvError::Lagged(missed)) => waiting.missed += missed,
                // The sender ends with the node.
                Err(RecvError::Closed) => return std::future::pending().await,
            },
            Some((event, told)) = under_way.next() => match told {
                Ok(()) => waiting.told(),
                Err(error) => waiting.failed(event, &error),
            },
        }
        let missed = std::mem::take(&mut waiting.missed);
        if missed > 0 {
            dropped(missed);
            waiting.untold += missed;
        }
    }
}

/// Offers an event to the bus, after a pause if that is `away`.
async fn offer(
    publisher: &Publisher,
    told: Arc<Told>,
    away: bool,
) -> (Arc<Told>, Result<(), tributary_store::Error>) {
    if away {
        sleep(PAUSE).await;
    }
    let published = publisher.publish(&told.event).await;
    (told, published)
}

/// Events that are not under way.
#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Arc<Told>>,
    /// The first ones of them that the bus has not taken yet.
    again: usize,
    /// The bus has not taken the last one.
    away: bool,
    /// Events that never will be published, since that was looked at last.
    missed: u64,
    /// The same, since it was logged.
    untold: u64,
}

/// How much the world would miss an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Update,
    Step,
    Result,
}

impl Worth {
    const fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::UpdateAccepted => Self::Update,
            EventKind::JobCompleted | EventKind::ModelPublished => Self::Result,
            _ => Self::Step,
        }
    }
}

impl Waiting {
    fn add(&mut self, told: Arc<Told>) {
        if told.echo {
            return;
        }
        if self.events.len() >= WAITING_MAX && !self.make_room(Worth::of(told.event.kind)) {
            self.missed += 1;
            return;
        }
        self.events.push_back(told);
    }

    /// Drops the oldest of the events that are worth least, unless that is more than `worth`.
    fn make_room(&mut self, worth: Worth) -> bool {
        let worths = self.events.iter().map(|told| Worth::of(told.event.kind));
        // Of several equals the first is taken.
        let least = worths.enumerate().min_by_key(|(_, worth)| *worth);
        let Some((at, _)) = least.filter(|(_, least)| *least <= worth) else {
            return false;
        };
        self.events.remove(at);
        self.again -= usize::from(at < self.again);
        self.missed += 1;
        true
    }

    fn next(&mut self) -> Option<Arc<Told>> {
        self.again = self.again.saturating_sub(1);
        self.events.pop_front()
    }

    /// One at a time finds out whether the bus is back: the others follow in their order.
    const fn under_way_max(&self) -> usize {
        if self.away { 1 } else { UNDER_WAY_MAX }
    }

    /// The bus takes events.
    fn told(&mut self) {
        self.away = false;
        let missed = std::mem::take(&mut self.untold);
        if missed > 0 {
            tracing::warn!(missed, "events were not published");
        }
    }

    /// It does not.
    fn failed(&mut self, event: Arc<Told>, error: &tributary_store::Error) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(%error, "events wait until they can be published");
        }
        self.events.insert(self.again, event);
        self.again += 1;
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
    fn so_many_wait_and_what_tells_least_goes_first() {
        use EventKind::{JobCompleted, ModelPublished, RoundCompleted, UpdateAccepted};
        let mut waiting = Waiting::default();
        let kinds = [ModelPublished, RoundCompleted, UpdateAccepted];
        for id in 0..WAITING_MAX {
            waiting.add(event(kinds[id.min(2)], id));
        }
        let ids = |waiting: &Waiting, count: usize| -> Vec<usize> {
            let ids = waiting
                .events
                .iter()
                .map(|told| told.event.id.parse().unwrap());
            ids.take(count).collect()
        };
        // Updates, the oldest first.
        waiting.add(event(UpdateAccepted, WAITING_MAX));
        assert_eq!(ids(&waiting, 3), [0, 1, 3]);
        // Then whatever is no result.
        for id in 1..WAITING_MAX {
            waiting.add(event(JobCompleted, WAITING_MAX + id));
        }
        assert_eq!(ids(&waiting, 2), [0, WAITING_MAX + 1]);
        waiting.add(event(RoundCompleted, 9));
        assert_eq!(ids(&waiting, 2), [0, WAITING_MAX + 1]);
        waiting.add(event(ModelPublished, 9));
        assert_eq!(ids(&waiting, 1), [WAITING_MAX + 1]);
        assert_eq!(
            (waiting.events.len(), waiting.missed),
            (WAITING_MAX, WAITING_MAX as u64 + 2)
        );
    }

    #[test]
    fn what_failed_comes_before_what_has_not_begun() {
        let mut waiting = Waiting::default();
        waiting.add(event(EventKind::RoundCompleted, 2));
        let error = tributary_store::Error::Unavailable {
            what: "the bus".into(),
            why: "it is away".into(),
        };
        for id in 0..2 {
            waiting.failed(event(EventKind::RoundCompleted, id), &error);
        }
        assert!(waiting.away);
        let ids = std::iter::from_fn(|| Some(waiting.next()?.event.id.clone()));
        assert_eq!(ids.collect::<Vec<_>>(), ["0", "1", "2"]);
    }
}
