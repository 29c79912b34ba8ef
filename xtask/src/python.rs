//! Environments for Python packages, in the cache folder: each for one purpose, and made once.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{command, output};

/// The Python that Debian's packages are for, whatever else is first in `PATH`.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Whether the system's Python has a module.
pub(crate) fn has_module(workspace: &Workspace, module: &str) -> bool {
    let import = format!("import {module}");
    command::succeeds(workspace.command(PYTHON).args(["-c", &import]))
}

/// An environment: a folder with a `venv` in it, and a note of what was installed there.
#[derive(Debug)]
pub(crate) struct Environment {
    folder: PathBuf,
}

impl Environment {
    /// The one of that name, installed or not.
    pub(crate) fn named(workspace: &Workspace, name: &str) -> Self {
        let folder = workspace.cache().join(name);
        Self { folder }
    }

    /// The folder that holds it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program that was installed there.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("venv/bin").join(name)
    }

    /// Whether it holds what `wanted` describes.
    pub(crate) fn holds(&self, wanted: &str) -> bool {
        fs::read_to_string(self.stamp()).is_ok_and(|installed| installed == wanted)
    }

    /// Makes it anew, with `options` for `python -m venv`, and installs what `pip install` is told.
    /// `task` and `what` say to people for what.
    pub(crate) fn make<Argument: AsRef<OsStr>>(
        &self,
        workspace: &Workspace,
        (task, what): (&str, &str),
        options: &[&str],
        install: impl IntoIterator<Item = Argument>,
        wanted: &str,
    ) -> Result<()> {
        let environment = self.folder.join("venv");
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        // First, and written again last: an installation that broke off must not pass for one.
        let _ = fs::remove_file(self.stamp());
        output::progress(
            task,
            format_args!("{what}: pip install into {}", environment.display()),
        );
        let mut python = workspace.command(PYTHON);
        command::run(
            python
                .args(["-m", "venv", "--clear"])
                .args(options)
                .arg(&environment),
        )?;
        let mut pip = self.pip(workspace);
        command::run(pip.args(install))?;
        fs::write(self.stamp(), wanted).with_context(|| self.stamp().display().to_string())
    }

    fn pip(&self, workspace: &Workspace) -> Command {
        let mut pip = workspace.command(self.program("pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]);
        pip
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("requirements.txt")
    }
}
