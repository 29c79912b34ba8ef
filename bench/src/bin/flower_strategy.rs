//! Real rounds of Flower's with its own `FedAvg`, and with `TributaryStrategy` in both modes.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::json;
use tributary_bench::{Figure, Model, Options, Output, peer, place};

#[derive(Parser)]
#[command(about = "Rounds of Flower's, aggregated by Flower or by Tributary")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("flower_strategy");
    let (clients, rounds) = arguments.options.pick((8, 2), (2, 1));
    output.say(format_args!(
        "{rounds} rounds with {clients} clients, three times"
    ));
    measure(&output, &Model::resnet18(), clients, rounds)
}

/// All strategies with so many clients. The first round starts processes; it counts only if it is the only one.
fn measure(output: &Output, model: &Model, clients: usize, rounds: usize) -> Result<()> {
    let home = tempfile::tempdir()?;
    let shapes = home.path().join("shapes.json");
    let tensors: Vec<_> = model
        .tensors
        .iter()
        .map(|tensor| json!([tensor.name, tensor.shape]))
        .collect();
    serde_json::to_writer(File::create(&shapes)?, &tensors)?;
    let mut child = peer::python()?
        .arg(peer::scripts().join("flower_strategy/measure.py"))
        .arg(&shapes)
        .args(["--clients", &clients.to_string()])
        .args(["--rounds", &rounds.to_string()])
        .env("TRIBUTARY_BIN", place::binary()?)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting measure.py; `cargo xtask bench` installs what it needs")?;
    let lines = child.stdout.take().context("a pipe")?;
    for line in BufReader::new(lines).lines() {
        let line = line?;
        let figure: Figure = serde_json::from_str(&line).with_context(|| line.clone())?;
        output.figure(&figure)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("measure.py ended with {status}; it says why above");
    }
    Ok(())
}
