//! The sidecar's maps: names, keys, values and bounds.
//!
//! | map | kind | key | value |
//! |---|---|---|---|
//! | [`SOCKETS`] | sockhash | port (`u32`), with [`AGENT_END`] for the agent's end of it | socket |
//! | [`PORTS`] | hash | [`connection_key`] (`u64`) | [`PortEnd`] |
//! | [`ROUTES`] | hash | destination (`u64`) | port (`u32`) |
//! | [`ROUTE_STATS`] | per-CPU hash | destination (`u64`) | [`RouteStats`] |
//! | [`SIDECAR_STATS`] | per-CPU array | [`SidecarStat`] | `u64` |
//! | [`HOP_LATENCY`] | per-CPU array | bucket, see [`hop_bucket`]; the last is the sum in ns | `u64` |

/// The name of the kernel program, as `bpftool prog` shows it (the kernel keeps 15 characters).
pub const PROGRAM: &str = "tributary_route";

/// Name of the sockhash.
pub const SOCKETS: &str = "SOCKETS";
/// Name of the map that tells the program which port a sending socket is.
pub const PORTS: &str = "PORTS";
/// Name of the route map.
pub const ROUTES: &str = "ROUTES";
/// Name of the map of counters by destination.
pub const ROUTE_STATS: &str = "ROUTE_STATS";
/// Name of the map of the program's own counters.
pub const SIDECAR_STATS: &str = "SIDECAR_STATS";
/// Name of the latency histogram.
pub const HOP_LATENCY: &str = "HOP_LATENCY";

/// How many ports can be open at once.
pub const PORTS_MAX: u32 = 4096;
/// How many routes can be set at once, those whose counters are still to be folded included.
pub const ROUTES_MAX: u32 = 65_536;

/// Set in a key of [`SOCKETS`]: the agent's end of the connection, not the port's.
pub const AGENT_END: u32 = 1 << 31;

/// Set in [`Descriptor::kind`](crate::Descriptor::kind) of what the agent sent to a port that is gone, when the
/// program returns it to the agent.
pub const UNDELIVERED: u32 = 1 << 31;

/// The key of [`PORTS`] for a socket on the loopback address.
#[must_use]
pub const fn connection_key(local_port: u16, remote_port: u16) -> u64 {
    (local_port as u64) << 32 | remote_port as u64
}

/// What the program knows about a sending socket. Value of [`PORTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEnd {
    /// Key in [`SOCKETS`] of the socket itself.
    pub own: u32,
    /// Key in [`SOCKETS`] of the other end of its connection.
    pub opposite: u32,
    /// How many bytes of a descriptor that came in pieces went to the agent so far. Written by the program only.
    pub split_bytes: u32,
    /// Zero.
    pub reserved: u32,
}

impl PortEnd {
    /// The port's end of `port`.
    #[must_use]
    pub const fn port(port: u32) -> Self {
        Self {
            own: port,
            opposite: port | AGENT_END,
            split_bytes: 0,
            reserved: 0,
        }
    }

    /// The agent's end of `port`.
    #[must_use]
    pub const fn agent(port: u32) -> Self {
        Self {
            own: port | AGENT_END,
            opposite: port,
            split_bytes: 0,
            reserved: 0,
        }
    }

    /// The words of the value, in order.
    #[must_use]
    pub const fn to_words(self) -> [u32; 4] {
        [self.own, self.opposite, self.split_bytes, self.reserved]
    }
}

/// Counters of one destination. Value of [`ROUTE_STATS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteStats {
    /// Descriptors that the program redirected to the route's port.
    pub descriptors: u64,
    /// The same in bytes.
    pub bytes: u64,
}

/// The program's own counters: indices of [`SIDECAR_STATS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarStat {
    /// Descriptors without a route, or with a route to a port that is gone: passed to the agent.
    Misses = 0,
    /// Descriptors of no known level or kind: passed to the agent.
    Malformed = 1,
    /// Descriptors for the agent.
    Agent = 2,
    /// Descriptors that were written in pieces: passed to the agent, which puts them together.
    Split = 3,
    /// Descriptors that the agent delivered to a port by itself.
    Delivered = 4,
}

impl SidecarStat {
    /// How many counters there are.
    pub const COUNT: u32 = 5;
}

/// The buckets of [`HOP_LATENCY`].
pub const HOP_BUCKETS: u32 = 64;
/// The index in [`HOP_LATENCY`] that holds the sum of all latencies, in nanoseconds.
pub const HOP_SUM: u32 = HOP_BUCKETS;

/// The bucket of a latency: bucket `i` counts `2^i <= ns < 2^(i+1)`, bucket 0 also 0 ns.
#[must_use]
#[inline(always)]
pub const fn hop_bucket(ns: u64) -> u32 {
    // Shifts, not `leading_zeros`: the kernel's instruction set has no such instruction, and this is what the
    // compiler's replacement for it would look like, but without a table.
    let mut rest = ns;
    let mut bucket = 0;
    let mut shift = 32;
    while shift > 0 {
        if rest >> shift != 0 {
            rest >>= shift;
            bucket += shift;
        }
        shift /= 2;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!(
            (hop_bucket(0), hop_bucket(1), hop_bucket(2), hop_bucket(3)),
            (0, 0, 1, 1)
        );
        assert_eq!(hop_bucket(u64::MAX), HOP_BUCKETS - 1);
        for bit in 1..64 {
            let power = 1_u64 << bit;
            assert_eq!((hop_bucket(power - 1), hop_bucket(power)), (bit - 1, bit));
        }
    }

    #[test]
    fn the_ends_of_a_port_name_each_other() {
        let (port, agent) = (PortEnd::port(7), PortEnd::agent(7));
        assert_eq!((port.own, port.opposite), (agent.opposite, agent.own));
        assert_ne!(port.own, agent.own);
        assert_ne!(connection_key(1, 2), connection_key(2, 1));
    }
}
