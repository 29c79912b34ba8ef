//! The Python client: linted, type-checked, and tested as it is installed, against the binary that was built.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::steps::Context;
use crate::fingerprint::Fingerprint;
use crate::python::Environment;
use crate::workspace::Workspace;
use crate::{command, output};

/// Folders of Python beside the package's own, from there.
const EXAMPLES: [&str; 2] = ["../examples/python_digits", "../examples/flower_digits"];

/// Runs every check of the client. All run, whatever the others say.
pub(super) fn check(context: &Context) -> Result<()> {
    let workspace = context.workspace;
    let environment = install(workspace)?;
    let run = |program: &str, arguments: &[&str]| {
        command::run(client(workspace, &environment.program(program)).args(arguments))
    };
    let ruff = |arguments: &[&str]| run("ruff", &[arguments, &["."], &EXAMPLES].concat());
    let checks = [
        ruff(&["check", "--quiet"]),
        ruff(&["format", "--quiet", "--check"]),
        run("mypy", &["--no-error-summary"]),
        run("pytest", &[]),
    ];
    checks.into_iter().collect()
}

/// A command in the client's folder that finds the binary and the functions.
fn client(workspace: &Workspace, program: &Path) -> Command {
    let mut command = workspace.command(program);
    command
        .current_dir(workspace.root().join("python"))
        .env("TRIBUTARY_BIN", workspace.root().join(workspace.binary()))
        .env("TRIBUTARY_FUNCTIONS_DIR", workspace.functions())
        // A machine without a NATS server must fail here, not skip.
        .env("TRIBUTARY_REQUIRE_NATS", "1");
    command
}

/// The environment with the client of this clone in it.
fn install(workspace: &Workspace) -> Result<Environment> {
    let environment = Environment::named(workspace, "python-client");
    let package = workspace.root().join("python");
    let project = std::fs::read_to_string(package.join("pyproject.toml"))?;
    let wanted = Fingerprint::of(&package.join("src"), &[&project])?.to_string();
    if environment.holds(&wanted) {
        output::progress("test", "python client: up to date");
    } else {
        let install = [format!("{}[test]", package.display())];
        environment.make(workspace, ("test", "python client"), &[], install, &wanted)?;
    }
    Ok(environment)
}
