//! A node: gateway, agent and workers.
//!
//! # Layout
//! Data moves one way, and so do the modules' imports:
//! - [`gateway`] takes updates from sockets into slots and hands models out;
//! - [`job`] is what gateway and agent share of a job: the round's book ([`round`]), the model, the
//!   arena; [`plan`] and [`tree`] decide its shape before it runs;
//! - [`agent`] starts workers, activates aggregators on a route miss, and turns a finished round into
//!   the next;
//! - [`worker`] is the other process: it folds, merges and finishes;
//! - [`proving`] has functions compiled and proven by a third process;
//! - [`protocol`] is what agent and worker say to each other; [`outbox`] sends descriptors;
//! - [`node`] puts the parts together and is what the controller drives.
#![forbid(unsafe_code)]

mod agent;
mod clock;
pub mod events;
mod gateway;
pub mod identity;
mod job;
mod jobs;
mod meter;
pub mod metrics;
pub mod node;
mod outbox;
mod peers;
mod plan;
mod protocol;
pub mod proving;
mod pulse;
mod round;
mod submit;
mod tree;
pub mod worker;

pub use gateway::door::{DoorMetrics, serve_routes};
pub use gateway::fetch::{FetchOptions, Prefix, UrlError};
pub use gateway::hosts::{HostName, HostNameError, Hosts};
pub use node::{Node, Options};
pub use tributary_planning::autoscale::Config as Autoscaler;
