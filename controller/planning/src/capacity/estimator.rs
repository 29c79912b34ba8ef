//! MC and E of a node, from what it does.
//!
//! E is the moving average of the seconds that updates took. MC is where more updates at once make each take longer:
//! the knee. Offline one would raise the load until E rises. Online the load is what it is, so the knee is reckoned
//! from every observation under load, by Little's law and the asymptotic bounds of queueing (Kleinrock, *Queueing
//! Systems* 2, 1976): with L updates in service that take E seconds each, throughput is X = L / E; and X updates per
//! second that took E0 seconds each, as they do alone, would be X * E0 in service. So
//!
//! ```text
//! MC = max over time of X * E0 = L * E0 / E
//! ```
//!
//! which is L while E is flat, and stays at the knee however large L becomes.
//!
//! A longer E has two causes that must not be confused. With at most one update per core nothing waits for another,
//! so E0 itself has changed: the node is slow. With more, it is the load.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Capacity, Defaults};

/// A node serves one update at a time at least.
const CONCURRENCY_MIN: f64 = 1.0;

/// The parameters of an estimator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The time constant of the moving averages, in seconds: what is older weighs less than 1/e.
    pub smoothing_seconds: f64,
    /// The node is beyond its knee when E is this many times E0.
    pub knee: f64,
    /// A low MC was true once. While the node is not beyond its knee, MC comes back towards its default by half in
    /// this many seconds; else nobody would ever send it enough to show more.
    pub recovery_seconds: f64,
    /// What a node is taken for before it was measured.
    pub defaults: Defaults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            smoothing_seconds: 10.0,
            knee: 1.5,
            recovery_seconds: 300.0,
            defaults: Defaults::default(),
        }
    }
}

/// What a node did since the last observation. What is missing, or is no finite number, changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observation {
    /// Updates that arrived per second.
    pub arrivals_per_second: Option<f64>,
    /// Mean seconds from arrival to being folded, of the updates that were.
    pub seconds_per_update: Option<f64>,
    /// Updates in service, on average. Without it Little's law gives it: arrivals times seconds.
    pub in_flight: Option<f64>,
    /// Cores that the node may use.
    pub cores: Option<u32>,
}

/// The estimate for one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimator {
    settings: Settings,
    seen: Option<Duration>,
    cores: Option<u32>,
    /// E.
    seconds: Option<f64>,
    /// E0.
    seconds_alone: Option<f64>,
    /// MC, once something was learnt about it.
    concurrency: Option<f64>,
}

impl Estimator {
    /// An estimator that has seen nothing.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            seen: None,
            cores: None,
            seconds: None,
            seconds_alone: None,
            concurrency: None,
        }
    }

    /// What is known; `None` until an update was measured and the cores are known.
    #[must_use]
    pub fn capacity(&self) -> Option<Capacity> {
        let fallback = self.settings.defaults.of(self.cores?).concurrency;
        Some(Capacity {
            concurrency: self.concurrency.unwrap_or(fallback),
            seconds_per_update: self.seconds?,
        })
    }

    /// Whether MC comes from measurements; else it is the default.
    #[must_use]
    pub const fn has_learnt(&self) -> bool {
        self.concurrency.is_some()
    }

    /// Takes an observation at `now`, a time since any fixed moment. An older one than the last is left out.
    pub fn observe(&mut self, now: Duration, observation: Observation) {
        if self.seen.is_some_and(|seen| now < seen) {
            return;
        }
        self.cores = observation.cores.filter(|cores| *cores > 0).or(self.cores);
        let Some(seconds) = positive(observation.seconds_per_update) else {
            return;
        };
        let passed = self.seen.map_or(0.0, |seen| (now - seen).as_secs_f64());
        self.seen = Some(now);
        let step = 1.0 - (-passed / self.settings.smoothing_seconds.max(1e-3)).exp();
        approach(&mut self.seconds, seconds, step);
        let in_flight = positive(observation.in_flight)
            .or_else(|| Some(positive(observation.arrivals_per_second)? * seconds));
        if let (Some(in_flight), Some(cores)) = (in_flight, self.cores) {
            self.learn(in_flight, seconds, cores, step);
            self.recover(in_flight, seconds, cores, passed);
        }
    }

    /// E0 from what has a core of its own, MC from what has not.
    fn learn(&mut self, in_flight: f64, seconds: f64, cores: u32, step: f64) {
        let alone = self.seconds_alone.unwrap_or(seconds);
        if in_flight <= f64::from(cores) || seconds <= alone {
            approach(&mut self.seconds_alone, seconds, step);
            return self.prove(in_flight.min(f64::from(cores)), cores, step);
        }
        let useful = (in_flight * alone / seconds).max(CONCURRENCY_MIN);
        if seconds >= alone * self.settings.knee {
            self.move_to(useful, cores, step);
        } else {
            self.prove(useful, cores, step);
        }
    }

    /// So many in service took no longer than one alone: MC is no less.
    fn prove(&mut self, useful: f64, cores: u32, step: f64) {
        if useful > self.known(cores) {
            self.move_to(useful, cores, step);
        }
    }

    /// MC comes from its default: one slow second is no measure of a machine.
    fn move_to(&mut self, useful: f64, cores: u32, step: f64) {
        let known = self.known(cores);
        self.concurrency = Some(known + step * (useful - known));
    }

    fn known(&self, cores: u32) -> f64 {
        let usual = || self.settings.defaults.of(cores).concurrency;
        self.concurrency.unwrap_or_else(usual)
    }

    fn recover(&mut self, in_flight: f64, seconds: f64, cores: u32, passed: f64) {
        let alone = self.seconds_alone.unwrap_or(seconds);
        let beyond = in_flight > f64::from(cores) && seconds >= alone * self.settings.knee;
        let usual = self.settings.defaults.of(cores).concurrency;
        if let Some(known) = self.concurrency.filter(|known| !beyond && *known < usual) {
            let half_lives = passed / self.settings.recovery_seconds.max(1e-3);
            self.concurrency = Some(usual - (usual - known) * (-half_lives).exp2());
        }
    }
}

/// Moves an average by a share `step` of the way; the first value is taken as it is.
fn approach(average: &mut Option<f64>, value: f64, step: f64) {
    *average = Some(average.map_or(value, |before| before + step * (value - before)));
}

fn positive(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value > 0.0)
}

#[cfg(test)]
mod tests;
