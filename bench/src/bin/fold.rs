//! The fold kernel in WebAssembly, against the best native kernel and against the peers' own averages, on decoded
//! arrays of real networks' shapes; all on two threads, in turns.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::model::values;
use tributary_bench::native::{self, Kernel};
use tributary_bench::peer::Peer;
use tributary_bench::segment::{Segment, read_raw};
use tributary_bench::wasm::{Folding, Module};
use tributary_bench::{Contender, Figure, Model, Options, Output, Samples, interleave};
use tributary_wasm::Encoding;

/// Sums in f32, as the peers make them.
const CONFIG: &str = r#"{"accumulate":"f32"}"#;

/// How far means may lie apart: some roundings of numbers below 0.1.
const TOLERANCE: f32 = 1e-6;

#[derive(Parser)]
#[command(about = "The fold kernel against a native one and against the peers")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Leave the peers out, where they are not installed
    #[arg(long)]
    no_peers: bool,
}

/// A peer, and how many times as fast we are to be for the case.
struct Rival {
    name: &'static str,
    script: &'static str,
    label: &'static str,
    target: f64,
}

/// One case: so many clients of a model.
struct Case {
    model: Model,
    clients: usize,
    rivals: [Rival; 3],
}

const fn rivals([torch, nvflare, flower]: [f64; 3]) -> [Rival; 3] {
    [
        Rival {
            name: "torch",
            script: "torch_in_place.py",
            label: "PyTorch in place",
            target: torch,
        },
        Rival {
            name: "nvflare",
            script: "nvflare_fedavg.py",
            label: "NVFLARE on torch",
            target: nvflare,
        },
        Rival {
            name: "flower",
            script: "flower_aggregate.py",
            label: "Flower aggregate_arrayrecords",
            target: flower,
        },
    ]
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("fold");
    let cases = [
        Case {
            model: Model::resnet18(),
            clients: 32,
            rivals: rivals([1.3, 1.6, 8.0]),
        },
        Case {
            model: Model::resnet152(),
            clients: 8,
            rivals: rivals([1.6, 2.0, 11.0]),
        },
    ];
    let module = Module::load("fedavg")?;
    for case in &cases {
        measure(&arguments, &output, &module, case).with_context(|| case.model.name.clone())?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, output: &Output, module: &Module, case: &Case) -> Result<()> {
    let Case { model, clients, .. } = case;
    output.say(format_args!(
        "{clients} clients of {}: filling memory",
        model.name
    ));
    let mut segment = Segment::new(clients + Folding::EXTRA_SLOTS, model.elements())?;
    for client in 0..*clients {
        segment.fill(client, values(client as u64))?;
    }
    let total: f32 = (1..=*clients).map(|weight| weight as f32).sum();
    let weights: Vec<f32> = (1..=*clients).map(|weight| weight as f32 / total).collect();
    let sums = *clients;
    let kernel = Kernel::fastest(&segment, &weights, sums, arguments.options.pick(5, 2))?;
    output.say(format_args!("the fastest native kernel here: {kernel}"));
    let mut folding = Folding::new(module, CONFIG, &segment, &weights, Encoding::F32)?;
    let mut peers = if arguments.no_peers {
        Vec::new()
    } else {
        let start = |rival: &Rival| Peer::start(rival.script, model, *clients);
        case.rivals.iter().map(start).collect::<Result<_>>()?
    };

    let runs = arguments.options.runs();
    let folding_cell = std::cell::RefCell::new(&mut folding);
    let mut contenders = vec![
        Contender::new("reading", || {
            Ok(native::read(&segment, *clients)?.as_secs_f64())
        }),
        Contender::new("native", || {
            Ok(kernel.fold(&segment, &weights, sums).as_secs_f64())
        }),
        Contender::new("wasm", || {
            Ok(folding_cell.borrow_mut().fold()?.as_secs_f64())
        }),
        Contender::new("wasm and finish", || {
            let mut folding = folding_cell.borrow_mut();
            Ok((folding.fold()? + folding.finish()?).as_secs_f64())
        }),
    ];
    let named = peers.iter_mut().zip(&case.rivals);
    contenders.extend(named.map(|(peer, rival)| Contender::new(rival.label, || peer.run())));
    let times = interleave(2, runs, &mut contenders)?;
    drop(contenders);

    let model_slot = folding.model_slot();
    kernel.fold(&segment, &weights, sums);
    let expected: Vec<f32> = segment.copy(sums);
    compare("wasm", &expected, &segment.copy(model_slot))?;
    for (peer, rival) in peers.iter_mut().zip(&case.rivals) {
        let file = tempfile::NamedTempFile::new()?;
        peer.write_result(file.path())?;
        compare(rival.name, &expected, &read_raw(Path::new(file.path()))?)?;
    }
    report(output, case, kernel, &times)
}

/// All contenders must have computed the same, or comparing their times would mean nothing.
fn compare(name: &str, expected: &[f32], found: &[f32]) -> Result<()> {
    if found.len() != expected.len() {
        bail!(
            "{name} has {} elements, not {}",
            found.len(),
            expected.len()
        );
    }
    // What is no number is not close either.
    let close = |expected: f32, found: f32| (expected - found).abs() <= TOLERANCE;
    let mut pairs = expected.iter().zip(found).enumerate();
    let wrong = pairs.find(|(_, (expected, found))| !close(**expected, **found));
    if let Some((at, (expected, found))) = wrong {
        bail!("{name} has {found} at {at}, and the native kernel {expected}");
    }
    Ok(())
}

fn report(output: &Output, case: &Case, kernel: Kernel, times: &[Samples]) -> Result<()> {
    let Case {
        model,
        clients,
        rivals,
    } = case;
    let bytes = (model.bytes() * *clients as u64) as f64;
    let rate = |samples: &Samples| samples.map(|seconds| bytes / seconds / 1e9);
    let name = |what: &str| format!("fold.{}.{what}", model.name);
    let plot = format!("fold-{}", model.name);
    let figure = |what: &str, label: &str, samples: &Samples| -> Result<Figure> {
        Ok(Figure::new(name(what), label, "GB/s", &rate(samples)?).plot(plot.clone()))
    };
    let [read, native, wasm, whole, peers @ ..] = times else {
        bail!("fewer measurements than contenders");
    };
    let of_reading = |samples: &Samples| read.median() / samples.median();
    output.figure(&figure("read", "reading alone", read)?)?;
    let label = format!("native ({kernel})");
    output
        .figure(&figure("native", &label, native)?.against("reading alone", of_reading(native)))?;
    output.figure(
        &figure("wasm", "Tributary, in WebAssembly", wasm)?
            .against("the native kernel", native.median() / wasm.median())
            .target(Target::RatioAtLeast(0.85)),
    )?;
    let roofline = Figure::new(
        name("roofline"),
        "WebAssembly, of reading alone",
        "",
        &wasm.map(|s| read.median() / s)?,
    );
    output.figure(&roofline)?;
    let whole_label = "Tributary, with the finish";
    output.figure(
        &figure("whole", whole_label, whole)?
            .against("its fold alone", wasm.median() / whole.median()),
    )?;
    for (rival, samples) in rivals.iter().zip(peers) {
        // The sums of PyTorch need no division: they are held against the fold, the others against all of it.
        let ours = if rival.name == "torch" { wasm } else { whole };
        output.figure(
            &figure(rival.name, rival.label, samples)?
                .against("reading alone", of_reading(samples)),
        )?;
        let ratio = samples.map(|seconds| seconds / ours.median())?;
        output.figure(
            &Figure::new(
                name(&format!("over_{}", rival.name)),
                format!("Tributary over {}", rival.label),
                "x",
                &ratio,
            )
            .against(rival.label, ratio.median())
            .target(Target::RatioAtLeast(rival.target)),
        )?;
    }
    Ok(())
}
