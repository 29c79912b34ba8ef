//! What applying manifests did, or would do.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Name, manifest::Kind};

/// What was done with one manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Created,
    /// It has a new revision.
    Configured,
    /// It is as it was.
    Unchanged,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The field, as in `spec.round.quorum`.
    pub path: String,
    /// The value before; absent if the field is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// The value after; absent if the field is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// What was done with one manifest, or would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplyResult {
    /// What the manifest describes.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// What was done.
    pub action: Action,
    /// The revision that now holds.
    pub revision: u64,
    /// What differs from the revision before.
    pub diff: Vec<Change>,
    /// What the user should know, such as that the job was restarted or could not be started yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        })
    }
}
