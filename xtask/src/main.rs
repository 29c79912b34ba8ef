//! Builds, tests and demonstrates the project.
//!
//! The parts of Tributary are built for three machines: the host, WebAssembly and the kernel. Cargo alone
//! cannot do that in one call, so this program does what a Makefile would do elsewhere, in the language of
//! the project. `cargo xtask demo` and `cargo xtask test` need nothing else on a fresh clone.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "telling people what happens is this program's purpose"
)]

mod artefacts;
mod bench;
mod command;
mod demo;
mod fingerprint;
mod output;
mod python;
mod setup;
mod soak;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use setup::Scope;
use workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    version,
    propagate_version = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build, and to test; says what and why before it does
    Setup {
        /// Only what `build` and `demo` need
        #[arg(long)]
        build_only: bool,
    },
    /// Build the functions, the sidecar and the binary; skips what is up to date
    Build,
    /// Run real federated learning through a server of its own and check the result
    Demo(demo::Options),
    /// Measure beside the peers, and write the page in bench/results
    Bench(bench::Options),
    /// Break a whole cluster again and again while clients train on it, and check every model; takes root
    Soak(soak::Options),
    /// Run every check: formats, lints, unit, property, model and end-to-end tests
    Test,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a task; false when it ran to its end and has already said what failed.
fn run(task: Task) -> Result<bool> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup { build_only } => {
            setup::run(
                &workspace,
                if build_only {
                    Scope::Build
                } else {
                    Scope::Test
                },
            )?;
            Ok(true)
        }
        Task::Build => {
            artefacts::build(&workspace, &setup::run(&workspace, Scope::Build)?)?;
            Ok(true)
        }
        Task::Demo(options) => demo::run(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Soak(options) => soak::run(&workspace, &options).map(|()| true),
        Task::Test => test::run(&workspace),
    }
}
