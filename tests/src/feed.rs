//! The event stream, as a client hears it.

use std::io::{BufRead as _, BufReader};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::http::Client;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The events of one job (or of all) from now on.
#[derive(Debug)]
pub struct Feed {
    events: Receiver<Heard>,
}

/// One server-sent event.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Its field `event`.
    pub event: String,
    /// Its field `id`.
    pub id: String,
    /// Its field `data`: a CloudEvent.
    pub data: Value,
}

impl Feed {
    /// Listens at `path`; whatever happens after this returns is heard.
    #[must_use]
    pub fn listen(client: &Client, path: &str) -> Self {
        let lines = BufReader::new(client.stream(path)).lines();
        let (sender, events) = channel();
        // Ends with the stream, which ends with the server.
        std::thread::spawn(move || {
            let mut heard = Heard::default();
            for line in lines.map_while(Result::ok) {
                match line.split_once(':') {
                    Some(("event", event)) => heard.event = event.trim().into(),
                    Some(("id", id)) => heard.id = id.trim().into(),
                    Some(("data", data)) => {
                        heard.data = serde_json::from_str(data).unwrap_or_default();
                    }
                    Some(_) => {}
                    // An empty line ends an event; comments have no data.
                    None if heard.data.is_null() => {}
                    None => {
                        if sender.send(std::mem::take(&mut heard)).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Self { events }
    }

    /// The next event.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn next(&self) -> Heard {
        self.events.recv_timeout(TIMEOUT).expect("an event")
    }

    /// The events up to and including the first of that type.
    ///
    /// # Panics
    /// If none of that type comes.
    #[must_use]
    pub fn through(&self, kind: &str) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            let event = self.next();
            let last = event.event == kind;
            heard.push(event);
            if last {
                return heard;
            }
        }
    }
}
