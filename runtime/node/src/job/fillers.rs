//! Updates that clients are sending into their slots, and which of them makes room for others.
//!
//! A slot is a credit, and a slow client keeps it for long. So when nobody has freed one for a while and somebody
//! waits, the slowest is sent away, if it is slow beside the one that waits.

use super::Job;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long who is first in line waits for a slot before one is made free.
pub(super) const STANDSTILL: Duration = Duration::from_millis(500);
/// The time over which a client's pace is taken.
const WINDOW: Duration = Duration::from_secs(1);
/// So many times slower than a client that waits is slow.
const SLOWER: f64 = 8.0;
/// Bytes in a second beyond which a client that waits is no faster: one that has a slot and sends an eighth of that is
/// never sent away.
const FAST: f64 = (2 << 20) as f64;

/// All of a job's.
#[derive(Default)]
pub(super) struct Fillers(Mutex<Present>);

#[derive(Default)]
struct Present {
    next: u64,
    fillers: HashMap<u64, Entry>,
}

struct Entry {
    filler: Arc<Filler>,
    /// Where its pace is taken from.
    mark: (Instant, u64),
}

/// One of them.
#[derive(Default)]
pub(crate) struct Filler {
    bytes: AtomicU64,
    away: Notify,
}

impl Filler {
    /// So many bytes have come.
    pub(crate) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits until it has to make room.
    pub(crate) async fn sent_away(&self) {
        self.away.notified().await;
    }
}

/// A client's claim to be heard of, and to have its slot missed when it goes: who waits for one looks again, however
/// the update ends, also when nobody asks for its end any more.
pub(crate) struct Seat<'a> {
    job: &'a Job,
    number: u64,
    pub(crate) filler: Arc<Filler>,
}

impl Seat<'_> {
    /// Its body is there: it is waited for no more.
    pub(crate) fn is_full(&self) {
        self.job.fillers.lock().fillers.remove(&self.number);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.is_full();
        self.job.slots_freed();
    }
}

impl Job {
    /// A seat for a client that has a slot from now on. It must outlive the slot's claim.
    pub(crate) fn seat(&self) -> Seat<'_> {
        let (number, filler) = self.fillers.enter(Instant::now());
        Seat {
            job: self,
            number,
            filler,
        }
    }
}

impl Fillers {
    fn lock(&self) -> MutexGuard<'_, Present> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, now: Instant) -> (u64, Arc<Filler>) {
        let mut present = self.lock();
        present.next += 1;
        let number = present.next;
        let filler = Arc::new(Filler::default());
        let entry = Entry {
            filler: filler.clone(),
            mark: (now, 0),
        };
        present.fillers.insert(number, entry);
        (number, filler)
    }

    /// Sends the slowest away, if it has sent less than `least` bytes in a second, or is slow beside a client that
    /// waits and has sent `pace`.
    pub(super) fn make_room(&self, least: f64, pace: f64, now: Instant) {
        let bound = least.max(pace.min(FAST) / SLOWER);
        let mut present = self.lock();
        let mut slowest = None;
        for (number, entry) in &mut present.fillers {
            let bytes = entry.filler.bytes.load(Ordering::Relaxed);
            let (since, before) = entry.mark;
            let time = now.saturating_duration_since(since);
            if time < WINDOW {
                continue;
            }
            let pace = (bytes - before) as f64 / time.as_secs_f64();
            if pace >= bound {
                entry.mark = (now, bytes);
            } else if slowest.is_none_or(|(least, _)| pace < least) {
                slowest = Some((pace, *number));
            }
        }
        let entry = slowest.and_then(|(_, number)| present.fillers.remove(&number));
        if let Some(entry) = entry {
            entry.filler.away.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const LEAST: f64 = 64e3;

    fn is_sent_away(filler: &Filler) -> bool {
        filler.sent_away().now_or_never().is_some()
    }

    #[test]
    fn the_slowest_makes_room_and_nobody_else() {
        let (fillers, begun) = (Fillers::default(), Instant::now());
        let paces = [1_000_000, 10_000, 5_000];
        let all = paces.map(|_| fillers.enter(begun).1);
        let second = |number| {
            all.iter()
                .zip(paces)
                .for_each(|(filler, pace)| filler.came(pace));
            begun + Duration::from_secs(number)
        };
        fillers.make_room(LEAST, 0.0, begun + WINDOW / 2);
        assert!(
            !all.iter().any(|filler| is_sent_away(filler)),
            "it is too early to say"
        );
        fillers.make_room(LEAST, 0.0, second(1));
        assert_eq!(
            all.each_ref().map(|filler| is_sent_away(filler)),
            [false, false, true]
        );
        fillers.make_room(LEAST, 0.0, second(2));
        assert_eq!(
            all.each_ref().map(|filler| is_sent_away(filler)),
            [false, true, false]
        );
        for number in 3..9 {
            fillers.make_room(LEAST, 1e9, second(number));
        }
        assert!(!is_sent_away(&all[0]), "it is fast enough beside anybody");
    }

    #[test]
    fn a_burst_is_forgotten() {
        let (fillers, begun) = (Fillers::default(), Instant::now());
        let (_, filler) = fillers.enter(begun);
        filler.came(1 << 30);
        fillers.make_room(LEAST, 0.0, begun + WINDOW);
        assert!(!is_sent_away(&filler));
        fillers.make_room(LEAST, 0.0, begun + WINDOW * 2);
        assert!(is_sent_away(&filler));
    }

    #[test]
    fn who_keeps_the_rate_makes_room_for_those_that_are_much_faster() {
        let (fillers, begun) = (Fillers::default(), Instant::now());
        let (_, filler) = fillers.enter(begun);
        filler.came(100_000);
        fillers.make_room(LEAST, 200e3, begun + WINDOW);
        assert!(!is_sent_away(&filler));
        filler.came(100_000);
        fillers.make_room(LEAST, 50e6, begun + WINDOW * 2);
        assert!(is_sent_away(&filler));
    }
}
