//! When the updates of a run are due.

use std::time::{Duration, Instant};

use super::Pace;

/// The moments at which updates are due, one after the other.
#[derive(Debug)]
pub(super) struct Schedule {
    pace: Pace,
    started: Instant,
    until: Instant,
    given: u64,
}

impl Schedule {
    pub(super) fn new(pace: Pace, started: Instant, duration: Duration) -> Self {
        Self {
            pace,
            started,
            until: started + duration,
            given: 0,
        }
    }

    /// Whether nothing more becomes due, though what was may still have to be sent.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// The next update's moment, if it has come and the run is not over.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due(now);
        if due > now || due >= self.until {
            return None;
        }
        self.given += 1;
        Some(due)
    }

    /// How long to wait for answers before something else is due.
    pub(super) fn timeout(&self, now: Instant, waits_for_clock: bool) -> Duration {
        let next = match self.pace {
            Pace::Open { .. } if waits_for_clock => self.due(now).min(self.until),
            Pace::Open { .. } | Pace::Closed => self.until,
        };
        match next.saturating_duration_since(now) {
            // After the end, the last answers are waited for.
            Duration::ZERO => Duration::from_millis(10),
            wait => wait,
        }
    }

    fn due(&self, now: Instant) -> Instant {
        match self.pace {
            Pace::Closed => now,
            Pace::Open { rate } => self.started + Duration::from_secs_f64(self.given as f64 / rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn an_open_pace_does_not_wait_for_anybody() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::Open { rate: 1000.0 }, start, 3 * MILLI);
        assert_eq!(schedule.next(start), Some(start));
        assert_eq!(schedule.next(start), None);
        assert_eq!(schedule.timeout(start, true), MILLI);
        // What could not be sent in time was due all the same, and nothing is due after the end.
        let late = start + 9 * MILLI;
        let due: Vec<_> = std::iter::from_fn(|| schedule.next(late)).collect();
        assert_eq!(due, [start + MILLI, start + 2 * MILLI]);
        assert!(schedule.is_over(late) && !schedule.is_over(start));
    }

    #[test]
    fn a_closed_pace_is_always_due_until_the_end() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::Closed, start, 3 * MILLI);
        assert_eq!(schedule.next(start + MILLI), Some(start + MILLI));
        assert_eq!(schedule.next(start + MILLI), Some(start + MILLI));
        assert_eq!(schedule.next(start + 3 * MILLI), None);
        assert_eq!(schedule.timeout(start, false), 3 * MILLI);
    }
}
