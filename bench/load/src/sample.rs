//! Times that were measured, all of them kept.

use serde_json::{Value, json};
use std::time::Duration;

/// A sample of times.
#[derive(Debug, Default)]
pub struct Sample(Vec<Duration>);

impl Sample {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time that `fraction` of the sample does not exceed; zero for an empty one.
    #[must_use]
    pub fn quantile(&mut self, fraction: f64) -> Duration {
        if self.0.is_empty() {
            return Duration::ZERO;
        }
        let place = ((self.0.len() as f64 * fraction).ceil() as usize).clamp(1, self.0.len()) - 1;
        *self.0.select_nth_unstable(place).1
    }

    /// Number, median, 99th percentile and maximum, in microseconds.
    #[must_use]
    pub fn summary(&mut self) -> Value {
        json!({
            "count": self.0.len(),
            "p50_us": micros(self.quantile(0.5)),
            "p99_us": micros(self.quantile(0.99)),
            "max_us": micros(self.quantile(1.0)),
        })
    }
}

/// Microseconds with one decimal.
#[must_use]
pub fn micros(time: Duration) -> f64 {
    (time.as_nanos() as f64 / 100.0).round() / 10.0
}
