//! How a job's sums are made, and what its models may depend on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{JobSpec, default_tenant};

/// The arithmetic of a job's sums.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Accumulate {
    /// Sums in F32: the least memory.
    F32,
    /// Sums in F64.
    F64,
    /// Sums of whole steps: the same bits in any order.
    Exact,
}

/// What the bytes of a round's model may depend on, beside the updates themselves.
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
pub enum Determinism {
    /// On the order in which updates are folded, which workers and threads settle among themselves.
    #[default]
    None,
    /// On the order in which the server accepted the updates, whatever workers, threads and crashes there were.
    Ordered,
    /// On nothing: any order of arrival gives the same bytes. Needs exact sums.
    Exact,
}

/// The key under which functions find the arithmetic in their configuration.
pub(super) const CONFIG_KEY: &str = "accumulate";

impl Accumulate {
    /// The value, as manifests and configurations write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Exact => "exact",
        }
    }
}

impl Determinism {
    /// The value, as manifests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ordered => "ordered",
            Self::Exact => "exact",
        }
    }

    /// Whether nothing is promised.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl std::fmt::Display for Accumulate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::fmt::Display for Determinism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl JobSpec {
    /// The arithmetic that the function's configuration asks for in place of [`JobSpec::accumulate`].
    pub(super) fn configured_accumulate(&self) -> Option<&Value> {
        self.function.config.get(CONFIG_KEY)
    }

    /// The arithmetic that the manifest asks for, in the spec or in the function's configuration.
    #[must_use]
    pub fn accumulate_asked(&self) -> Option<&str> {
        let configured = || self.configured_accumulate().and_then(Value::as_str);
        self.accumulate.map(Accumulate::as_str).or_else(configured)
    }

    /// The spec as functions and nodes take it: the arithmetic stands in the function's configuration, and whose the
    /// job is and how urgent is said beside it, by [`Sharing`](crate::control::Sharing).
    #[must_use]
    pub fn for_node(&self) -> Self {
        let mut spec = self.clone();
        (spec.tenant, spec.priority) = (default_tenant(), 0);
        if let Some(accumulate) = spec.accumulate {
            let config = &mut spec.function.config;
            config.insert(CONFIG_KEY.into(), accumulate.as_str().into());
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Manifest, source};
    use super::*;

    /// A job whose spec has these lines besides; the first is the fifth line.
    fn job(config: &str, lines: &str) -> Result<JobSpec, Vec<String>> {
        let text = format!(
            "apiVersion: tributary.dev/v1\nkind: Job\nmetadata: {{ name: j }}\nspec:\n\
             \x20 function: {{ name: f, config: {config} }}\n  model: {{ path: m }}\n  round: {{ quorum: 3 }}\n{lines}"
        );
        match source::parse("m.yaml", &text) {
            Ok(mut documents) => match documents.remove(0).manifest {
                Manifest::Job(job) => Ok(job.spec),
                other => unreachable!("a job was written, not a {}", other.kind()),
            },
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn functions_find_the_arithmetic_in_their_configuration() {
        let spec = job("{ update: delta }", "  accumulate: exact\n").unwrap();
        let config = Value::Object(spec.for_node().function.config);
        assert_eq!(
            config,
            serde_json::json!({"accumulate": "exact", "update": "delta"})
        );
        assert_eq!(spec.accumulate_asked(), Some("exact"));
        let spec = job("{ accumulate: f32 }", "").unwrap();
        assert_eq!(spec.for_node(), spec);
        assert_eq!(
            (spec.accumulate_asked(), spec.determinism),
            (Some("f32"), Determinism::None)
        );
        assert_eq!(job("{}", "").unwrap().accumulate_asked(), None);
    }

    #[test]
    fn where_the_arithmetic_stands_needs_no_restart() {
        let (in_config, in_spec) = (
            job("{ accumulate: f32 }", ""),
            job("{}", "  accumulate: f32\n"),
        );
        let (in_config, in_spec) = (in_config.unwrap(), in_spec.unwrap());
        assert!(!in_config.needs_restart(&in_spec));
        let other = job("{}", "  accumulate: f64\n").unwrap();
        assert!(in_spec.needs_restart(&other));
        let ordered = job("{}", "  accumulate: f32\n  determinism: ordered\n").unwrap();
        assert!(in_spec.needs_restart(&ordered));
    }

    #[test]
    fn two_arithmetics_are_refused_and_both_lines_named() {
        assert!(job("{ accumulate: exact }", "  accumulate: exact\n").is_ok());
        assert_eq!(
            job("{ accumulate: f64 }", "  accumulate: f32\n").unwrap_err(),
            [
                "m.yaml:5:34: spec.function.config.accumulate: is \"f64\", but spec.accumulate is \"f32\"; \
                 leave one of the two out",
                "m.yaml:8:3: spec.accumulate: is \"f32\", but spec.function.config.accumulate is \"f64\"; \
                 leave one of the two out"
            ]
        );
    }

    #[test]
    fn exact_models_need_exact_sums() {
        for (config, lines) in [
            ("{}", "  determinism: exact\n"),
            ("{ accumulate: f64 }", "  determinism: exact\n"),
        ] {
            assert_eq!(
                job(config, lines).unwrap_err(),
                [
                    "m.yaml:8:3: spec.determinism: `exact` needs exact sums: set spec.accumulate: exact"
                ]
            );
        }
        let exact = job("{}", "  accumulate: exact\n  determinism: exact\n").unwrap();
        assert_eq!(exact.determinism, Determinism::Exact);
        assert!(job("{ accumulate: exact }", "  determinism: exact\n").is_ok());
        assert!(job("{}", "  determinism: ordered\n").is_ok());
    }

    #[test]
    fn wrong_words_get_the_nearest() {
        let error = job("{}", "  accumulate: f16\n").unwrap_err().remove(0);
        assert!(error.starts_with("m.yaml:8:3: spec.accumulate: \"f16\" is not allowed; expected `f32`, `f64`, `exact`"), "{error}");
        let error = job("{}", "  determinism: order\n").unwrap_err().remove(0);
        assert!(error.ends_with("did you mean `ordered`?"), "{error}");
    }
}
