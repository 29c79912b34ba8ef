//! The controller over a node that only remembers what it is told. The real node is tested end to end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

#[path = "controller/apply.rs"]
mod apply;
#[allow(dead_code, reason = "tests of several nodes use more of it")]
#[path = "controller/fake_node.rs"]
mod fake_node;
#[path = "controller/http.rs"]
mod http;
#[path = "controller/restart.rs"]
mod restart;
#[path = "controller/tenants.rs"]
mod tenants;
#[path = "controller/world.rs"]
mod world;
