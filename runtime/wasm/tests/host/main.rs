//! The host against real modules: good ones, bad ones, and the ones that `cargo xtask build` makes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // The helpers of tests, too, are tests.

mod bad_calls;
mod bad_modules;
mod cache;
mod encodings;
mod examples;
mod fedavg;
mod fixture;
mod hostile;
mod laws;
mod ranges;
mod window;
