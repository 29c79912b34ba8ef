//! Just enough HTTP/1.1 to send updates and read answers.

use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// A kept connection with at most one request in flight.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    received: Vec<u8>,
    body: Vec<u8>,
}

/// An answer's head.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Bytes before its body.
    head_bytes: usize,
    /// The model's version, if the answer is a model.
    pub version: Option<u64>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Vec::new(),
            received: Vec::new(),
            body: Vec::new(),
        })
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a request whole, in one write.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&mut self, head: std::fmt::Arguments<'_>, body: &[u8]) -> Result<()> {
        self.request.clear();
        write!(self.request, "{head}\r\n\r\n")?;
        self.request.extend_from_slice(body);
        Ok(self.stream.write_all(&self.request)?)
    }

    /// Reads what has arrived; the answer, if it is whole now.
    ///
    /// # Errors
    /// A connection that ends, what is no HTTP, and an answer that says that the server failed.
    pub fn receive(&mut self) -> Result<Option<Answer>> {
        let mut chunk = [0; 16 << 10];
        let bytes = self.stream.read(&mut chunk)?;
        if bytes == 0 {
            bail!("the server closed a connection");
        }
        self.received.extend_from_slice(&chunk[..bytes]);
        let Some((answer, length)) = parse(&self.received)? else {
            return Ok(None);
        };
        if answer.status >= 500 {
            bail!("answer {}", String::from_utf8_lossy(&self.received));
        }
        self.body.clear();
        self.body
            .extend(self.received.drain(..length).skip(answer.head_bytes));
        Ok(Some(answer))
    }

    /// The body of the last answer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn wait(&mut self) -> Result<Answer> {
        loop {
            if let Some(answer) = self.receive()? {
                return Ok(answer);
            }
        }
    }
}

/// The answer at the beginning of `bytes` and its length, body included; `None` while it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(Answer, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok());
    let mut answer = Answer {
        status: status.with_context(|| format!("no status in {head:?}"))?,
        head_bytes: end + 4,
        version: None,
    };
    let mut length = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse()?;
        } else if name.eq_ignore_ascii_case("tributary-version") {
            answer.version = Some(value.parse()?);
        }
    }
    let whole = end + 4 + length;
    Ok((bytes.len() >= whole).then_some((answer, whole)))
}
