//! The loaded program and its maps.

use std::{
    net::TcpStream,
    os::fd::{AsRawFd, RawFd},
};

use aya::{
    Ebpf, EbpfError,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, SockHash},
    programs::SkMsg,
};
use tracing::debug;
use tributary_sidecar_layout::sidecar::{
    AGENT_END, HOP_BUCKETS, HOP_LATENCY, HOP_SUM, PORTS, PROGRAM, PortEnd, ROUTE_STATS, ROUTES,
    SIDECAR_STATS, SOCKETS, SidecarStat, connection_key,
};

use super::{refusal, routes::Routes};
use crate::{Error, PortId, SidecarCounters, Snapshot, loopback::Ends};

/// The program as `build.rs` found it; empty if it did not.
static EMBEDDED: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tributary-sidecar"));

/// The program, loaded and attached, until this is dropped.
pub(super) struct Sidecar {
    pub(super) routes: Routes,
    sockets: SockHash<MapData, u32>,
    ports: HashMap<MapData, u64, [u32; 4]>,
    stats: PerCpuArray<MapData, u64>,
    hop_latency: PerCpuArray<MapData, u64>,
    /// Holds the program and its attachment.
    _program: Ebpf,
}

impl Sidecar {
    /// Loads the program and attaches it to its sockhash.
    pub(super) fn load() -> Result<Self, Error> {
        if EMBEDDED.is_empty() {
            return Err(Error::NotBuilt);
        }
        let mut ebpf = Ebpf::load(EMBEDDED).map_err(|error| match error {
            EbpfError::ParseError(error) => Error::Unreadable {
                reason: refusal::one_line(&error),
            },
            error => refusal::explain("creating its maps", &error),
        })?;
        let sockets: SockHash<_, u32> = take(&mut ebpf, SOCKETS)?;
        let target = sockets
            .fd()
            .try_clone()
            .map_err(|error| refusal::explain("reading its maps", &error))?;
        let program = ebpf.program_mut(PROGRAM).ok_or(Error::NotBuilt)?;
        let program: &mut SkMsg = program
            .try_into()
            .map_err(|error| refusal::explain("reading the program", &error))?;
        program
            .load()
            .map_err(|error| refusal::explain("loading the program", &error))?;
        program
            .attach(&target)
            .map_err(|error| refusal::explain("attaching the program", &error))?;
        Ok(Self {
            routes: Routes::new(take(&mut ebpf, ROUTES)?, take(&mut ebpf, ROUTE_STATS)?)?,
            ports: take(&mut ebpf, PORTS)?,
            stats: take(&mut ebpf, SIDECAR_STATS)?,
            hop_latency: take(&mut ebpf, HOP_LATENCY)?,
            sockets,
            _program: ebpf,
        })
    }

    /// Puts both ends of a port into the maps, the port's end last: nothing can be sent on it before.
    pub(super) fn connect(&mut self, connection: &Connection, ends: &Ends) -> Result<(), Error> {
        self.insert(connection, ends)
            .inspect_err(|_| self.disconnect(connection))
    }

    fn insert(&mut self, connection: &Connection, ends: &Ends) -> Result<(), Error> {
        let Connection {
            port,
            port_key,
            agent_key,
        } = *connection;
        for (key, end) in [
            (port_key, PortEnd::port(port)),
            (agent_key, PortEnd::agent(port)),
        ] {
            self.ports
                .insert(key, end.to_words(), 0)
                .map_err(refusal::map(PORTS, "changed"))?;
        }
        for (key, socket) in [(port | AGENT_END, &ends.agent), (port, &ends.port)] {
            let socket: RawFd = socket.as_raw_fd();
            self.sockets
                .insert(key, socket, 0)
                .map_err(refusal::map(SOCKETS, "changed"))?;
        }
        Ok(())
    }

    /// Takes a port out of the maps. Its owner must have closed the port's end, or never have had it: a socket
    /// that leaves the sockhash loses what is in its redirect queue.
    pub(super) fn disconnect(&mut self, connection: &Connection) {
        let Connection {
            port,
            port_key,
            agent_key,
        } = *connection;
        // The kernel has taken out the port's end when it was closed, and what never came in cannot be taken out.
        for key in [port, port | AGENT_END] {
            ignore_missing(SOCKETS, self.sockets.remove(&key));
        }
        for key in [port_key, agent_key] {
            ignore_missing(PORTS, self.ports.remove(&key));
        }
    }

    /// Adds what the program has counted.
    pub(super) fn add_to(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        self.routes.add_to(&mut snapshot.routed)?;
        for (bucket, count) in (0..HOP_BUCKETS).zip(&mut snapshot.hop_latency.buckets) {
            *count += sum(&self.hop_latency, HOP_LATENCY, bucket)?;
        }
        snapshot.hop_latency.sum_ns += sum(&self.hop_latency, HOP_LATENCY, HOP_SUM)?;
        let stat = |stat: SidecarStat| sum(&self.stats, SIDECAR_STATS, stat as u32);
        snapshot.sidecar = Some(SidecarCounters {
            misses: stat(SidecarStat::Misses)?,
            malformed: stat(SidecarStat::Malformed)?,
            agent: stat(SidecarStat::Agent)?,
            split: stat(SidecarStat::Split)?,
            delivered: stat(SidecarStat::Delivered)?,
        });
        Ok(())
    }
}

/// What the program knows a port's connection by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    port: PortId,
    port_key: u64,
    agent_key: u64,
}

impl Connection {
    pub(super) fn of(port: PortId, ends: &Ends) -> Result<Self, Error> {
        let number = |socket: &TcpStream| match socket.local_addr() {
            Ok(address) => Ok(address.port()),
            Err(error) => Err(Error::Connection {
                step: "reading its address",
                error,
            }),
        };
        let (own, agent) = (number(&ends.port)?, number(&ends.agent)?);
        Ok(Self {
            port,
            port_key: connection_key(own, agent),
            agent_key: connection_key(agent, own),
        })
    }
}

/// A map of the program, as what it is.
fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::NotBuilt)?;
    M::try_from(map).map_err(refusal::map(name, "read"))
}

fn sum(map: &PerCpuArray<MapData, u64>, name: &'static str, index: u32) -> Result<u64, Error> {
    Ok(map
        .get(&index, 0)
        .map_err(refusal::map(name, "read"))?
        .iter()
        .sum())
}

fn ignore_missing(map: &'static str, removed: Result<(), MapError>) {
    if let Err(error) = removed {
        debug!(map, %error, "nothing to remove");
    }
}

#[cfg(test)]
impl Sidecar {
    /// The kernel's number of the program.
    pub(super) fn program_id(&self) -> u32 {
        let program = self._program.program(PROGRAM).unwrap();
        program.info().unwrap().id()
    }

    /// How many entries there are for sockets, and for ports.
    pub(super) fn entries(&self) -> (usize, usize) {
        (self.sockets.keys().count(), self.ports.keys().count())
    }
}
