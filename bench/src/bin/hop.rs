//! One hop inside the platform: a descriptor by the sidecar or the user-space router, against a NATS request and a gRPC
//! unary call that carry the update. In all of them the receiver reads all of the update and answers.

use anyhow::{Context as _, Result};
use clap::Parser;
use tributary_bench::hop::{self, Grpc, Hop, Nats, Ours};
use tributary_bench::{Figure, Model, Options, Output, Samples};
use tributary_router::Choice;

#[derive(Parser)]
#[command(about = "One hop: descriptor against NATS and gRPC")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Leave NATS out, where it is not installed
    #[arg(long)]
    no_peers: bool,
}

/// A size of update, and requests of a turn.
struct Size {
    name: &'static str,
    label: &'static str,
    bytes: usize,
    requests: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("hop");
    let quick = arguments.options.quick;
    let sizes = [
        Size {
            name: "b32",
            label: "32 B",
            bytes: 32,
            requests: if quick { 1000 } else { 10_000 },
        },
        Size {
            name: "k4",
            label: "4 KiB",
            bytes: 4096,
            requests: if quick { 1000 } else { 10_000 },
        },
        Size {
            name: "r18",
            label: "ResNet-18",
            bytes: usize::try_from(Model::resnet18().bytes())?,
            requests: if quick { 3 } else { 15 },
        },
    ];
    for size in &sizes {
        measure(&arguments, &output, size).context(size.label)?;
    }
    Ok(())
}

/// What one way has shown, turn by turn.
#[derive(Default)]
struct Shown {
    middle: Vec<f64>,
    slow: Vec<f64>,
    cpu: Vec<f64>,
}

fn measure(arguments: &Arguments, output: &Output, size: &Size) -> Result<()> {
    let update = hop::update(size.bytes);
    let mut hops: Vec<(&str, Box<dyn Hop>)> = vec![
        (
            "sidecar",
            Box::new(Ours::start(Choice::Ebpf, &update).context("the sidecar")?),
        ),
        (
            "userspace",
            Box::new(Ours::start(Choice::Userspace, &update)?),
        ),
        ("grpc", Box::new(Grpc::start(update.clone())?)),
    ];
    if !arguments.no_peers {
        hops.push(("nats", Box::new(Nats::start(update)?)));
    }
    let mut shown: Vec<Shown> = hops.iter().map(|_| Shown::default()).collect();
    for turn in 0..=arguments.options.runs() {
        for ((_, hop), shown) in hops.iter_mut().zip(&mut shown) {
            let done =
                hop::turn(hop.as_mut(), size.requests).with_context(|| hop.name().to_owned())?;
            // The first is to warm up.
            if turn > 0 {
                let latencies = Samples::new(done.latencies)?;
                shown.middle.push(latencies.median() * 1e6);
                shown.slow.push(latencies.quantile(0.99) * 1e6);
                shown.cpu.push(done.cpu_seconds * 1e6);
            }
        }
    }
    report(output, size, &hops, shown)
}

fn report(
    output: &Output,
    size: &Size,
    hops: &[(&str, Box<dyn Hop>)],
    shown: Vec<Shown>,
) -> Result<()> {
    let clock = hop::nominal_gigahertz();
    let mut ours: Option<(f64, f64)> = None;
    for ((name, hop), shown) in hops.iter().zip(shown) {
        let figure = |what: &str, unit: &str, values: Vec<f64>| -> Result<Figure> {
            let label = format!("{}, {}", hop.name(), size.label);
            let name = format!("hop.{}.{name}.{what}", size.name);
            Ok(Figure::new(name, label, unit, &Samples::new(values)?))
        };
        let cycles = shown.cpu.iter().map(|micros| micros * clock).collect();
        let latency = figure("p50", "µs", shown.middle)?.plot(format!("hop-{}-latency", size.name));
        let cycles = figure("cycles", "kcycles", cycles)?.plot(format!("hop-{}-cycles", size.name));
        // The sidecar comes first: the others are held against it, and so is it against them.
        let (base_latency, base_cycles) = *ours.get_or_insert((latency.value, cycles.value));
        let sidecar = "the sidecar";
        let (latency, cycles) = if *name == "sidecar" {
            (latency, cycles)
        } else {
            let ratio = (base_latency / latency.value, base_cycles / cycles.value);
            (
                latency.against(sidecar, ratio.0),
                cycles.against(sidecar, ratio.1),
            )
        };
        output.figure(&latency)?;
        output.figure(&figure("p99", "µs", shown.slow)?)?;
        output.figure(&cycles)?;
    }
    Ok(())
}
