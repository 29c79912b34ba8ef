//! The node's network door: one listener for updates, models, status and metrics.
//!
//! An update over plaintext HTTP/1.1 is read from its socket straight into its slot ([`connection`],
//! [`ingest`]): the kernel's copy is the only one. Everything else, and updates over HTTP/2 or with
//! chunked bodies, goes through hyper and axum ([`routes`]); there a body is copied a second time. A client on
//! this host may write its update into a slot itself ([`lease`]); nothing is copied then.

mod body;
mod connection;
mod fill;
mod head;
mod ingest;
mod lease;
mod model;
mod one_request;
mod pieces;
mod reader;
mod refusal;
mod routes;
mod told;

use crate::events::Events;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use axum::Router;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::warn;

pub(crate) use refusal::OUTCOMES;

/// What the gateway's handlers share.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub jobs: Arc<Jobs>,
    pub metrics: Arc<Metrics>,
    pub events: Events,
    /// Seeds the digests that tell a repeated body from another one, so that they cannot be aimed at.
    pub digest_seed: u64,
}

/// Routes of the data plane and of other parts of the process.
pub(crate) fn routes(gateway: Gateway, others: Router) -> Router {
    routes::with_fallbacks(routes::routes(gateway).merge(others))
}

/// Serves connections until `stop` says so.
pub(crate) async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Answers are small and must not wait for more.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(connection::serve(stream, peer.ip(), gateway.clone(), routes.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: let some connections end.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = stop.changed() => break,
        }
    }
    connections.shutdown().await;
}
