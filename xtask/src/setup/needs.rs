//! What has to be on the machine, why, how to see that it is there, and how to install it.

use std::process::Command;

use super::{Recipe, Scope};
use crate::workspace::Workspace;
use crate::{artefacts, command, python};

/// Something that is missing.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) name: String,
    pub(super) why: &'static str,
    pub(super) remedy: Remedy,
}

/// How to install something.
#[derive(Clone, Debug)]
pub(super) enum Remedy {
    /// Debian packages.
    Packages(Vec<&'static str>),
    /// A target of the Rust toolchain in use.
    Target(&'static str),
    /// A component of the Rust toolchain in use.
    Component(&'static str),
    /// A program that `cargo install` compiles here.
    Crate(Tool),
}

impl Remedy {
    /// The Debian packages that this remedy takes, alone or before it.
    pub(super) fn packages(&self) -> &[&'static str] {
        match self {
            Self::Packages(packages) => packages,
            Self::Target(_) | Self::Component(_) => &[],
            Self::Crate(tool) => tool.packages,
        }
    }
}

/// A program that comes as a crate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    flags: &'static [&'static str],
    /// Debian packages that its compilation needs.
    packages: &'static [&'static str],
    /// Folders that must be first in `PATH` while it compiles.
    path: &'static [&'static str],
}

/// Links kernel programs. Its LLVM must be at least as new as the compiler's, hence the pinned pair.
const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    flags: &["--no-default-features", "--features", "llvm-22"],
    packages: &["llvm-22-dev"],
    path: &["/usr/lib/llvm-22/bin"],
};

/// Runs tests. Without optimisation and self-update it compiles in half the time, and spends its own on tests.
const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.143",
    flags: &["--profile", "dev", "--no-default-features"],
    packages: &[],
    path: &[],
};

/// Checks dependencies. It has little to compute, so it is not optimised either.
const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    flags: &["--profile", "dev"],
    packages: &[],
    path: &[],
};

impl Tool {
    /// The command that compiles and installs it into the tools' folder.
    pub(super) fn install_command(&self, workspace: &Workspace) -> Command {
        let mut command = workspace.cargo();
        command
            .args(["install", "--locked", self.name, "--version", self.version])
            .args(self.flags);
        command
            .arg("--root")
            .arg(workspace.tools())
            .env("PATH", workspace.path(self.path));
        // Its build output is of no further use: let cargo take a temporary folder for it.
        command
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS");
        command
    }
}

/// Everything that `scope` needs and the machine does not have.
pub(super) fn missing(workspace: &Workspace, scope: Scope, recipe: Recipe) -> Vec<Need> {
    let mut missing = recipe.missing();
    if !command::succeeds(workspace.command("bpf-linker").arg("--version")) {
        missing.push(Need {
            name: format!("{} {}", BPF_LINKER.name, BPF_LINKER.version),
            why: "the sidecar is a kernel program, and this links it",
            remedy: Remedy::Crate(BPF_LINKER),
        });
    }
    if artefacts::has_functions_in_c(workspace) {
        for (program, name) in [("clang-22", "clang-22"), ("wasm-ld-22", "lld-22")] {
            if workspace.find(program).is_none() {
                missing.push(package(
                    name,
                    "one of the example functions is written in C",
                ));
            }
        }
    }
    if scope == Scope::Test {
        missing.extend(missing_for_tests(workspace));
    }
    missing
}

fn missing_for_tests(workspace: &Workspace) -> Vec<Need> {
    let mut missing = Vec::new();
    for (program, component, why) in [
        (
            "cargo-fmt",
            "rustfmt",
            "the tests check the format of the sources",
        ),
        ("cargo-clippy", "clippy", "the tests lint the sources"),
    ] {
        if !command::succeeds(workspace.command(program).arg("--version")) {
            missing.push(Need {
                name: component.to_owned(),
                why,
                remedy: Remedy::Component(component),
            });
        }
    }
    for (tool, why) in [
        (NEXTEST, "it runs the tests, each in a process of its own"),
        (
            DENY,
            "it checks the licences and the sources of the dependencies",
        ),
    ] {
        if workspace.find(tool.name).is_none() {
            missing.push(Need {
                name: format!("{} {}", tool.name, tool.version),
                why,
                remedy: Remedy::Crate(tool),
            });
        }
    }
    for (program, name, why) in [
        (
            "promtool",
            "prometheus",
            "the tests let a real Prometheus read the metrics",
        ),
        (
            "bpftool",
            "bpftool",
            "the tests look at the sidecar's maps in the kernel from outside",
        ),
    ] {
        if workspace.find(program).is_none() {
            missing.push(package(name, why));
        }
    }
    if !python::has_module(workspace, "ensurepip") {
        missing.push(package(
            "python3-venv",
            "the Python client is tested in an environment of its own",
        ));
    }
    missing
}

fn package(name: &'static str, why: &'static str) -> Need {
    Need {
        name: format!("Debian package {name}"),
        why,
        remedy: Remedy::Packages(vec![name]),
    }
}
