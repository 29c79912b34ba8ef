//! Sending on a port, for its owner.

use std::{io, os::fd::AsFd};

use rustix::net::SendFlags;
use tokio::net::TcpStream;
use tributary_sidecar_layout::Descriptor;

/// How often a descriptor is sent again because its target ended meanwhile. Once is enough, unless its route is
/// set to another port that ends in the same microsecond. (Three busy senders to ports that lived for a fifth of a
/// millisecond had to send one descriptor in three thousand again, and none twice.)
const ATTEMPTS_MAX: usize = 16;

/// How many descriptors go into one write: 4 KiB, of which the kernel's message never runs out of fragments, so
/// that none is cut.
const BATCH: usize = 128;

/// Sends descriptors on a port, whole and in order. The socket is one that
/// [`Router::open_port`](crate::Router::open_port) gave, in blocking mode.
///
/// # Errors
/// If the agent is gone ([`BrokenPipe`](io::ErrorKind::BrokenPipe) or
/// [`ConnectionReset`](io::ErrorKind::ConnectionReset)). Never a signal. A target that ends while a descriptor is
/// on its way is no error: the descriptor then goes to the agent.
pub fn send(port: impl AsFd, descriptors: &[Descriptor]) -> io::Result<()> {
    for batch in descriptors.chunks(BATCH) {
        let bytes: Vec<u8> = batch.iter().flat_map(Descriptor::to_bytes).collect();
        send_all(&port, &bytes)?;
    }
    Ok(())
}

/// [`send()`] for a port that its owner has put into non-blocking mode and handed to tokio.
///
/// # Errors
/// As for [`send()`].
pub async fn send_async(port: &TcpStream, descriptors: &[Descriptor]) -> io::Result<()> {
    for batch in descriptors.chunks(BATCH) {
        let bytes: Vec<u8> = batch.iter().flat_map(Descriptor::to_bytes).collect();
        let mut attempt = Attempt::at(&bytes);
        while !attempt.rest.is_empty() {
            port.writable().await?;
            attempt.judge(port.try_write(attempt.rest))?;
        }
    }
    Ok(())
}

fn send_all(port: &impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let mut attempt = Attempt::at(bytes);
    while !attempt.rest.is_empty() {
        let sent = rustix::net::send(port, attempt.rest, SendFlags::NOSIGNAL);
        attempt.judge(sent.map_err(io::Error::from))?;
    }
    Ok(())
}

/// Bytes that are being sent, and how often that failed where it may help to send again.
#[derive(Debug)]
struct Attempt<'a> {
    rest: &'a [u8],
    failures: usize,
}

impl<'a> Attempt<'a> {
    fn at(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            failures: 0,
        }
    }

    /// Takes off what was sent, or says why there is no sense in going on.
    fn judge(&mut self, sent: io::Result<usize>) -> io::Result<()> {
        match sent {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => {
                self.rest = &self.rest[sent..];
                self.failures = 0;
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(()),
                // Said of the target, perhaps, as if it were this connection's end. If it is, it stays so.
                io::ErrorKind::BrokenPipe if self.failures < ATTEMPTS_MAX => {
                    self.failures += 1;
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_is_believed_when_it_stays_broken() {
        let mut attempt = Attempt::at(b"abc");
        let broken = || Err(io::ErrorKind::BrokenPipe.into());
        for _ in 0..ATTEMPTS_MAX {
            attempt.judge(broken()).unwrap();
        }
        attempt.judge(Ok(1)).unwrap();
        assert_eq!(attempt.rest, b"bc");
        for _ in 0..ATTEMPTS_MAX {
            attempt.judge(broken()).unwrap();
        }
        assert_eq!(
            attempt.judge(broken()).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn an_end_is_an_error_and_no_signal() {
        let crate::loopback::Ends { agent, port } = crate::loopback::connect().unwrap();
        drop(agent);
        let one = Descriptor {
            destination: 0,
            sent_ns: 0,
            slot: 0,
            generation: 0,
            round: 0,
            kind: 1,
        };
        let error = (0..10).find_map(|_| send(&port, &[one]).err()).unwrap();
        let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
}
