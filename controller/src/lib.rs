//! The control plane: desired state and its application.
//!
//! # Layout
//! - [`State`]: what the control plane keeps on disk. Three parts, each with its own way to be crash-safe:
//!   `store` (redb: immutable revisions of functions and jobs, one transaction per apply), `blobs`
//!   (content-addressed files) and `models` (the versions that rounds made; see [`Models`]).
//! - [`Controller`]: plans what manifests change, lets the node check it, commits it, and brings the node to it.
//! - [`routes`]: the HTTP interface.
//!
//! The plan is a pure function of the desired state and the manifests (`plan`), and so is the comparison of
//! desired and observed jobs (`reconcile`); everything that can fail or wait is in `controller`.
#![forbid(unsafe_code)]

mod controller;
mod diff;
mod error;
mod files;
mod plan;
mod reconcile;
mod routes;
mod state;
mod store;

pub use controller::Controller;
pub use error::{Error, problem_response};
pub use files::models::Models;
pub use routes::routes;
pub use state::State;
