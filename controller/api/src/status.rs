//! What the HTTP interface says of jobs, rounds, functions and nodes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Digest, Name,
    control::{FunctionDescription, Sharing},
    manifest::{Algebra, Limits, UpdateBounds},
    stages::{Awaited, RoundTimes, StageTimes},
};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// No node runs it yet: one is about to, or is making its arena.
    Starting,
    /// A round is open.
    Running,
    /// All rounds of the manifest are done; the last model can be fetched.
    Completed,
    /// The job does not run; `last_error` says why.
    Failed,
}

/// A job as the node and the controller see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job's name.
    pub name: Name,
    /// Where it stands.
    pub phase: JobPhase,
    /// The function's name.
    pub function: Name,
    /// The function's revision.
    pub function_revision: u64,
    /// The job's own revision.
    pub revision: u64,
    /// The version of the newest model, which is also the number of the open round.
    pub version: u64,
    /// The rounds after which the job is completed.
    pub rounds: Option<u32>,
    /// The updates that a round is planned for.
    pub expected: u32,
    /// The updates accepted into the open round.
    pub accepted: u32,
    /// The model's number of elements.
    pub parameters: u64,
    /// The model's data in bytes.
    pub model_bytes: u64,
    /// Why the job failed, or the last thing that went wrong in it.
    pub last_error: Option<String>,
    /// The node that runs it.
    pub node: Option<String>,
    /// Its shared memory on that node.
    pub arena: Option<ArenaStatus>,
    /// The workers that hold aggregators of it.
    pub workers: u32,
    /// How many there should be on that node, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaler: Option<AutoscalerStatus>,
    /// Its nodes, if it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,
    /// What its nodes took for the newest rounds, the newest last, as the one that leads it tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<RoundTimes>,
    /// What its closed round waits for, as the node that leads it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<Awaited>,
    /// What it may claim of its nodes, if they know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// What the node takes of one update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<UpdateBounds>,
}

/// How many workers a job shall have on a node, as the node's autoscaler decided last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoscalerStatus {
    /// Workers of the node that are the job's.
    pub wanted: u32,
    /// Workers that it would have on a node of its own.
    pub wished: u32,
    /// Why so many: `idle`, `load`, `panic`, `planned`, `kept_warm`, `window`, `no_data` or `node_full`.
    pub reason: String,
}

/// A job's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementStatus {
    /// The placement's generation.
    pub generation: u64,
    /// The round that was open on the node when it took the placement over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The node that hosts the top.
    pub leader: Name,
    /// All nodes, the leader among them.
    pub members: Vec<Name>,
}

/// A job's shared memory on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaStatus {
    /// The segment's name in /dev/shm.
    pub segment: String,
    /// All slots.
    pub slots: u32,
    /// The free ones.
    pub free: u32,
    /// The bytes that were ever used.
    pub bytes: u64,
    /// What was planned.
    pub plan: PlanStatus,
}

/// How a job is laid out on a node: known before it runs, and a bound on its shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStatus {
    /// Slots for models: the newest, the one before, and the one that is being made, as far as there is room.
    pub model_slots: u32,
    /// Slots for updates that arrive or wait.
    pub update_slots: u32,
    /// Bytes of a slot for a model or an update.
    pub slot_bytes: u64,
    /// Slots for partials.
    pub partial_slots: u32,
    /// Bytes of a slot for a partial.
    pub partial_slot_bytes: u64,
    /// Bytes of tables and journals.
    pub other_bytes: u64,
    /// The most bytes of shared memory that the job ever takes:
    /// `(model_slots + update_slots) * slot_bytes + partial_slots * partial_slot_bytes + other_bytes`.
    pub bytes_max: u64,
    /// Leaves that are filled side by side, each on a worker of its own.
    pub lanes: u32,
    /// Threads of a worker that fold side by side, each on its own range of coordinates.
    pub threads: u32,
    /// Accumulators are changed in place, under an undo journal.
    pub in_place: bool,
    /// The arena is larger than what a function sees at once: updates with tables (i8, sparse) are not taken.
    #[serde(default)]
    pub by_windows: bool,
}

/// Where a round stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundPhase {
    /// Updates are taken.
    Open,
    /// No more updates are taken; the tree is being emptied.
    Closing,
    /// Its model is published.
    Completed,
    /// It has no model; `error` says why.
    Failed,
}

/// A round of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundStatus {
    /// The job's name.
    pub job: Name,
    /// The round's number, from 1.
    pub round: u64,
    /// Where it stands.
    pub phase: RoundPhase,
    /// The updates it was planned for.
    pub expected: u32,
    /// The updates accepted.
    pub accepted: u32,
    /// The clients inside its model.
    pub contributors: u32,
    /// The updates refused for what they are; what belongs elsewhere or may come again does not count.
    pub rejected: u64,
    /// The updates that came after it closed.
    pub late: u64,
    /// The updates that it had accepted and that were lost with their node.
    #[serde(default)]
    pub lost: u32,
    /// What each node contributed, if the job has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// How old the models were from which its updates were trained, if the job takes such updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness: Option<RoundStaleness>,
    /// When it opened.
    pub opened_at: Option<Timestamp>,
    /// When it took its last update.
    pub closed_at: Option<Timestamp>,
    /// When its model was published.
    pub completed_at: Option<Timestamp>,
    /// Seconds from close to publication.
    pub aggregation_seconds: Option<f64>,
    /// Seconds from the first update to publication.
    pub seconds: Option<f64>,
    /// Bytes that were copied in memory.
    pub bytes_copied: u64,
    /// Bytes that functions read where they lay.
    pub bytes_read_in_place: u64,
    /// The aggregators that took part.
    pub aggregators: AggregatorCounts,
    /// Why it failed.
    pub error: Option<String>,
}

/// How old the models were from which a round's updates were trained, in versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundStaleness {
    /// The mean over the updates accepted.
    pub mean: f64,
    /// The greatest one.
    pub max: u64,
}

/// A node's part in a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The node.
    pub node: Name,
    /// The updates that it has accepted.
    pub accepted: u32,
    /// The clients in its partial, once the leader has it.
    pub contributors: u32,
    /// Bytes of its partial that came over the network.
    pub bytes: u64,
    /// What it took.
    #[serde(flatten)]
    pub stages: StageTimes,
}

/// Aggregators by level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregatorCounts {
    /// Those that fold clients' updates.
    pub leaf: u32,
    /// Those that merge leaves' partials.
    pub middle: u32,
    /// The one that makes the model.
    pub top: u32,
}

/// How descriptors are routed on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sidecar {
    /// By the program in the kernel.
    Ebpf,
    /// By the agent.
    Userspace,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// How it routes descriptors.
    pub sidecar: Sidecar,
    /// Why it does not route them in the kernel.
    pub sidecar_reason: Option<String>,
    /// The running workers.
    pub workers: u32,
    /// The jobs it runs.
    pub jobs: u32,
    /// The version of the program.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// The cores it may use.
    pub cores: u32,
    /// The free bytes of /dev/shm.
    pub shm_free_bytes: u64,
    /// What it has done since it started.
    #[serde(default)]
    pub load: NodeLoad,
}

/// What a node has done since it started: counters, from which rates are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// Updates that were accepted.
    pub updates: u64,
    /// Time that workers spent in steps, in milliseconds.
    pub busy_milliseconds: u64,
    /// Updates that were folded.
    #[serde(default)]
    pub folded: u64,
    /// Updates in service (accepted, not folded yet, and a worker there for them), times milliseconds: the time that all
    /// of them were in service.
    #[serde(default)]
    pub served_milliseconds: u64,
    /// Time in which any update was in service, in milliseconds.
    #[serde(default)]
    pub occupied_milliseconds: u64,
}

/// A function's newest revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Its name.
    pub name: Name,
    /// The revision, from 1.
    pub revision: u64,
    /// The module's digest.
    pub digest: Digest,
    /// The class of aggregation rules.
    pub algebra: Algebra,
    /// What a call may use.
    pub limits: Limits,
    /// What the module says of itself without a configuration, unless it needs one.
    #[serde(flatten)]
    pub description: Option<FunctionDescription>,
    /// The jobs that use it.
    pub jobs: Vec<Name>,
}

/// A tenant's newest revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// Its name.
    pub name: Name,
    /// The revision, from 1; 0 is the tenant `default` that no manifest has described.
    pub revision: u64,
    /// Its weight, against those of other tenants.
    pub weight: f64,
    /// The most jobs that it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs_max: Option<u32>,
    /// Its jobs.
    pub jobs: Vec<Name>,
}

/// The answer to an accepted update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReceipt {
    /// The job's name.
    pub job: Name,
    /// The client's name.
    pub client: crate::ClientName,
    /// The round that took it.
    pub round: u64,
    /// The versions between the model from which it was trained and the one that the round began with.
    #[serde(default)]
    pub staleness: u64,
    /// The state of the update's slot.
    pub slot_state: String,
    /// The clients accepted into the round so far, this one included.
    pub contributors: u32,
}

/// The answer to a local client that asked for a slot: where it writes its update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotLease {
    /// The arena's segment: a file of that name in /dev/shm.
    pub segment: String,
    /// Where the update begins in the segment, in bytes: the tensors of the model's file in its order, without its
    /// header. A multiple of 4096.
    pub offset: u64,
    /// The update's length: 4 for each element of the model.
    pub bytes: u64,
    /// What the update is committed by, on the connection that asked for the slot.
    pub ticket: String,
}

impl std::fmt::Display for JobPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        })
    }
}

impl std::fmt::Display for RoundPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Open => "Open",
            Self::Closing => "Closing",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        })
    }
}

impl std::fmt::Display for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ebpf => "ebpf",
            Self::Userspace => "userspace",
        })
    }
}
