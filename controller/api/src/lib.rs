//! Types that controller, node and command line share. Nothing here does I/O.
//!
//! # Layout
//! - [`name`], [`digest`], [`quantity`]: checked strings and numbers with units.
//! - [`manifest`]: what a platform engineer writes.
//! - [`model`]: the layout of a model and how an update is matched against it.
//! - [`status`], [`event`], [`problem`], [`apply`]: what the HTTP interface says.
//! - [`control`]: how the controller drives a node, and how a node keeps models.
//! - [`reference`]: updates that lie elsewhere, and events that submit them.
//! - [`placement`]: a job on several nodes, and what these tell each other. [`fleet`]: what is said of it.
//! - [`stages`]: how long nodes take.
#![forbid(unsafe_code)]

pub mod apply;
pub mod control;
pub mod digest;
pub mod event;
pub mod fleet;
pub mod manifest;
pub mod model;
pub mod name;
pub mod placement;
pub mod problem;
pub mod quantity;
pub mod reference;
pub mod stages;
pub mod status;

pub use digest::Digest;
pub use name::{ClientName, Name};
