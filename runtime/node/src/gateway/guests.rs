//! Connections that are open: how many there may be, and which of them nobody would miss.

use rustix::process::{Resource, getrlimit};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The most connections, whatever the system allows.
const CONNECTIONS_MAX: u64 = 1 << 16;
/// Descriptors that the process keeps for itself (arenas, workers, checkpoints, other nodes), where it may have many;
/// else half of them.
const RESERVE: u64 = 1024;
/// How long a new connection waits for the end of one that was sent away.
const LEAVING: Duration = Duration::from_secs(1);

/// All connections of a listener.
pub(super) struct Guests {
    room: Arc<Semaphore>,
    most: usize,
    present: Mutex<HashMap<u64, Arc<Guest>>>,
    /// Counts the beginnings of idle times, so that they have an order.
    idle: Arc<AtomicU64>,
}

/// One connection.
pub(super) struct Guest {
    /// When its idle time began, as the listener counts; 0 while it has a request.
    idle_since: AtomicU64,
    idle: Arc<AtomicU64>,
    away: Notify,
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    pub guest: Arc<Guest>,
    number: u64,
    guests: Arc<Guests>,
    _room: OwnedSemaphorePermit,
}

/// A connection has no request, until this is dropped.
pub(super) struct Idle<'a>(&'a Guest);

impl Guests {
    pub(super) fn new() -> Arc<Self> {
        let most = most(getrlimit(Resource::Nofile).current);
        Arc::new(Self {
            room: Arc::new(Semaphore::new(most)),
            most,
            present: Mutex::default(),
            idle: Arc::default(),
        })
    }

    /// How many there may be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A place for a new connection; for want of one, the connection that has been idle for longest makes room. `None`
    /// if all have something to do.
    pub(super) async fn place(self: &Arc<Self>) -> Option<Place> {
        let room = match self.room.clone().try_acquire_owned() {
            Ok(room) => room,
            Err(_) if self.send_one_away() => {
                let room = timeout(LEAVING, self.room.clone().acquire_owned()).await;
                room.ok()?.ok()?
            }
            Err(_) => return None,
        };
        let guest = Arc::new(Guest {
            idle_since: AtomicU64::new(0),
            idle: self.idle.clone(),
            away: Notify::new(),
        });
        let number = self.idle.fetch_add(1, Ordering::Relaxed) + 1;
        self.present().insert(number, guest.clone());
        Some(Place {
            guest,
            number,
            guests: self.clone(),
            _room: room,
        })
    }

    /// Ends the connection that has been idle for longest. False if none is.
    pub(super) fn send_one_away(&self) -> bool {
        let present = self.present();
        let idle = present.values().filter_map(|guest| {
            let since = guest.idle_since.load(Ordering::Relaxed);
            (since > 0).then_some((since, guest))
        });
        let longest = idle.min_by_key(|(since, _)| *since);
        if let Some((_, guest)) = longest {
            guest.idle_since.store(0, Ordering::Relaxed);
            guest.away.notify_one();
        }
        longest.is_some()
    }

    fn present(&self) -> MutexGuard<'_, HashMap<u64, Arc<Guest>>> {
        // Nothing panics while it is held.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most connections of a process that may have so many descriptors.
fn most(descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.unwrap_or(u64::MAX);
    let reserve = RESERVE.min(descriptors / 2);
    CONNECTIONS_MAX.min(descriptors - reserve) as usize
}

impl Guest {
    /// From now on the connection has no request.
    pub(super) fn idle(&self) -> Idle<'_> {
        let since = self.idle.fetch_add(1, Ordering::Relaxed) + 1;
        self.idle_since.store(since, Ordering::Relaxed);
        Idle(self)
    }

    /// Waits until somebody else needs the room.
    pub(super) async fn sent_away(&self) {
        self.away.notified().await;
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.idle_since.store(0, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guests.present().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests(most: usize) -> Arc<Guests> {
        Arc::new(Guests {
            room: Arc::new(Semaphore::new(most)),
            most,
            present: Mutex::default(),
            idle: Arc::default(),
        })
    }

    #[test]
    fn descriptors_are_left_for_the_process_itself() {
        assert_eq!(most(Some(64)), 32);
        assert_eq!(most(Some(20_000)), 20_000 - 1024);
        assert_eq!(most(Some(1 << 20)), 1 << 16);
        assert_eq!(most(None), 1 << 16);
    }

    #[tokio::test]
    async fn who_has_been_idle_for_longest_makes_room() {
        let guests = guests(2);
        let (first, second) = (guests.place().await.unwrap(), guests.place().await.unwrap());
        assert!(guests.place().await.is_none(), "both have something to do");
        let later = first.guest.clone();
        let guest = second.guest.clone();
        let longest = guest.idle();
        let later = later.idle();
        let leaves = async {
            guest.sent_away().await;
            drop((longest, second));
        };
        let (third, ()) = tokio::join!(guests.place(), leaves);
        assert!(third.is_some());
        drop(later);
        assert!(guests.place().await.is_none());
        drop(first);
        assert!(guests.place().await.is_some());
    }
}
