//! When a job's rounds close, and which updates they take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::JobSpec;
use crate::quantity::Interval;

/// When a round closes: at the first of the conditions that are given.
///
/// - `expected`: when so many updates are in.
/// - `deadline`: so long after the round's first update, as soon as `quorum` (default 1) is met.
/// - `quorum` without `deadline`: when so many updates are in.
/// - `count`: when so many updates are in, whoever sent them; `expected` may be more.
/// - `window`: so long after the round opened, as soon as one update is in.
/// - `each`: at its first update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoundSpec {
    /// The updates with which a round is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub expected: Option<u32>,
    /// The updates that are enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub quorum: Option<u32>,
    /// The time from a round's first update after which the quorum is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Interval>,
    /// The updates with which a round closes, whoever sent them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: Option<u32>,
    /// The time from a round's opening after which it closes with what is in, if that is anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Interval>,
    /// Each update makes a model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each: bool,
    /// The time from a round's close after which what its model still waits for is given up: what other nodes owe is
    /// lost, and what the leader owes begins the round anew. If it is given, an open round has the same time from its
    /// first update until it closes. Default: ten times `deadline` or `window`, but 5 minutes at least and an hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Interval>,
    /// Whether rounds take updates that were trained from older models; without it they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness: Option<Staleness>,
}

/// How updates that were trained from older models are taken.
///
/// An update's staleness is the number of the round that takes it, less that of the round for which it was trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Staleness {
    /// The greatest staleness; updates beyond it are refused.
    #[schemars(range(min = 0, max = 1000))]
    pub max: u32,
    /// What an update's weight is multiplied by.
    #[serde(default)]
    pub weight: StalenessWeight,
    /// The steepness: of `polynomial` 0.5 if it is left out; `hinge` needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub a: Option<f64>,
    /// The staleness up to which `hinge` is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub b: Option<u32>,
}

/// What the weight of an update of staleness `t` is multiplied by.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum StalenessWeight {
    /// 1.
    #[default]
    Constant,
    /// (1 + t)^-a.
    Polynomial,
    /// 1 up to b, then 1 / (a (t - b) + 1).
    Hinge,
}

/// A round's conditions with every default filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// The round closes at once when so many updates are in.
    pub full: u32,
    /// When time closes it.
    pub timer: Option<Timer>,
}

/// When time closes a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// So long after its first update, as soon as so many are in.
    Deadline(Interval, u32),
    /// So long after it opened, as soon as one is in.
    Window(Interval),
}

impl Closing {
    /// The fewest updates with which the round can close.
    #[must_use]
    pub const fn least(&self) -> u32 {
        match self.timer {
            Some(Timer::Deadline(_, quorum)) => quorum,
            Some(Timer::Window(_)) => 1,
            None => self.full,
        }
    }
}

impl StalenessWeight {
    /// The value, as manifests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Polynomial => "polynomial",
            Self::Hinge => "hinge",
        }
    }
}

impl Staleness {
    /// The exponent of Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation (2022).
    pub const A: f64 = 0.5;

    /// What the weight of an update of that staleness is multiplied by: s of Xie et al., Asynchronous Federated
    /// Optimization (2019).
    #[must_use]
    pub fn factor(&self, staleness: u64) -> f64 {
        let a = self.a.unwrap_or(Self::A);
        let beyond = staleness.saturating_sub(self.b.unwrap_or(0).into());
        match self.weight {
            StalenessWeight::Constant => 1.0,
            StalenessWeight::Polynomial => (1.0 + staleness as f64).powf(-a),
            StalenessWeight::Hinge => 1.0 / (a * beyond as f64 + 1.0),
        }
    }
}

impl RoundSpec {
    /// The least and the greatest timeout where none is given.
    const TIMEOUTS: (Interval, Interval) = (Interval::from_secs(300), Interval::from_secs(3600));

    /// The greatest staleness of an update that is taken.
    #[must_use]
    pub fn staleness_max(&self) -> u32 {
        self.staleness.map_or(0, |staleness| staleness.max)
    }

    /// The weight with which an update of that weight and staleness counts: never below `least`, the least that the
    /// update itself may have.
    #[must_use]
    pub fn weigh(&self, weight: f64, staleness: u64, least: f64) -> f64 {
        let factor = self
            .staleness
            .map_or(1.0, |allowed| allowed.factor(staleness));
        (weight * factor).max(least)
    }
}

impl JobSpec {
    /// The conditions under which a round closes.
    #[must_use]
    pub fn closing(&self) -> Closing {
        let round = &self.round;
        let timer = match (round.deadline, round.window) {
            (Some(deadline), _) => Some(Timer::Deadline(deadline, round.quorum.unwrap_or(1))),
            (None, window) => window.map(Timer::Window),
        };
        let counted = round.count.or_else(|| round.each.then_some(1));
        // With a deadline, the quorum is what is enough then, and not before.
        let quorum = round.quorum.filter(|_| timer.is_none());
        let full = counted.or(quorum).or(round.expected);
        Closing {
            full: full.unwrap_or(self.clients.max),
            timer,
        }
    }

    /// The time that a closed round has to make its model.
    #[must_use]
    pub fn timeout(&self) -> Interval {
        let RoundSpec {
            timeout,
            deadline,
            window,
            ..
        } = self.round;
        let timer = deadline.or(window).map_or(0, Interval::millis);
        let (least, most) = RoundSpec::TIMEOUTS;
        let usual = timer
            .saturating_mul(10)
            .clamp(least.millis(), most.millis());
        timeout.unwrap_or(Interval::from_millis(usual))
    }

    /// The updates that a round of this job is planned for.
    #[must_use]
    pub fn expected(&self) -> u32 {
        self.round.expected.unwrap_or_else(|| self.closing().full)
    }
}

#[cfg(test)]
mod tests;
