//! A router, what reaches its agent, and the owners of its ports.

use std::{
    collections::VecDeque,
    future::Future,
    io::{ErrorKind, Read},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tributary_router::{Arrival, Choice, PortId, Router, RouterKind, send};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};

/// How long to wait for what must come. Only a failure waits that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A router under test.
pub(crate) struct Bench {
    pub(crate) router: Arc<dyn Router>,
    arrivals: UnboundedReceiver<Arrival>,
}

/// Runs a case on a router, in a runtime with two threads.
pub(crate) fn run<F: Future<Output = ()>>(choice: Choice, case: impl FnOnce(Bench) -> F) {
    let (sender, arrivals) = mpsc::unbounded_channel();
    let router = match tributary_router::start(choice, sender) {
        Ok((router, None)) => router,
        Ok((_, Some(reason))) => {
            panic!("a reason to fall back without having asked for one: {reason}")
        }
        Err(error) => return not_run(&error),
    };
    let expected = if choice == Choice::Ebpf {
        RouterKind::Ebpf
    } else {
        RouterKind::Userspace
    };
    assert_eq!(router.kind(), expected);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(case(Bench { router, arrivals }));
}

fn not_run(error: &tributary_router::Error) {
    let required = std::env::var_os("TRIBUTARY_REQUIRE_EBPF").is_some_and(|value| value == "1");
    assert!(!required, "the sidecar must be tested here, but: {error}");
    println!("NOT RUN: {error}");
}

impl Bench {
    /// Opens a port.
    pub(crate) fn port(&self) -> Owner {
        let (id, socket) = self.router.open_port().unwrap();
        Owner::new(id, socket)
    }

    /// Opens a port and routes destinations to it.
    pub(crate) fn port_at(&self, destinations: &[Destination]) -> Owner {
        let owner = self.port();
        for destination in destinations {
            self.router.set_route(*destination, owner.id).unwrap();
        }
        owner
    }

    /// The next thing that reaches the agent.
    pub(crate) async fn arrival(&mut self) -> Arrival {
        tokio::time::timeout(PATIENCE, self.arrivals.recv())
            .await
            .expect("nothing arrived")
            .unwrap()
    }

    /// The next arrival, which must be a miss.
    pub(crate) async fn miss(&mut self) -> (PortId, Descriptor) {
        match self.arrival().await {
            Arrival::Miss(port, descriptor) => (port, descriptor),
            other => panic!("{other:?} instead of a miss"),
        }
    }

    /// What has arrived and was not looked at.
    pub(crate) fn arrived(&mut self) -> Option<Arrival> {
        self.arrivals.try_recv().ok()
    }
}

/// A port's owner.
pub(crate) struct Owner {
    pub(crate) id: PortId,
    pub(crate) socket: TcpStream,
    received: VecDeque<Descriptor>,
    piece: Vec<u8>,
}

impl Owner {
    pub(crate) fn new(id: PortId, socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            id,
            socket,
            received: VecDeque::new(),
            piece: Vec::new(),
        }
    }

    pub(crate) fn send(&self, descriptors: &[Descriptor]) {
        send(&self.socket, descriptors).unwrap();
    }

    /// Waits for one descriptor.
    pub(crate) fn receive(&mut self) -> Descriptor {
        self.try_receive().expect("the port ended")
    }

    /// Waits for `count` descriptors.
    pub(crate) fn receive_all(&mut self, count: usize) -> Vec<Descriptor> {
        (0..count).map(|_| self.receive()).collect()
    }

    /// Waits for a descriptor or the end.
    pub(crate) fn try_receive(&mut self) -> Option<Descriptor> {
        let mut chunk = [0; 64 * Descriptor::BYTES];
        while self.received.is_empty() {
            match self.socket.read(&mut chunk) {
                Ok(0) => return None,
                Ok(bytes) => self.cut(&chunk[..bytes]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("reading port {}: {error}", self.id),
            }
        }
        self.received.pop_front()
    }

    fn cut(&mut self, bytes: &[u8]) {
        self.piece.extend_from_slice(bytes);
        let (whole, rest) = self.piece.as_chunks::<{ Descriptor::BYTES }>();
        self.received
            .extend(whole.iter().map(Descriptor::from_bytes));
        self.piece = rest.to_vec();
    }
}

/// A leaf of job 1.
pub(crate) fn leaf(index: u32) -> Destination {
    Destination::new(1, Level::Leaf, index)
}

/// A descriptor without a time stamp.
pub(crate) fn descriptor(destination: Destination, slot: u32) -> Descriptor {
    Descriptor {
        destination: destination.raw(),
        sent_ns: 0,
        slot,
        generation: slot ^ 0xa5a5_a5a5,
        round: 7,
        kind: Kind::Update as u32,
    }
}

/// Descriptors to one destination, numbered.
pub(crate) fn numbered(destination: Destination, slots: std::ops::Range<u32>) -> Vec<Descriptor> {
    slots.map(|slot| descriptor(destination, slot)).collect()
}

/// The slots, sorted: what was received, each once.
pub(crate) fn slots<'a>(descriptors: impl IntoIterator<Item = &'a Descriptor>) -> Vec<u32> {
    let mut slots: Vec<u32> = descriptors
        .into_iter()
        .map(|descriptor| descriptor.slot)
        .collect();
    slots.sort_unstable();
    slots
}
