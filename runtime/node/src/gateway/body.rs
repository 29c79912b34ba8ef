//! Where the bytes of an update or a partial come from.

use super::refusal::Refusal;
use axum::body::{Body, Bytes};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A body that is read piece by piece into memory of the reader's choosing.
pub(crate) trait Source: Send {
    /// How often a byte is copied on its way from the kernel's buffer to the reader's memory, the
    /// kernel's own copy included.
    const COPIES: u64;

    /// The body's length, if the client has told.
    fn length(&self) -> Option<u64>;

    /// The head is good: lets the body come, from a client that waits for the word, or from elsewhere. Only then the
    /// length of one that is fetched is known. `idle` is the longest silence.
    fn proceed(&mut self, _idle: Duration) -> impl Future<Output = Result<(), Refusal>> + Send {
        std::future::ready(Ok(()))
    }

    /// Reads some bytes; 0 at the end of the body.
    fn read(&mut self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Whether what has been read, to its end, is what was announced.
    fn verify(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    /// The refusal of what came, told to whom it concerns.
    fn blame(&self, refusal: Refusal) -> Refusal {
        refusal
    }
}

/// The rest of a plaintext HTTP/1.1 request on its own socket.
pub(crate) struct SocketBody<'a> {
    stream: &'a mut TcpStream,
    /// What was read behind the head.
    buffered: &'a mut BytesMut,
    length: u64,
    remaining: u64,
    /// The client waits for the word before it sends the body.
    held_back: bool,
}

impl<'a> SocketBody<'a> {
    pub(crate) fn new(
        stream: &'a mut TcpStream,
        buffered: &'a mut BytesMut,
        length: u64,
        expects_continue: bool,
    ) -> Self {
        Self {
            stream,
            buffered,
            length,
            remaining: length,
            held_back: expects_continue,
        }
    }

    /// The connection, once the body is done with.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        self.stream
    }

    /// Bytes of the body that have not been read.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// True if the client has not been told to send the body.
    pub(crate) fn is_held_back(&self) -> bool {
        self.held_back
    }
}

impl Source for SocketBody<'_> {
    const COPIES: u64 = 1;

    fn length(&self) -> Option<u64> {
        Some(self.length)
    }

    async fn proceed(&mut self, idle: Duration) -> Result<(), Refusal> {
        if std::mem::take(&mut self.held_back) {
            let word = b"HTTP/1.1 100 Continue\r\n\r\n";
            let told = timeout(idle, self.stream.write_all(word)).await;
            let told = told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            told.map_err(|error| Refusal::Malformed(error.to_string()))?;
        }
        Ok(())
    }

    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = if self.buffered.is_empty() {
            self.stream.read(&mut into[..most]).await?
        } else {
            let ready = most.min(self.buffered.len());
            self.buffered.copy_to_slice(&mut into[..ready]);
            ready
        };
        self.remaining -= read as u64;
        Ok(read)
    }
}

/// A body that hyper has read.
pub(crate) struct HyperBody {
    body: Body,
    length: Option<u64>,
    frame: Bytes,
}

impl HyperBody {
    pub(crate) fn new(body: Body, length: Option<u64>) -> Self {
        Self {
            body,
            length,
            frame: Bytes::new(),
        }
    }
}

impl Source for HyperBody {
    const COPIES: u64 = 2;

    fn length(&self) -> Option<u64> {
        self.length
    }

    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.frame.is_empty() {
            match self.body.frame().await {
                None => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(frame)) => self.frame = frame.into_data().unwrap_or_default(),
            }
        }
        let ready = into.len().min(self.frame.len());
        self.frame.copy_to_slice(&mut into[..ready]);
        Ok(ready)
    }
}
