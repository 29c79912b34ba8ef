//! The real binary with real workers, functions, shared memory and sidecars, from outside.
//!
//! Every scenario is written once and run on both sidecars; see the library of this crate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

mod asynchronous;
mod autoscaler;
mod bodies;
mod chaos;
mod closing;
mod encodings;
mod flat;
mod functions;
mod headers;
mod idle;
mod jobs;
mod local;
mod manifests;
mod memory;
mod models;
mod nonsense;
mod operations;
mod privileges;
mod refusals;
mod repeats;
mod restarts;
mod rounds;
mod slots;
mod soak;
mod transports;
mod tree;
mod workers;
