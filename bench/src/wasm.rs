//! The real function, in the real host, over the same slots as the native kernel: two instances on two threads, each
//! with a part of the coordinates.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tributary_wasm::{
    Content, Encoding, Engine, Function, Input, Instance, Limits, ModuleCache, Operands, Place,
    Window,
};

use crate::place;
use crate::segment::{PARTS, Segment};

/// What an instance may use and take; far above what a fold needs.
const LIMITS: Limits = Limits {
    memory_bytes: 16 << 20,
    deadline: Duration::from_secs(60),
};

/// A function, compiled as a node compiles it.
#[derive(Debug)]
pub struct Module {
    function: Function,
    _cache: tempfile::TempDir,
}

impl Module {
    /// Compiles `target/functions/NAME.wasm`.
    ///
    /// # Errors
    /// If it is not there, or cannot be compiled.
    pub fn load(name: &str) -> Result<Self> {
        let wasm = std::fs::read(place::function(name)?)?;
        let engine = Engine::new()?;
        let folder = tempfile::tempdir()?;
        let cache = ModuleCache::open(folder.path())?;
        let digest = cache.deploy(&engine, &wasm)?;
        let function = cache.load(&engine, &digest)?;
        Ok(Self {
            function,
            _cache: folder,
        })
    }
}

/// Two instances over a segment: the first slots hold updates, the two after them partials in turn, then a model.
#[derive(Debug)]
pub struct Folding {
    parts: Vec<PartOfIt>,
}

/// An instance, and the range of elements that it works on.
#[derive(Debug)]
struct PartOfIt {
    instance: Instance,
    first_element: u64,
    elements: u32,
    model_elements: u64,
    inputs: Vec<Input>,
    partials: [Place; 2],
    model: Place,
    /// Which of the two partials holds the newest sums.
    newest: usize,
}

impl Folding {
    /// Slots that a segment needs beside those of the updates.
    pub const EXTRA_SLOTS: usize = 3;

    /// Makes the instances; the updates have these weights, and all this encoding.
    ///
    /// # Errors
    /// If the function does not fold the encoding, or refuses its configuration.
    pub fn new(
        module: &Module,
        config: &str,
        segment: &Segment,
        weights: &[f32],
        encoding: Encoding,
    ) -> Result<Self> {
        let part = |part| PartOfIt::new(module, config, segment, weights, encoding, part);
        let parts = (0..PARTS).map(part).collect::<Result<_>>()?;
        Ok(Self { parts })
    }

    /// The slot in which [`Self::finish`] leaves the mean.
    #[must_use]
    pub fn model_slot(&self) -> usize {
        self.parts[0].inputs.len() + 2
    }

    /// Folds all updates into a partial.
    ///
    /// # Errors
    /// What the function says.
    pub fn fold(&mut self) -> Result<Duration> {
        self.on_threads(PartOfIt::fold)
    }

    /// Divides the partial by the weights: the model.
    ///
    /// # Errors
    /// What the function says.
    pub fn finish(&mut self) -> Result<Duration> {
        self.on_threads(PartOfIt::finish)
    }

    fn on_threads(&mut self, work: fn(&mut PartOfIt) -> Result<()>) -> Result<Duration> {
        let started = Instant::now();
        thread::scope(|scope| {
            let parts = self.parts.iter_mut();
            let threads: Vec<_> = parts.map(|part| scope.spawn(|| work(part))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| match thread.join() {
                    Ok(worked) => worked,
                    Err(_) => bail!("a thread that folds has panicked"),
                })
        })?;
        Ok(started.elapsed())
    }
}

impl PartOfIt {
    fn new(
        module: &Module,
        config: &str,
        segment: &Segment,
        weights: &[f32],
        encoding: Encoding,
        part: usize,
    ) -> Result<Self> {
        let window = Window {
            fd: segment.descriptor()?,
            offset: 0,
            len: segment.len(),
        };
        let instance = module
            .function
            .instantiate(LIMITS, config.as_bytes(), window)?;
        if !instance.description().encodings.contains(encoding) {
            bail!("the function does not fold {encoding}");
        }
        let slot = |slot: usize| Place::at(slot as u64 * segment.stride());
        let content = Content { encoding, count: 0 };
        let inputs = weights.iter().enumerate().map(|(client, weight)| Input {
            place: slot(client),
            weight: f64::from(*weight),
            contributors: 1,
            content,
        });
        let (first, elements) = segment.part(part);
        Ok(Self {
            instance,
            first_element: first as u64,
            elements: u32::try_from(elements).context("elements of a part")?,
            model_elements: segment.elements() as u64,
            inputs: inputs.collect(),
            partials: [0, 1].map(|after| slot(weights.len() + after)),
            model: slot(weights.len() + 2),
            newest: 0,
        })
    }

    fn fold(&mut self) -> Result<()> {
        let most = self.instance.description().max_inputs as usize;
        let mut previous = None;
        for inputs in self.inputs.chunks(most) {
            self.newest ^= 1;
            let output = self.partials[self.newest];
            self.instance.fold(&Operands {
                round: 1,
                first_element: self.first_element,
                elements: self.elements,
                model_elements: self.model_elements,
                previous,
                output,
                model: None,
                inputs,
            })?;
            previous = Some(output);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.instance.finish(&Operands {
            round: 1,
            first_element: self.first_element,
            elements: self.elements,
            model_elements: self.model_elements,
            previous: Some(self.partials[self.newest]),
            output: self.model,
            model: None,
            inputs: &[],
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;
    use crate::native::Kernel;

    /// Needs what `cargo xtask build` makes.
    #[test]
    fn the_function_gives_what_the_native_kernel_gives() {
        const CLIENTS: usize = 19;
        let module = Module::load("fedavg").unwrap();
        let mut segment = Segment::new(CLIENTS + Folding::EXTRA_SLOTS, 9_001).unwrap();
        for slot in 0..CLIENTS {
            segment.fill(slot, values(slot as u64)).unwrap();
        }
        let weights = [1.0 / CLIENTS as f32; CLIENTS];
        let config = r#"{"accumulate":"f32"}"#;
        let mut folding = Folding::new(&module, config, &segment, &weights, Encoding::F32).unwrap();
        folding.fold().unwrap();
        folding.finish().unwrap();
        let model: Vec<f32> = segment.copy(folding.model_slot());
        Kernel::available().unwrap()[0].fold(&segment, &weights, CLIENTS);
        let sums: Vec<f32> = segment.copy(CLIENTS);
        for (mean, sum) in model.iter().zip(&sums) {
            assert!((mean - sum).abs() < 1e-6, "{mean} {sum}");
        }
    }
}
