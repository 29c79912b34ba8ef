//! Routes descriptors to ports: in the kernel, or in user space.
//!
//! A **port** is one end of a loopback TCP connection whose other end the agent keeps; a worker (or the gateway)
//! sends descriptors on it, 32 bytes each, and receives those that others send to the destinations that are
//! routed to it. The [`Router`] opens ports and says which destination is at which port. What has no route
//! reaches the agent as an [`Arrival`]: that is how an aggregator that does not run yet is activated.
//!
//! ```text
//!    worker ──┐ port 1                    port 2 ┌── worker
//!             │   write [d d d]        read [d]  │
//!          ┌──▼──────────────────────────────────┴──┐
//!          │ sidecar: routes[d.destination] -> port  │   in the kernel (sk_msg + sockhash), or
//!          └──┬──────────────────────────────────▲──┘   in the agent (one task a port)
//!             │ no route, or for the agent       │ deliver()
//!             ▼                                  │
//!           Arrival ───────> agent ──────────────┘
//! ```
//!
//! Two implementations pass one conformance suite (`tests/conformance.rs`): [`RouterKind::Ebpf`] needs
//! `CAP_BPF` and `CAP_NET_ADMIN`, [`RouterKind::Userspace`] needs nothing.
//!
//! # What a port's owner must know
//!
//! - **Write whole descriptors.** Any number of them in one write, up to some thousands; each is routed alone, in
//!   order. A descriptor written in pieces arrives too, but by way of the agent even with the sidecar, and perhaps
//!   after those that were sent later.
//! - **Read multiples of [`Descriptor::BYTES`](tributary_sidecar_layout::Descriptor::BYTES)**, and keep the rest
//!   of a read that is not one: in user space a port is a plain byte stream.
//! - **One writer at a time.** Two threads that write several descriptors each to one port at once may see them
//!   interleaved, as on any stream.
//! - **A blocking read may say [`WouldBlock`](std::io::ErrorKind::WouldBlock)**: with the sidecar the kernel
//!   returns `EAGAIN` to a sleeping reader that is woken and finds nothing. Read again.
//! - **The end of the stream is a read of 0 bytes**, not a hang-up: `poll` reports `POLLIN` (and `POLLRDHUP`), for
//!   `POLLHUP` needs both directions closed.
//! - **A write may fail with [`BrokenPipe`](std::io::ErrorKind::BrokenPipe) although the port is fine**: the
//!   kernel says so when the *target* port ends between verdict and redirect. Nothing of that descriptor was
//!   sent: write it again, and it reaches the agent. This does happen when workers are killed under load.
//!   [`send()`] and [`send_async()`] see to it.
//! - **Nothing pushes back.** Neither router limits what queues up for a port that does not read: slots do.
//!
//! # When a port ends
//!
//! The kernel's map does not keep a socket alive: when the owner's last descriptor of it is closed (the worker
//! exits, or is killed), the port leaves the map by itself, the agent's end reads to the end, and
//! [`Arrival::Closed`] comes as the last arrival of that port. What had been queued for the port and was not read
//! is gone with it; what is sent afterwards is a miss (in user space: as soon as the agent has seen the end; and
//! of an owner that was killed while thousands of its own descriptors waited to be read by the agent, the last are
//! lost, because TCP resets such a connection). The agent then calls [`Router::close_port`], which forgets the
//! routes.
//!
//! `close_port` on a port whose owner lives removes the routes and ends the stream towards the owner, who still
//! reads all that was queued, then end of file; what it sends until it closes its socket is still routed. One gap
//! remains: a descriptor whose sender had been given the route before `close_port` and that is queued only after
//! the owner has read the end is lost with the port, as if the owner had been killed with it unread. So whoever
//! closes a port that others may be sending to must look at the slots afterwards, as after a crash.
//!
//! # What is counted
//!
//! [`Router::snapshot`] is cumulative and exact in both implementations: routes that are removed keep their
//! counts. See `src/ebpf/routes.rs` for how that is done without a race.

#![forbid(unsafe_code)]

mod board;
mod ebpf;
mod error;
mod loopback;
mod reader;
mod sending;
mod snapshot;
mod tally;
mod userspace;

use std::{fmt, net::TcpStream, str::FromStr, sync::Arc};

use tokio::sync::mpsc::UnboundedSender;
use tributary_sidecar_layout::{Descriptor, Destination};

pub use ebpf::probe;
pub use error::Error;
pub use sending::{send, send_async};
pub use snapshot::{HopLatency, SidecarCounters, Snapshot, Traffic};

/// Which router to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The sidecar if it can be loaded, else user space.
    #[default]
    Auto,
    /// The sidecar, or an error.
    Ebpf,
    /// User space.
    Userspace,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "auto" => Ok(Self::Auto),
            "ebpf" => Ok(Self::Ebpf),
            "userspace" => Ok(Self::Userspace),
            _ => Err(format!(
                "{word:?} is no sidecar; it is auto, ebpf or userspace"
            )),
        }
    }
}

/// Which router runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterKind {
    /// The kernel routes.
    Ebpf,
    /// The agent routes.
    Userspace,
}

impl RouterKind {
    /// The word for it in status, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Userspace => "userspace",
        }
    }
}

impl fmt::Display for RouterKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Names a port of one router. Never 0; not given out again while the port is open, nor soon afterwards.
pub type PortId = u32;

/// What reaches the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A descriptor whose destination has no route to an open port, and the port it was sent on.
    Miss(PortId, Descriptor),
    /// A descriptor for the agent itself, and the port it was sent on.
    Doorbell(PortId, Descriptor),
    /// The port's owner has closed its socket. The last arrival of this port, and it comes once.
    Closed(PortId),
}

/// Opens ports, and says which destination is at which port. Nothing here blocks for long.
pub trait Router: Send + Sync {
    /// Who routes.
    fn kind(&self) -> RouterKind;

    /// Opens a port. The socket is its owner's end, in blocking mode and close-on-exec; it may go to another
    /// process. The router keeps no copy of it.
    ///
    /// # Errors
    /// Too many ports, no sockets left, or [`Error::NoRuntime`] outside a tokio runtime.
    fn open_port(&self) -> Result<(PortId, TcpStream), Error>;

    /// Closes a port: removes the routes to it, and ends the stream to its owner, who reads what is queued and
    /// then end of file. Does nothing if it has been called before. See the crate's documentation for what
    /// happens to descriptors on their way.
    fn close_port(&self, port: PortId);

    /// Routes a destination to a port, instead of where it was routed to before. A descriptor that is on its way
    /// arrives at the old port or at the new one.
    ///
    /// # Errors
    /// [`Error::PortClosed`] if the port is not open, [`Error::NotRoutable`] for the agent or no known level.
    fn set_route(&self, destination: Destination, port: PortId) -> Result<(), Error>;

    /// Removes a destination's route, if it has one: what is sent there from now on is a miss.
    ///
    /// # Errors
    /// If the kernel refuses; the route may stand then.
    fn remove_route(&self, destination: Destination) -> Result<(), Error>;

    /// Puts descriptors on a port's receive queue, whatever their destinations and routes. Never blocks.
    ///
    /// # Errors
    /// [`Error::PortClosed`] if the port is not open, [`Error::Deliver`] if it cannot be reached: the descriptors
    /// up to some place in the slice were delivered then.
    fn deliver(&self, port: PortId, descriptors: &[Descriptor]) -> Result<(), Error>;

    /// What happened so far.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    fn snapshot(&self) -> Result<Snapshot, Error>;
}

/// Starts a router. The text says why [`Choice::Auto`] fell back to user space.
///
/// # Errors
/// Only with [`Choice::Ebpf`]: what the sidecar lacks here, in one line.
pub fn start(
    choice: Choice,
    arrivals: UnboundedSender<Arrival>,
) -> Result<(Arc<dyn Router>, Option<String>), Error> {
    if choice == Choice::Userspace {
        return Ok((Arc::new(userspace::UserspaceRouter::new(arrivals)), None));
    }
    match ebpf::EbpfRouter::start(arrivals.clone()) {
        Ok(router) => Ok((Arc::new(router), None)),
        Err(error) if choice == Choice::Auto => Ok((
            Arc::new(userspace::UserspaceRouter::new(arrivals)),
            Some(error.to_string()),
        )),
        Err(error) => Err(error),
    }
}
