//! Folds of updates in 16 bits an element, against those in 32: elements in a second, on two threads, in turns.

use std::iter;

use anyhow::{Context as _, Result};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::model::values;
use tributary_bench::segment::Segment;
use tributary_bench::wasm::{Folding, Module};
use tributary_bench::{Contender, Figure, Model, Options, Output, interleave};
use tributary_wasm::Encoding;

const CLIENTS: usize = 32;
const CONFIG: &str = r#"{"accumulate":"f32"}"#;

#[derive(Parser)]
#[command(about = "Folds of f16 and bf16 updates against f32")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("encodings");
    let model = Model::resnet18();
    let module = Module::load("fedavg")?;
    let weights = [1.0 / CLIENTS as f32; CLIENTS];
    let encodings = [Encoding::F32, Encoding::F16, Encoding::Bf16];
    let mut folds = Vec::new();
    for encoding in encodings {
        let segment = filled(&model, encoding)?;
        let fold = Folding::new(&module, CONFIG, &segment, &weights, encoding);
        folds.push((segment, fold.with_context(|| encoding.to_string())?));
    }
    let mut contenders: Vec<_> = folds
        .iter_mut()
        .zip(encodings)
        .map(|((_, fold), encoding)| {
            Contender::new(encoding.to_string(), || Ok(fold.fold()?.as_secs_f64()))
        })
        .collect();
    let times = interleave(2, arguments.options.runs(), &mut contenders)?;
    drop(contenders);
    let elements = (model.elements() * CLIENTS) as f64;
    for (encoding, seconds) in encodings.into_iter().zip(&times) {
        let rate = seconds.map(|seconds| elements / seconds / 1e9)?;
        let name = format!("encodings.r18.{encoding}");
        let label = format!("{CLIENTS} clients of a ResNet-18 in {encoding}");
        let figure = Figure::new(name, label, "G elements/s", &rate).plot("encodings");
        output.figure(&if encoding == Encoding::F32 {
            figure
        } else {
            let ratio = times[0].median() / seconds.median();
            figure
                .against("f32", ratio)
                .target(Target::RatioAtLeast(0.8))
        })?;
    }
    Ok(())
}

/// All clients' updates in an encoding, and room for the sums.
fn filled(model: &Model, encoding: Encoding) -> Result<Segment> {
    let mut segment = Segment::new(CLIENTS + Folding::EXTRA_SLOTS, model.elements())?;
    for client in 0..CLIENTS {
        match encoding {
            Encoding::F16 => segment.fill(client, halves(client))?,
            Encoding::Bf16 => {
                let upper = values(client as u64).map(|value| (value.to_bits() >> 16) as u16);
                segment.fill(client, upper)?;
            }
            _ => segment.fill(client, values(client as u64))?,
        }
    }
    Ok(segment)
}

/// Half-precision numbers of both signs between 2^-4 and 2^-3.
fn halves(client: usize) -> impl Iterator<Item = u16> {
    let mut next = client as u16;
    iter::repeat_with(move || {
        next = next.wrapping_mul(25_173).wrapping_add(13_849);
        next & 0x83ff | 0x2c00
    })
}
