//! Measures folds of a model of 11.69 million parameters (a ResNet-18), eight updates at a time.
//!
//! `cargo run --release -p tributary-wasm --example fold_speed [-- elements inputs]`
//!
//! Figures are of input bytes per second on one core, the best and the middle of several runs; ratios
//! between machines and modes mean more than the figures themselves.

#![allow(clippy::print_stdout)] // It is what the program is for.

use rustix::fs::MemfdFlags;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tributary_wasm::{
    Content, Engine, Function, Input, Instance, Limits, ModuleCache, Operands, PAGE_BYTES, Place,
    Window,
};

const RUNS: usize = 15;
const LIMITS: Limits = Limits {
    memory_bytes: 16 << 20,
    deadline: Duration::from_secs(30),
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let elements: u32 = arguments
        .next()
        .map_or(Ok(11_689_512), |text| text.parse())?;
    let inputs: u64 = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let wasm = std::fs::read(functions_dir().join("fedavg.wasm"))
        .map_err(|error| format!("fedavg.wasm: {error}: run `cargo xtask build`"))?;
    let engine = Engine::new()?;
    let dir = tempfile::tempdir()?;
    let cache = ModuleCache::open(dir.path())?;
    let started = Instant::now();
    let digest = cache.deploy(&engine, &wasm)?;
    println!("deploy {:?} ({} bytes)", started.elapsed(), wasm.len());
    let started = Instant::now();
    let function = cache.load(&engine, &digest)?;
    println!("load   {:?}", started.elapsed());
    println!(
        "{elements} elements, {inputs} inputs per fold, GB/s of input, best and median of {RUNS}"
    );
    for mode in ["f32", "f64", "exact"] {
        measure(&function, mode, elements, inputs)?;
    }
    Ok(())
}

fn functions_dir() -> PathBuf {
    std::env::var_os("TRIBUTARY_FUNCTIONS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/functions"),
        PathBuf::from,
    )
}

/// The arena: the updates, then two partials that take turns, then a model.
struct Bench {
    instance: Instance,
    elements: u32,
    inputs: Vec<Input>,
    stride: u64,
}

impl Bench {
    fn slot(&self, index: u64) -> Place {
        Place::at(index * self.stride)
    }

    fn fold(&mut self, previous: Option<Place>, output: Place) -> Result<(), Box<dyn Error>> {
        Ok(self.instance.fold(&Operands {
            round: 1,
            first_element: 0,
            elements: self.elements,
            model_elements: u64::from(self.elements),
            previous,
            output,
            model: None,
            inputs: &self.inputs,
        })?)
    }
}

fn measure(
    function: &Function,
    mode: &str,
    elements: u32,
    inputs: u64,
) -> Result<(), Box<dyn Error>> {
    let stride = PAGE_BYTES + (u64::from(elements) * 8).next_multiple_of(PAGE_BYTES);
    let len = stride * (inputs + 3);
    let fd = rustix::fs::memfd_create("fold-speed", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, len)?;
    let file = File::from(fd.try_clone()?);
    for input in 0..inputs {
        let value = |element: u32| (element % 1000) as f32 * 1e-3 - 0.5 + input as f32;
        let bytes: Vec<u8> = (0..elements)
            .flat_map(|element| value(element).to_le_bytes())
            .collect();
        file.write_all_at(&bytes, input * stride + PAGE_BYTES)?;
    }
    let config = format!(r#"{{"accumulate": "{mode}"}}"#);
    let window = Window { fd, offset: 0, len };
    let started = Instant::now();
    let instance = function.instantiate(LIMITS, config.as_bytes(), window)?;
    let instantiated = started.elapsed();
    let mut bench = Bench {
        instance,
        elements,
        inputs: (0..inputs)
            .map(|input| Input {
                place: Place::at(input * stride),
                weight: 100.0 + input as f64,
                contributors: 1,
                content: Content::F32,
            })
            .collect(),
        stride,
    };
    let (one, other) = (bench.slot(inputs), bench.slot(inputs + 1));
    let started = Instant::now();
    bench.fold(None, one)?;
    let cold = started.elapsed();
    bench.fold(Some(one), other)?;
    let mut times = Vec::new();
    for run in 0..RUNS {
        let (previous, output) = if run % 2 == 0 {
            (other, one)
        } else {
            (one, other)
        };
        let started = Instant::now();
        bench.fold(Some(previous), output)?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let model = bench.slot(inputs + 2);
    let started = Instant::now();
    bench.instance.finish(&Operands {
        round: 1,
        first_element: 0,
        elements,
        model_elements: u64::from(elements),
        previous: Some(one),
        output: model,
        model: None,
        inputs: &[],
    })?;
    let finished = started.elapsed();
    let bytes = (u64::from(elements) * 4 * inputs) as f64;
    let rate = |time: Duration| bytes / time.as_secs_f64() / 1e9;
    println!(
        "{mode:5}  fold {:5.2} {:5.2} (first {:5.2})  finish {:6.1} ms  instantiate {instantiated:?}",
        rate(times[0]),
        rate(times[RUNS / 2]),
        rate(cold),
        finished.as_secs_f64() * 1e3,
    );
    Ok(())
}
