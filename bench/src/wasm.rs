//! The real function, in the real host, over the same slots as the native kernel: two instances on two threads, each
//! with a part of the coordinates.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tributary_wasm::{
    Engine, Extent, Function, Input, Instance, Limits, ModuleCache, Operands, Window,
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

/// An instance, and what it works on.
#[derive(Debug)]
struct PartOfIt {
    instance: Instance,
    elements: u32,
    stride: u64,
    inputs: Vec<Input>,
    /// Which of the two partials holds the newest sums.
    newest: u64,
}

impl Folding {
    /// Slots that a segment needs beside those of the updates.
    pub const EXTRA_SLOTS: usize = 3;

    /// Makes the instances; the updates have these weights.
    ///
    /// # Errors
    /// If the segment is too large for an instance, or the function refuses its configuration.
    pub fn new(module: &Module, config: &str, segment: &Segment, weights: &[f32]) -> Result<Self> {
        let part = |part| PartOfIt::new(module, config, segment, weights, part);
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
            let threads: Vec<_> = self
                .parts
                .iter_mut()
                .map(|part| scope.spawn(|| work(part)))
                .collect();
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
        part: usize,
    ) -> Result<Self> {
        let (offset, len) = segment.arena(part);
        let window = Window {
            fd: segment.descriptor()?,
            offset,
            len,
        };
        let stride = segment.stride(part);
        let instance = module
            .function
            .instantiate(LIMITS, config.as_bytes(), window, stride)?;
        let inputs = weights.iter().zip(0..).map(|(weight, slot)| Input {
            slot: Extent {
                offset: slot * stride,
            },
            weight: f64::from(*weight),
            contributors: 1,
        });
        Ok(Self {
            instance,
            elements: u32::try_from(segment.part(part).1).context("elements of a part")?,
            stride,
            inputs: inputs.collect(),
            newest: 0,
        })
    }

    fn slot(&self, after_inputs: u64) -> Extent {
        Extent {
            offset: (self.inputs.len() as u64 + after_inputs) * self.stride,
        }
    }

    fn fold(&mut self) -> Result<()> {
        let inputs = std::mem::take(&mut self.inputs);
        let folded = self.fold_all(&inputs);
        self.inputs = inputs;
        folded
    }

    fn fold_all(&mut self, inputs: &[Input]) -> Result<()> {
        let slot = |after_inputs: u64| Extent {
            offset: (inputs.len() as u64 + after_inputs) * self.stride,
        };
        let most = self.instance.description().max_inputs as usize;
        let mut previous = None;
        for inputs in inputs.chunks(most) {
            self.newest ^= 1;
            self.instance.fold(&Operands {
                round: 1,
                elements: self.elements,
                previous,
                output: slot(self.newest),
                model: None,
                inputs,
            })?;
            previous = Some(slot(self.newest));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let (previous, output) = (Some(self.slot(self.newest)), self.slot(2));
        Ok(self.instance.finish(&Operands {
            round: 1,
            elements: self.elements,
            previous,
            output,
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
        let mut segment = Segment::new(CLIENTS + Folding::EXTRA_SLOTS, 9_001, 4).unwrap();
        for slot in 0..CLIENTS {
            segment.fill(slot, values(slot as u64)).unwrap();
        }
        let weights = [1.0 / CLIENTS as f32; CLIENTS];
        let config = r#"{"accumulate":"f32"}"#;
        let mut folding = Folding::new(&module, config, &segment, &weights).unwrap();
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
