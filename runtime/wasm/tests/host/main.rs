//! The host against real modules: good ones, bad ones, and the ones that `cargo xtask build` makes.

mod bad_modules;
mod cache;
mod examples;
mod fedavg;
mod fixture;
mod laws;
mod window;
