//! The clients: who sends which update when.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tributary_planning::trace::{Random, fitted::LogNormal};

use crate::model::values;
use crate::{Model, Update};

/// How far a model may be from the mean in f64: sums are in f32.
const TOLERANCE: f64 = 1e-6;
/// So many different updates are sent in turn: enough that none stays in a cache, few enough to fit in memory.
const DIFFERENT: usize = 8;
/// Seconds from a round's opening to a client's update: they train for about as long as each other.
const TRAINING: LogNormal = LogNormal {
    mu: 0.0,
    sigma: 0.3,
};
/// The same numbers for everybody.
const SEED: u64 = 18;

/// When each client begins to send, from the beginning of the round.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace(Vec<Duration>);

impl Trace {
    /// The trace of so many clients; always the same one.
    #[must_use]
    pub fn of(clients: usize) -> Self {
        let random = &mut Random::new(SEED);
        let offsets = (0..clients).map(|_| Duration::from_secs_f64(TRAINING.draw(random)));
        Self(offsets.collect())
    }

    /// How many clients there are.
    #[must_use]
    pub const fn clients(&self) -> usize {
        self.0.len()
    }

    /// When a client begins to send.
    #[must_use]
    pub fn offset(&self, client: usize) -> Duration {
        self.0[client]
    }

    /// Lets every client send at its time after `begin`, on a thread each. When the first began and the last was done,
    /// and what the clients have counted together.
    ///
    /// # Errors
    /// The first of a client.
    pub fn replay(
        &self,
        begin: Instant,
        send: impl Fn(usize) -> Result<Sent> + Sync,
    ) -> Result<(Instant, Instant, u64)> {
        let send = &send;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.clients())
                .map(|client| {
                    let due = begin + self.offset(client);
                    scope.spawn(move || {
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        let started = Instant::now();
                        let sent = send(client).with_context(|| format!("client {client}"))?;
                        anyhow::Ok((started, sent))
                    })
                })
                .collect();
            let (mut first, mut last, mut turned_away) = (None, begin, 0);
            for thread in threads {
                let Ok(sent) = thread.join() else {
                    bail!("a client has panicked");
                };
                let (started, sent): (Instant, Sent) = sent?;
                first = Some(first.map_or(started, |first: Instant| first.min(started)));
                last = last.max(sent.at);
                turned_away += sent.turned_away;
            }
            Ok((first.context("no clients")?, last, turned_away))
        })
    }
}

/// An update that was taken.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When its last byte was sent.
    pub at: Instant,
    /// How often it was told to come again.
    pub turned_away: u64,
}

/// The updates of all clients.
#[derive(Debug)]
pub struct Updates {
    model: Model,
    different: Vec<Update>,
}

impl Updates {
    /// The updates of a model.
    #[must_use]
    pub fn of(model: Model) -> Self {
        let different = (0..DIFFERENT as u64).map(|client| Update::f32(&model, client));
        Self {
            different: different.collect(),
            model,
        }
    }

    /// The model whose updates they are.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// A client's update.
    #[must_use]
    pub fn update(&self, client: usize) -> &Update {
        &self.different[client % DIFFERENT]
    }

    /// A client's weight.
    #[must_use]
    pub fn weight(client: usize) -> f64 {
        (1 + client % 3) as f64
    }

    /// The mean of so many clients' updates, summed in f64.
    #[must_use]
    pub fn mean(&self, clients: usize) -> Vec<f64> {
        let mut weights = [0.0; DIFFERENT];
        for client in 0..clients {
            weights[client % DIFFERENT] += Self::weight(client);
        }
        let all: f64 = weights.iter().sum();
        let mut mean = vec![0.0; self.model.elements()];
        for (client, weight) in (0_u64..).zip(weights) {
            for (sum, value) in mean.iter_mut().zip(values(client)) {
                *sum += f64::from(value) * weight / all;
            }
        }
        mean
    }
}

/// Compares a model's elements (little-endian f32) with the mean.
///
/// # Errors
/// If one is too far from it, or there are not as many.
pub fn check(mean: &[f64], elements: &[u8]) -> Result<()> {
    let (found, rest) = elements.as_chunks::<4>();
    if found.len() != mean.len() || !rest.is_empty() {
        bail!(
            "the model has {} bytes of elements, not {}",
            elements.len(),
            mean.len() * 4
        );
    }
    let found = found.iter().copied().map(f32::from_le_bytes);
    let far = found.zip(mean).position(|(found, mean)| {
        let distance = (f64::from(found) - mean).abs();
        distance.is_nan() || distance >= TOLERANCE
    });
    match far {
        Some(element) => bail!("element {element} of the model is not the mean"),
        None => Ok(()),
    }
}

/// The elements of a safetensors file.
///
/// # Errors
/// If it is shorter than its header says.
pub fn elements_of(file: &[u8]) -> Result<&[u8]> {
    let (length, rest) = file.split_first_chunk::<8>().context("a file's header")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    rest.get(length..).context("a file's elements")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_is_the_same_every_time_and_grows_at_its_end() {
        let (few, many) = (Trace::of(20), Trace::of(100));
        assert_eq!(few, Trace::of(20));
        assert_eq!(few.0[..], many.0[..20]);
        assert!(many.0.iter().all(|offset| offset.as_secs_f64() < 4.0));
    }

    #[test]
    fn the_mean_is_weighted_and_a_wrong_model_is_seen() {
        let updates = Updates::of(Model::flat("small", 5));
        let mean = updates.mean(2);
        let by_hand: Vec<f64> = values(0)
            .zip(values(1))
            .take(5)
            .map(|(a, b)| (f64::from(a) + 2.0 * f64::from(b)) / 3.0)
            .collect();
        for (mean, by_hand) in mean.iter().zip(&by_hand) {
            assert!((mean - by_hand).abs() < 1e-12);
        }
        let bytes = |model: &[f64]| -> Vec<u8> {
            let elements = model.iter().map(|element| *element as f32);
            elements.flat_map(f32::to_le_bytes).collect()
        };
        check(&mean, &bytes(&mean)).unwrap();
        let mut wrong = mean.clone();
        wrong[3] += 1e-4;
        assert!(check(&mean, &bytes(&wrong)).is_err());
        assert!(check(&mean, &bytes(&mean[..4])).is_err());
    }

    #[test]
    fn every_client_sends_once_and_not_before_its_time() {
        let trace = Trace((0..5).map(Duration::from_millis).collect());
        let sent = std::sync::Mutex::new(Vec::new());
        let begin = Instant::now();
        let (first, last, turned_away) = trace
            .replay(begin, |client| {
                assert!(begin.elapsed() >= trace.offset(client));
                sent.lock().unwrap().push(client);
                Ok(Sent {
                    at: Instant::now(),
                    turned_away: 1,
                })
            })
            .unwrap();
        assert!(begin <= first && first <= last);
        assert_eq!(turned_away, 5);
        let mut sent = sent.into_inner().unwrap();
        sent.sort_unstable();
        assert_eq!(sent, [0, 1, 2, 3, 4]);
    }
}
