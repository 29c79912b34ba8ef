//! Manifests of kind `Job`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Accumulate, ApiVersion, Determinism, FileReference, Metadata, RoundSpec, WeightSpec,
    placement::PlacementSpec, tenant::default_tenant,
};
use crate::{
    Name,
    quantity::{ByteSize, Interval},
};

/// A federated-learning job: a model, the function that aggregates its updates, and when a round closes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Job")]
pub struct JobManifest {
    /// The version of the manifests' language.
    pub api_version: ApiVersion,
    /// `Job`.
    pub kind: JobKind,
    /// The job's name.
    pub metadata: Metadata,
    /// What the job is.
    pub spec: JobSpec,
}

/// The kind of a job's manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobKind {
    /// The only value.
    #[default]
    Job,
}

/// What a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    /// The function that aggregates the job's updates, and its configuration.
    pub function: FunctionReference,
    /// A safetensors file of F32 tensors: the layout that every update must have, and version 1 of the model.
    pub model: FileReference,
    /// The clients of a round.
    #[serde(default)]
    pub clients: Clients,
    /// When a round closes.
    pub round: RoundSpec,
    /// The job is completed after this many rounds; without it the job goes on until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub rounds: Option<u32>,
    /// The shape of the tree; what is left out the planner chooses.
    #[serde(default, skip_serializing_if = "TreeSpec::is_empty")]
    pub tree: TreeSpec,
    /// The idle time after which the job's aggregators and workers go, and come by need alone; without it each node's
    /// autoscaler decides how many workers there are, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Interval")]
    pub keep_alive: Option<Interval>,
    /// The job's shared memory; what is left out the planner chooses.
    #[serde(default, skip_serializing_if = "ArenaSpec::is_empty")]
    pub arena: ArenaSpec,
    /// How updates are taken in.
    #[serde(default)]
    pub ingest: IngestSpec,
    /// What a model survives from the moment at which it is published; without it `written`.
    #[serde(default, skip_serializing_if = "Checkpoint::is_written")]
    pub checkpoint: Checkpoint,
    /// The arithmetic of the sums, handed to the function as `accumulate` of its configuration; what is left out
    /// the function chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Accumulate")]
    pub accumulate: Option<Accumulate>,
    /// What the bytes of a round's model may depend on, beside the updates themselves; without it `none`.
    #[serde(default, skip_serializing_if = "Determinism::is_none")]
    pub determinism: Determinism,
    /// Which nodes take part; what is left out the controller chooses.
    #[serde(default, skip_serializing_if = "PlacementSpec::is_default")]
    pub placement: PlacementSpec,
    /// Whose the job is; without it `default`'s. Tenants share nodes that are too small for all by their weights.
    #[serde(default = "default_tenant", skip_serializing_if = "is_default_tenant")]
    pub tenant: Name,
    /// Jobs of higher priority come first where nodes are too small for all; without it 0.
    #[serde(default, skip_serializing_if = "is_default_priority")]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
}

/// A job's function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FunctionReference {
    /// The function's name; the job uses the newest revision.
    pub name: Name,
    /// The configuration, handed to the function as JSON. What it may hold the function's own page says.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
}

/// The clients of a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Clients {
    /// The greatest number of distinct clients in a round.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: u32,
}

/// The shape of a job's tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TreeSpec {
    /// The children of an aggregator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 64))]
    pub fan_in: Option<u32>,
}

/// A job's shared memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArenaSpec {
    /// The slots; each holds one update, partial or model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3, max = 1_000_000))]
    pub slots: Option<u32>,
}

/// How updates are taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IngestSpec {
    /// A client that sends nothing for so long in mid-body is given up.
    pub idle_timeout: Interval,
    /// The least that a client must send of its body in a second, on average.
    #[serde(skip_serializing_if = "is_default_min_rate")]
    pub min_rate: ByteSize,
    /// What is done with NaN and infinity, in updates and in the models that are made of them.
    pub non_finite: NonFinite,
    /// The weights that updates may have.
    #[serde(skip_serializing_if = "WeightSpec::is_default")]
    pub weight: WeightSpec,
    /// Whether clients on the node's own host may write updates into shared memory themselves.
    pub local: LocalPath,
}

/// What is done with NaN and infinity, in updates and in the models that are made of them.
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
pub enum NonFinite {
    /// The update is refused, the attempt at the round fails, and the error names the coordinate.
    #[default]
    Reject,
    /// They are like any other value.
    Allow,
}

/// Whether clients on the node's own host may write updates into shared memory themselves.
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
pub enum LocalPath {
    /// They may, if they run as the server's user.
    #[default]
    Allow,
    /// They send bodies like all others: where a proxy on the host stands before the server, for instance.
    Refuse,
}

/// What a model survives from the moment at which it is published.
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
pub enum Checkpoint {
    /// The end of the process, however it comes. A moment later that of the machine as well.
    #[default]
    Written,
    /// That of the machine: each round waits until the disk has its model.
    Synced,
}

impl Checkpoint {
    const fn is_written(&self) -> bool {
        matches!(self, Self::Written)
    }
}

impl JobSpec {
    /// Whether a running job must be stopped and started to become `next`.
    ///
    /// When a round closes, how many rounds there are, how long idle workers stay, how updates are taken in, whose it
    /// is and how urgent can change under a running job; function, arithmetic, model, tree and memory cannot.
    #[must_use]
    pub fn needs_restart(&self, next: &Self) -> bool {
        self.for_node().function != next.for_node().function
            || self.determinism != next.determinism
            || self.model != next.model
            || self.clients != next.clients
            || self.tree != next.tree
            || self.arena != next.arena
    }
}

impl TreeSpec {
    /// Whether everything is left to the planner.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ArenaSpec {
    /// Whether everything is left to the planner.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self { max: 1024 }
    }
}

impl Default for IngestSpec {
    fn default() -> Self {
        Self {
            idle_timeout: Interval::from_secs(10),
            min_rate: MIN_RATE,
            non_finite: NonFinite::Reject,
            weight: WeightSpec::default(),
            local: LocalPath::Allow,
        }
    }
}

/// Each client has a slot while it sends.
const MIN_RATE: ByteSize = ByteSize::new(64 << 10);

/// Nodes of the version before do not know it.
fn is_default_min_rate(rate: &ByteSize) -> bool {
    *rate == MIN_RATE
}

fn is_default_tenant(tenant: &Name) -> bool {
    *tenant == default_tenant()
}

const fn is_default_priority(priority: &i32) -> bool {
    *priority == 0
}
