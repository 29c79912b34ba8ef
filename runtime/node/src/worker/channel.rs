//! The worker's two sockets.

use super::Error;
use crate::protocol::{FromWorker, ToWorker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tributary_sidecar_layout::Descriptor;

/// Takes control socket and port from standard input and output, and puts /dev/null there, so that
/// no stray print can ever write into them.
pub(super) fn inherited() -> io::Result<(Control, Port)> {
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let port = io::stdout().as_fd().try_clone_to_owned()?;
    for socket in [&control, &port] {
        rustix::net::sockopt::socket_type(socket)?;
    }
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let control = Control {
        socket: control,
        buffer: Vec::new(),
        ended: false,
    };
    Ok((
        control,
        Port {
            socket: port,
            partial: Vec::new(),
            ended: false,
        },
    ))
}

/// How long a worker may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// There is work.
    None,
    /// There is something to look after in a while.
    For(Duration),
    /// There is nothing to do before a socket can be read.
    Forever,
}

/// The sockets that can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub control: bool,
    pub port: bool,
}

impl Ready {
    pub(super) const ALL: Self = Self {
        control: true,
        port: true,
    };
}

/// Finds the sockets that can be read or have ended; waits for one as far as there is patience. `None` once
/// the agent has closed a socket.
pub(super) fn wait(
    control: &Control,
    port: &Port,
    patience: Patience,
) -> io::Result<Option<Ready>> {
    if control.ended || port.ended {
        return Ok(None);
    }
    let mut sockets = [
        PollFd::new(&control.socket, PollFlags::IN),
        PollFd::new(&port.socket, PollFlags::IN),
    ];
    let timeout = match patience {
        Patience::None => Some(Timespec::default()),
        Patience::For(pause) => Some(Timespec {
            tv_sec: pause.as_secs() as i64,
            tv_nsec: i64::from(pause.subsec_nanos()),
        }),
        Patience::Forever => None,
    };
    rustix::io::retry_on_intr(|| poll(&mut sockets, timeout.as_ref()))?;
    Ok(Some(Ready {
        control: !sockets[0].revents().is_empty(),
        port: !sockets[1].revents().is_empty(),
    }))
}

/// JSON lines from and to the agent.
pub(super) struct Control {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// The agent has closed it.
    ended: bool,
}

impl Control {
    /// The next message, if a whole one has arrived.
    pub(super) fn next(&mut self) -> Result<Option<ToWorker>, Error> {
        while !self.buffer.contains(&b'\n') {
            if !self.fill(RecvFlags::DONTWAIT)? {
                return Ok(None);
            }
        }
        self.pop()
    }

    /// The next message; waits for it. `None` if the agent closed the socket.
    pub(super) fn next_blocking(&mut self) -> Result<Option<ToWorker>, Error> {
        while !self.buffer.contains(&b'\n') {
            if !self.fill(RecvFlags::empty())? {
                return Ok(None);
            }
        }
        self.pop()
    }

    fn pop(&mut self) -> Result<Option<ToWorker>, Error> {
        let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// False if nothing more is there now.
    fn fill(&mut self, flags: RecvFlags) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut chunk, flags));
        match received {
            Ok((bytes, _)) => {
                self.buffer.extend_from_slice(&chunk[..bytes]);
                self.ended = bytes == 0;
                Ok(bytes > 0)
            }
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn send(&self, message: &FromWorker) -> Result<(), Error> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        Ok(send_all(&self.socket, &line)?)
    }
}

/// Descriptors from and to anywhere on the node.
pub(super) struct Port {
    socket: OwnedFd,
    /// Bytes of a descriptor whose rest has not arrived yet.
    partial: Vec<u8>,
    /// The agent has closed it.
    ended: bool,
}

impl Port {
    /// All descriptors that have arrived; does not wait.
    pub(super) fn receive(&mut self) -> io::Result<Vec<Descriptor>> {
        let mut chunk = [0; 64 * Descriptor::BYTES];
        loop {
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut chunk, RecvFlags::DONTWAIT)
            });
            match received {
                Err(rustix::io::Errno::AGAIN) => break,
                Ok((0, _)) => {
                    self.ended = true;
                    break;
                }
                Ok((bytes, _)) => {
                    self.partial.extend_from_slice(&chunk[..bytes]);
                    if bytes < chunk.len() {
                        // What has come since wakes the worker again.
                        break;
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        let (whole, rest) = self.partial.as_chunks::<{ Descriptor::BYTES }>();
        let descriptors = whole.iter().map(Descriptor::from_bytes).collect();
        self.partial = rest.to_vec();
        Ok(descriptors)
    }

    pub(super) fn send(&self, descriptors: &[Descriptor]) -> io::Result<()> {
        tributary_router::send(&self.socket, descriptors)
    }
}

/// Sends everything; a peer that has gone is an error, never a signal.
fn send_all(socket: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}
