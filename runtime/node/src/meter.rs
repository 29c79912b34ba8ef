//! What the node has in service, over all its jobs: counters that only grow, from which whoever reads them takes rates.
//!
//! With *L* updates in service at a time, the integral of *L* is the sum of the times that updates were in service
//! (Little's law, exact over any time at whose ends nothing is in service). So it gives the mean time of an update, by
//! what was folded, and the mean of *L*, by the time in which there was any.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    changed: Option<Instant>,
    in_service: u32,
    served: Served,
}

/// What was in service since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// Updates that were folded.
    pub folded: u64,
    /// Updates in service, times time.
    pub served: Duration,
    /// Time in which any were.
    pub occupied: Duration,
}

impl Counts {
    fn pass(&mut self, now: Instant) {
        let before = self.changed.replace(now).unwrap_or(now);
        if self.in_service > 0 {
            let passed = now.saturating_duration_since(before);
            self.served.served += passed * self.in_service;
            self.served.occupied += passed;
        }
    }
}

impl Meter {
    /// Updates are there, and a worker for them.
    pub(crate) fn enter(&self, now: Instant, updates: u32) {
        let mut counts = self.counts();
        counts.pass(now);
        counts.in_service += updates;
    }

    /// They are not any more.
    pub(crate) fn leave(&self, now: Instant, updates: u32) {
        let mut counts = self.counts();
        counts.pass(now);
        counts.in_service = counts.in_service.saturating_sub(updates);
    }

    /// Updates were folded.
    pub(crate) fn fold(&self, updates: u32) {
        self.counts().served.folded += u64::from(updates);
    }

    pub(crate) fn read(&self, now: Instant) -> Served {
        let mut counts = self.counts();
        counts.pass(now);
        counts.served
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole after every operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
