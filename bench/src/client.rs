//! A client that costs as little as a client can: one blocking socket, HTTP/1.1, bodies straight from where they lie.

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Longer than anything a benchmark waits for.
const PATIENCE: Duration = Duration::from_secs(300);
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Where to send it instead, if the answer says so.
    pub location: Option<String>,
}

impl Answer {
    /// The same answer, if it is a success.
    ///
    /// # Errors
    /// If it is none: with what it says.
    pub fn success(self) -> Result<Self> {
        if !(200..300).contains(&self.status) {
            bail!("{}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(self)
    }
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

/// The head of an answer whose body has not been read.
#[derive(Debug)]
pub struct Begun<'a> {
    connection: &'a mut Connection,
    /// The status code.
    pub status: u16,
    /// When its first byte was read.
    pub first_byte: Instant,
    /// Bytes of the body.
    pub length: u64,
    location: Option<String>,
    /// What was read of the body together with the head.
    rest: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the network says.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Sends a request whose body lies in pieces in memory, and reads the answer.
    ///
    /// # Errors
    /// What the network says, or an answer that is no HTTP.
    pub fn send(&mut self, method: &str, path: &str, pieces: &[&[u8]]) -> Result<Answer> {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let head = head(method, path, length);
        let all: Vec<&[u8]> = [head.as_bytes()]
            .into_iter()
            .chain(pieces.iter().copied())
            .collect();
        write_all(&mut self.stream, &all).with_context(|| format!("{method} {path}"))?;
        self.begin()
            .with_context(|| format!("{method} {path}"))?
            .finish()
    }

    /// Sends a request whose body `write` makes as it goes: exactly `length` bytes.
    ///
    /// # Errors
    /// What the network says, or an answer that is no HTTP.
    pub fn send_made(
        &mut self,
        method: &str,
        path: &str,
        length: u64,
        write: impl FnOnce(&mut TcpStream) -> Result<()>,
    ) -> Result<Answer> {
        self.stream
            .write_all(head(method, path, length).as_bytes())?;
        // An answer before the body's end says why the rest is not wanted.
        let written = write(&mut self.stream);
        match self.begin() {
            Ok(begun) => begun.finish(),
            Err(error) => Err(written.err().unwrap_or(error)),
        }
    }

    /// Fetches.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.send("GET", path, &[])
    }

    /// Fetches up to the answer's head, without its body.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub fn get_begun(&mut self, path: &str) -> Result<Begun<'_>> {
        self.stream.write_all(head("GET", path, 0).as_bytes())?;
        self.begin().with_context(|| format!("GET {path}"))
    }

    fn begin(&mut self) -> Result<Begun<'_>> {
        let mut read = Vec::with_capacity(HEAD_BYTES_MAX);
        let mut chunk = [0; 4096];
        let mut first_byte = None;
        let end = loop {
            let count = self.stream.read(&mut chunk)?;
            first_byte.get_or_insert_with(Instant::now);
            if count == 0 || read.len() > HEAD_BYTES_MAX {
                bail!("the answer ended in its head, after {} bytes", read.len());
            }
            read.extend_from_slice(&chunk[..count]);
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let Head { status, length, .. } = Head::parse(&read[..end])?;
        Ok(Begun {
            connection: self,
            status,
            first_byte: first_byte.context("nothing was read")?,
            length,
            location: location(&read[..end]),
            rest: read.split_off(end),
        })
    }
}

impl Begun<'_> {
    /// Reads the body.
    ///
    /// # Errors
    /// If it breaks off.
    pub fn finish(mut self) -> Result<Answer> {
        let read = self.rest.len();
        let length = usize::try_from(self.length)?;
        self.rest.resize(length.max(read), 0);
        self.connection
            .stream
            .read_exact(&mut self.rest[read..])
            .context("the answer's body")?;
        Ok(Answer {
            status: self.status,
            body: self.rest,
            location: self.location,
        })
    }

    /// The body, to be read as far as it is wanted; the connection is of no use if that is not to its end.
    pub fn body(&mut self) -> impl Read + '_ {
        let rest = std::mem::take(&mut self.rest);
        let left = self.length.saturating_sub(rest.len() as u64);
        std::io::Cursor::new(rest).chain((&mut self.connection.stream).take(left))
    }

    /// Reads the body and throws it away.
    ///
    /// # Errors
    /// If it breaks off.
    pub fn discard(self) -> Result<()> {
        let mut left = self.length.saturating_sub(self.rest.len() as u64);
        let mut chunk = vec![0; 1 << 20];
        while left > 0 {
            let most = usize::try_from(left.min(chunk.len() as u64))?;
            let count = self.connection.stream.read(&mut chunk[..most])?;
            if count == 0 {
                bail!("the body broke off {left} bytes before its end");
            }
            left -= count as u64;
        }
        Ok(())
    }
}

fn head(method: &str, path: &str, length: u64) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
}

/// Where an answer sends the request.
fn location(head: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(head).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, place) = fields.find(|(name, _)| name.eq_ignore_ascii_case("location"))?;
    Some(place.trim().to_owned())
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Bytes of the body.
    pub(crate) length: u64,
    /// The model's version, if the body is a model.
    pub(crate) version: Option<u64>,
}

impl Head {
    /// Reads a head, up to the body or shorter.
    pub(crate) fn parse(head: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(head).context("the answer's head")?;
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status
            .and_then(|status| status.parse().ok())
            .with_context(|| format!("no status in {text:?}"))?;
        let mut head = Self {
            status,
            length: 0,
            version: None,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let number = value.trim().parse().ok();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = number.unwrap_or(head.length);
            } else if name.eq_ignore_ascii_case("tributary-version") {
                head.version = number;
            }
        }
        Ok(head)
    }
}

/// Writes pieces one after the other, with as few calls as can be.
///
/// # Errors
/// What the network says.
pub fn write_all(stream: &mut impl Write, pieces: &[&[u8]]) -> Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = slices.as_mut_slice();
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match stream.write_vectored(left) {
            Ok(0) => bail!("the connection takes no more bytes"),
            Ok(count) => IoSlice::advance_slices(&mut left, count),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn heads_say_status_length_and_version() {
        let head = |status, length, version| Head {
            status,
            length,
            version,
        };
        let text = b"HTTP/1.1 202 Accepted\r\ncontent-length: 85\r\n\r\n";
        assert_eq!(Head::parse(text).unwrap(), head(202, 85, None));
        let text = b"HTTP/1.1 200 OK\r\nTributary-Version: 7\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(Head::parse(text).unwrap(), head(200, 9, Some(7)));
        let text = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(Head::parse(text).unwrap(), head(204, 0, None));
        assert!(Head::parse(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_way_is_told() {
        let head = b"HTTP/1.1 307 Elsewhere\r\nLocation: http://10.0.0.1:8470/v1\r\n\r\n";
        assert_eq!(location(head).unwrap(), "http://10.0.0.1:8470/v1");
        assert_eq!(location(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }

    #[test]
    fn a_request_is_answered_over_a_kept_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            for answer in [
                "HTTP/1.1 202 A\r\nContent-Length: 2\r\n\r\nok",
                "HTTP/1.1 204 N\r\n\r\n",
            ] {
                let mut chunk = [0; 1024];
                while !heard.ends_with(b"end") {
                    let count = stream.read(&mut chunk).unwrap();
                    heard.extend_from_slice(&chunk[..count]);
                }
                heard.push(b'\n');
                stream.write_all(answer.as_bytes()).unwrap();
            }
            String::from_utf8(heard).unwrap()
        });
        let mut connection = Connection::open(address).unwrap();
        let first = connection
            .send("PUT", "/a", &[b"", b"the ", b"end"])
            .unwrap();
        assert_eq!(
            (first.status, first.body.as_slice()),
            (202, b"ok".as_slice())
        );
        let made = |stream: &mut TcpStream| Ok(stream.write_all(b"end")?);
        let second = connection.send_made("PUT", "/b", 3, made).unwrap();
        assert_eq!(second.success().unwrap().body, b"");
        let heard = server.join().unwrap();
        assert!(heard.starts_with("PUT /a HTTP/1.1\r\n"), "{heard}");
        assert!(
            heard.contains("Content-Length: 7\r\n\r\nthe end\nPUT /b"),
            "{heard}"
        );
    }
}
