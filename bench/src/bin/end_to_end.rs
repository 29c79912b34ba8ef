//! Rounds over loopback: from the first byte of the first update until the new model can be fetched.
//!
//! Against Flower twice: its own inflating and averaging of the same arrays in one process, which crosses no socket; and
//! real rounds of SuperLink and ServerApp.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::peer::Peer;
use tributary_bench::round::{Clients, Cost};
use tributary_bench::{
    Contender, Figure, Model, Options, Output, Samples, Server, flower, interleave,
};

/// Connections when there are several.
const SEVERAL: usize = 4;

#[derive(Parser)]
#[command(about = "Rounds over loopback, against Flower")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Leave Flower out, where it is not installed
    #[arg(long)]
    no_peers: bool,
    /// More of Flower's rounds, and with more clients; minutes
    #[arg(long)]
    full: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("end_to_end");
    let model = Model::resnet18();
    let sizes = arguments.options.pick([1, 8, 32, 128].as_slice(), &[1, 8]);
    let mut per_update = Vec::new();
    for clients in sizes {
        let cost = size(&arguments, &output, &model, *clients);
        per_update.push((
            *clients,
            cost.with_context(|| format!("{clients} clients"))?,
        ));
    }
    growth(&output, &model, &per_update)?;
    if arguments.no_peers {
        return Ok(());
    }
    against_ingest(&arguments, &output, &model)?;
    let Some((_, cost)) = per_update.iter().find(|(clients, _)| *clients == 8) else {
        bail!("no round with 8 clients");
    };
    against_rounds(&arguments, &output, &model, cost)
}

/// Medians of rounds with so many clients.
struct Measured {
    /// CPU seconds of the server's processes for an update that is sent.
    cpu: Samples,
    /// The same with a client that fetches the model as well.
    cpu_with_fetch: Samples,
    /// Bytes held at the worst moment.
    memory: u64,
}

fn size(arguments: &Arguments, output: &Output, model: &Model, clients: usize) -> Result<Measured> {
    let runs = arguments.options.pick(arguments.options.runs(), 3);
    let server = Server::start()?;
    let players = Clients::deploy(&server, model, clients)?;
    let idle = server.tree().memory();
    let mut costs = Costs::default();
    // The first round starts workers and touches slots for the first time.
    let first = players.round(1, false)?;
    for _ in 0..runs {
        costs.one.push(players.round(1, false)?);
        costs.several.push(players.round(SEVERAL, false)?);
        costs.fetching.push(players.round(SEVERAL, true)?);
    }
    let watch = server.tree().watch(Duration::from_millis(5));
    players.round(SEVERAL, false)?;
    let memory = watch.peak()?.total();
    let name = |what: &str| format!("end_to_end.n{clients}.{what}");
    let copied = server
        .scrape()?
        .sum("tributary_update_copied_bytes_total", r#"fl_job="bench""#);
    let sent = players.bytes_sent();
    server.stop()?;

    let plural = if clients == 1 { "client" } else { "clients" };
    for (what, label, costs) in [
        ("wall_one", "one connection", &costs.one),
        ("wall_several", "4 connections", &costs.several),
    ] {
        let seconds = samples(costs, |cost| cost.seconds)?;
        output.figure(
            &Figure::new(
                name(what),
                format!("{clients} {plural}, {label}"),
                "s",
                &seconds,
            )
            .plot("end-to-end-wall"),
        )?;
    }
    output.figure(&Figure::single(
        name("wall_first"),
        format!("{clients} {plural}, the first round"),
        "s",
        first.seconds,
    )?)?;
    let per_update =
        |costs: &[Cost]| samples(costs, |cost| cost.usage.cpu_seconds / clients as f64);
    let (cpu, cpu_with_fetch) = (per_update(&costs.one)?, per_update(&costs.fetching)?);
    for (what, label, samples) in [
        ("cpu_per_update", "an update", &cpu),
        (
            "cpu_per_update_and_fetch",
            "an update and a fetched model",
            &cpu_with_fetch,
        ),
    ] {
        let label = format!("{clients} {plural}: {label}");
        let figure = Figure::new(name(what), label, "CPU s", samples).plot("end-to-end-cpu");
        let target = Target::AtMost(0.08);
        // One update alone also pays for all that a round costs; the target is about updates.
        output.figure(&if clients == 1 {
            figure
        } else {
            figure.target(target)
        })?;
    }
    let faults = |costs: &[Cost]| samples(costs, |cost| cost.usage.minor_faults as f64);
    output.figure(&Figure::new(
        name("faults"),
        format!("{clients} {plural}: page faults of a round"),
        "faults",
        &faults(&costs.one)?,
    ))?;
    output.figure(&Figure::single(
        name("faults_first"),
        format!("{clients} {plural}: page faults of the first round"),
        "faults",
        first.usage.minor_faults as f64,
    )?)?;
    output.figure(
        &Figure::single(
            name("memory"),
            format!("{clients} {plural}"),
            "models",
            memory as f64 / model.bytes() as f64,
        )?
        .plot("end-to-end-memory"),
    )?;
    output.figure(&Figure::single(
        name("memory_idle"),
        format!("{clients} {plural}: before the first"),
        "models",
        idle.total() as f64 / model.bytes() as f64,
    )?)?;
    output.figure(
        &Figure::single(
            name("copies"),
            format!("{clients} {plural}: bytes copied for each byte sent"),
            "bytes",
            copied / sent as f64,
        )?
        .target(Target::AtMost(1.0)),
    )?;
    Ok(Measured {
        cpu,
        cpu_with_fetch,
        memory,
    })
}

#[derive(Default)]
struct Costs {
    one: Vec<Cost>,
    several: Vec<Cost>,
    fetching: Vec<Cost>,
}

fn samples(costs: &[Cost], quantity: impl Fn(&Cost) -> f64) -> Result<Samples> {
    Samples::new(costs.iter().map(quantity).collect())
}

/// Memory must not grow with the number of clients.
fn growth(output: &Output, model: &Model, measured: &[(usize, Measured)]) -> Result<()> {
    let of = |wanted: usize| {
        let found = measured.iter().find(|(clients, _)| *clients == wanted);
        found.map(|(_, measured)| measured.memory as f64)
    };
    let Some((most, last)) = measured.last() else {
        return Ok(());
    };
    let Some(eight) = of(8) else {
        return Ok(());
    };
    let models = (last.memory as f64 - eight) / model.bytes() as f64;
    let label = format!("memory with {most} clients, beyond that with 8");
    let figure = Figure::single("end_to_end.memory_growth", label, "models", models)?;
    output.figure(&figure.target(Target::AtMost(1.0)))
}

/// Wall time against Flower's own inflating and averaging, in turns.
fn against_ingest(arguments: &Arguments, output: &Output, model: &Model) -> Result<()> {
    let clients = arguments.options.pick(32, 8);
    let server = Server::start()?;
    let players = Clients::deploy(&server, model, clients)?;
    let mut peer = Peer::start("flower_ingest.py", model, clients)?;
    let mut contenders = [
        Contender::new("Tributary, one connection", || {
            Ok(players.round(1, false)?.seconds)
        }),
        Contender::new("Tributary, several connections", || {
            Ok(players.round(SEVERAL, false)?.seconds)
        }),
        Contender::new("Flower", || peer.run()),
    ];
    let times = interleave(1, arguments.options.runs(), &mut contenders)?;
    drop(contenders);
    server.stop()?;
    let [one, several, flower] = times.as_slice() else {
        bail!("three contenders");
    };
    let name = |what: &str| format!("end_to_end.ingest.{what}");
    let against = "Flower's inflate and aggregate, without a network";
    for (what, label, samples) in [
        (
            "tributary_one",
            "Tributary over loopback, one connection",
            one,
        ),
        (
            "tributary_several",
            "Tributary over loopback, 4 connections",
            several,
        ),
    ] {
        let figure = Figure::new(
            name(what),
            format!("{label}, {clients} clients"),
            "s",
            samples,
        )
        .plot("end-to-end-ingest")
        .against(against, flower.median() / samples.median())
        .target(Target::RatioAtLeast(2.0));
        output.figure(&figure)?;
    }
    let label = format!("Flower in one process, {clients} clients");
    output.figure(&Figure::new(name("flower"), label, "s", flower).plot("end-to-end-ingest"))
}

/// CPU time and memory against real rounds of Flower's.
fn against_rounds(
    arguments: &Arguments,
    output: &Output,
    model: &Model,
    ours: &Measured,
) -> Result<()> {
    let sizes: &[(u16, usize)] = match (arguments.full, arguments.options.quick) {
        (true, _) => &[(4, 3), (8, 3)],
        (false, false) => &[(4, 2)],
        (false, true) => &[(2, 1)],
    };
    for (clients, rounds) in sizes {
        let started = Instant::now();
        output.say(format_args!(
            "{rounds} rounds of Flower with {clients} clients"
        ));
        let measured = flower::rounds(model, *clients, *rounds)?;
        output.say(format_args!(
            "that took {:.0} s",
            started.elapsed().as_secs_f64()
        ));
        let cpu = measured
            .iter()
            .map(|round| round.usage.cpu_seconds / f64::from(*clients));
        let cpu = Samples::new(cpu.collect())?;
        let name = |what: &str| format!("end_to_end.flower.n{clients}.{what}");
        let label = format!("Flower, {clients} clients: an update and a fetched model");
        output.figure(&Figure::new(name("cpu_per_update"), label, "CPU s", &cpu))?;
        let ratio = cpu.map(|seconds| seconds / ours.cpu_with_fetch.median())?;
        output.figure(
            &Figure::new(
                name("over_cpu_per_update"),
                "Tributary over Flower in CPU time for an update and a fetched model",
                "x",
                &ratio,
            )
            .against("a Flower round", ratio.median()),
        )?;
        let alone = cpu.map(|seconds| seconds / ours.cpu.median())?;
        output.say(format_args!(
            "without the fetch on our side: {:.0} x",
            alone.median()
        ));
        let memory = measured
            .iter()
            .map(|round| round.memory as f64 / model.bytes() as f64);
        let label = format!("Flower, {clients} clients");
        output.figure(&Figure::new(
            name("memory"),
            label,
            "models",
            &Samples::new(memory.collect())?,
        ))?;
        let wall = Samples::new(measured.iter().map(|round| round.seconds).collect())?;
        let label = format!("Flower, {clients} clients on the same cores: a round");
        output.figure(&Figure::new(name("wall"), label, "s", &wall))?;
    }
    Ok(())
}
