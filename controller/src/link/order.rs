//! What a node is told, and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tributary_api::{
    Name,
    control::{FunctionDescription, FunctionRevision, NodeError, Sharing},
    manifest::JobSpec,
    placement::Placement,
};

use super::NodeReport;

/// A command of a leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The same whenever the order is sent again. Controllers of an earlier version give none.
    #[serde(default)]
    pub(crate) id: String,
    /// The leader's term.
    pub(crate) term: u64,
    pub(crate) command: Command,
}

/// What a node can be told. Every command may be repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Command {
    /// Says how it is.
    Report,
    /// Checks and compiles a module, which it finds in the store.
    Deploy(FunctionRevision),
    /// Checks that the job could be started.
    Check(JobOrder),
    /// Starts the job at its newest model, which it finds in the store.
    Start(JobOrder),
    /// Changes the running job without a restart.
    Update(JobOrder),
    /// Lets the running job go on with another placement.
    Place(Name, Placement),
    /// Stops the job.
    Stop(Name),
    /// Sends clients of jobs that do not run here to these gateways. Nodes of this version learn it by themselves.
    Direct(BTreeMap<Name, String>),
}

impl Order {
    /// A new order.
    pub(crate) fn new(term: u64, command: Command) -> Self {
        let id = nuid::next().to_string();
        Self { id, term, command }
    }
}

/// A job, as a node is told of it: large things by reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobOrder {
    pub(crate) name: Name,
    pub(crate) revision: u64,
    /// Controllers of an earlier version do not say it.
    #[serde(default)]
    pub(crate) life: u64,
    pub(crate) spec: JobSpec,
    pub(crate) function: FunctionRevision,
    pub(crate) placement: Option<Placement>,
    /// Controllers of an earlier version do not say it.
    #[serde(default)]
    pub(crate) sharing: Sharing,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) outcome: Result<Outcome, NodeError>,
    /// How the node is now.
    pub(crate) report: NodeReport,
}

/// What came of a command that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Outcome {
    Done,
    Deployed(FunctionDescription),
    /// The function is compiled and can be proven only under a job's configuration; why.
    NeedsConfiguration(String),
}

/// Why a node was not asked, or did not listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Refusal {
    /// Somebody of a higher term leads.
    #[error("the order is of term {term}, and the node has seen {seen}: another controller leads")]
    Deposed { term: u64, seen: u64 },
    /// The node was not reached, or did not answer; whether it was done is not known.
    #[error("node {node} does not answer: {why}")]
    Unreachable { node: String, why: String },
    /// The node cannot read the order: it is of another version.
    #[error("node {node} does not know the order, so it is of another version; upgrade it: {why}")]
    Unsupported { node: String, why: String },
}

impl Command {
    /// The job that it is about.
    pub(crate) const fn job(&self) -> Option<&Name> {
        match self {
            Self::Start(job) | Self::Update(job) => Some(&job.name),
            Self::Place(job, _) | Self::Stop(job) => Some(job),
            Self::Report | Self::Deploy(_) | Self::Check(_) | Self::Direct(_) => None,
        }
    }

    /// For logs and errors.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Deploy(_) => "deploy",
            Self::Check(_) => "check",
            Self::Start(_) => "start",
            Self::Update(_) => "update",
            Self::Place(..) => "place",
            Self::Stop(_) => "stop",
            Self::Direct(_) => "direct",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{name, record};

    fn order(spec: &JobSpec) -> JobOrder {
        let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        JobOrder {
            name: name("j"),
            revision: 1,
            life: 1,
            spec: spec.for_node(),
            function: FunctionRevision {
                name: name("f"),
                revision: 1,
                digest: digest.parse().unwrap(),
                spec: serde_json::from_value(json!({"module": {"digest": digest}})).unwrap(),
            },
            placement: None,
            sharing: Sharing {
                tenant: name("vision"),
                weight: 2.5,
                priority: -3,
            },
        }
    }

    /// Specs refuse fields that they do not know, so a node of the version before gets none; what it may claim stands
    /// beside the spec, where it is passed over.
    #[test]
    fn nodes_of_the_version_before_can_read_orders() {
        let record = record(1, 1, json!({"tenant": "vision", "priority": -3}));
        let order = serde_json::to_value(order(&record.spec)).unwrap();
        assert_eq!(
            order["sharing"],
            json!({"tenant": "vision", "weight": 2.5, "priority": -3})
        );
        let spec = order["spec"].as_object().unwrap();
        assert!(
            !spec.contains_key("tenant") && !spec.contains_key("priority"),
            "{spec:?}"
        );
    }

    #[test]
    fn orders_of_the_version_before_can_be_read() {
        let record = record(1, 1, json!({}));
        let Value::Object(mut json) = serde_json::to_value(order(&record.spec)).unwrap() else {
            panic!("an order is an object")
        };
        json.remove("sharing");
        let order: JobOrder = serde_json::from_value(json.into()).unwrap();
        assert_eq!(order.sharing, Sharing::default());
    }
}
