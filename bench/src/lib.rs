//! What the benchmarks share. Each benchmark is a binary in `src/bin`.
//!
//! ```text
//! cargo run --release --manifest-path bench/Cargo.toml --bin fold [-- --quick]
//! ```
//!
//! A benchmark tells people what it does on standard error, and writes one line of JSON for each [`Figure`] to
//! standard output. `cargo xtask bench` runs all of them and makes the report.
//!
//! Figures are medians. What is compared is measured in one run, in turns ([`interleave`]), so that whatever the
//! machine does meanwhile it does to all: ratios mean more than the figures themselves.

pub mod ablation;
pub mod client;
pub mod figure;
pub mod flower;
pub mod histogram;
pub mod hop;
pub mod load;
pub mod manifest;
pub mod model;
pub mod native;
pub mod options;
pub mod peer;
pub mod place;
pub mod process;
pub mod report;
pub mod round;
pub mod samples;
pub mod segment;
pub mod server;
pub mod wasm;

pub use client::{Answer, Connection};
pub use figure::{Figure, Output};
pub use histogram::Histogram;
pub use model::{Model, Update};
pub use options::Options;
pub use samples::{Contender, Samples, interleave};
pub use server::{Scrape, Server};
