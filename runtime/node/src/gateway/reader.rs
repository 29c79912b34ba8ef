//! A body read with a bound on silence.

use super::body::Source;
use super::refusal::Refusal;
use std::time::Duration;

/// Reads with a bound on silence.
pub(super) struct Reader<'a, S> {
    body: &'a mut S,
    idle: Duration,
    /// Bytes that have come.
    pub(super) received: u64,
}

impl<'a, S: Source> Reader<'a, S> {
    pub(super) fn new(body: &'a mut S, idle: Duration) -> Self {
        Self {
            body,
            idle,
            received: 0,
        }
    }

    /// The body's length, if the client has told.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.length()
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Refusal> {
        let stalled = Refusal::Stalled {
            seconds: self.idle.as_secs_f64(),
            received: self.received,
        };
        match tokio::time::timeout(self.idle, self.body.read(into)).await {
            Err(_) => Err(stalled),
            Ok(Ok(bytes)) => {
                self.received += bytes as u64;
                Ok(bytes)
            }
            // A reset connection, or chunks that make no sense.
            Ok(Err(_)) => Ok(0),
        }
    }

    pub(super) async fn fill(&mut self, into: &mut [u8]) -> Result<(), Refusal> {
        let mut filled = 0;
        while filled < into.len() {
            let bytes = self.read(&mut into[filled..]).await?;
            if bytes == 0 {
                let missing = (into.len() - filled) as u64;
                let expected = self.body.length().unwrap_or(self.received + missing);
                return Err(Refusal::Truncated {
                    received: self.received,
                    expected,
                });
            }
            filled += bytes;
        }
        Ok(())
    }

    /// The body must end where its header says.
    pub(super) async fn expect_end(&mut self) -> Result<(), Refusal> {
        match self.read(&mut [0; 1]).await? {
            0 => self.body.verify(),
            _ => Err(Refusal::Malformed(format!(
                "the body goes on after byte {}, where its safetensors header says it ends",
                self.received - 1
            ))),
        }
    }
}
