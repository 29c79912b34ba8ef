//! A job on several nodes: leader and followers in one process, each with its own gateway, agent and workers; no
//! controller. The test places the job, takes nodes away, and is the clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

#[path = "members/changes.rs"]
mod changes;
#[path = "members/checks.rs"]
mod checks;
#[path = "members/cost.rs"]
mod cost;
#[path = "members/losses.rs"]
mod losses;
#[path = "members/partials.rs"]
mod partials;
#[path = "members/references.rs"]
mod references;
#[path = "members/returns.rs"]
mod returns;
#[path = "members/rounds.rs"]
mod rounds;
#[path = "members/stages.rs"]
mod stages;
#[path = "members/visitors.rs"]
mod visitors;
#[path = "members/world.rs"]
mod world;
