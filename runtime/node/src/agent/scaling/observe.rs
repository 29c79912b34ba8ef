//! What the autoscaler is told of a job. Pure arithmetic.

use super::Hosting;
use crate::job::{Job, Look, RoundLook};
use std::time::{Duration, Instant};
use tributary_planning::autoscale::{JobSeen, RoundSeen};

/// An interval that is shorter says nothing of rates.
const SECONDS_LEAST: f64 = 0.01;
/// Figures are given in millionths: then they are the same after they were written down and read again.
const PARTS: f64 = 1e6;

/// A job's workers on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Workers {
    ready: u32,
    starting: u32,
    /// The most that are of use to it.
    useful: u32,
    start_seconds: Option<f64>,
}

pub(super) fn workers(hosting: &Hosting, lanes: u32) -> Workers {
    Workers {
        ready: hosting.ready() as u32,
        starting: hosting.starting() as u32,
        useful: lanes,
        start_seconds: hosting.start_seconds(),
    }
}

/// A job on this node, on a clock that began at `begun`.
pub(super) fn job(job: &Job, begun: Instant, look: &Look, workers: Workers) -> JobSeen {
    let of = job.sharing();
    let seen = JobSeen {
        tenant_weight: of.weight,
        priority: of.priority,
        ..JobSeen::new(job.name.as_str(), job.node.as_str(), of.tenant.as_str())
    };
    told(seen, begun, look, workers)
}

/// What was seen, beside whose job it is. What was not measured is left out.
fn told(seen: JobSeen, begun: Instant, look: &Look, workers: Workers) -> JobSeen {
    let passed = &look.passed;
    let measured = passed.seconds >= SECONDS_LEAST;
    let rate = f64::from(passed.arrived) / passed.seconds;
    // Where workers stay for a fixed time, they are started by need alone.
    let planned = |round: &RoundLook| (!look.keep_alive).then(|| on_clock(round, begun));
    let round = |round: Option<RoundLook>| round.as_ref().and_then(planned);
    let each = passed.busy_seconds / f64::from(passed.folded);
    JobSeen {
        top: look.leads,
        arrivals_per_second: measured.then_some(rate).map(parts),
        seconds_per_update: (passed.folded > 0).then_some(each).map(parts),
        in_service: measured.then_some(passed.in_service).map(parts),
        workers_max: Some(workers.useful),
        ready: workers.ready,
        starting: workers.starting,
        start_seconds: workers.start_seconds.map(parts),
        round: round(look.round),
        before: round(look.before),
        ..seen
    }
}

fn on_clock(round: &RoundLook, begun: Instant) -> RoundSeen {
    let clock = |at: Instant| {
        let since = at.saturating_duration_since(begun);
        Duration::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    };
    RoundSeen {
        number: round.number,
        opened: clock(round.opened),
        expected: round.expected,
        arrived: round.arrived,
        first: round.first_update.map(clock),
        last: round.last_update.map(clock),
    }
}

fn parts(figure: f64) -> f64 {
    (figure * PARTS).round() / PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Passed;

    fn seen(look: &Look, begun: Instant) -> JobSeen {
        let workers = Workers {
            ready: 1,
            starting: 1,
            useful: 2,
            start_seconds: Some(0.25),
        };
        told(JobSeen::new("j", "n", "default"), begun, look, workers)
    }

    fn look(passed: Passed) -> Look {
        Look {
            passed,
            round: None,
            before: None,
            leads: true,
            keep_alive: false,
        }
    }

    #[test]
    fn counters_become_rates() {
        let passed = Passed {
            seconds: 2.0,
            arrived: 6,
            folded: 4,
            busy_seconds: 1.0,
            in_service: 1.0 / 3.0,
        };
        let seen = seen(&look(passed), Instant::now());
        assert_eq!(seen.arrivals_per_second, Some(3.0));
        assert_eq!(seen.seconds_per_update, Some(0.25));
        assert_eq!(seen.in_service, Some(0.333_333));
        assert_eq!(
            (seen.ready, seen.starting, seen.workers_max),
            (1, 1, Some(2))
        );
        assert!(seen.top && seen.start_seconds == Some(0.25));
        let written = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<JobSeen>(&written).unwrap(), seen);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        let nothing = seen(&look(Passed::default()), Instant::now());
        let figures = [
            nothing.arrivals_per_second,
            nothing.seconds_per_update,
            nothing.in_service,
        ];
        assert_eq!(figures, [None; 3]);
        // A time without updates is a measure; what an update takes is not.
        let quiet = Passed {
            seconds: 1.0,
            ..Passed::default()
        };
        let quiet = seen(&look(quiet), Instant::now());
        assert_eq!(
            (quiet.arrivals_per_second, quiet.in_service),
            (Some(0.0), Some(0.0))
        );
        assert_eq!(quiet.seconds_per_update, None);
    }

    #[test]
    fn rounds_are_told_on_the_autoscalers_clock_unless_workers_stay_anyway() {
        let begun = Instant::now();
        let round = RoundLook {
            number: 7,
            opened: begun + Duration::from_secs(3),
            first_update: Some(begun + Duration::from_secs(5)),
            last_update: Some(begun + Duration::from_secs(6)),
            expected: 10,
            arrived: 1,
        };
        let mut look = Look {
            round: Some(round),
            before: Some(RoundLook { number: 6, ..round }),
            ..look(Passed::default())
        };
        assert_eq!(seen(&look, begun).before.unwrap().number, 6);
        let told = seen(&look, begun).round.unwrap();
        assert_eq!((told.number, told.expected, told.arrived), (7, 10, 1));
        assert_eq!(told.opened, Duration::from_secs(3));
        let updates = [told.first, told.last].map(|at| at.unwrap().as_secs());
        assert_eq!(updates, [5, 6]);
        look.keep_alive = true;
        let told = seen(&look, begun);
        assert_eq!((told.round, told.before), (None, None));
    }
}
