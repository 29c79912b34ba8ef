//! The agent's and gateway's own port: descriptors that they send go the way of everybody's.

use std::io;
use std::net::TcpStream;
use tokio::sync::mpsc;
use tracing::error;
use tributary_sidecar_layout::Descriptor;

/// Descriptors in one write; each is routed alone.
const BATCH: usize = 64;

/// A cheap handle; sending never waits. What is queued is bounded by the arena's slots.
#[derive(Clone, Debug)]
pub(crate) struct Outbox(mpsc::UnboundedSender<Descriptor>);

impl Outbox {
    /// Starts the writer on a port's socket: a thread of its own, because the socket blocks.
    pub(crate) fn start(port: TcpStream) -> io::Result<Self> {
        let (sender, mut queue) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("outbox".into()).spawn(move || {
            let mut batch = Vec::with_capacity(BATCH);
            while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
                if let Err(error) = tributary_router::send(&port, &batch) {
                    error!(%error, "the agent's port is broken; no descriptor can be sent any more");
                    return;
                }
                batch.clear();
            }
        })?;
        Ok(Self(sender))
    }

    pub(crate) fn send(&self, descriptors: impl IntoIterator<Item = Descriptor>) {
        for descriptor in descriptors {
            // The writer ends only with the node, or after it has said why.
            let _ = self.0.send(descriptor);
        }
    }
}
