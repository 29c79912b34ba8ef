//! How the controller drives a node, and how a node keeps its models.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Digest, Name,
    event::EventKind,
    manifest::{Checkpoint, FunctionSpec, JobSpec, default_tenant},
    model::ModelLayout,
    placement::Placement,
    status::{JobStatus, NodeStatus, RoundStatus},
};

/// An immutable revision of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRevision {
    /// The function's name.
    pub name: Name,
    /// The revision, from 1.
    pub revision: u64,
    /// The module's digest.
    pub digest: Digest,
    /// The manifest's spec.
    pub spec: FunctionSpec,
}

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDescription {
    /// A partial's bytes per element of the model.
    pub partial_bytes_per_element: u32,
    /// The bytes of a partial beside its vector.
    pub scalar_bytes: u32,
    /// The inputs that one fold can take.
    pub max_inputs: u32,
}

/// What is known of a function as soon as it is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// It obeys its laws without a configuration, and says this of itself.
    Proven(FunctionDescription),
    /// It is nothing without a configuration, and gives this reason: it is proven under each job's.
    NeedsConfiguration(String),
}

/// What a job may claim of a node that is too small for all jobs on it. The default is that of a job that names no
/// tenant and no priority.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sharing {
    /// Whose the job is.
    pub tenant: Name,
    /// The tenant's weight, against those of other tenants.
    pub weight: f64,
    /// Jobs of higher priority come first.
    pub priority: i32,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            tenant: default_tenant(),
            weight: 1.0,
            priority: 0,
        }
    }
}

/// What a job shall be on a node.
#[derive(Debug, Clone)]
pub struct JobDesired {
    /// The job's name.
    pub name: Name,
    /// The job's revision.
    pub revision: u64,
    /// Tells it from a job of the same name that was deleted before; see [`ModelKey`].
    pub life: u64,
    /// The manifest's spec.
    pub spec: JobSpec,
    /// The revision of its function.
    pub function: FunctionRevision,
    /// The layout of its model.
    pub layout: Arc<ModelLayout>,
    /// The version of the model to start with, which is also the round to open.
    pub version: u64,
    /// The job's nodes; without it the node has the job alone.
    pub placement: Option<Placement>,
    /// What it may claim of the node.
    pub sharing: Sharing,
}

/// Why a node does not do what it is told. The text is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "error", content = "about")]
pub enum NodeError {
    /// What was asked for cannot be; asking again does not help.
    #[error("{0}")]
    Refused(String),
    /// The node does not know the job.
    #[error("the node does not run job {0}")]
    UnknownJob(Name),
    /// The node lacks something; asking again later may help.
    #[error("{0}")]
    Unavailable(String),
}

/// A node, as the controller drives it. Every method may be repeated.
#[async_trait]
pub trait NodeControl: Send + Sync {
    /// Checks a module (shape, laws under an empty configuration, if it takes one) and compiles it ahead of use.
    async fn deploy(&self, function: &FunctionRevision, wasm: Bytes) -> Result<Proof, NodeError>;

    /// Checks that a job could be started: its function takes its configuration, its arena fits the machine.
    /// Nothing is kept. Every function a job names was deployed before.
    async fn check_job(&self, job: &JobDesired) -> Result<(), NodeError>;

    /// Says that a job is being started, and is not unknown, until what this gives is dropped.
    fn starting(&self, _name: &Name) -> Box<dyn Send> {
        Box::new(())
    }

    /// Starts a job at `job.version` with `model`, a safetensors file. The job does not run yet.
    async fn start_job(&self, job: JobDesired, model: Bytes) -> Result<(), NodeError>;

    /// Changes a running job to a revision for which [`JobSpec::needs_restart`] says no.
    /// `layout` and `version` do not matter.
    async fn update_job(&self, job: JobDesired) -> Result<(), NodeError>;

    /// Lets a running job go on with another placement. One that is not newer than the job's is ignored.
    async fn place_job(&self, name: &Name, placement: Placement) -> Result<(), NodeError>;

    /// Where a job is that this node does not run, by the URL of a gateway: its clients are sent there. `None`: nowhere.
    async fn direct(&self, job: &Name, gateway: Option<String>);

    /// Stops a job and frees all it holds; no [`Checkpoints::save`] of it begins any more.
    /// A job that does not run is no error.
    async fn stop_job(&self, name: &Name) -> Result<(), NodeError>;

    /// The status of a job that runs or has completed here.
    async fn job_status(&self, name: &Name) -> Option<JobStatus>;

    /// The status of all jobs here.
    async fn jobs(&self) -> Vec<JobStatus>;

    /// The rounds of a job that the node remembers, the newest first.
    async fn rounds(&self, name: &Name) -> Vec<RoundStatus>;

    /// Tells those who listen to the node's events what the controller did.
    fn announce(&self, kind: EventKind, job: &Name, data: Value);

    /// The node itself.
    async fn node_status(&self) -> NodeStatus;
}

/// Names a model that a round made: no two models have the same key. Of two of a job, the greater one is the newer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelKey {
    /// The job's name.
    pub job: Name,
    /// The job's first revision: a job that is deleted and made anew has another life.
    pub life: u64,
    /// The generation of the placement whose leader made it; 0 on a node that has the job alone. What a leader that was
    /// given up makes is older than what its successor makes, whatever its version.
    pub generation: u64,
    /// The version.
    pub version: u64,
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model {} version {}", self.job, self.version)
    }
}

/// Why a model could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{model} cannot be kept: {reason}")]
pub struct CheckpointError {
    /// The model.
    pub model: ModelKey,
    /// What went wrong.
    pub reason: String,
}

/// Models that are kept here, and not yet where all nodes find them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// How many jobs have one.
    pub jobs: usize,
    /// How long the first has waited.
    pub longest: Duration,
}

/// The pieces of a model's file, made as they are asked for.
pub type ModelParts<'a> = Box<dyn Iterator<Item = Result<Bytes, String>> + Send + 'a>;

/// Where a node keeps the models that its rounds make.
///
/// The list of files is the only record of a job's version: whoever starts the job opens the round of the
/// newest whole file.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// Keeps a model, whole or not at all: when this returns, no crash of the process loses it, nor one of the machine if
    /// `checkpoint` says so. `parts` are the consecutive pieces of a safetensors file; they are asked for as they are
    /// written, so that a model of any size takes little memory. An error in them (its reason) gives the file up.
    async fn save(
        &self,
        model: &ModelKey,
        checkpoint: Checkpoint,
        parts: ModelParts<'_>,
    ) -> Result<(), CheckpointError>;

    /// What waits here.
    fn undelivered(&self) -> Undelivered {
        Undelivered::default()
    }
}
