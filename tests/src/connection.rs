//! A connection by hand, for what no library would send, and for many requests on one socket.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::http::Answer;

const TIMEOUT: Duration = Duration::from_secs(60);
const HEADERS_MAX: usize = 64;

/// A socket to a server, and what was read from it beyond the last answer.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket's option");
        stream
            .set_read_timeout(Some(TIMEOUT))
            .expect("a socket's option");
        stream
            .set_write_timeout(Some(TIMEOUT))
            .expect("a socket's option");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the server does not take them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server reads");
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The server has closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends the head of a PUT.
    pub fn send_head(&mut self, path: &str, headers: &[&str]) {
        let mut head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head.as_bytes());
    }

    /// Puts a body whose length is told, and reads the answer.
    #[must_use]
    #[track_caller]
    pub fn put(&mut self, path: &str, body: &[u8]) -> Answer {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // In one piece, as clients do it with small bodies.
        self.send(&[head.as_bytes(), body].concat());
        self.answer()
    }

    /// Fetches, and reads the answer.
    #[must_use]
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        self.answer()
    }

    /// Sends a request whose body is empty, and reads the answer.
    #[must_use]
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str) -> Answer {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        self.send(head.as_bytes());
        self.answer()
    }

    /// Ends the sending half: the server sees the end of the body.
    pub fn finish(&self) {
        // The server may have closed already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads the next answer.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        match self.try_answer() {
            Ok(answer) => answer,
            Err(error) => panic!(
                "no answer: {error}; received {:?}",
                String::from_utf8_lossy(&self.buffer)
            ),
        }
    }

    /// Reads the next answer, which may be an interim one.
    ///
    /// # Errors
    /// The connection ended before it.
    pub fn try_answer(&mut self) -> io::Result<Answer> {
        let (mut answer, length) = loop {
            if let Some((head_bytes, answer)) = head(&self.buffer)? {
                self.buffer.drain(..head_bytes);
                let length = answer
                    .header("content-length")
                    .and_then(|length| length.parse::<usize>().ok());
                break (answer, length);
            }
            self.fill()?;
        };
        let bodiless = answer.status < 200 || matches!(answer.status, 204 | 304);
        answer.body = match length {
            _ if bodiless => Vec::new(),
            Some(length) => self.take(length)?,
            None if answer.header("transfer-encoding") == Some("chunked") => self.chunks()?,
            None => self.rest()?,
        };
        Ok(answer)
    }

    /// True if no byte comes for so long. What is true sometimes is no proof; what is false is.
    ///
    /// # Panics
    /// If the socket has no time-outs.
    #[must_use]
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream
            .set_read_timeout(Some(time))
            .expect("a socket's option");
        let read = self.fill();
        self.stream
            .set_read_timeout(Some(TIMEOUT))
            .expect("a socket's option");
        let silent = |error: io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            )
        };
        read.is_err_and(silent)
    }

    /// True once the server has closed the connection; waits for it.
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        self.rest().is_ok_and(|rest| rest.is_empty())
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                    break self.take(end + 2)?;
                }
                self.fill()?;
            };
            let text = String::from_utf8_lossy(&line);
            let bytes = usize::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.take(bytes)?);
            self.take(2)?;
            if bytes == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            self.fill()?;
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.buffer);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut piece = vec![0; 64 << 10];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(())
            }
        }
    }
}

fn head(bytes: &[u8]) -> io::Result<Option<(usize, Answer)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(bytes).map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    let headers = response.headers.iter().map(|header| {
        (
            header.name.to_ascii_lowercase(),
            String::from_utf8_lossy(header.value).into_owned(),
        )
    });
    let (status, headers) = (response.code.unwrap_or_default(), headers.collect());
    Ok(Some((
        head_bytes,
        Answer {
            status,
            headers,
            body: Vec::new(),
        },
    )))
}
