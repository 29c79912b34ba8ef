//! Manifests of functions and jobs, as the benchmarks need them.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::place;

/// A function whose module is `cargo xtask build`'s.
///
/// # Errors
/// If the module is not there.
pub fn function(name: &str) -> Result<Value> {
    Ok(json!({
        "apiVersion": "tributary.dev/v1",
        "kind": "Function",
        "metadata": { "name": name },
        "spec": {
            "module": { "path": place::function(name)? },
            "algebra": "monoid",
            "limits": { "memory": "64MiB", "deadline": "60s" },
        },
    }))
}

/// A job that averages `expected` updates a round with `fedavg`, with sums in f32. Change what should be otherwise:
/// `job["spec"]["round"] = ...`.
#[must_use]
pub fn job(name: &str, initial_model: &Path, expected: u32) -> Value {
    json!({
        "apiVersion": "tributary.dev/v1",
        "kind": "Job",
        "metadata": { "name": name },
        "spec": {
            "function": { "name": "fedavg", "config": { "accumulate": "f32" } },
            "model": { "path": initial_model },
            "clients": { "max": expected.max(1) },
            "round": { "expected": expected },
        },
    })
}
