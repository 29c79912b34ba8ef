//! Things that this crate's own tests are about.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tributary_api::{
    Name,
    status::{JobPhase, JobStatus, NodeLoad, NodeStatus, Sidecar},
};

use crate::{
    link::{NodeReport, Span},
    store::JobRecord,
};

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A job's record; `spec` is what differs from the least that a job says.
pub(crate) fn record(revision: u64, function_revision: u64, spec: Value) -> JobRecord {
    let mut whole = json!({
        "function": {"name": "f"}, "model": {"path": "m"}, "round": {"expected": 20},
    });
    let Value::Object(spec) = spec else {
        panic!("{spec} is no object")
    };
    whole.as_object_mut().unwrap().extend(spec);
    JobRecord {
        revision,
        life: 0,
        spec: serde_json::from_value(whole).unwrap(),
        function_revision,
        elements: 1,
    }
}

pub(crate) fn status(job: &str, revision: u64) -> JobStatus {
    JobStatus {
        name: name(job),
        phase: JobPhase::Running,
        function: name("f"),
        function_revision: 1,
        revision,
        version: 1,
        rounds: None,
        expected: 1,
        accepted: 0,
        parameters: 1,
        model_bytes: 4,
        last_error: None,
        node: None,
        arena: None,
        workers: 0,
        autoscaler: None,
        placement: None,
        times: Vec::new(),
        awaited: None,
        sharing: None,
        bounds: None,
    }
}

pub(crate) fn report(node: &str, mut jobs: Vec<JobStatus>) -> NodeReport {
    jobs.sort_by(|a, b| a.name.cmp(&b.name));
    NodeReport {
        life: 1,
        number: 1,
        status: NodeStatus {
            name: node.into(),
            sidecar: Sidecar::Userspace,
            sidecar_reason: None,
            workers: 0,
            jobs: 0,
            version: String::new(),
            kernel: String::new(),
            cores: 2,
            shm_free_bytes: 0,
            load: NodeLoad::default(),
        },
        url: Some(format!("http://{node}")),
        labels: BTreeMap::new(),
        capacity: None,
        jobs,
        span: Span::default(),
        follows: false,
        elsewhere: BTreeMap::new(),
        term: 0,
        leaving: false,
    }
}
