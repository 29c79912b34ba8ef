//! Which weights updates may have, and how large they may be, so that no round's sums leave their range.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Accumulate, JobSpec};

/// The weights that updates may have. Exact sums, and sums in F32, may allow fewer: `describe job` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WeightSpec {
    /// The least.
    #[schemars(range(min = 1e-18, max = 1e18))]
    pub min: f64,
    /// The greatest.
    #[schemars(range(min = 1e-18, max = 1e18))]
    pub max: f64,
}

/// What a job takes of one update: with that, the sums of a whole round stay in range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UpdateBounds {
    /// The least weight.
    pub weight_min: f64,
    /// The greatest weight.
    pub weight_max: f64,
    /// What exact sums take besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<ExactBounds>,
}

/// What exact sums take of one update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ExactBounds {
    /// Weights are rounded to multiples of it.
    pub step: f64,
    /// The greatest magnitude of weight times value.
    pub product_max: f64,
}

/// Exact sums lie below this number of steps.
const EXACT_STEPS: f64 = (1_u64 << 62) as f64;

/// Steps of an update's share that its roundings may take.
const ROUNDINGS: f64 = 1024.0;

/// The key under which functions with exact sums find the number of bits after the point.
const SCALE_KEY: &str = "scaleBits";

/// What it is if the configuration does not say it.
const SCALE_BITS: i32 = 32;

impl WeightSpec {
    /// Whether nothing is said. Nodes of an earlier version refuse what they do not know.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for WeightSpec {
    fn default() -> Self {
        Self {
            min: 1e-12,
            max: 1e12,
        }
    }
}

impl UpdateBounds {
    /// Whether an update may have that weight.
    #[must_use]
    pub fn allow(&self, weight: f64) -> bool {
        (self.weight_min..=self.weight_max).contains(&weight)
    }

    /// The greatest magnitude of a value in an update of that weight, where values have one.
    #[must_use]
    pub fn value_max(&self, weight: f64) -> Option<f32> {
        let ExactBounds { step, product_max } = self.exact?;
        // The weight may be rounded up, and so may this conversion.
        let most = (product_max / (weight + step / 2.0)) as f32;
        Some(if most.is_finite() {
            most.next_down()
        } else {
            f32::MAX
        })
    }
}

impl JobSpec {
    /// What one update may have if so many clients may be in a round.
    #[must_use]
    pub fn update_bounds(&self, clients: u32) -> UpdateBounds {
        let WeightSpec { min, max } = self.ingest.weight;
        let clients = f64::from(clients.max(1));
        match self.accumulate_asked() {
            Some(asked) if asked == Accumulate::Exact.as_str() => {
                let step = 2_f64.powi(-self.scale_bits());
                let share = (EXACT_STEPS / clients - ROUNDINGS) * step;
                UpdateBounds {
                    weight_min: min.max(step),
                    weight_max: max.min(share),
                    exact: Some(ExactBounds {
                        step,
                        product_max: share,
                    }),
                }
            }
            Some(asked) if asked == Accumulate::F32.as_str() => UpdateBounds {
                weight_min: min.max(f32::MIN_POSITIVE.into()),
                weight_max: max.min(f64::from(f32::MAX) / clients),
                exact: None,
            },
            _ => UpdateBounds {
                weight_min: min,
                weight_max: max,
                exact: None,
            },
        }
    }

    fn scale_bits(&self) -> i32 {
        let given = self.function.config.get(SCALE_KEY).and_then(Value::as_i64);
        given.map_or(SCALE_BITS, |bits| bits.clamp(0, 61) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Manifest, source};
    use super::*;
    use proptest::prelude::*;

    fn job(lines: &str) -> Result<JobSpec, Vec<String>> {
        let text = format!(
            "apiVersion: tributary.dev/v1\nkind: Job\nmetadata: {{ name: j }}\nspec:\n\
             \x20 model: {{ path: m }}\n  round: {{ expected: 1 }}\n{lines}"
        );
        match source::parse("m.yaml", &text) {
            Ok(mut documents) => match documents.remove(0).manifest {
                Manifest::Job(job) => Ok(job.spec),
                other => unreachable!("a job was written, not a {}", other.kind()),
            },
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    fn exact(scale_bits: u32) -> JobSpec {
        let config = format!("config: {{ accumulate: exact, scaleBits: {scale_bits} }}");
        job(&format!("  function: {{ name: f, {config} }}\n")).unwrap()
    }

    #[test]
    fn what_is_left_out_has_a_default_and_f32_takes_what_it_can_hold() {
        let spec = job("  function: { name: f }\n  ingest: { weight: { max: 1e6 } }\n").unwrap();
        let bounds = spec.update_bounds(1024);
        assert_eq!((bounds.weight_min, bounds.weight_max), (1e-12, 1e6));
        assert!(bounds.allow(1e6) && bounds.allow(1e-12));
        for refused in [1.1e6, 9e-13, 0.0, -1.0, 5e-324, f64::NAN, f64::INFINITY] {
            assert!(!bounds.allow(refused), "{refused}");
        }
        let f32 = job(
            "  function: { name: f }\n  accumulate: f32\n  ingest: { weight: { max: 1e18 } }\n",
        );
        let most = f32.unwrap().update_bounds(1_000_000).weight_max;
        assert_eq!(most, 1e18);
    }

    #[test]
    fn bounds_that_allow_nothing_are_refused() {
        for (lines, message) in [
            (
                "  function: { name: f }\n  ingest: { weight: { min: 2, max: 1 } }\n",
                "m.yaml:8:13: spec.ingest.weight: min is 2e0, which is more than max, 1e0",
            ),
            (
                "  function: { name: f }\n  ingest: { weight: { min: 0 } }\n",
                "m.yaml:8:23: spec.ingest.weight.min: must be at least 0.000000000000000001, is 0",
            ),
            (
                "  function: { name: f, config: { scaleBits: 48 } }\n  accumulate: exact\n  ingest: { weight: { min: 100 } }\n",
                "m.yaml:9:13: spec.ingest.weight: min is 1e2, but exact sums of 1024 clients take weights up to 1.6e1; \
                 lower min, scaleBits or spec.clients.max",
            ),
        ] {
            assert_eq!(job(lines).unwrap_err(), [message]);
        }
    }

    proptest! {
        /// Every client sends the most that it may: neither the sum of the weights nor that of the weighted values
        /// leaves the range, and no weight vanishes.
        #[test]
        fn exact_sums_of_what_is_allowed_stay_in_range(
            scale in 16_u32..=48, clients in 1_u32..=1_250_000, part in 0.0_f64..=1.0, value in 0.0_f32..=1.0,
        ) {
            let bounds = exact(scale).update_bounds(clients);
            let weight = bounds.weight_min + part * (bounds.weight_max - bounds.weight_min);
            let steps = (weight * 2_f64.powi(scale as i32)).round_ties_even();
            let largest = bounds.value_max(weight).unwrap();
            let value = value.max(0.5) * largest;
            let term = (f64::from(value) * steps).round_ties_even();
            let limit = 1_i128 << 62;
            prop_assert!(steps >= 1.0);
            prop_assert!((steps as i128) * i128::from(clients) < limit);
            prop_assert!((term as i128) * i128::from(clients) < limit, "{weight} {value}");
        }
    }
}
