//! The node's network door: one listener for updates, models, status and metrics.
//!
//! An update over plaintext HTTP/1.1 is read from its socket straight into its slot ([`connection`],
//! [`ingest`]), and so is a partial ([`members`]): the kernel's copy is the only one. Everything else, and bodies over
//! HTTP/2 or in chunks, goes through hyper and axum ([`routes`]); there a body is copied a second time. A client on
//! this host may write its update into a slot itself ([`lease`]); nothing is copied then. And one may say where its
//! update lies ([`reference`]): the gateway fetches it, and reads it as a body.

mod answer;
pub(crate) mod body;
mod connection;
pub(crate) mod door;
pub(crate) mod fetch;
mod fill;
mod guests;
mod head;
mod home;
pub(crate) mod hosts;
pub(crate) mod ingest;
mod lease;
mod members;
mod model;
mod one_request;
mod pace;
mod pieces;
mod query;
mod reader;
pub(crate) mod reference;
mod refusal;
mod routes;
pub(crate) mod stage;
mod told;

use crate::events::Events;
use crate::job::Job;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::peers::{self, Peers};
use axum::Router;
use fetch::Fetcher;
use stage::Stages;
use std::sync::Arc;
use tracing::debug;
use tributary_api::Name;

pub(crate) use refusal::{OUTCOMES, Refusal, is_rejection};

/// What the gateway's handlers share.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub jobs: Arc<Jobs>,
    pub metrics: Arc<Metrics>,
    pub events: Events,
    /// Seeds the digests that tell a repeated body from another one, so that they cannot be aimed at.
    pub digest_seed: u64,
    /// The gateways of other nodes.
    pub peers: Peers,
    /// Fetches what clients refer to.
    pub fetcher: Arc<Fetcher>,
    /// Where bodies wait for a slot.
    pub stages: Arc<Stages>,
}

impl Gateway {
    /// Fetches a newer model from a member that has one.
    fn catch_up(&self, job: &Arc<Job>, node: &Name) {
        let placement = job.placement();
        let Some((placement, url)) = placement.and_then(|placement| {
            let url = placement.member(node.as_str())?.url.clone();
            Some((placement, url))
        }) else {
            return;
        };
        let (job, peer) = (
            job.clone(),
            self.peers.at(&url, &job.name, &job.node, &placement.secret),
        );
        tokio::spawn(async move {
            let fetched = tokio::select! {
                fetched = peers::fetch(&job, &peer) => fetched,
                () = job.ended() => return,
            };
            if let Err(error) = fetched {
                // Its next report brings us here again.
                debug!(job = %job.name, %error, "a member's newer model was not fetched");
            }
        });
    }
}

/// Routes of the data plane and of other parts of the process.
pub(crate) fn routes(gateway: Gateway, others: Router) -> Router {
    routes::with_fallbacks(routes::routes(gateway).merge(pace::bounded(others)))
}
