//! Controllers, nodes and NATS, each on a host of its own: network namespaces with links that can be cut.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

mod control;
mod losses;
mod network;
mod rounds;
mod scene;
mod slow;
mod soak;
