//! Manifests of kind `Function`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ApiVersion, FileReference, Metadata};
use crate::quantity::{ByteSize, Interval};

/// A function: a WASM module that folds updates, and the limits under which it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Function")]
pub struct FunctionManifest {
    /// The version of the manifests' language.
    pub api_version: ApiVersion,
    /// `Function`.
    pub kind: FunctionKind,
    /// The function's name.
    pub metadata: Metadata,
    /// What the function is.
    pub spec: FunctionSpec,
}

/// The kind of a function's manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FunctionKind {
    /// The only value.
    #[default]
    Function,
}

/// What a function is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FunctionSpec {
    /// The WASM module.
    pub module: FileReference,
    /// The class of aggregation rules that the function belongs to; decides how its tree is planned.
    #[serde(default)]
    pub algebra: Algebra,
    /// What a call may use.
    #[serde(default)]
    pub limits: Limits,
}

/// The class of aggregation rules that a function belongs to.
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
#[serde(rename_all = "camelCase")]
pub enum Algebra {
    /// Partials of any disjoint groups of clients may be merged in any order: means, sums, votes.
    #[default]
    Monoid,
}

/// What one call of a function may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// The module's own memory; the slots it reads and writes do not count.
    pub memory: ByteSize,
    /// The time that one call may take.
    pub deadline: Interval,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(64),
            deadline: Interval::from_secs(2),
        }
    }
}

impl Algebra {
    /// The class as manifests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Monoid => "monoid",
        }
    }
}
