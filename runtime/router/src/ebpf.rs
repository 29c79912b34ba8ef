//! The router with the sidecar: the kernel program in `ebpf/sidecar` routes, inside the sender's `send`.
//!
//! Both ends of every port are in the program's sockhash. What arrives at an end, whether redirected from another
//! port, passed on as a miss or delivered by the agent, comes through that end's one redirect queue; TCP carries
//! only the end of the stream. That is deliberate: had `deliver` used TCP, the receiving socket would have two
//! queues, the kernel would read the redirect queue first, and a descriptor of which TCP had brought one half (a
//! segment's boundary, a full window) would be torn by the next redirected one.
//!
//! # What `sk_msg` does that one would not expect
//!
//! Measured on Linux 6.18; the conformance suite and the self-test hold the router to the cures.
//!
//! | the kernel | so |
//! |---|---|
//! | keeps a redirect's target in the message: a later `SK_PASS` in the same write follows it | the program redirects misses, too: to the agent's end |
//! | frees what stands behind the first descriptor of a corked message when that is redirected, and tells nobody | no corking: pieces go to the agent, who puts them together |
//! | cuts a very long write (17 fragments, about 500 KiB) anywhere | the cut descriptor is one in pieces, see above |
//! | shows the program only the first fragment, and a descriptor may straddle two | the program pulls it together |
//! | says `EPIPE` to the sender when the target ends between verdict and redirect | [`send`](crate::send()) sends again |
//! | may answer a blocking read with `EAGAIN` (by its source; not seen) | owners read again |
//! | drops the redirect queue of a socket that leaves the map | only the kernel takes a port out, when its last descriptor is closed; the agent's end stays in until the agent has read to the end |
//! | takes what the agent sends to a port that has just ended, and loses it | the program returns it to the agent, marked; it is a miss |
//! | gives a removed map entry's memory to the next one at once | the program looks each route up twice |
//! | lost data when a verdict covered a part of a message, up to Linux 6.1 | the self-test, at every start |
//!
//! Nothing is pinned: when the process has ended, however it did, the kernel frees program and maps as soon as the
//! last port's socket is closed. Until then a surviving worker's socket holds them; but that worker reads the end of
//! its port, which its agent's death has closed, and exits.

mod refusal;
mod routes;
mod self_test;
mod sidecar;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::net::SendFlags;
use tokio::{net::tcp::OwnedWriteHalf, sync::mpsc::UnboundedSender};
use tracing::error;
use tributary_sidecar_layout::{Descriptor, Destination, sidecar::UNDELIVERED};

use self::sidecar::{Connection, Sidecar};
use crate::{
    Arrival, Error, PortId, Router, RouterKind, Snapshot,
    board::{Board, Outlet},
    loopback::{self, Ends},
    reader,
};

/// Loads and attaches the sidecar and sends three descriptors through it; leaves nothing behind.
///
/// # Errors
/// What is missing, in one line: see [`Error::NotBuilt`], [`Error::Unreadable`], [`Error::Privileges`],
/// [`Error::Refused`] and [`Error::SelfTest`].
pub fn probe() -> Result<(), Error> {
    self_test::run(&mut Sidecar::load()?)
}

/// See the module.
pub(crate) struct EbpfRouter {
    board: Arc<Board<AgentEnd>>,
    /// Locked before the board, by whoever changes both.
    sidecar: Arc<Mutex<Sidecar>>,
}

/// The agent's end of a port, for sending. Dropping it ends the stream to the owner.
#[derive(Debug)]
struct AgentEnd(OwnedWriteHalf);

impl Outlet for AgentEnd {
    /// The program redirects what is sent here to the port's queue, which has no bound: sending never waits. One
    /// descriptor at a time, because a redirect sticks to the message: had the port ended after the first, the
    /// rest would be redirected to a socket that is gone.
    fn put(&self, descriptors: &[Descriptor]) -> io::Result<()> {
        for descriptor in descriptors {
            let bytes = descriptor.to_bytes();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = rustix::net::send(self.0.as_ref(), &bytes, flags)?;
            if sent != bytes.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    fn came_back(descriptor: &mut Descriptor) -> bool {
        let marked = descriptor.kind & UNDELIVERED != 0;
        descriptor.kind &= !UNDELIVERED;
        marked
    }
}

impl EbpfRouter {
    /// Tests the sidecar with a copy that is thrown away, so that the counters begin at zero, then loads it.
    pub(crate) fn start(arrivals: UnboundedSender<Arrival>) -> Result<Self, Error> {
        probe()?;
        let sidecar = Arc::new(Mutex::new(Sidecar::load()?));
        Ok(Self {
            board: Arc::new(Board::new(arrivals)),
            sidecar,
        })
    }

    fn sidecar(&self) -> MutexGuard<'_, Sidecar> {
        lock(&self.sidecar)
    }

    /// Opens a port whose number is reserved.
    fn open(&self, port: PortId, ends: Ends) -> Result<TcpStream, Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let connection = Connection::of(port, &ends)?;
        self.sidecar().connect(&connection, &ends)?;
        let agent = match reader::register(ends.agent) {
            Ok(agent) => agent,
            Err(error) => {
                self.sidecar().disconnect(&connection);
                return Err(error);
            }
        };
        let (mut receiving, sending) = agent.into_split();
        let (board, sidecar) = (Arc::clone(&self.board), Arc::clone(&self.sidecar));
        self.board.open(port, AgentEnd(sending), || {
            let reader = async move {
                reader::read_to_end(&board, port, &mut receiving).await;
                // Before the agent's end is closed: its address must still be taken.
                lock(&sidecar).disconnect(&connection);
                board.ended(port);
            };
            runtime.spawn(reader).abort_handle()
        });
        Ok(ends.port)
    }
}

fn lock(sidecar: &Mutex<Sidecar>) -> MutexGuard<'_, Sidecar> {
    sidecar.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Router for EbpfRouter {
    fn kind(&self) -> RouterKind {
        RouterKind::Ebpf
    }

    fn open_port(&self) -> Result<(PortId, TcpStream), Error> {
        let ends = loopback::connect()?;
        let port = self.board.reserve()?;
        let socket = self
            .open(port, ends)
            .inspect_err(|_| self.board.release(port))?;
        Ok((port, socket))
    }

    fn close_port(&self, port: PortId) {
        let mut sidecar = self.sidecar();
        for destination in self.board.routes_to(port) {
            if let Err(error) = sidecar.routes.remove(destination) {
                // It then leads to a port that ends, and is a miss as soon as that has.
                error!(port, %destination, %error, "a closed port's route stays");
            }
        }
        self.board.close(port);
    }

    fn set_route(&self, destination: Destination, port: PortId) -> Result<(), Error> {
        let mut sidecar = self.sidecar();
        self.board.check_route(destination, port)?;
        sidecar.routes.set(destination, port)?;
        self.board.set_route(destination, port)
    }

    fn remove_route(&self, destination: Destination) -> Result<(), Error> {
        let mut sidecar = self.sidecar();
        sidecar.routes.remove(destination)?;
        self.board.remove_route(destination);
        Ok(())
    }

    fn deliver(&self, port: PortId, descriptors: &[Descriptor]) -> Result<(), Error> {
        self.board.deliver(port, descriptors)
    }

    fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut snapshot = self.board.snapshot();
        self.sidecar().add_to(&mut snapshot)?;
        Ok(snapshot)
    }
}

impl Drop for EbpfRouter {
    fn drop(&mut self) {
        self.board.shut();
    }
}
