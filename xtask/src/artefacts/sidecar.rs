//! The sidecar: a program for the kernel, linked by `bpf-linker`.

use std::fs;

use anyhow::{Context, Result};

use super::Outcome;
use crate::command;
use crate::fingerprint::{Fingerprint, publish};
use crate::setup::{Recipe, Target};
use crate::workspace::Workspace;

/// The kernel program's name, in its workspace and in `target/sidecar`.
const NAME: &str = "tributary-sidecar";

/// Builds `target/sidecar/tributary-sidecar`, unless it is up to date.
pub(super) fn build(workspace: &Workspace, recipe: Recipe) -> Result<Outcome> {
    let [compiler, flags] = recipe.fingerprint(workspace)?;
    // The sidecar's layout crate lies beside it and counts as well.
    let fingerprint = Fingerprint::of(&workspace.root().join("ebpf"), &[&compiler, &flags])?;
    let folder = workspace.sidecar();
    let (program, stamp) = (folder.join(NAME), folder.join(".fingerprint"));
    if program.is_file() && fingerprint.matches(&stamp) {
        return Ok(Outcome::UpToDate);
    }
    let target = workspace.cargo_target("sidecar");
    let mut cargo = recipe.cargo(workspace, Target::Kernel);
    cargo
        .current_dir(workspace.root().join("ebpf/sidecar"))
        .env("CARGO_TARGET_DIR", &target);
    command::run(&mut cargo)?;
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    publish(
        &target
            .join(Target::Kernel.triple())
            .join("release")
            .join(NAME),
        &program,
    )?;
    fingerprint.record(&stamp)?;
    Ok(Outcome::Made)
}
