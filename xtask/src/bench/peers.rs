//! The peers that benchmarks are held against: Python packages in an environment of their own.
//!
//! PyTorch comes from Debian: that of the package index brings gigabytes for graphics cards. The environment sees it
//! because it is made from Debian's Python and shows the system's packages.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{command, output, setup};

/// The Python that Debian's packages are for, whatever else is first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

/// Installs what is missing; the folder with the environment `venv`.
pub(super) fn install(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.cache().join("peers");
    let requirements = workspace.root().join("bench/peers/requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    let has = |module: &str| {
        command::succeeds(
            workspace
                .command(PYTHON)
                .args(["-c", &format!("import {module}")]),
        )
    };
    let packages = [("torch", "python3-torch"), ("ensurepip", "python3-venv")];
    let missing = packages.into_iter().filter(|(module, _)| !has(module));
    let missing: Vec<_> = missing.map(|(_, package)| package).collect();
    if !missing.is_empty() {
        output::progress(
            "bench",
            format_args!(
                "{} missing: benchmarks have peers in Python",
                missing.join(" and ")
            ),
        );
        setup::install_packages(workspace, missing)?;
    }
    let stamp = folder.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        output::progress("bench", "peers: up to date");
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    let environment = folder.join("venv");
    output::progress(
        "bench",
        format_args!("peers: pip install into {}", environment.display()),
    );
    let mut python = workspace.command(PYTHON);
    command::run(
        python
            .args(["-m", "venv", "--clear", "--system-site-packages"])
            .arg(&environment),
    )?;
    let mut pip = workspace.command(environment.join("bin/pip"));
    command::run(
        pip.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ])
        .arg(&requirements),
    )?;
    // Last: an installation that broke off must not pass for one.
    fs::write(&stamp, wanted)?;
    Ok(folder)
}
