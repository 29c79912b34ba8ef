//! The real binary on its command line. What it does against a real server is tested end to end elsewhere; here
//! a few lines of TCP answer as a server would.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

#[path = "cli/nats.rs"]
mod nats;
#[path = "cli/offline.rs"]
mod offline;
#[path = "cli/online.rs"]
mod online;
#[path = "cli/run.rs"]
mod run;
