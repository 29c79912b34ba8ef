//! Means over the last seconds.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples of the last seconds, one sum for each second: a bounded memory whatever the number of samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Window {
    seconds: VecDeque<Second>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Second {
    at: u64,
    sum: f64,
    samples: f64,
    most: f64,
}

impl Window {
    /// Adds a sample and forgets what is older than `length_seconds`.
    pub(super) fn push(&mut self, now: Duration, value: f64, length_seconds: f64) {
        let at = now.as_secs();
        match self.seconds.back_mut() {
            Some(last) if last.at == at => {
                last.sum += value;
                last.samples += 1.0;
                last.most = last.most.max(value);
            }
            _ => self.seconds.push_back(Second {
                at,
                sum: value,
                samples: 1.0,
                most: value,
            }),
        }
        let length = length_seconds.max(0.0) as u64;
        while self
            .seconds
            .front()
            .is_some_and(|first| first.at + length < at)
        {
            self.seconds.pop_front();
        }
    }

    /// The mean over the last `seconds` before `now`; each second counts alike. `None` without samples.
    pub(super) fn mean(&self, now: Duration, seconds: f64) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for second in self.last(now, seconds) {
            sum += second.sum / second.samples;
            count += 1.0;
        }
        (count > 0.0).then(|| sum / count)
    }

    /// The largest sample of the last `seconds`; 0 without samples.
    pub(super) fn most(&self, now: Duration, seconds: f64) -> f64 {
        let last = self.last(now, seconds);
        last.map(|second| second.most).fold(0.0, f64::max)
    }

    fn last(&self, now: Duration, seconds: f64) -> impl Iterator<Item = &Second> {
        // A conversion of a negative number gives 0.
        let first = now.as_secs().saturating_sub(seconds as u64);
        self.seconds
            .iter()
            .rev()
            .take_while(move |second| second.at > first || (second.at == 0 && first == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_seconds_are_forgotten_and_each_counts_alike() {
        let mut window = Window::default();
        assert_eq!(window.mean(Duration::ZERO, 6.0), None);
        window.push(Duration::from_secs(1), 4.0, 10.0);
        window.push(Duration::from_millis(1900), 8.0, 10.0);
        window.push(Duration::from_secs(2), 0.0, 10.0);
        assert_eq!(window.mean(Duration::from_secs(2), 6.0), Some(3.0));
        assert_eq!(window.most(Duration::from_secs(2), 6.0), 8.0);
        assert_eq!(window.mean(Duration::from_secs(7), 6.0), Some(0.0));
        assert_eq!(window.mean(Duration::from_secs(8), 6.0), None);
        for second in 3..1000 {
            window.push(Duration::from_secs(second), 1.0, 10.0);
        }
        assert!(window.seconds.len() <= 11);
    }
}
