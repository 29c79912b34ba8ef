//! Ends calls at their deadline.
//!
//! Compiled code checks an epoch counter at every loop and function entry. One thread advances the
//! counter when the earliest deadline of the running calls is past; a call then asks the clock whether
//! the deadline was its own, and its thread's clock whether it was the call that took the time. No call, no wake-up: the thread sleeps until the next deadline and, when
//! none is left, until a call arrives. A call that ends takes its deadline away without waking the
//! thread, so a busy worker pays one wake-up per deadline period, not one per call.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the epoch is advanced while a call is overdue: one advance can be lost to a call that
/// has just looked at the clock.
const OVERDUE_TICK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The deadlines of the running calls; the number tells equal ones apart.
    deadlines: BTreeSet<(Instant, u64)>,
    next: u64,
    /// When the thread wakes by itself; `None` while only a signal wakes it.
    wakes_at: Option<Instant>,
    stopping: bool,
}

/// A running call's deadline; dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watched {
    shared: Arc<Shared>,
    entry: (Instant, u64),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; if it did, the set would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog {
    /// Starts the thread; `advance` advances the epoch.
    pub(crate) fn start(advance: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("wasm-watchdog".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&shared, advance)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Watches a call that begins now and has to end by `deadline`.
    pub(crate) fn watch(&self, deadline: Instant) -> Watched {
        let mut state = self.shared.state();
        let entry = (deadline, state.next);
        state.next += 1;
        state.deadlines.insert(entry);
        if state.wakes_at.is_none_or(|wakes_at| deadline < wakes_at) {
            self.shared.changed.notify_one();
        }
        Watched {
            shared: Arc::clone(&self.shared),
            entry,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.state().deadlines.remove(&self.entry);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, advance: impl Fn()) {
    let mut state = shared.state();
    while !state.stopping {
        let now = Instant::now();
        let sleep = match state.deadlines.first() {
            Some(&(deadline, _)) if deadline <= now => {
                advance();
                Some(OVERDUE_TICK)
            }
            Some(&(deadline, _)) => Some(deadline - now),
            None => None,
        };
        state.wakes_at = sleep.map(|sleep| now + sleep);
        state = match sleep {
            Some(sleep) => {
                shared
                    .changed
                    .wait_timeout(state, sleep)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn counting() -> (Watchdog, Arc<AtomicU64>) {
        let epoch = Arc::new(AtomicU64::new(0));
        let watchdog = Watchdog::start({
            let epoch = Arc::clone(&epoch);
            move || {
                epoch.fetch_add(1, Ordering::SeqCst);
            }
        })
        .unwrap();
        (watchdog, epoch)
    }

    fn wait_for(epoch: &AtomicU64, at_least: u64) {
        while epoch.load(Ordering::SeqCst) < at_least {
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_overdue_call_is_told_again_until_it_ends() {
        let (watchdog, epoch) = counting();
        let call = watchdog.watch(Instant::now());
        wait_for(&epoch, 3);
        drop(call);
    }

    #[test]
    fn an_earlier_deadline_wakes_a_thread_that_sleeps_for_a_later_one() {
        let (watchdog, epoch) = counting();
        let _hour = watchdog.watch(Instant::now() + Duration::from_secs(3600));
        let _now = watchdog.watch(Instant::now());
        wait_for(&epoch, 1);
    }

    #[test]
    fn a_call_that_ends_in_time_never_advances_the_epoch() {
        let (watchdog, epoch) = counting();
        for _ in 0..1000 {
            drop(watchdog.watch(Instant::now() + Duration::from_secs(3600)));
        }
        assert_eq!(epoch.load(Ordering::SeqCst), 0);
        assert!(watchdog.shared.state().deadlines.is_empty());
    }

    #[test]
    fn dropping_it_ends_the_thread_even_with_a_call_in_flight() {
        let (watchdog, _epoch) = counting();
        let call = watchdog.watch(Instant::now() + Duration::from_secs(3600));
        let shared = Arc::downgrade(&watchdog.shared);
        drop(watchdog);
        drop(call);
        assert!(shared.upgrade().is_none());
    }
}
