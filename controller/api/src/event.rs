//! What happens, as CloudEvents 1.0 in their JSON form.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kinds of events; on the wire each is `dev.tributary.` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// A job was created or changed.
    #[serde(rename = "dev.tributary.job.applied")]
    JobApplied,
    /// A job was deleted.
    #[serde(rename = "dev.tributary.job.deleted")]
    JobDeleted,
    /// A job has done all its rounds.
    #[serde(rename = "dev.tributary.job.completed")]
    JobCompleted,
    /// A round takes updates.
    #[serde(rename = "dev.tributary.round.opened")]
    RoundOpened,
    /// A round took an update.
    #[serde(rename = "dev.tributary.update.accepted")]
    UpdateAccepted,
    /// An update was submitted by reference: the one kind that others tell.
    #[serde(rename = "dev.tributary.update.submitted")]
    UpdateSubmitted,
    /// An update that an event has submitted is not taken.
    #[serde(rename = "dev.tributary.update.refused")]
    UpdateRefused,
    /// A round takes no more updates.
    #[serde(rename = "dev.tributary.round.closed")]
    RoundClosed,
    /// A round's result is known.
    #[serde(rename = "dev.tributary.round.completed")]
    RoundCompleted,
    /// A round has no result.
    #[serde(rename = "dev.tributary.round.failed")]
    RoundFailed,
    /// A new version of a model can be fetched.
    #[serde(rename = "dev.tributary.model.published")]
    ModelPublished,
    /// A worker process was started.
    #[serde(rename = "dev.tributary.worker.started")]
    WorkerStarted,
    /// A worker process died.
    #[serde(rename = "dev.tributary.worker.lost")]
    WorkerLost,
    /// The leader of a job has taken a follower's partial.
    #[serde(rename = "dev.tributary.partial.merged")]
    PartialMerged,
    /// Updates that a round had accepted are lost with their node; their clients may send again.
    #[serde(rename = "dev.tributary.updates.lost")]
    UpdatesLost,
    /// A node has joined.
    #[serde(rename = "dev.tributary.node.joined")]
    NodeJoined,
    /// A node is not heard any more.
    #[serde(rename = "dev.tributary.node.lost")]
    NodeLost,
    /// A node has handed over all it had.
    #[serde(rename = "dev.tributary.node.drained")]
    NodeDrained,
    /// A node is slow beside the others of a job.
    #[serde(rename = "dev.tributary.node.slow")]
    NodeSlow,
    /// A node that was slow in a job is not any more.
    #[serde(rename = "dev.tributary.node.recovered")]
    NodeRecovered,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `1.0`.
    pub specversion: String,
    /// Unique for the source.
    pub id: String,
    /// `/nodes/<node>`.
    pub source: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// `jobs/<job>`; absent when no job is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened.
    pub time: Timestamp,
    /// `application/json`.
    pub datacontenttype: String,
    /// What is told of it.
    pub data: Value,
}

impl EventKind {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobApplied => "dev.tributary.job.applied",
            Self::JobDeleted => "dev.tributary.job.deleted",
            Self::JobCompleted => "dev.tributary.job.completed",
            Self::RoundOpened => "dev.tributary.round.opened",
            Self::UpdateAccepted => "dev.tributary.update.accepted",
            Self::UpdateSubmitted => "dev.tributary.update.submitted",
            Self::UpdateRefused => "dev.tributary.update.refused",
            Self::RoundClosed => "dev.tributary.round.closed",
            Self::RoundCompleted => "dev.tributary.round.completed",
            Self::RoundFailed => "dev.tributary.round.failed",
            Self::ModelPublished => "dev.tributary.model.published",
            Self::WorkerStarted => "dev.tributary.worker.started",
            Self::WorkerLost => "dev.tributary.worker.lost",
            Self::PartialMerged => "dev.tributary.partial.merged",
            Self::UpdatesLost => "dev.tributary.updates.lost",
            Self::NodeJoined => "dev.tributary.node.joined",
            Self::NodeLost => "dev.tributary.node.lost",
            Self::NodeDrained => "dev.tributary.node.drained",
            Self::NodeSlow => "dev.tributary.node.slow",
            Self::NodeRecovered => "dev.tributary.node.recovered",
        }
    }
}

impl Event {
    /// An event of `node`, now; `id` is unique for the node.
    #[must_use]
    pub fn new(node: &str, id: String, kind: EventKind, job: Option<&str>, data: Value) -> Self {
        Self {
            specversion: "1.0".into(),
            id,
            source: format!("/nodes/{node}"),
            kind,
            subject: job.map(|job| format!("jobs/{job}")),
            time: Timestamp::now(),
            datacontenttype: "application/json".into(),
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_a_cloud_event() {
        let event = Event::new(
            "n1",
            "7".into(),
            EventKind::RoundOpened,
            Some("digits"),
            serde_json::json!({"round": 1}),
        );
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], EventKind::RoundOpened.as_str());
        assert_eq!(json["source"], "/nodes/n1");
        assert_eq!(json["subject"], "jobs/digits");
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
