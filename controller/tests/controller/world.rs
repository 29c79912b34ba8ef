//! A controller, its node and its directory.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;
use tributary_api::{
    Digest,
    apply::ApplyResult,
    control::{Checkpoints as _, ModelKey},
    manifest::Checkpoint,
    problem::FieldError,
};
use tributary_controller::{Controller, Error, Spool, State, routes};

use crate::fake_node::FakeNode;

pub(crate) const WASM: &[u8] = b"\0asm one";

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) controller: Arc<Controller>,
    pub(crate) checkpoints: Arc<Spool>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::open(TempDir::new().unwrap()).await
    }

    async fn open(directory: TempDir) -> Self {
        let node = Arc::new(FakeNode::default());
        let state = State::open(directory.path()).await.unwrap();
        let checkpoints = state.checkpoints();
        let controller = Controller::start(state, node.clone()).await.unwrap();
        Self {
            directory,
            node,
            controller,
            checkpoints,
        }
    }

    /// The process dies and another begins on the same directory, with a node that knows nothing.
    pub(crate) async fn restarted(self) -> Self {
        let Self {
            directory,
            controller,
            checkpoints,
            ..
        } = self;
        assert_eq!(Arc::strong_count(&controller), 1);
        drop((controller, checkpoints));
        Self::open(directory).await
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Keeps a model of job `j`, which is in its first life, as a node does.
    pub(crate) async fn save(&self, version: u64, file: &[u8]) {
        let model = ModelKey {
            job: "j".parse().unwrap(),
            life: 1,
            generation: 0,
            version,
        };
        // In parts, as a node has them.
        let (head, data) = file.split_at(file.len() - 24);
        let parts = [head.to_vec(), data.to_vec()].map(|part| Ok(part.into()));
        let saved = self
            .checkpoints
            .save(&model, Checkpoint::Written, Box::new(parts.into_iter()));
        saved.await.unwrap();
        assert!(self.checkpoints.flush(None, Duration::from_secs(60)).await);
    }

    /// Uploads a blob as a client does.
    pub(crate) async fn upload(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = sha256(&bytes);
        let request = axum::http::Request::put(format!("/v1/blobs/{digest}"))
            .body(axum::body::Body::from(bytes))
            .unwrap();
        let response = routes(self.controller.clone())
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(response.status(), 201);
        digest
    }

    /// Function `f` and job `j`, as they are in most tests.
    pub(crate) async fn example(&self) -> [Value; 2] {
        let (module, model) = (
            self.upload(WASM).await,
            self.upload(model(&[("w", 4), ("b", 2)])).await,
        );
        [function("f", module), job("j", "f", model)]
    }

    pub(crate) async fn apply(&self, manifests: &[Value]) -> Vec<ApplyResult> {
        self.controller.apply(manifests, false).await.unwrap()
    }

    pub(crate) async fn refused(&self, manifests: &[Value]) -> Vec<FieldError> {
        match self.controller.apply(manifests, false).await {
            Err(Error::Invalid(errors)) => errors,
            other => panic!("not refused: {other:?}"),
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::new(sha2::Sha256::digest(bytes).into())
}

/// A safetensors file with vectors of these names and lengths, all zero.
pub(crate) fn model(tensors: &[(&str, u64)]) -> Vec<u8> {
    let mut begin = 0;
    let mut header = serde_json::Map::new();
    for (name, length) in tensors {
        let end = begin + length * 4;
        header.insert(
            (*name).into(),
            json!({"dtype": "F32", "shape": [length], "data_offsets": [begin, end]}),
        );
        begin = end;
    }
    let header = Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + usize::try_from(begin).unwrap(), 0);
    file
}

pub(crate) fn function(name: &str, module: Digest) -> Value {
    json!({
        "apiVersion": "tributary.dev/v1", "kind": "Function", "metadata": {"name": name},
        "spec": {"module": {"digest": module}},
    })
}

pub(crate) fn tenant(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "tributary.dev/v1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec,
    })
}

pub(crate) fn job(name: &str, function: &str, model: Digest) -> Value {
    json!({
        "apiVersion": "tributary.dev/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"function": {"name": function}, "model": {"digest": model}, "round": {"expected": 2}},
    })
}

/// `manifest` with the value at a JSON pointer replaced.
pub(crate) fn with(mut manifest: Value, pointer: &str, value: impl Into<Value>) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    manifest.pointer_mut(parent).unwrap()[name] = value.into();
    manifest
}

/// `created Function f@1`.
pub(crate) fn lines(results: &[ApplyResult]) -> Vec<String> {
    let line = |r: &ApplyResult| format!("{} {} {}@{}", r.action, r.kind, r.name, r.revision);
    results.iter().map(line).collect()
}
