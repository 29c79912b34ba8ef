//! The router without a sidecar: the agent reads every descriptor and writes it to its target's port.
//!
//! Each port has two tasks: one reads what the owner sends and looks up the routes, the other writes what is
//! queued for the owner. A queue has no bound of its own (the slots are the credits), and nothing waits for a
//! port that does not read.

use std::{io, net::TcpStream, sync::Arc};

use tokio::{
    io::AsyncWriteExt,
    net::tcp::OwnedWriteHalf,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use tracing::debug;
use tributary_sidecar_layout::{Descriptor, Destination};

use crate::{
    Arrival, Error, PortId, Router, RouterKind, Snapshot,
    board::{Board, Outlet},
    loopback, reader,
};

/// How many descriptors go into one write.
const BATCH: usize = 128;

/// See the module.
#[derive(Debug)]
pub(crate) struct UserspaceRouter {
    board: Arc<Board<Queue>>,
}

/// What waits for a port's owner.
#[derive(Debug)]
struct Queue(UnboundedSender<Descriptor>);

impl Outlet for Queue {
    fn put(&self, descriptors: &[Descriptor]) -> io::Result<()> {
        let put = |descriptor: &Descriptor| self.0.send(*descriptor);
        descriptors
            .iter()
            .try_for_each(put)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl UserspaceRouter {
    pub(crate) fn new(arrivals: UnboundedSender<Arrival>) -> Self {
        Self {
            board: Arc::new(Board::new(arrivals)),
        }
    }
}

impl Router for UserspaceRouter {
    fn kind(&self) -> RouterKind {
        RouterKind::Userspace
    }

    fn open_port(&self) -> Result<(PortId, TcpStream), Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let ends = loopback::connect()?;
        let (mut receiving, sending) = reader::register(ends.agent)?.into_split();
        let port = self.board.reserve()?;
        let (queue, queued) = mpsc::unbounded_channel();
        let board = Arc::clone(&self.board);
        self.board.open(port, Queue(queue), || {
            runtime.spawn(write(port, queued, sending));
            let reader = async move {
                reader::read_to_end(&board, port, &mut receiving).await;
                board.ended(port);
            };
            runtime.spawn(reader).abort_handle()
        });
        Ok((port, ends.port))
    }

    fn close_port(&self, port: PortId) {
        self.board.close(port);
    }

    fn set_route(&self, destination: Destination, port: PortId) -> Result<(), Error> {
        self.board.set_route(destination, port)
    }

    fn remove_route(&self, destination: Destination) -> Result<(), Error> {
        self.board.remove_route(destination);
        Ok(())
    }

    fn deliver(&self, port: PortId, descriptors: &[Descriptor]) -> Result<(), Error> {
        self.board.deliver(port, descriptors)
    }

    fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(self.board.snapshot())
    }
}

impl Drop for UserspaceRouter {
    fn drop(&mut self) {
        self.board.shut();
    }
}

/// Writes what is queued until nobody can queue any more, then ends the stream (the half does so when dropped).
async fn write(
    port: PortId,
    mut queued: UnboundedReceiver<Descriptor>,
    mut sending: OwnedWriteHalf,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        let bytes: Vec<u8> = batch
            .drain(..)
            .flat_map(|descriptor| descriptor.to_bytes())
            .collect();
        if let Err(error) = sending.write_all(&bytes).await {
            // Its owner is gone with descriptors unread. The reader tells the agent.
            debug!(port, %error, "cannot write to a port");
            return;
        }
    }
}
