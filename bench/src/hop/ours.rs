//! A descriptor of 32 bytes through the router; the update stays in shared memory.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tributary_router::{Arrival, Choice, Router, send};
use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};

use super::{Hop, read_all, runtime};
use crate::segment::Segment;

/// The slot that tells the receiver to stop.
const STOP: u32 = u32::MAX;

/// Two ports of a router: one sends, one receives and answers.
pub struct Ours {
    name: String,
    sender: TcpStream,
    receiver: Option<JoinHandle<Result<()>>>,
    expected: u32,
    // Dropped last: the router needs its runtime to the end, and what is sent to the agent must not fail.
    _router: Arc<dyn Router>,
    _arrivals: UnboundedReceiver<Arrival>,
    _runtime: tokio::runtime::Runtime,
}

impl Ours {
    /// Starts a router, and a thread that receives.
    ///
    /// # Errors
    /// If the router cannot be started.
    pub fn start(choice: Choice, payload: &Bytes) -> Result<Self> {
        let runtime = runtime()?;
        let (sender, arrivals) = mpsc::unbounded_channel();
        let (router, _) = tributary_router::start(choice, sender)?;
        let entered = runtime.enter();
        let (there, here) = (router.open_port()?, router.open_port()?);
        drop(entered);
        router.set_route(place(0), there.0)?;
        router.set_route(place(1), here.0)?;
        let mut segment = Segment::new(1, payload.len())?;
        segment.fill(0, payload.iter().copied())?;
        let name = format!(
            "Tributary, descriptor by {}",
            match choice {
                Choice::Userspace => "the user-space router",
                Choice::Ebpf | Choice::Auto => "the sidecar",
            }
        );
        let receiver = thread::spawn(move || receive(there.1, &segment));
        Ok(Self {
            name,
            sender: here.1,
            receiver: Some(receiver),
            // The segment is in two parts, whose sums add up to that of the whole: the first is whole words.
            expected: read_all(payload) as u32,
            _router: router,
            _arrivals: arrivals,
            _runtime: runtime,
        })
    }
}

impl Hop for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    fn requests(&mut self, count: usize) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(count);
        for _ in 0..count {
            let started = Instant::now();
            send(&self.sender, &[descriptor(place(0), 0)])?;
            let answer = read(&mut self.sender)?;
            latencies.push(started.elapsed());
            if answer.slot != self.expected {
                bail!("the receiver has read something else");
            }
        }
        Ok(latencies)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // Best effort: if the router is gone, the receiver has seen the end of its stream.
        let _ = send(&self.sender, &[descriptor(place(0), STOP)]);
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
    }
}

/// Reads the update for each descriptor, and answers with its sum.
fn receive(mut port: TcpStream, segment: &Segment) -> Result<()> {
    loop {
        if read(&mut port)?.slot == STOP {
            return Ok(());
        }
        // SAFETY: nobody writes to the segment after it was filled.
        let parts = [0, 1].map(|part| read_all(unsafe { segment.read::<u8>(0, part) }));
        let sum = parts.into_iter().fold(0, u64::wrapping_add);
        send(&port, &[descriptor(place(1), sum as u32)])?;
    }
}

fn read(port: &mut TcpStream) -> Result<Descriptor> {
    let mut bytes = [0; Descriptor::BYTES];
    let mut have = 0;
    while have < bytes.len() {
        match port.read(&mut bytes[have..]) {
            Ok(0) => bail!("the port has ended"),
            Ok(count) => have += count,
            // A sleeping reader may be woken for nothing.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Descriptor::from_bytes(&bytes))
}

fn place(index: u32) -> Destination {
    Destination::new(1, Level::Leaf, index)
}

fn descriptor(to: Destination, slot: u32) -> Descriptor {
    Descriptor {
        destination: to.raw(),
        sent_ns: 0,
        slot,
        generation: 0,
        round: 1,
        kind: Kind::Update as u32,
    }
}
