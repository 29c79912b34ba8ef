//! How the controller reaches a node: in its own process, or over the bus.
//!
//! Either way it gives [`Order`]s and gets [`Answer`]s, so what is above knows no difference. On the node's side a
//! [`Station`] carries orders out: it fetches what they refer to and drives the node by [`NodeControl`].
//!
//! # Terms
//! Every order carries the term of the controller that gives it, and a station refuses terms lower than the highest it
//! has seen. It need not write that down: when it begins, it takes the term that stands in the store, and a leader
//! writes its term there before it gives its first order. So a node that starts anew refuses whatever was refused before.
//!
//! [`NodeControl`]: tributary_api::control::NodeControl

mod in_hand;
mod order;
mod pulse;
mod remote;
mod report;
mod serving;
mod station;

use async_trait::async_trait;

pub(crate) use order::{Answer, Command, JobOrder, Order, Outcome, Refusal};
pub(crate) use remote::RemoteNode;
pub use report::{NodeReport, Span};
pub use serving::{Beat, serve_node};
pub use station::Station;

/// A way to a node.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// Gives an order and waits until it is carried out.
    async fn give(&self, order: Order) -> Result<Answer, Refusal>;
}

/// The bucket in which nodes show that they live.
pub(crate) const NODES: &str = "nodes";

/// The subject on which a node takes orders.
pub(crate) fn subject(node: &str) -> String {
    format!("nodes.{node}")
}
