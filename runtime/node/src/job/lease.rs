//! Slots that clients on this host fill themselves.
//!
//! Such a slot stays Filling until who has it commits it, gives it back or is gone; no time ends a lease, because
//! the client could still write. So leases are few: a job has turns for them, fewer than it has slots.

use super::{Inner, Job, Refusal};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tributary_arena::Filling;

/// A slot that a local client fills.
pub(super) struct Lease {
    filling: Filling,
    since: Instant,
    /// Somebody else's when the lease ends.
    _turn: OwnedSemaphorePermit,
}

impl Job {
    /// A turn to hold a lease; waits up to `patience` for one. `None`: all are out.
    pub(crate) async fn lease_turn(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.lease_turns).acquire_owned();
        tokio::time::timeout(patience, turn).await.ok()?.ok()
    }

    /// Keeps a slot for the client that fills it. Once the job is stopped, none is given away any more.
    pub(crate) fn lend(&self, filling: Filling, turn: OwnedSemaphorePermit) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Refusal::Stopped);
        }
        let lease = Lease {
            since: Instant::now(),
            _turn: turn,
            filling,
        };
        state.leases.insert(lease.filling.slot(), lease);
        Ok(())
    }

    /// Ends the lease of a slot, to which its client writes no more. `None` if there is none.
    pub(crate) fn end_lease(&self, slot: u32) -> Option<Filling> {
        self.lock().leases.remove(&slot).map(|lease| lease.filling)
    }

    /// Ends the lease of a slot, and frees the slot.
    pub(crate) fn give_back(&self, slot: u32) {
        drop(self.end_lease(slot));
        self.slot_freed.notify_one();
    }
}

impl Inner {
    /// Leases, and those of them that have lasted longer than a client may be silent.
    pub(super) fn count_leases(&self) -> (u32, u32) {
        let bound = self.spec.ingest.idle_timeout.duration();
        let overdue = |lease: &&Lease| lease.since.elapsed() > bound;
        let overdue = self.leases.values().filter(overdue).count();
        (self.leases.len() as u32, overdue as u32)
    }
}
