//! What a stream of a NATS server holds, asked for over a plain connection: a foreign program sees the same.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The messages that a stream holds on a subject, in their order; `None` if the server does not tell.
#[must_use]
pub fn messages(port: u16, stream: &str, subject: &str) -> Option<Vec<Value>> {
    let mut connection = Connection::open(port)?;
    let (mut messages, mut after) = (Vec::new(), 0_u64);
    loop {
        let request = json!({ "seq": after + 1, "next_by_subj": subject });
        let answer = connection.ask(&format!("$JS.API.STREAM.MSG.GET.{stream}"), &request)?;
        let Some(message) = answer.get("message") else {
            // No message found: that was all. Anything else is no answer.
            return (answer["error"]["code"] == 404).then_some(messages);
        };
        after = message["seq"].as_u64()?;
        let data = STANDARD.decode(message["data"].as_str()?).ok()?;
        messages.push(serde_json::from_slice(&data).ok()?);
    }
}

/// The number of messages that a stream holds; `None` if the server does not tell.
#[must_use]
pub fn held(port: u16, stream: &str) -> Option<u64> {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = Connection::open(port)?.ask(&subject, &json!({}))?;
    answer["state"]["messages"].as_u64()
}

/// The number of requests that have ever been made to JetStream; `None` if the server does not tell.
#[must_use]
pub fn requests(port: u16) -> Option<u64> {
    let answer = Connection::open(port)?.ask("$JS.API.INFO", &json!({}))?;
    answer["api"]["total"].as_u64()
}

struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut connection = Self {
            stream: BufReader::new(stream),
        };
        connection.tell("CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB answers 1\r\n")?;
        Some(connection)
    }

    fn tell(&mut self, text: &str) -> Option<()> {
        self.stream.get_mut().write_all(text.as_bytes()).ok()
    }

    fn ask(&mut self, subject: &str, request: &Value) -> Option<Value> {
        let request = request.to_string();
        self.tell(&format!(
            "PUB {subject} answers {}\r\n{request}\r\n",
            request.len()
        ))?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.starts_with("PING") {
                self.tell("PONG\r\n")?;
            }
            if line.starts_with("MSG") {
                let mut answer = String::new();
                self.stream.read_line(&mut answer).ok()?;
                return serde_json::from_str(&answer).ok();
            }
        }
    }
}
