//! Debian's packages, by apt-get: as root, or with sudo.

use std::fs;
use std::io::{IsTerminal, stdin};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{command, output};

/// Installs packages; nothing happens when there are none.
pub(super) fn install(workspace: &Workspace, mut packages: Vec<&'static str>) -> Result<()> {
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let install = [
        &["install", "-y", "--no-install-recommends"],
        packages.as_slice(),
    ]
    .concat();
    let line = format!("apt-get {}", install.join(" "));
    if workspace.find("apt-get").is_none() {
        bail!(
            "this machine has no apt-get. On Debian, `{line}` would bring what is missing; install the same \
             from your system's packages, so that the programs named above are on PATH"
        );
    }
    if !has_lists() {
        output::progress("setup", "apt-get update");
        command::run(&mut as_root(workspace, &["update"], &line)?)?;
    }
    output::progress("setup", &line);
    let result = command::run(&mut as_root(workspace, &install, &line)?);
    if result.is_err() {
        output::progress(
            "setup",
            "trying again with fresh package lists: apt-get update",
        );
        command::run(&mut as_root(workspace, &["update"], &line)?)?;
        command::run(&mut as_root(workspace, &install, &line)?)
            .context("the packages are those of Debian 12 with its security updates; is this another system?")?;
    }
    Ok(())
}

/// apt-get with root's rights; `line` is what a person would have to do without this program.
fn as_root(workspace: &Workspace, arguments: &[&str], line: &str) -> Result<Command> {
    let mut apt = if rustix::process::geteuid().is_root() {
        let mut apt = workspace.command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    } else if workspace.find("sudo").is_some() {
        let mut sudo = workspace.command("sudo");
        if !stdin().is_terminal() {
            sudo.arg("--non-interactive");
        }
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!(
            "installing Debian packages takes root, and there is no sudo here. As root, run: {line}"
        );
    };
    // Unpacking says a lot; what goes wrong is on standard error.
    apt.arg("-qq").args(arguments).stdout(Stdio::null());
    Ok(apt)
}

/// Whether apt knows any packages; a fresh container does not.
fn has_lists() -> bool {
    let is_list = |name: std::ffi::OsString| name.to_string_lossy().contains("_Packages");
    fs::read_dir("/var/lib/apt/lists")
        .is_ok_and(|entries| entries.flatten().any(|entry| is_list(entry.file_name())))
}
