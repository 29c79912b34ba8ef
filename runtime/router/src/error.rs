//! What can go wrong in a router.

use std::io;

use tributary_sidecar_layout::{
    Destination,
    sidecar::{PORTS_MAX, ROUTES_MAX},
};

use crate::PortId;

/// What can go wrong in a router. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel program is not in this binary.
    #[error(
        "this binary was built without the sidecar program; `cargo xtask build` builds both in the right order"
    )]
    NotBuilt,

    /// What is in this binary is no kernel program.
    #[error(
        "the sidecar program in this binary cannot be read: {reason}; build it anew with `cargo xtask build`"
    )]
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },

    /// The process may not load the program.
    #[error(
        "loading the sidecar needs CAP_BPF and CAP_NET_ADMIN, and this process lacks {missing}; run it as root, \
         or give it these capabilities"
    )]
    Privileges {
        /// The capabilities, joined by "and".
        missing: String,
    },

    /// The kernel does not take the program.
    #[error("the kernel ({release}) refuses the sidecar at {step}: {reason}{hint}")]
    Refused {
        /// `uname -r`.
        release: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        reason: String,
        /// What that may mean; empty, or begins with a separator.
        hint: &'static str,
    },

    /// The kernel takes the program, but does not do what it says.
    #[error(
        "the kernel ({release}) runs the sidecar, but does not route with it: {reason}; use Linux 6.2 or newer"
    )]
    SelfTest {
        /// `uname -r`.
        release: String,
        /// What came out of the test.
        reason: String,
    },

    /// A port's connection could not be made.
    #[error("cannot open a port: {step}: {error}")]
    Connection {
        /// What was being done.
        step: &'static str,
        /// Why not.
        error: io::Error,
    },

    /// A port was opened outside a tokio runtime.
    #[error("cannot open a port outside a tokio runtime")]
    NoRuntime,

    /// The bound on open ports is reached.
    #[error("cannot open a port: {PORTS_MAX} are open, which is the limit")]
    TooManyPorts,

    /// The bound on routes is reached.
    #[error("cannot route {destination}: {ROUTES_MAX} routes are set, which is the limit")]
    TooManyRoutes {
        /// The destination.
        destination: Destination,
    },

    /// There is no such port, or it has ended.
    #[error("port {port} is not open")]
    PortClosed {
        /// The port.
        port: PortId,
    },

    /// A destination that cannot have a route.
    #[error("{destination} cannot be routed to a port: only leaf, middle and top can")]
    NotRoutable {
        /// The destination.
        destination: Destination,
    },

    /// The port's receive queue could not be reached.
    #[error("cannot deliver to port {port}: {error}")]
    Deliver {
        /// The port.
        port: PortId,
        /// Why not.
        error: io::Error,
    },

    /// The kernel refused to change or show a map.
    #[error("the sidecar's map {map} cannot be {action}: {reason}")]
    Map {
        /// Its name.
        map: &'static str,
        /// "read" or "changed".
        action: &'static str,
        /// What the kernel said.
        reason: String,
    },
}
