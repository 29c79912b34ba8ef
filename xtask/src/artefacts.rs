//! Builds what runs: the functions for WebAssembly, the sidecar for the kernel, the binary for the host.
//!
//! In this order, because the binary carries the sidecar inside. Functions and sidecar are skipped while
//! their fingerprints stand; for the binary cargo knows best.

mod functions;
mod sidecar;

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::Result;

pub(crate) use functions::has_c as has_functions_in_c;

use crate::setup::Recipe;
use crate::workspace::Workspace;
use crate::{command, output};

/// Whether an artefact had to be made.
enum Outcome {
    UpToDate,
    Made,
}

/// Builds everything that is not up to date.
pub(crate) fn build(workspace: &Workspace, recipe: &Recipe) -> Result<()> {
    build_foreign(workspace, recipe)?;
    step("the binary", || {
        let before = made(&workspace.binary());
        command::run(workspace.cargo().args(["build", "--package", "tributary"]))?;
        let unchanged = before.is_some() && before == made(&workspace.binary());
        Ok(if unchanged {
            Outcome::UpToDate
        } else {
            Outcome::Made
        })
    })
}

/// Builds what benchmarks run: the binary for release, and the benchmarks themselves.
pub(crate) fn build_for_benchmarks(workspace: &Workspace, recipe: &Recipe) -> Result<()> {
    build_foreign(workspace, recipe)?;
    step("the binary and the benchmarks, for release", || {
        let mut cargo = workspace.cargo();
        command::run(cargo.args(["build", "--release", "--package", "tributary"]))?;
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--release", "--bins"]);
        cargo.args(["--manifest-path", "bench/Cargo.toml", "--target-dir"]);
        command::run(cargo.arg(workspace.target_folder()))?;
        Ok(Outcome::Made)
    })
}

/// What is not for the host.
fn build_foreign(workspace: &Workspace, recipe: &Recipe) -> Result<()> {
    step("functions", || functions::build(workspace, *recipe))?;
    step("sidecar", || sidecar::build(workspace, *recipe))
}

/// When a file was made, if it is there.
fn made(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|file| file.modified()).ok()
}

fn step(what: impl Display, make: impl FnOnce() -> Result<Outcome>) -> Result<()> {
    let started = Instant::now();
    let state = match make()? {
        Outcome::UpToDate => "up to date",
        Outcome::Made => "built",
    };
    output::progress(
        "build",
        format_args!("{what}: {state} ({})", output::duration(started.elapsed())),
    );
    Ok(())
}
