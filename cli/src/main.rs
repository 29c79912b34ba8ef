//! The tributary binary.
//!
//! # Layout
//! - `args`: the command line. `commands`: one file per command of a client. `up`, `controller`, `node` and `worker`:
//!   the server, as one process and as several; `machine` and `network`: what these share.
//! - `client`: the server's HTTP interface. `sources`: manifests in files.
//! - `output`: data on stdout as table, JSON or YAML. `failure`: errors and exit codes.
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod controller;
mod doctor;
mod failure;
mod logging;
mod machine;
mod network;
mod node;
mod output;
mod publishing;
mod sources;
mod state_dir;
mod up;
mod usage;
mod worker;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;
use client::Client;
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    if worker::is_asked_for() {
        return worker::run().map_or_else(
            |error| Failure::from(error).report(),
            |()| ExitCode::SUCCESS,
        );
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    let args = Args::try_parse_from(&arguments)
        .unwrap_or_else(|error| usage::explained(error, &arguments).exit());
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let output = Output::new(args.global.output);
    let client = || Client::new(&args.global.server);
    match args.command {
        Command::Up(options) => Ok(up::run(options)?),
        Command::Controller(options) => Ok(controller::run(options)?),
        Command::Node(options) => Ok(node::run(options)?),
        Command::Worker => Ok(worker::run()?),
        Command::Prove => Ok(worker::prove()?),
        Command::Apply { files, dry_run } => {
            commands::apply::run(&client()?, &output, &files, dry_run)
        }
        Command::Validate { files } => commands::validate::run(&output, &files),
        Command::Get(what) => commands::get::run(&client()?, &output, what),
        Command::Describe(what) => commands::describe::run(&client()?, &output, what),
        Command::Delete(what) => commands::delete::run(&client()?, &output, what),
        Command::Drain { node } => commands::drain::run(&client()?, &node, true),
        Command::Undrain { node } => commands::drain::run(&client()?, &node, false),
        Command::Push(push) => commands::push::run(&client()?, &output, &push),
        Command::Pull(pull) => commands::pull::run(&client()?, &output, &pull),
        Command::Doctor(options) => doctor::run(&output, &options),
        Command::Schema { kind } => commands::schema::run(&output, kind),
        Command::Completions { shell } => commands::completions::run(shell),
    }
}
