//! A whole cluster in which something always breaks: builds everything, and runs the program that does it.

use anyhow::Result;
use clap::Args;

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{artefacts, command};

/// Options of `cargo xtask soak`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long things break
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,

    /// What breaks, and when: the seed of a failure breaks the same again [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it; fails if any model is not what it should be.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let recipe = setup::run(workspace, Scope::Hosts)?;
    artefacts::build(workspace, &recipe)?;
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--package", "tributary-tests", "--bin", "soak", "--"]);
    cargo.args(["--minutes", &options.minutes.to_string()]);
    if let Some(seed) = options.seed {
        cargo.args(["--seed", &seed.to_string()]);
    }
    cargo.env("TRIBUTARY_BIN", workspace.binary());
    cargo.env("TRIBUTARY_FUNCTIONS_DIR", workspace.functions());
    command::run(&mut cargo)
}
