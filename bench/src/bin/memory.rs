//! Memory of a node: a thousand updates of a ResNet-18 arrive one after the other in one round.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::round::Clients;
use tributary_bench::{Figure, Model, Options, Output, Samples, Server};

/// The updates that a function takes at once: what a node has to hold to fold them in one pass.
const UPDATES_A_CALL: f64 = 8.0;
/// Beside those: the model, the one before or the next, and the sums.
const SPARE: f64 = 3.0;
/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(10);

#[derive(Parser)]
#[command(about = "Memory of a node that takes a thousand updates in sequence")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Updates of the long round [default: 1000, or 60 with --quick]
    #[arg(long)]
    clients: Option<usize>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("memory");
    let model = Model::resnet18();
    stream(&arguments, &output, &model)?;
    faults(&arguments, &output, &model)
}

/// The most memory that is held while updates stream through.
fn stream(arguments: &Arguments, output: &Output, model: &Model) -> Result<()> {
    let clients = arguments
        .clients
        .unwrap_or_else(|| arguments.options.pick(1000, 60));
    let server = Server::start()?;
    let players = Clients::deploy(&server, model, clients)?;
    output.say(format_args!(
        "{clients} updates of {:.1} MB, one after the other",
        model.bytes() as f64 / 1e6
    ));
    let watch = server.tree().watch(PERIOD);
    let started = Instant::now();
    let cost = players.round(1, false)?;
    output.say(format_args!(
        "that took {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    let peak = watch.peak()?;
    // The arena never gives pages back while its job runs, so now is the most.
    let arena = server
        .scrape()?
        .sum("tributary_arena_touched_bytes", r#"fl_job="bench""#);
    server.stop()?;
    let models = |bytes: f64| bytes / model.bytes() as f64;
    let figures = [
        Figure::single(
            "memory.stream.arena",
            format!("the arena, after {clients} updates in sequence"),
            "models",
            models(arena),
        )?
        .plot("memory")
        .target(Target::AtMost(UPDATES_A_CALL + SPARE)),
        Figure::single(
            "memory.stream.shared",
            "shared memory at its most",
            "models",
            models(peak.shared as f64),
        )?
        .plot("memory"),
        Figure::single(
            "memory.stream.own",
            "the processes' own memory at that moment",
            "models",
            models(peak.anonymous as f64),
        )?
        .plot("memory"),
        Figure::single(
            "memory.stream.seconds",
            "an update, all in all",
            "s",
            cost.seconds / clients as f64,
        )?,
        Figure::single(
            "memory.stream.cpu",
            "CPU time of an update",
            "CPU s",
            cost.usage.cpu_seconds / clients as f64,
        )?,
    ];
    figures.iter().try_for_each(|figure| output.figure(figure))
}

/// Page faults of the first round, which touches everything, and of those after it.
fn faults(arguments: &Arguments, output: &Output, model: &Model) -> Result<()> {
    const CLIENTS: usize = 8;
    let server = Server::start()?;
    let players = Clients::deploy(&server, model, CLIENTS)?;
    let first = players.round(1, false)?.usage;
    let later = (0..arguments.options.runs())
        .map(|_| Ok(players.round(1, false)?.usage.minor_faults as f64));
    let later = Samples::new(later.collect::<Result<_>>()?)?;
    server.stop()?;
    let label = format!("page faults of the first round of {CLIENTS} updates");
    output.figure(
        &Figure::single(
            "memory.faults.first",
            label,
            "faults",
            first.minor_faults as f64,
        )?
        .plot("memory-faults"),
    )?;
    let label = format!("page faults of a later round of {CLIENTS} updates");
    output
        .figure(&Figure::new("memory.faults.later", label, "faults", &later).plot("memory-faults"))
}
