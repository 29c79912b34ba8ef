//! A job's wishes for the nodes that take part in it.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Name;

/// Which nodes take part in a job. Without several nodes it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlacementSpec {
    /// How nodes are chosen among those that will do.
    pub policy: PlacementPolicy,
    /// How many.
    #[serde(skip_serializing_if = "NodesSpec::is_default")]
    pub nodes: NodesSpec,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Labels that a node should have: such nodes are filled first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub preferred: BTreeMap<String, String>,
    /// Jobs whose nodes are filled first.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub affinity: BTreeSet<Name>,
    /// Jobs that it never shares a node with. It holds for both, whoever says it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub anti_affinity: BTreeSet<Name>,
    /// What becomes of a node that is slow beside the others.
    #[serde(skip_serializing_if = "StragglerPolicy::is_default")]
    pub stragglers: StragglerPolicy,
}

/// What becomes of a node that is slow beside the others of its job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StragglerPolicy {
    /// It is told.
    #[default]
    Report,
    /// It is told, and the job does without the node for a while.
    Bypass,
}

/// How nodes are chosen among those that will do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PlacementPolicy {
    /// The fewest nodes that have the capacity, and of those the fullest.
    #[default]
    BestFit,
    /// Always the emptiest node.
    WorstFit,
    /// One node after the other, in the order of their names.
    FirstFit,
    /// The same share for every node.
    Spread,
}

/// How many nodes a job may have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodesSpec {
    /// The most nodes; without it as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max: Option<u32>,
}

impl PlacementSpec {
    /// Whether everything is left to the controller.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl StragglerPolicy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl NodesSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl PlacementPolicy {
    /// As manifests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestFit => "bestFit",
            Self::WorstFit => "worstFit",
            Self::FirstFit => "firstFit",
            Self::Spread => "spread",
        }
    }
}
