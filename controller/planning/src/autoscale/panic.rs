//! Panic: bursts are answered at once, and not taken back before they are over.
//!
//! As in Knative's autoscaler (`pkg/autoscaler/scaling/autoscaler.go`): panic begins when the short window wants
//! `panic_threshold` times what is ready; in panic nothing shrinks; it ends when it was not begun anew for a whole
//! stable window. After a restart it begins where more than one worker runs.

use std::time::Duration;

/// Whether there is panic, and the most that was wanted in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Panic {
    /// Nothing was seen yet.
    #[default]
    Unknown,
    Calm,
    Since {
        last: Duration,
        workers: u32,
    },
}

impl Panic {
    /// Takes what the short window wants; what panic wants, 0 without panic.
    pub(super) fn step(
        &mut self,
        now: Duration,
        wanted: u32,
        ready: u32,
        threshold: f64,
        stable_seconds: f64,
    ) -> u32 {
        let begins = f64::from(wanted) >= threshold * f64::from(ready.max(1));
        let (last, workers) = match *self {
            Self::Unknown if ready > 1 => (now, ready),
            Self::Since { last, workers } => (last, workers),
            Self::Unknown | Self::Calm if begins => (now, 0),
            Self::Unknown | Self::Calm => {
                *self = Self::Calm;
                return 0;
            }
        };
        let last = if begins { now } else { last };
        if now.saturating_sub(last).as_secs_f64() >= stable_seconds {
            *self = Self::Calm;
            return 0;
        }
        let workers = workers.max(wanted);
        *self = Self::Since { last, workers };
        workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(panic: &mut Panic, second: u64, wanted: u32, ready: u32) -> u32 {
        panic.step(Duration::from_secs(second), wanted, ready, 2.0, 60.0)
    }

    #[test]
    fn it_begins_at_twice_what_is_ready_and_holds_for_a_stable_window() {
        let mut panic = Panic::default();
        assert_eq!(step(&mut panic, 0, 1, 0), 0);
        assert_eq!(step(&mut panic, 1, 3, 2), 0);
        assert_eq!(step(&mut panic, 2, 4, 2), 4);
        assert_eq!(step(&mut panic, 30, 1, 4), 4);
        assert_eq!(step(&mut panic, 61, 5, 4), 5);
        assert_eq!(step(&mut panic, 62, 1, 5), 0);
        assert_eq!(panic, Panic::Calm);
    }

    #[test]
    fn it_begins_anew() {
        let mut panic = Panic::default();
        assert_eq!(step(&mut panic, 0, 2, 1), 2);
        assert_eq!(step(&mut panic, 50, 8, 4), 8);
        assert_eq!(step(&mut panic, 100, 0, 8), 8);
        assert_eq!(step(&mut panic, 110, 0, 8), 0);
    }

    #[test]
    fn after_a_restart_nothing_shrinks() {
        let mut panic = Panic::default();
        assert_eq!(step(&mut panic, 1000, 0, 7), 7);
        assert_eq!(step(&mut panic, 1059, 0, 7), 7);
        assert_eq!(step(&mut panic, 1060, 0, 7), 0);
        let mut one = Panic::default();
        assert_eq!(step(&mut one, 1000, 0, 1), 0);
    }
}
