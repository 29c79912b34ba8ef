//! A job to measure with: a model of one tensor, folded by `fedavg`.

use crate::server::Server;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The name of every job that is measured.
pub const NAME: &str = "measured";

/// A safetensors file with one F32 tensor of `elements` values.
#[must_use]
pub fn file(elements: usize, value: impl Fn(usize) -> f32) -> Vec<u8> {
    let header = json!({
        "weight": { "dtype": "F32", "shape": [elements], "data_offsets": [0, elements * 4] }
    });
    let mut header = header.to_string();
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..elements).flat_map(|element| value(element).to_le_bytes()));
    file
}

/// Applies the function and a job of that specification; `model` and `function` are added to it.
///
/// # Errors
/// If files cannot be written, or the server refuses.
pub fn apply(server: &Server, module: &Path, elements: usize, mut spec: Value) -> Result<()> {
    let directory = server.directory();
    fs::write(directory.join("model.safetensors"), file(elements, |_| 0.0))?;
    let module = module
        .canonicalize()
        .with_context(|| format!("{}: `cargo xtask build` makes it", module.display()))?;
    spec["model"] = json!({ "path": "model.safetensors" });
    spec["function"] = json!({ "name": "fedavg", "config": { "accumulate": "f64" } });
    let function = json!({
        "apiVersion": "tributary.dev/v1", "kind": "Function", "metadata": { "name": "fedavg" },
        "spec": { "module": { "path": module }, "algebra": "monoid" }
    });
    let job = json!({
        "apiVersion": "tributary.dev/v1", "kind": "Job", "metadata": { "name": NAME }, "spec": spec
    });
    let manifests = directory.join("job.yaml");
    // JSON is YAML, too.
    fs::write(&manifests, format!("{function}\n---\n{job}\n"))?;
    server.command(&["apply", "-f", &manifests.to_string_lossy()])
}
