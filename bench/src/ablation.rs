//! The ablation: one replayed arrival trace through aggregation platforms that differ in one thing at a time.
//!
//! Hosts are network namespaces ([`hosts`]). [`broker`] is the platform that others build: a function is started by the
//! first message for it, and every hop is a message that refers to an object in the broker's object store. [`platform`]
//! is Tributary on the same hosts. [`replay`] has the clients: the same updates at the same times for all.

pub mod broker;
pub mod hosts;
pub mod platform;
pub mod replay;

use std::time::Instant;

/// What a round has cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Seconds from the first byte of the first update to the first byte of the new model.
    pub from_first: f64,
    /// Seconds from the last byte of the last update to the first byte of the new model.
    pub from_last: f64,
    /// CPU seconds of all the platform's processes until one client has the model, those of its broker included.
    pub cpu_seconds: f64,
    /// Processes that were started to aggregate.
    pub started: u64,
    /// Hosts that aggregated.
    pub nodes: usize,
    /// Bytes that hosts have sent over their links until then.
    pub bytes_sent: u64,
    /// How often an update was told to come again.
    pub turned_away: u64,
}

/// When the model came, and when updates were sent.
#[derive(Clone, Copy, Debug)]
struct Times {
    first: Instant,
    last: Instant,
    model: Instant,
}

impl Times {
    fn seconds(self) -> (f64, f64) {
        let after = |earlier: Instant| self.model.saturating_duration_since(earlier).as_secs_f64();
        (after(self.first), after(self.last))
    }
}
