//! A kept connection that never waits: what has arrived is read when the system says that something has.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, bail};

use crate::client::Head;

/// A connection with at most one request in flight.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    received: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Vec::new(),
            received: Vec::new(),
        })
    }

    pub(super) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a request whole, in one write; small ones fit in the socket.
    pub(super) fn send(&mut self, head: std::fmt::Arguments<'_>, body: &[u8]) -> Result<()> {
        self.request.clear();
        write!(self.request, "{head}\r\n\r\n")?;
        self.request.extend_from_slice(body);
        Ok(self.stream.write_all(&self.request)?)
    }

    /// Reads what has arrived; the answer's head, if all of the answer is there now.
    pub(super) fn receive(&mut self) -> Result<Option<Head>> {
        let mut chunk = [0; 16 << 10];
        let bytes = self.stream.read(&mut chunk)?;
        if bytes == 0 {
            bail!("the server closed a connection");
        }
        self.received.extend_from_slice(&chunk[..bytes]);
        let Some((head, length)) = whole(&self.received)? else {
            return Ok(None);
        };
        if head.status >= 500 {
            bail!("answer {}", String::from_utf8_lossy(&self.received));
        }
        self.received.drain(..length);
        Ok(Some(head))
    }

    /// Waits for the whole answer.
    pub(super) fn wait(&mut self) -> Result<Head> {
        loop {
            if let Some(head) = self.receive()? {
                return Ok(head);
            }
        }
    }
}

/// The answer at the beginning of `bytes` and its length, body included; `None` while it is not whole.
fn whole(bytes: &[u8]) -> Result<Option<(Head, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = Head::parse(&bytes[..end])?;
    let length = end + 4 + usize::try_from(head.length)?;
    Ok((bytes.len() >= length).then_some((head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_when_all_of_it_is_there() {
        let text = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nokHTTP/1.1";
        for length in 0..text.len() - 8 {
            assert_eq!(whole(&text[..length]).unwrap(), None, "{length} bytes");
        }
        let (head, length) = whole(text).unwrap().unwrap();
        assert_eq!((head.status, length), (202, text.len() - 8));
    }
}
