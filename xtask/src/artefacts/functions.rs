//! The functions: WebAssembly modules, from Rust and from C.
//!
//! A package of the workspace `functions/` that makes a `cdylib` is a function; so is a folder there that
//! has a single C file of the folder's name and no package. Each becomes `target/functions/<name>.wasm`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Outcome;
use crate::command;
use crate::fingerprint::{Fingerprint, publish};
use crate::setup::{Recipe, Target};
use crate::workspace::Workspace;

/// How C becomes a function: no system, no entry point, every declared export, and a small stack.
const C_FLAGS: [&str; 11] = [
    "--target=wasm32",
    "-O3",
    "-nostdlib",
    "-ffreestanding",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wl,--no-entry",
    "-Wl,--export-dynamic",
    "-Wl,-z,stack-size=65536",
];

/// Whether one of the functions is written in C.
pub(crate) fn has_c(workspace: &Workspace) -> bool {
    in_c(&sources(workspace)).is_ok_and(|functions| !functions.is_empty())
}

/// Builds every function, unless all are up to date.
pub(super) fn build(workspace: &Workspace, recipe: Recipe) -> Result<Outcome> {
    let sources = sources(workspace);
    let [compiler, flags] = recipe.fingerprint(workspace)?;
    let words = [compiler.as_str(), &flags, &C_FLAGS.join(" ")];
    let fingerprint = Fingerprint::of(&sources, &words)?;
    let folder = workspace.functions();
    let stamp = folder.join(".fingerprint");
    if fingerprint.matches(&stamp) {
        return Ok(Outcome::UpToDate);
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let _ = fs::remove_file(&stamp); // absent the first time
    let mut made = from_rust(workspace, recipe, &sources, &folder)?;
    made.extend(from_c(workspace, &sources, &folder)?);
    remove_others(&folder, &made)?;
    fingerprint.record(&stamp)?;
    Ok(Outcome::Made)
}

fn sources(workspace: &Workspace) -> PathBuf {
    workspace.root().join("functions")
}

fn from_rust(
    workspace: &Workspace,
    recipe: Recipe,
    sources: &Path,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let modules = modules(workspace, sources)?;
    let target = workspace.cargo_target("functions");
    let mut cargo = recipe.cargo(workspace, Target::Wasm);
    cargo.current_dir(sources).env("CARGO_TARGET_DIR", &target);
    for module in &modules {
        cargo.args(["--package", &module.package]);
    }
    command::run(&mut cargo)?;
    let built = target.join(Target::Wasm.triple()).join("release");
    let place = |module: &Module| {
        let to = folder.join(&module.package).with_extension("wasm");
        publish(&built.join(&module.file).with_extension("wasm"), &to)?;
        Ok(to)
    };
    modules.iter().map(place).collect()
}

fn from_c(workspace: &Workspace, sources: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let compile = |source: &PathBuf| {
        let name = source.file_stem().unwrap_or_default();
        let (part, to) = (
            folder.join(name).with_extension("c.part"),
            folder.join(name).with_extension("wasm"),
        );
        let mut clang = workspace.command("clang-22");
        command::run(clang.args(C_FLAGS).arg("-o").arg(&part).arg(source))?;
        publish(&part, &to)?;
        fs::remove_file(&part).with_context(|| part.display().to_string())?;
        Ok(to)
    };
    in_c(sources)?.iter().map(compile).collect()
}

/// `<name>/<name>.c` for every folder that has such a file and is no package.
fn in_c(sources: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sources).with_context(|| sources.display().to_string())? {
        let folder = entry?.path();
        let file = folder
            .join(folder.file_name().unwrap_or_default())
            .with_extension("c");
        if file.is_file() && !folder.join("Cargo.toml").exists() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// A function in Rust.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    /// Name of the package, and of the function.
    package: String,
    /// Name of the file that cargo makes, without its ending.
    file: String,
}

fn modules(workspace: &Workspace, sources: &Path) -> Result<Vec<Module>> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--manifest-path",
    ]);
    let metadata = command::text(cargo.arg(sources.join("Cargo.toml")))?;
    modules_of(&metadata).context("the functions' workspace, as `cargo metadata` describes it")
}

fn modules_of(metadata: &str) -> Result<Vec<Module>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        targets: Vec<CargoTarget>,
    }
    #[derive(Deserialize)]
    struct CargoTarget {
        name: String,
        crate_types: Vec<String>,
    }
    let metadata: Metadata = serde_json::from_str(metadata)?;
    let module = |package: Package| {
        let is_module =
            |target: &CargoTarget| target.crate_types.iter().any(|kind| kind == "cdylib");
        let target = package.targets.into_iter().find(is_module)?;
        Some(Module {
            package: package.name,
            file: target.name.replace('-', "_"),
        })
    };
    Ok(metadata.packages.into_iter().filter_map(module).collect())
}

/// Removes modules of functions that are no more: a manifest must not find them by accident.
fn remove_others(folder: &Path, made: &[PathBuf]) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let file = entry?.path();
        if file.extension().is_some_and(|ending| ending == "wasm") && !made.contains(&file) {
            fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_with_a_cdylib_are_functions() {
        let metadata = r#"{"packages": [
            {"name": "tributary-sdk", "targets": [{"name": "tributary_sdk", "crate_types": ["lib"]}]},
            {"name": "trimmed-mean", "targets": [
                {"name": "laws", "crate_types": ["bin"]},
                {"name": "trimmed-mean", "crate_types": ["cdylib", "rlib"]}]}
        ]}"#;
        let want = Module {
            package: "trimmed-mean".to_owned(),
            file: "trimmed_mean".to_owned(),
        };
        assert_eq!(modules_of(metadata).unwrap(), [want]);
    }

    #[test]
    fn a_folder_with_a_c_file_of_its_name_is_a_function() {
        let folder = tempfile::tempdir().unwrap();
        for (name, file) in [("mean", "mean.c"), ("sdk", "sdk.c"), ("other", "helper.c")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(file), "").unwrap();
        }
        fs::write(folder.path().join("sdk/Cargo.toml"), "").unwrap();
        assert_eq!(
            in_c(folder.path()).unwrap(),
            [folder.path().join("mean/mean.c")]
        );
    }

    #[test]
    fn modules_of_functions_that_are_no_more_go() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["old.wasm", "new.wasm", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_others(folder.path(), &[folder.path().join("new.wasm")]).unwrap();
        let left = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["new.wasm", "notes.txt"]);
    }
}
