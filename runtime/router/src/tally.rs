//! What the agent counts: everything in user space; with the sidecar, what reached the agent.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::time::{ClockId, clock_gettime};
use tributary_sidecar_layout::{Descriptor, Level, sidecar::hop_bucket};

use crate::{HopLatency, Snapshot, Traffic};

#[derive(Debug, Default)]
pub(crate) struct Tally {
    misses: AtomicU64,
    doorbells: AtomicU64,
    malformed: AtomicU64,
    delivered: AtomicU64,
    routed: Mutex<Routed>,
}

#[derive(Debug, Default)]
struct Routed {
    by_job: BTreeMap<(u32, Level), Traffic>,
    hop_latency: HopLatency,
}

impl Tally {
    pub(crate) fn miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn doorbell(&self) {
        self.doorbells.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn delivered(&self, descriptors: usize) {
        self.delivered
            .fetch_add(descriptors as u64, Ordering::Relaxed);
    }

    /// Counts a descriptor that the agent has routed to a port.
    pub(crate) fn routed(&self, level: Level, descriptor: &Descriptor) {
        let ns = (descriptor.sent_ns != 0).then(|| now_ns().saturating_sub(descriptor.sent_ns));
        let mut routed = self.routed.lock().unwrap_or_else(PoisonError::into_inner);
        let one = Traffic {
            descriptors: 1,
            bytes: Descriptor::BYTES as u64,
        };
        routed
            .by_job
            .entry((descriptor.to().job(), level))
            .or_default()
            .add(one);
        if let Some(ns) = ns {
            routed.hop_latency.buckets[hop_bucket(ns) as usize] += 1;
            routed.hop_latency.sum_ns += ns;
        }
    }

    /// A snapshot of this; what only others know is left at zero.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let routed = self.routed.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            routed: routed.by_job.clone(),
            misses: self.misses.load(Ordering::Relaxed),
            doorbells: self.doorbells.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            hop_latency: routed.hop_latency.clone(),
            ..Snapshot::default()
        }
    }
}

/// `CLOCK_MONOTONIC`, the clock of [`Descriptor::sent_ns`] and of the kernel program.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock starts at boot and runs for 584 years before this wraps.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
