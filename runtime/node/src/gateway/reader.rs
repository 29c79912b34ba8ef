//! A body read with a bound on silence and on slowness.

use super::body::Source;
use super::pace::{Credit, Pace};
use super::refusal::Refusal;
use std::time::Instant;
use tokio::time::timeout;

/// Reads a body at the pace that is asked of it.
pub(super) struct Reader<'a, S> {
    body: &'a mut S,
    pace: Pace,
    credit: Credit,
    /// Bytes that have come.
    pub(super) received: u64,
}

impl<'a, S: Source> Reader<'a, S> {
    pub(super) fn new(body: &'a mut S, pace: Pace) -> Self {
        Self {
            body,
            pace,
            credit: Credit::new(pace),
            received: 0,
        }
    }

    /// The body's length, if the client has told.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.length()
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Refusal> {
        let begun = Instant::now();
        let came = timeout(self.credit.next(), self.body.read(into)).await;
        let Ok(came) = came else {
            return Err(self.too_slow());
        };
        // A reset connection, or chunks that make no sense.
        let bytes = came.unwrap_or(0);
        self.credit.book(begun.elapsed(), bytes as u64);
        self.received += bytes as u64;
        Ok(bytes)
    }

    /// Nothing came in time.
    fn too_slow(&self) -> Refusal {
        let waited = self.credit.waited + self.credit.next();
        if self.credit.is_low() {
            Refusal::Slow {
                seconds: waited.as_secs_f64(),
                received: self.received,
                bytes_per_second: self.pace.bytes_per_second,
            }
        } else {
            Refusal::Stalled {
                seconds: self.pace.idle.as_secs_f64(),
                received: self.received,
            }
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
