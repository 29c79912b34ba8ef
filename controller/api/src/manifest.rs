//! Manifests: what a platform engineer writes, checks and applies.
//!
//! A manifest becomes a Rust value in three steps, and every error has the path of its field: the shape is
//! checked against the JSON Schema of the types (unknown and missing fields, wrong types, numbers out of
//! range), the values are parsed, and last comes what values mean together. So an editor that knows the schema
//! and the server agree. [`source`] adds file, line and column for YAML files.

mod arithmetic;
mod check;
pub mod function;
pub mod job;
mod nearest;
pub mod placement;
mod round;
mod schema;
mod shape;
pub mod source;
pub mod tenant;
mod weight;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::path::PathBuf;

pub use arithmetic::{Accumulate, Determinism};
pub use function::{Algebra, FunctionManifest, FunctionSpec, Limits};
pub use job::{
    ArenaSpec, Checkpoint, Clients, FunctionReference, IngestSpec, JobManifest, JobSpec, LocalPath,
    NonFinite, TreeSpec,
};
pub use round::{Closing, RoundSpec, Staleness, StalenessWeight, Timer};

pub use nearest::nearest;
pub use placement::{NodesSpec, PlacementPolicy, PlacementSpec, StragglerPolicy};
pub use schema::schema;
pub use tenant::{JobsQuota, TenantManifest, TenantSpec, default_tenant};
pub use weight::{ExactBounds, UpdateBounds, WeightSpec};

use crate::{Digest, Name, problem::FieldError};

/// The version of the manifests' language.
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
pub enum ApiVersion {
    /// The first version.
    #[default]
    #[serde(rename = "tributary.dev/v1")]
    V1,
}

/// What a manifest describes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Kind {
    /// A WASM module and how it may be used.
    Function,
    /// Whom jobs belong to.
    Tenant,
    /// A federated-learning job.
    Job,
}

/// What every manifest says of the thing it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The name, unique within the kind.
    pub name: Name,
}

/// A file that a manifest refers to: by path, or by the digest under which the server holds it.
///
/// Exactly one of the two is given. `tributary apply` uploads the file and puts the digest in the path's place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileReference {
    /// A path, relative to the manifest's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The SHA-256 of the file's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Any manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(
    clippy::large_enum_variant,
    reason = "few manifests are held at a time, and only while they are applied"
)]
pub enum Manifest {
    /// A function's.
    Function(FunctionManifest),
    /// A tenant's.
    Tenant(TenantManifest),
    /// A job's.
    Job(JobManifest),
}

impl Kind {
    /// Every kind, in the order in which they are applied.
    pub const ALL: [Self; 3] = [Self::Function, Self::Tenant, Self::Job];

    /// The kind's name, as manifests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Function => "Function",
            Self::Tenant => "Tenant",
            Self::Job => "Job",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl Manifest {
    /// The manifest that `value` holds.
    ///
    /// # Errors
    /// Every wrong field that the first failing step finds.
    pub fn from_value(value: &Value) -> Result<Self, Vec<FieldError>> {
        let manifest = match shape::kind(value).map_err(|error| vec![error])? {
            Kind::Function => Self::Function(typed(Kind::Function, value)?),
            Kind::Tenant => Self::Tenant(typed(Kind::Tenant, value)?),
            Kind::Job => Self::Job(typed(Kind::Job, value)?),
        };
        let errors = check::check(&manifest);
        if errors.is_empty() {
            Ok(manifest)
        } else {
            Err(errors)
        }
    }

    /// What it describes.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Function(_) => Kind::Function,
            Self::Tenant(_) => Kind::Tenant,
            Self::Job(_) => Kind::Job,
        }
    }

    /// The name of the thing it describes.
    #[must_use]
    pub const fn name(&self) -> &Name {
        match self {
            Self::Function(function) => &function.metadata.name,
            Self::Tenant(tenant) => &tenant.metadata.name,
            Self::Job(job) => &job.metadata.name,
        }
    }
}

fn typed<T: DeserializeOwned>(kind: Kind, value: &Value) -> Result<T, Vec<FieldError>> {
    let errors = shape::check(value, schema(Some(kind)));
    if !errors.is_empty() {
        return Err(errors);
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        vec![FieldError::new(
            if path == "." { String::new() } else { path },
            error.inner().to_string(),
        )]
    })
}
