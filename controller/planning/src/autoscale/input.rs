//! What the autoscaler is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{share, warm};

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The weight of the past in `Q = a * Q + (1 - a) * k * E`, each `period_seconds`. Reports of the method differ in
    /// which side has 0.7: 0.7 here forgets by half in two periods, 0.3 in less than one.
    pub past_weight: f64,
    /// The time of which `past_weight` speaks. Calls may come at other times: it is then raised to their power.
    pub period_seconds: f64,
    /// I: updates in service for which a worker is there.
    pub updates_per_worker: f64,
    /// The window for the ordinary.
    pub stable_seconds: f64,
    /// The window for bursts.
    pub panic_seconds: f64,
    /// Panic begins when the short window wants so many times what is ready.
    pub panic_threshold: f64,
    /// What is wanted is the most that was within this time.
    pub scale_down_delay_seconds: f64,
    /// A forecast plans for so many standard deviations more than the mean.
    pub forecast_spread: f64,
    /// A forecast starts workers so many times the mean time of a start ahead: starts differ.
    pub forecast_starts: f64,
    /// Middle and top run on leaves' workers that are done; without it each has a worker of its own.
    pub reuse: bool,
    /// What it costs to keep a worker, and not to have it.
    pub warm: warm::Config,
    /// How jobs share a node.
    pub share: share::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            past_weight: 0.7,
            period_seconds: 2.0,
            updates_per_worker: 2.0,
            stable_seconds: 60.0,
            panic_seconds: 6.0,
            panic_threshold: 2.0,
            scale_down_delay_seconds: 30.0,
            forecast_spread: 3.0,
            forecast_starts: 2.0,
            reuse: true,
            warm: warm::Config::default(),
            share: share::Config::default(),
        }
    }
}

/// A parameter that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}: it must be {wanted}")]
pub struct ConfigError {
    /// Its name, as it is written.
    pub field: &'static str,
    /// What it is.
    pub value: f64,
    /// What it may be.
    pub wanted: &'static str,
}

impl Config {
    /// Whether all parameters make sense.
    ///
    /// # Errors
    /// The first one that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (warm, share) = (&self.warm, &self.share);
        let part = (0.0..=1.0, "from 0 to 1");
        let period = (0.01..=3600.0, "from 0.01 to 3600");
        let above = (f64::MIN_POSITIVE..=f64::MAX, "a number above 0");
        let not_below = (0.0..=f64::MAX, "0 or a number above 0");
        let all = [
            ("past_weight", self.past_weight, &part),
            ("period_seconds", self.period_seconds, &period),
            ("updates_per_worker", self.updates_per_worker, &above),
            ("stable_seconds", self.stable_seconds, &not_below),
            ("panic_seconds", self.panic_seconds, &not_below),
            ("panic_threshold", self.panic_threshold, &above),
            (
                "scale_down_delay_seconds",
                self.scale_down_delay_seconds,
                &not_below,
            ),
            ("forecast_spread", self.forecast_spread, &not_below),
            ("forecast_starts", self.forecast_starts, &not_below),
            (
                "warm.cold_start_cost_seconds",
                warm.cold_start_cost_seconds,
                &not_below,
            ),
            ("warm.start_seconds", warm.start_seconds, &not_below),
            (
                "warm.let_go_seconds_min",
                warm.let_go_seconds_min,
                &not_below,
            ),
            ("warm.remembered", warm.remembered, &part),
            ("share.floor", share.floor, &part),
            ("share.slice_seconds", share.slice_seconds, &above),
        ];
        // What is not a number is in no range.
        let wrong = all
            .into_iter()
            .find(|(_, value, (range, _))| !range.contains(value));
        match wrong {
            Some((field, value, (_, wanted))) => Err(ConfigError {
                field,
                value,
                wanted,
            }),
            None => Ok(()),
        }
    }
}

/// All that was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observations {
    /// The nodes that there are.
    pub nodes: Vec<NodeSeen>,
    /// The jobs on them.
    pub jobs: Vec<JobSeen>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// The most workers that it may have.
    pub workers_max: u32,
}

/// A job on a node, since the last time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSeen {
    /// The job.
    pub job: String,
    /// The node.
    pub node: String,
    /// Whose job it is.
    pub tenant: String,
    /// The tenant's part of a node that is too small for all, in proportion to the others'.
    pub tenant_weight: f64,
    /// Higher ones come first, but for the floor that everybody has.
    #[serde(default)]
    pub priority: i32,
    /// The job's top is here.
    #[serde(default)]
    pub top: bool,
    /// k: updates that arrived, per second. `None`: not known.
    pub arrivals_per_second: Option<f64>,
    /// E: seconds that an update took. `None`: not known, for instance because there was none.
    pub seconds_per_update: Option<f64>,
    /// Updates that waited or were worked on, on average. Where it is known it is Q, which needs no estimate; but
    /// not while a worker starts, when what waits for it is no load: then it is at most k * E.
    #[serde(default)]
    pub in_service: Option<f64>,
    /// The most workers that it has a use for; without it as many as the node has.
    #[serde(default)]
    pub workers_max: Option<u32>,
    /// Workers that can work.
    pub ready: u32,
    /// Workers that are being started.
    pub starting: u32,
    /// Seconds that a start takes.
    #[serde(default)]
    pub start_seconds: Option<f64>,
    /// The open round, where rounds can be planned.
    #[serde(default)]
    pub round: Option<RoundSeen>,
    /// The round before it, as it was at its end: it may have ended between two looks.
    #[serde(default)]
    pub before: Option<RoundSeen>,
}

impl JobSeen {
    /// A job of which nothing is known.
    pub fn new(job: impl Into<String>, node: impl Into<String>, tenant: impl Into<String>) -> Self {
        Self {
            job: job.into(),
            node: node.into(),
            tenant: tenant.into(),
            tenant_weight: 1.0,
            priority: 0,
            top: false,
            arrivals_per_second: None,
            seconds_per_update: None,
            in_service: None,
            workers_max: None,
            ready: 0,
            starting: 0,
            start_seconds: None,
            round: None,
            before: None,
        }
    }
}

/// A round as far as a node takes part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundSeen {
    /// Its number.
    pub number: u64,
    /// When it was opened, on the clock of `now`.
    pub opened: Duration,
    /// Updates that this node will take.
    pub expected: u32,
    /// Those of them that have arrived.
    pub arrived: u32,
    /// When the first of them did, on the same clock: who looks seldom knows it all the same.
    #[serde(default)]
    pub first: Option<Duration>,
    /// And the last one so far.
    #[serde(default)]
    pub last: Option<Duration>,
}
