//! The switchboard: which ports are open, which destination is at which, and what to do with a descriptor that
//! has reached the agent. Both routers have one. In user space it routes everything; with the sidecar it mirrors
//! the kernel's routes, and routes what the kernel did not: a descriptor in pieces, or one whose route was set
//! while it was on its way to the agent.

use std::{
    collections::HashMap,
    io,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle};
use tracing::debug;
use tributary_sidecar_layout::{
    Descriptor, Destination, Level,
    sidecar::{AGENT_END, PORTS_MAX, ROUTES_MAX},
};

use crate::{Arrival, Error, PortId, Snapshot, tally::Tally};

/// The way to a port's receive queue. Dropping it ends the stream to the port's owner.
pub(crate) trait Outlet: Send + Sync + 'static {
    /// Queues descriptors, in order. Never blocks.
    fn put(&self, descriptors: &[Descriptor]) -> io::Result<()>;

    /// Whether a descriptor that reached the agent is one that `put` could not queue, after all, because its port
    /// had just ended; takes the mark off.
    fn came_back(_: &mut Descriptor) -> bool {
        false
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Board<O> {
    state: RwLock<State<O>>,
    tally: Tally,
    arrivals: UnboundedSender<Arrival>,
}

#[derive(Debug)]
struct State<O> {
    last: PortId,
    ports: HashMap<PortId, Port<O>>,
    routes: HashMap<Destination, PortId>,
}

#[derive(Debug)]
struct Port<O> {
    stage: Stage<O>,
    reader: Option<AbortHandle>,
}

/// A port ends when two things have happened, in either order: its owner has closed the socket, and the agent has
/// called `close_port`. Only then its number is free.
#[derive(Debug)]
enum Stage<O> {
    /// It has a number, but no socket yet.
    Reserved,
    Open(O),
    /// The agent has closed it; the owner still holds the socket.
    Closing,
    /// The owner has closed the socket; the agent has been told.
    Ended,
}

impl<O: Outlet> Board<O> {
    pub(crate) fn new(arrivals: UnboundedSender<Arrival>) -> Self {
        let state = State {
            last: 0,
            ports: HashMap::new(),
            routes: HashMap::new(),
        };
        Self {
            state: RwLock::new(state),
            tally: Tally::default(),
            arrivals,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State<O>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<O>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    // === ports ===

    /// Takes a port number that nobody has: the next after the last one, so that a number comes again only after
    /// two thousand million others.
    pub(crate) fn reserve(&self) -> Result<PortId, Error> {
        let mut state = self.write();
        if state.ports.len() >= PORTS_MAX as usize {
            return Err(Error::TooManyPorts);
        }
        let mut port = state.last;
        loop {
            port = if port + 1 < AGENT_END { port + 1 } else { 1 };
            if !state.ports.contains_key(&port) {
                break;
            }
        }
        state.last = port;
        state.ports.insert(
            port,
            Port {
                stage: Stage::Reserved,
                reader: None,
            },
        );
        Ok(port)
    }

    /// Gives a reserved number back.
    pub(crate) fn release(&self, port: PortId) {
        self.write().ports.remove(&port);
    }

    /// Opens a reserved port. `start` starts its reader, which cannot see the port before it is open.
    pub(crate) fn open(&self, port: PortId, outlet: O, start: impl FnOnce() -> AbortHandle) {
        let mut state = self.write();
        let reader = Some(start());
        state.ports.insert(
            port,
            Port {
                stage: Stage::Open(outlet),
                reader,
            },
        );
    }

    /// Closes a port on the agent's behalf.
    pub(crate) fn close(&self, port: PortId) {
        let mut state = self.write();
        state.routes.retain(|_, at| *at != port);
        match state.ports.get_mut(&port) {
            Some(Port {
                stage: stage @ Stage::Open(_),
                ..
            }) => *stage = Stage::Closing,
            Some(Port {
                stage: Stage::Ended,
                ..
            }) => {
                state.ports.remove(&port);
            }
            Some(Port {
                stage: Stage::Reserved | Stage::Closing,
                ..
            })
            | None => {}
        }
    }

    /// The owner has closed the socket, and all that it had sent was dispatched.
    pub(crate) fn ended(&self, port: PortId) {
        let mut state = self.write();
        match state.ports.get_mut(&port) {
            Some(Port {
                stage: stage @ Stage::Open(_),
                ..
            }) => *stage = Stage::Ended,
            Some(Port {
                stage: Stage::Closing,
                ..
            }) => {
                state.ports.remove(&port);
            }
            Some(Port {
                stage: Stage::Reserved | Stage::Ended,
                ..
            })
            | None => {}
        }
        drop(state);
        self.tell(Arrival::Closed(port));
    }

    /// Stops all readers: the router is gone.
    pub(crate) fn shut(&self) {
        let mut state = self.write();
        for port in state.ports.values() {
            if let Some(reader) = &port.reader {
                reader.abort();
            }
        }
        state.ports.clear();
        state.routes.clear();
    }

    // === routes ===

    /// Checks that a route can be set, so that nothing must be undone after it has been set elsewhere.
    pub(crate) fn check_route(&self, destination: Destination, port: PortId) -> Result<(), Error> {
        self.read().check_route(destination, port)
    }

    pub(crate) fn set_route(&self, destination: Destination, port: PortId) -> Result<(), Error> {
        let mut state = self.write();
        state.check_route(destination, port)?;
        state.routes.insert(destination, port);
        Ok(())
    }

    pub(crate) fn remove_route(&self, destination: Destination) {
        self.write().routes.remove(&destination);
    }

    /// All destinations at a port.
    pub(crate) fn routes_to(&self, port: PortId) -> Vec<Destination> {
        let state = self.read();
        state
            .routes
            .iter()
            .filter(|(_, at)| **at == port)
            .map(|(destination, _)| *destination)
            .collect()
    }

    // === descriptors ===

    /// Does with a descriptor that has reached the agent what must be done.
    pub(crate) fn dispatch(&self, from: PortId, mut descriptor: Descriptor) {
        if O::came_back(&mut descriptor) {
            // To forward it would be to send it to the same port again.
            self.tally.miss();
            return self.tell(Arrival::Miss(from, descriptor));
        }
        let level = match descriptor.to().level() {
            Some(level) if descriptor.is_well_formed() => level,
            _ => return self.malformed(from, &format_args!("{descriptor:?}")),
        };
        if level == Level::Agent {
            self.tally.doorbell();
            return self.tell(Arrival::Doorbell(from, descriptor));
        }
        if self.forward(&descriptor) {
            return self.tally.routed(level, &descriptor);
        }
        self.tally.miss();
        self.tell(Arrival::Miss(from, descriptor));
    }

    /// Puts a descriptor where its route goes; `false` if it has none, or none to an open port.
    fn forward(&self, descriptor: &Descriptor) -> bool {
        let state = self.read();
        let outlet = state
            .routes
            .get(&descriptor.to())
            .and_then(|port| state.outlet(*port));
        outlet.is_some_and(|outlet| outlet.put(std::slice::from_ref(descriptor)).is_ok())
    }

    pub(crate) fn deliver(&self, port: PortId, descriptors: &[Descriptor]) -> Result<(), Error> {
        let state = self.read();
        let outlet = state.outlet(port).ok_or(Error::PortClosed { port })?;
        outlet
            .put(descriptors)
            .map_err(|error| Error::Deliver { port, error })?;
        self.tally.delivered(descriptors.len());
        Ok(())
    }

    /// Counts what cannot be understood. It is dropped: nobody could say whom it is for.
    pub(crate) fn malformed(&self, from: PortId, what: &dyn std::fmt::Debug) {
        self.tally.malformed();
        debug!(port = from, ?what, "dropped what is not a descriptor");
    }

    /// Tells the agent. If it does not listen any more, nobody needs to know.
    fn tell(&self, arrival: Arrival) {
        let _ = self.arrivals.send(arrival);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.read();
        let open = state
            .ports
            .values()
            .filter(|port| matches!(port.stage, Stage::Open(_)));
        Snapshot {
            ports: open.count(),
            routes: state.routes.len(),
            ..self.tally.snapshot()
        }
    }
}

impl<O> State<O> {
    fn check_route(&self, destination: Destination, port: PortId) -> Result<(), Error> {
        if destination
            .level()
            .is_none_or(|level| level == Level::Agent)
        {
            return Err(Error::NotRoutable { destination });
        }
        self.outlet(port).ok_or(Error::PortClosed { port })?;
        if self.routes.len() >= ROUTES_MAX as usize && !self.routes.contains_key(&destination) {
            return Err(Error::TooManyRoutes { destination });
        }
        Ok(())
    }

    fn outlet(&self, port: PortId) -> Option<&O> {
        match &self.ports.get(&port)?.stage {
            Stage::Open(outlet) => Some(outlet),
            Stage::Reserved | Stage::Closing | Stage::Ended => None,
        }
    }
}
