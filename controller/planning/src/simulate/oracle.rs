//! Who knows the trace.

use std::collections::BTreeMap;

use super::{Outcome, Setup};
use crate::trace::{Random, Record, Trace};

/// Every update has a worker at once. Between two uses a worker stays, or is let go and started again, whatever takes
/// less.
pub(super) fn run(trace: &Trace, setup: &Setup) -> Outcome {
    let mut random = Random::new(setup.seed);
    let mut outcome = Outcome::default();
    // When each job's workers become free.
    let mut jobs = BTreeMap::<&str, Vec<f64>>::new();
    for record in trace.records() {
        let Record::Arrival {
            seconds,
            job,
            service_seconds,
        } = record
        else {
            continue;
        };
        outcome.arrivals += 1;
        outcome.waits.push(0.0);
        outcome.busy_seconds += service_seconds;
        let workers = jobs.entry(job).or_default();
        let start = setup.start.draw(&mut random);
        let idle = take_last_free(workers, *seconds).map_or(f64::INFINITY, |free| seconds - free);
        outcome.wasted_seconds += idle.min(start);
        outcome.started += u64::from(idle > start);
        workers.push(seconds + service_seconds);
    }
    outcome
}

/// The worker that became free last before `seconds`. Those that have been free for longer than any start takes
/// never matter again, but are few.
fn take_last_free(workers: &mut Vec<f64>, seconds: f64) -> Option<f64> {
    let free = workers
        .iter()
        .enumerate()
        .filter(|(_, free)| **free <= seconds);
    let (at, _) = free.max_by(|a, b| a.1.total_cmp(b.1))?;
    Some(workers.swap_remove(at))
}
