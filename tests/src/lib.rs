//! The harness of the end-to-end tests: it runs the real binary and looks at it from outside.
//!
//! Nothing here knows more of Tributary than a user can: a process, its HTTP door, its command line,
//! what it leaves in /proc and /dev/shm. Only the documents' types are shared, so that a field that is
//! renamed is a compile error.
//!
//! - [`server`]: the process `tributary up` and what it must leave behind: nothing.
//! - [`http`], [`connection`], [`feed`], [`scrape`]: its door; plain requests, raw sockets for what no
//!   library would send, events, metrics.
//! - [`job`], [`manifest`]: jobs as a client and as an operator sees them. [`local`]: clients on the server's host.
//! - [`tensors`], [`encoded`], [`forged`], [`reference`], [`random`]: models, updates in other encodings, files that
//!   lie, and right answers.
//! - [`cluster`]: controllers and nodes on hosts of their own. [`nats`]: real NATS servers. [`files`]: servers of files.
//!   [`soak`]: a cluster in which something always breaks.
//! - [`guest`]: functions that misbehave. [`fates`]: workers that die.
//! - [`place`], [`process`], [`wait`]: where things are, what runs, and patience.
//!
//! Every scenario is a function of a [`Sidecar`]; [`on_both_sidecars!`] makes a test of it for each.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

pub mod cluster;
pub mod connection;
pub mod encoded;
pub mod fates;
pub mod feed;
pub mod files;
pub mod forged;
pub mod guest;
pub mod http;
pub mod job;
pub mod local;
pub mod manifest;
pub mod nats;
pub mod place;
pub mod process;
pub mod random;
pub mod reference;
pub mod scrape;
pub mod server;
mod sidecar;
pub mod soak;
pub mod tensors;
pub mod wait;

pub use job::Job;
pub use manifest::Manifest;
pub use server::Server;
pub use sidecar::Sidecar;
pub use tensors::Model;
