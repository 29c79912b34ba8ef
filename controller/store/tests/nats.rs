//! What only NATS has: servers that die and come back, clusters, cut connections, certificates and identities.
//! `TRIBUTARY_REQUIRE_NATS=1` makes it a failure that there is no `nats-server`; without it, each says that it was not
//! run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not take a case's helpers for tests"
)]

#[path = "nats/bench.rs"]
mod bench;
#[path = "nats/cluster.rs"]
mod cluster;
#[path = "nats/flat.rs"]
mod flat;
#[path = "nats/foreign.rs"]
mod foreign;
#[path = "nats/identities.rs"]
mod identities;
#[path = "nats/options.rs"]
mod options;
#[path = "nats/outage.rs"]
mod outage;
#[path = "nats/partition.rs"]
mod partition;
#[path = "nats/proxy.rs"]
mod proxy;
#[path = "nats/shared.rs"]
mod shared;
