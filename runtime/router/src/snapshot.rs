//! What a router has counted.

use std::collections::BTreeMap;

use tributary_sidecar_layout::{Level, sidecar::HOP_BUCKETS};

/// What a router has counted since it was started. All numbers only grow, but for the two gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What was routed to ports, by job and level of the destination. An entry stays when its routes go.
    pub routed: BTreeMap<(u32, Level), Traffic>,
    /// Descriptors that reached the agent as [`Arrival::Miss`](crate::Arrival::Miss).
    pub misses: u64,
    /// Descriptors that reached the agent as [`Arrival::Doorbell`](crate::Arrival::Doorbell).
    pub doorbells: u64,
    /// Descriptors of no known level or kind, and pieces of descriptors that were never completed. Dropped.
    pub malformed: u64,
    /// Descriptors that [`Router::deliver`](crate::Router::deliver) put on a port's queue.
    pub delivered: u64,
    /// From a descriptor's time stamp to where it is routed, for those that have one and were routed.
    pub hop_latency: HopLatency,
    /// Ports that are open now. A gauge.
    pub ports: usize,
    /// Routes that are set now. A gauge.
    pub routes: usize,
    /// What the kernel program counted by itself; `None` in user space. The numbers above include what matters of
    /// it. They differ where the agent could route what the program could not.
    pub sidecar: Option<SidecarCounters>,
}

/// Descriptors, and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many descriptors.
    pub descriptors: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) const fn add(&mut self, other: Self) {
        self.descriptors += other.descriptors;
        self.bytes += other.bytes;
    }
}

/// A histogram of latencies with one bucket for each power of two nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopLatency {
    /// Bucket `i` counts latencies from `2^i` ns up to, not including, `2^(i+1)` ns; bucket 0 also those of 0 ns.
    pub buckets: [u64; HOP_BUCKETS as usize],
    /// The sum of all latencies, in nanoseconds.
    pub sum_ns: u64,
}

impl Default for HopLatency {
    fn default() -> Self {
        Self {
            buckets: [0; HOP_BUCKETS as usize],
            sum_ns: 0,
        }
    }
}

impl HopLatency {
    /// How many latencies were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The kernel program's own counters; what `bpftool map dump name SIDECAR_STATS` shows, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidecarCounters {
    /// Whole descriptors without a route, or with a route to a port that is gone.
    pub misses: u64,
    /// Whole descriptors of no known level or kind.
    pub malformed: u64,
    /// Whole descriptors for the agent.
    pub agent: u64,
    /// Descriptors that were written in pieces.
    pub split: u64,
    /// Descriptors that the agent sent to ports: those delivered, and those it routed itself.
    pub delivered: u64,
}
