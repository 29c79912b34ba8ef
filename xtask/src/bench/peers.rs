//! The peers that benchmarks are held against: Python packages in an environment of their own.
//!
//! PyTorch comes from Debian: that of the package index brings gigabytes for graphics cards. The environment sees it
//! because it is made from Debian's Python and shows the system's packages.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::python::{self, Environment};
use crate::workspace::Workspace;
use crate::{output, setup};

/// Installs what is missing; the folder with the environment `venv`.
pub(super) fn install(workspace: &Workspace) -> Result<PathBuf> {
    let environment = Environment::named(workspace, "peers");
    let requirements = workspace.root().join("bench/peers/requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    let packages = [("torch", "python3-torch"), ("ensurepip", "python3-venv")];
    let missing = packages
        .into_iter()
        .filter(|(module, _)| !python::has_module(workspace, module));
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
    if environment.holds(&wanted) {
        output::progress("bench", "peers: up to date");
    } else {
        let install = ["--requirement".as_ref(), requirements.as_os_str()];
        let options = ["--system-site-packages"];
        environment.make(workspace, ("bench", "peers"), &options, install, &wanted)?;
    }
    Ok(environment.folder().to_owned())
}
