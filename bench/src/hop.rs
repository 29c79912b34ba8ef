//! Ways to hand an update on, and to hear that it was taken: what one hop inside the platform costs.
//!
//! In each the receiver reads all of the update before it answers. Ours moves a descriptor, and the update stays where
//! it lies; the others carry it.

mod grpc;
mod nats;
mod ours;

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;

pub use grpc::Grpc;
pub use nats::Nats;
pub use ours::Ours;

use crate::process::Tree;

/// One way to hand an update on.
pub trait Hop {
    /// What it is called.
    fn name(&self) -> &str;

    /// Hands the update on so many times, one after the other; how long each took.
    ///
    /// # Errors
    /// What breaks.
    fn requests(&mut self, count: usize) -> Result<Vec<Duration>>;

    /// Processes that work for it, beside this one.
    fn helpers(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// What a turn has shown.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Of each request, in seconds.
    pub latencies: Vec<f64>,
    /// CPU seconds for each request: of this process, which sends and receives, and of all helpers.
    pub cpu_seconds: f64,
}

/// Lets a hop be made so many times.
///
/// # Errors
/// What breaks.
pub fn turn(hop: &mut dyn Hop, count: usize) -> Result<Turn> {
    let processes = [vec![std::process::id()], hop.helpers()].concat();
    // Only the processes themselves: what else this one has started does not belong to this hop.
    let used = || -> Result<f64> {
        let alone = processes
            .iter()
            .map(|process| Tree::of(*process).own_cpu_seconds());
        alone.sum()
    };
    let before = used()?;
    let latencies = hop.requests(count)?;
    let cpu_seconds = (used()? - before) / count as f64;
    let latencies = latencies.iter().map(Duration::as_secs_f64).collect();
    Ok(Turn {
        latencies,
        cpu_seconds,
    })
}

/// Reads every cache line of an update. Not inlined, so that all read alike.
#[inline(never)]
#[must_use]
pub fn read_all(update: &[u8]) -> u64 {
    let (words, rest) = update.as_chunks::<8>();
    let mut sums = [0_u64; 8];
    let (groups, few) = words.as_chunks::<8>();
    for group in groups {
        for (sum, word) in sums.iter_mut().zip(group) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let tail = few.iter().map(|word| u64::from_le_bytes(*word));
    let tail = tail.fold(0, u64::wrapping_add);
    let rest = rest
        .iter()
        .fold(tail, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    sums.into_iter().fold(rest, u64::wrapping_add)
}

/// An update of so many bytes.
#[must_use]
pub fn update(bytes: usize) -> Bytes {
    (0..bytes)
        .map(|at| (at * 31 % 251) as u8)
        .collect::<Vec<_>>()
        .into()
}

/// Cycles of the processor's constant clock in a nanosecond: CPU time in words of cycles, where the machine counts none
/// (virtual machines often have no counters).
#[must_use]
pub fn nominal_gigahertz() -> f64 {
    // SAFETY: every x86-64 processor has the instruction; it reads a counter.
    let count = || unsafe { std::arch::x86_64::_rdtsc() };
    let (started, before) = (Instant::now(), count());
    while started.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
    let cycles = count().wrapping_sub(before) as f64;
    cycles / started.elapsed().as_secs_f64() / 1e9
}

/// Runs one request after the other, each with its own clock.
async fn timed<F: Future<Output = Result<()>>>(
    count: usize,
    mut request: impl FnMut() -> F,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        request().await?;
        latencies.push(started.elapsed());
    }
    Ok(latencies)
}

/// A runtime as a node has it.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

/// The answer to an update whose bytes sum up to `sum`.
fn answer(sum: u64) -> Bytes {
    Bytes::copy_from_slice(&sum.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_count() {
        assert_eq!(read_all(&[]), 0);
        assert_eq!(read_all(&[1, 0, 0, 0, 0, 0, 0, 0, 2]), 3);
        let long = update(1000);
        for at in [0, 500, 999] {
            let mut changed = long.to_vec();
            changed[at] ^= 1;
            assert_ne!(read_all(&long), read_all(&changed), "{at}");
        }
    }

    #[test]
    fn a_hop_over_the_user_space_router_is_made() {
        let mut ours = Ours::start(tributary_router::Choice::Userspace, &update(4096)).unwrap();
        let turn = turn(&mut ours, 10).unwrap();
        assert_eq!(turn.latencies.len(), 10);
    }

    #[test]
    fn a_call_over_grpc_is_made() {
        let mut grpc = Grpc::start(update(100_000)).unwrap();
        assert_eq!(grpc.requests(3).unwrap().len(), 3);
    }
}
