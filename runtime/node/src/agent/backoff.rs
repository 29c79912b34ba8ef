//! Pauses after what went wrong, longer each time until something goes right.

use std::time::{Duration, Instant};

/// The first pause.
const MIN: Duration = Duration::from_millis(20);
/// The longest.
const MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Something went wrong.
    pub(super) fn fail(&mut self, now: Instant) {
        let factor = 1u32 << self.failures.min(16);
        self.until = Some(now + (MIN * factor).min(MAX));
        self.failures += 1;
    }

    /// Something went right: earlier failures were no sign that nothing can.
    pub(super) fn succeed(&mut self) {
        self.failures = 0;
    }

    /// When the pause ends, if one is on.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Ends a pause that is over.
    pub(super) fn look(&mut self, now: Instant) {
        self.until = self.until.filter(|until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let pause = |backoff: &mut Backoff| {
            backoff.fail(now);
            backoff.until().unwrap() - now
        };
        for doubled in [1, 2, 4, 8] {
            assert_eq!(pause(&mut backoff), MIN * doubled);
        }
        for _ in 0..20 {
            pause(&mut backoff);
        }
        assert_eq!(pause(&mut backoff), MAX);
        backoff.look(now + MAX - MIN);
        assert!(backoff.until().is_some());
        backoff.look(now + MAX);
        assert_eq!(backoff.until(), None);
        backoff.succeed();
        assert_eq!(pause(&mut backoff), MIN);
    }
}
