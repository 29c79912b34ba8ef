//! Placement and autoscaling: pure functions of what was observed.
//!
//! No I/O, no clock, no randomness but by a seeded generator that is handed in: the same input gives the same
//! output, so a decision can be replayed from what was recorded. The model, its formulas and their sources stand in
//! `docs/placement.md`.
//!
//! # Layout
//! - [`placement`]: which nodes take how many updates of which job, and where the top goes.
//! - [`homes`]: which node is a client's home.
//! - [`capacity`]: what a node can take, estimated from what it did.
//! - [`autoscale`]: how many workers each job has on each node, and when.
//! - [`straggler`]: which nodes are slow beside the others.
//! - [`trace`]: recorded and made-up arrivals; [`simulate`] replays them through the autoscaler.
#![forbid(unsafe_code)]

mod apportion;
pub mod autoscale;
pub mod capacity;
pub mod homes;
pub mod placement;
pub mod simulate;
pub mod straggler;
pub mod trace;
