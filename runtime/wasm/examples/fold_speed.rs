//! Measures folds of a model of 11.69 million parameters (a ResNet-18), eight updates at a time.
//!
//! `cargo run --release -p tributary-wasm --example fold_speed [-- ELEMENTS K [THREADS]]`
//!
//! K updates per fold; with THREADS the model is cut into as many parts, and each has an instance and a
//! thread of its own. Models that a function cannot address as a whole are folded by windows.
//!
//! Figures are of input bytes per second, the best and the middle of several runs; ratios between
//! machines and modes mean more than the figures themselves. `TRIBUTARY_LARGE_PAGES=1` measures on large
//! pages, if the kernel can make them of shared memory.

#![allow(clippy::print_stdout)] // It is what the program is for.

use rustix::fs::MemfdFlags;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tributary_wasm::{
    CallError, Content, Engine, Function, Input, Instance, Limits, ModelRange, ModuleCache,
    Operands, PAGE_BYTES, Place, RANGE_ELEMENTS, Window, ranges,
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
    let threads: u32 = arguments.next().map_or(Ok(1), |text| text.parse())?;
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
        "{elements} elements, {inputs} inputs per fold, {threads} threads, GB/s of input, best and \
         median of {RUNS}"
    );
    for mode in ["f32", "f64", "exact"] {
        measure(&function, mode, elements, inputs, threads.max(1))?;
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
    /// One for each thread.
    instances: Vec<Instance>,
    elements: u32,
    inputs: Vec<Input>,
}

impl Bench {
    fn operands<'a>(
        &self,
        previous: Option<Place>,
        output: Place,
        inputs: &'a [Input],
    ) -> Operands<'a> {
        Operands {
            round: 1,
            first_element: 0,
            elements: self.elements,
            model_elements: u64::from(self.elements),
            previous,
            output,
            model: None,
            inputs,
        }
    }

    fn fold(&mut self, previous: Option<Place>, output: Place) -> Result<Duration, CallError> {
        let inputs = self.inputs.clone();
        let whole = self.operands(previous, output, &inputs);
        on_threads(&mut self.instances, &whole, Instance::fold)
    }

    fn finish(&mut self, partial: Place, output: Place) -> Result<Duration, CallError> {
        let whole = self.operands(Some(partial), output, &[]);
        on_threads(&mut self.instances, &whole, Instance::finish)
    }
}

type Call = fn(&mut Instance, &Operands<'_>) -> Result<(), CallError>;

/// Cuts the model into a part for each instance, and calls range by range.
fn on_threads(
    instances: &mut [Instance],
    whole: &Operands<'_>,
    call: Call,
) -> Result<Duration, CallError> {
    let share = whole.elements.div_ceil(instances.len() as u32);
    let parts = ranges(whole.model_elements, share.next_multiple_of(RANGE_ELEMENTS));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = instances
            .iter_mut()
            .zip(parts)
            .map(|(instance, part)| scope.spawn(move || by_ranges(instance, whole, part, call)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(started.elapsed())
}

fn by_ranges(
    instance: &mut Instance,
    whole: &Operands<'_>,
    part: ModelRange,
    call: Call,
) -> Result<(), CallError> {
    for range in ranges(u64::from(part.elements), instance.range_elements_max()) {
        let operands = Operands {
            first_element: part.first_element + range.first_element,
            elements: range.elements,
            ..*whole
        };
        call(instance, &operands)?;
    }
    Ok(())
}

/// Writes the updates into a file of memory.
fn fill(file: &File, elements: u32, inputs: u64, stride: u64) -> std::io::Result<()> {
    for input in 0..inputs {
        let value = |element: u32| (element % 1000) as f32 * 1e-3 - 0.5 + input as f32;
        let bytes: Vec<u8> = (0..elements)
            .flat_map(|element| value(element).to_le_bytes())
            .collect();
        file.write_all_at(&bytes, input * stride + PAGE_BYTES)?;
    }
    Ok(())
}

fn measure(
    function: &Function,
    mode: &str,
    elements: u32,
    inputs: u64,
    threads: u32,
) -> Result<(), Box<dyn Error>> {
    let stride = PAGE_BYTES + (u64::from(elements) * 8).next_multiple_of(PAGE_BYTES);
    let len = stride * (inputs + 3);
    let fd = rustix::fs::memfd_create("fold-speed", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, len)?;
    let file = File::from(fd);
    if std::env::var_os("TRIBUTARY_LARGE_PAGES").is_some() {
        let bytes = tributary_arena::take_large_pages(&file, 0..len);
        println!("{} of {} MiB in large pages", bytes >> 20, len >> 20);
    }
    fill(&file, elements, inputs, stride)?;
    let config = format!(r#"{{"accumulate": "{mode}"}}"#);
    let started = Instant::now();
    let instantiate = |_| -> Result<Instance, Box<dyn Error>> {
        let window = Window {
            fd: file.try_clone()?.into(),
            offset: 0,
            len,
        };
        Ok(function.instantiate(LIMITS, config.as_bytes(), window)?)
    };
    let instances = (0..threads)
        .map(instantiate)
        .collect::<Result<Vec<_>, _>>()?;
    let instantiated = started.elapsed() / threads;
    let update = |input: u64| Input {
        place: Place::at(input * stride),
        weight: 100.0 + input as f64,
        contributors: 1,
        content: Content::F32,
    };
    let by_windows = instances[0].range_elements_max() < elements;
    let mut bench = Bench {
        instances,
        elements,
        inputs: (0..inputs).map(update).collect(),
    };
    let slot = |index: u64| Place::at(index * stride);
    let (one, other, model) = (slot(inputs), slot(inputs + 1), slot(inputs + 2));
    let cold = bench.fold(None, one)?;
    bench.fold(Some(one), other)?;
    let mut times = Vec::new();
    for run in 0..RUNS {
        let (previous, output) = if run % 2 == 0 {
            (other, one)
        } else {
            (one, other)
        };
        times.push(bench.fold(Some(previous), output)?);
    }
    times.sort_unstable();
    let finished = bench.finish(one, model)?;
    let bytes = (u64::from(elements) * 4 * inputs) as f64;
    let rate = |time: Duration| bytes / time.as_secs_f64() / 1e9;
    println!(
        "{mode:5}  fold {:5.2} {:5.2} (first {:5.2})  finish {:6.1} ms  instantiate {instantiated:?}{}",
        rate(times[0]),
        rate(times[RUNS / 2]),
        rate(cold),
        finished.as_secs_f64() * 1e3,
        if by_windows { "  by windows" } else { "" },
    );
    Ok(())
}
