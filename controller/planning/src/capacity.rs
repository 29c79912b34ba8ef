//! What a node can take.

mod estimator;

use serde::{Deserialize, Serialize};

pub use estimator::{Estimator, Observation, Settings};

/// What a node can take, as measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// MC: updates that it can have in service at once before each takes longer.
    pub concurrency: f64,
    /// E: seconds from an update's arrival to its being folded.
    pub seconds_per_update: f64,
}

impl Capacity {
    /// Whether it can be reckoned with.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let sound = |value: f64| value.is_finite() && value > 0.0;
        sound(self.concurrency) && sound(self.seconds_per_update)
    }
}

/// What a node is taken for before it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Defaults {
    /// MC of each core. A worker folds up to eight updates in one call.
    pub concurrency_per_core: f64,
    /// E.
    pub seconds_per_update: f64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            concurrency_per_core: 8.0,
            seconds_per_update: 0.05,
        }
    }
}

impl Defaults {
    /// What a node with `cores` cores is taken for.
    #[must_use]
    pub fn of(&self, cores: u32) -> Capacity {
        let guess = Capacity {
            concurrency: self.concurrency_per_core * f64::from(cores.max(1)),
            seconds_per_update: self.seconds_per_update,
        };
        if guess.is_sound() {
            return guess;
        }
        // Settings that make no sense must not make plans that make none.
        Capacity {
            concurrency: f64::from(cores.max(1)),
            seconds_per_update: 0.05,
        }
    }
}
