//! Controllers of several nodes, over nodes that only remember what they are told: on the embedded store and on NATS.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]
#![allow(dead_code, reason = "some helpers are for the tests of one node")]

/// Each test on each store.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(crate::cluster::Store::embedded()).await;
                }
            )*
        }
        mod nats {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(store) = crate::cluster::Store::nats() {
                        super::$test(store).await;
                    }
                }
            )*
        }
    };
}

#[path = "fleet/agreement.rs"]
mod agreement;
#[path = "fleet/beats.rs"]
mod beats;
#[path = "fleet/changes.rs"]
mod changes;
#[path = "fleet/cluster.rs"]
mod cluster;
#[path = "controller/fake_node.rs"]
mod fake_node;
#[path = "fleet/flat.rs"]
mod flat;
#[path = "fleet/leaders.rs"]
mod leaders;
#[path = "fleet/lossy.rs"]
mod lossy;
#[path = "fleet/names.rs"]
mod names;
#[path = "fleet/outage.rs"]
mod outage;
#[path = "fleet/slow.rs"]
mod slow;
#[path = "fleet/submissions.rs"]
mod submissions;
#[path = "controller/world.rs"]
mod world;
