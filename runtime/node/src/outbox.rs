//! The agent's and gateway's own port: descriptors that they send go the way of everybody's.
//!
//! Whoever has something to send writes it himself, with whatever others have queued meanwhile: a thread
//! between would cost each update two changes of thread, and its fold the time that they take. Only what
//! might block, a long queue or a full socket, is left to a thread.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use tributary_sidecar_layout::Descriptor;

/// Descriptors that a sender writes himself, in one write: 2 KiB, for which a writable socket has room.
const BATCH: usize = 64;

/// A cheap handle; sending never waits. What is queued is bounded by the arena's slots.
#[derive(Clone, Debug)]
pub(crate) struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    port: TcpStream,
    queue: Mutex<Queue>,
    /// Wakes the thread, which then is the writer.
    thread: mpsc::Sender<()>,
    /// Hears that the port has failed.
    broken: Broken,
}

/// Hears that the port has failed: without it no round gets on.
type Broken = fn(&io::Error);

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Descriptor>,
    /// Somebody writes, and goes on until nothing waits.
    has_writer: bool,
    /// The port has failed.
    broken: bool,
}

impl Outbox {
    /// Takes a port's socket, which blocks, and starts the thread for what must.
    ///
    /// `broken` is called, once, when the port fails.
    pub(crate) fn start(port: TcpStream, broken: Broken) -> io::Result<Self> {
        let (thread, wakes) = mpsc::channel();
        let shared = Arc::new(Shared {
            port,
            queue: Mutex::default(),
            thread,
            broken,
        });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("outbox".into())
            .spawn(move || {
                while let Some(shared) = wakes.recv().ok().and_then(|()| weak.upgrade()) {
                    shared.write(|_| true);
                }
            })?;
        Ok(Self(shared))
    }

    pub(crate) fn send(&self, descriptors: impl IntoIterator<Item = Descriptor>) {
        let mut queue = self.0.queue();
        if queue.broken {
            return;
        }
        queue.waiting.extend(descriptors);
        if queue.waiting.is_empty() || std::mem::replace(&mut queue.has_writer, true) {
            return;
        }
        drop(queue);
        let shared = &self.0;
        let all = shared.write(|batch| batch.len() <= BATCH && shared.is_writable());
        if !all {
            // The thread ends only with the node.
            let _ = shared.thread.send(());
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A queue of descriptors is whole after every operation.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, for the one writer, as long as `may` says so; true if nothing is left and
    /// nobody writes any more.
    fn write(&self, may: impl Fn(&[Descriptor]) -> bool) -> bool {
        let mut batch = Vec::new();
        loop {
            let mut queue = self.queue();
            if queue.waiting.is_empty() {
                queue.has_writer = false;
                return true;
            }
            if !may(&queue.waiting) {
                return false;
            }
            batch.clear();
            std::mem::swap(&mut batch, &mut queue.waiting);
            drop(queue);
            if let Err(error) = tributary_router::send(&self.port, &batch) {
                let mut queue = self.queue();
                (queue.broken, queue.waiting) = (true, Vec::new());
                drop(queue);
                (self.broken)(&error);
                return true;
            }
        }
    }

    fn is_writable(&self) -> bool {
        let mut port = [PollFd::new(&self.port, PollFlags::OUT)];
        let ready = poll(&mut port, Some(&Timespec::default()));
        ready.is_ok() && port[0].revents().contains(PollFlags::OUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{Shutdown, TcpListener};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn descriptor(slot: u32) -> Descriptor {
        Descriptor {
            destination: 1,
            sent_ns: 2,
            slot,
            generation: 3,
            round: 4,
            kind: 1,
        }
    }

    /// More than the socket takes, from many sides, before anybody reads: nobody waits, nothing is lost.
    #[test]
    fn all_arrives_and_nobody_waits() {
        const SENDERS: u32 = 8;
        const EACH: u32 = 40_000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        let outbox = Outbox::start(port, |error| panic!("{error}")).unwrap();
        std::thread::scope(|scope| {
            for sender in 0..SENDERS {
                let outbox = &outbox;
                let own = sender * EACH..(sender + 1) * EACH;
                scope.spawn(move || own.for_each(|slot| outbox.send([descriptor(slot)])));
            }
        });
        let mut seen = vec![false; (SENDERS * EACH) as usize];
        let mut bytes = [0; Descriptor::BYTES];
        for _ in 0..seen.len() {
            reader.read_exact(&mut bytes).unwrap();
            let slot = Descriptor::from_bytes(&bytes).slot as usize;
            assert!(
                !std::mem::replace(&mut seen[slot], true),
                "{slot} came twice"
            );
        }
    }

    /// A node whose descriptors go nowhere must not go on as if nothing were.
    #[test]
    fn a_broken_port_is_told_once() {
        static TOLD: AtomicU32 = AtomicU32::new(0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        port.shutdown(Shutdown::Write).unwrap();
        let broken = |_: &io::Error| {
            TOLD.fetch_add(1, Ordering::Relaxed);
        };
        let outbox = Outbox::start(port, broken).unwrap();
        outbox.send([descriptor(0)]);
        outbox.send([descriptor(1)]);
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);
    }
}
