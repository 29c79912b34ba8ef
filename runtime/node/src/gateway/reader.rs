//! A body read with a bound on silence and on slowness.

use super::body::Source;
use super::pace::{Credit, Pace};
use super::refusal::Refusal;
use super::stage::Stage;
use crate::job::{Filler, Seat};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// Reads a body at the pace that is asked of it.
pub(super) struct Reader<'a, S> {
    body: &'a mut S,
    pace: Pace,
    credit: Credit,
    /// The beginning, and how much of it has been read from there.
    ahead: Option<(Stage, Range<usize>)>,
    filler: Option<Arc<Filler>>,
    /// Bytes that have come.
    pub(super) received: u64,
}

impl<'a, S: Source> Reader<'a, S> {
    pub(super) fn new(body: &'a mut S, pace: Pace) -> Self {
        Self {
            body,
            pace,
            credit: Credit::new(pace),
            ahead: None,
            filler: None,
            received: 0,
        }
    }

    /// Reads the beginning of what is left, up to `bytes`, before anybody has a place for it.
    pub(super) async fn stage(&mut self, mut stage: Stage, bytes: u64) -> Result<(), Refusal> {
        let bytes = (stage.bytes.len() as u64).min(bytes) as usize;
        self.fill(&mut stage.bytes[..bytes]).await?;
        self.ahead = (bytes > 0).then_some((stage, 0..bytes));
        Ok(())
    }

    /// From now on the body fills a slot, and may be sent away.
    pub(super) fn takes(&mut self, seat: &Seat<'_>) {
        self.filler = Some(seat.filler.clone());
    }

    /// Bytes in a second so far, as far as they had to be waited for.
    pub(super) fn pace(&self) -> f64 {
        self.received as f64 / self.credit.waited.as_secs_f64()
    }

    /// The body's length, if the client has told.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.length()
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Refusal> {
        if let Some(bytes) = self.read_ahead(into) {
            return Ok(bytes);
        }
        let begun = Instant::now();
        let came = timeout(self.credit.next(), self.body.read(into));
        let came = match &self.filler {
            None => came.await,
            Some(filler) => tokio::select! {
                biased;
                came = came => came,
                () = filler.sent_away() => return Err(Refusal::SentAway { received: self.received }),
            },
        };
        let Ok(came) = came else {
            return Err(self.too_slow());
        };
        // A reset connection, or chunks that make no sense.
        let bytes = came.unwrap_or(0);
        self.credit.book(begun.elapsed(), bytes as u64);
        self.received += bytes as u64;
        if let Some(filler) = &self.filler {
            filler.came(bytes as u64);
        }
        Ok(bytes)
    }

    fn read_ahead(&mut self, into: &mut [u8]) -> Option<usize> {
        let (stage, left) = self.ahead.as_mut()?;
        let bytes = left.len().min(into.len());
        into[..bytes].copy_from_slice(&stage.bytes[left.start..left.start + bytes]);
        left.start += bytes;
        if left.start == left.end {
            self.ahead = None;
        }
        Some(bytes)
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
