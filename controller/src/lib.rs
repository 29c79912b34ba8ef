//! The control plane: desired state and its application.
//!
//! # Layout
//! - [`State`]: what the control plane keeps, in a directory or in NATS. Three parts, each with its own way to be
//!   crash-safe: `store` (immutable revisions of functions and jobs, one swap per apply), `blobs` (content-addressed
//!   objects) and `models` (the versions that rounds made; see [`Models`]).
//! - `link`: how nodes are reached. [`Station`] is the node's end, in this process or behind the bus.
//! - `fleet`: which nodes there are, by their beats.
//! - [`Controller`]: plans what manifests change, lets a node check it, commits it, and brings the nodes to it.
//! - [`routes`]: the HTTP interface.
//! - [`submissions`]: updates that events submit, on their way to a node.
//!
//! What manifests change (`plan`), where jobs go (`placing`) and what a node must be told (`reconcile`) are pure
//! functions, and so is the verdict on slow nodes, for which `stragglers` keeps the rounds; everything that can fail or wait is in `controller`.
#![forbid(unsafe_code)]

mod agreement;
mod controller;
mod diff;
mod error;
mod files;
mod fleet;
mod legacy;
mod link;
mod metrics;
mod placing;
mod plan;
mod random;
mod reconcile;
mod routes;
mod state;
mod store;
mod stragglers;
pub mod submissions;
#[cfg(test)]
mod testing;
mod voice;

pub use agreement::{Agreement, Told};
pub use controller::{Controller, Options, Unused};
pub use error::{Error, problem_response};
pub use files::{models::Models, spool::Spool};
pub use link::{Beat, NodeReport, Span, Station, serve_node};
pub use routes::{controller_routes, node_routes, routes};
pub use state::State;
pub use voice::Publisher;
