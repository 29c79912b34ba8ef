//! Proves a function at deploy: it describes itself sanely, keeps to the extents that it declares, and
//! obeys the laws of its algebra.
//!
//! The laws are tested on finished models, because a partial's format is the function's own. They are
//! tested on made-up updates at three sizes: one element; a size that no vector width divides, with a
//! pattern behind every extent that an overrun would change; and one whose partials end with a page, so
//! that an overrun traps.

use crate::abi::{Description, PAGE_BYTES};
use crate::encoding::Content;
use crate::engine::Engine;
use crate::error::{Error, Export};
use crate::function::{Function, Limits};
use crate::instance::{Instance, Window};
use crate::operands::{Input, Operands, Place};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const SIZES: [u32; 3] = [1, 1021, 1024];
const WEIGHTS: [f64; 6] = [3.0, 1.0, 4.0, 1.5, 9.0, 2.5];
/// How far two ways to the same model may lie apart, relative to the model's largest element.
const TOLERANCE: f32 = 1e-4;
const PATTERN: u8 = 0xA5;
const ROUND: u64 = 1;
/// The model's slot; before it lie the updates.
const MODEL: u64 = WEIGHTS.len() as u64;
/// Behind it, a slot for every partial that the laws make if each call takes one input (46), and one
/// for a finished model.
const SLOTS: u64 = MODEL + 1 + 47;

/// Runs `function` under `config` on small made-up models and answers its description.
///
/// # Errors
/// Names the law that it breaks, the extent that it oversteps, or the call that failed.
pub fn check(
    engine: &Engine,
    function: &Function,
    limits: Limits,
    config: &[u8],
) -> Result<Description, Error> {
    if !wasmtime::Engine::same(engine.wasmtime(), function.engine().wasmtime()) {
        return Err(Error::Engine(
            "the function was loaded by another engine".into(),
        ));
    }
    // The slots' size depends on the description: ask for it over the smallest window first.
    let description = Trial::new(function, limits, config, SIZES[0], PAGE_BYTES)?
        .instance
        .description();
    for elements in SIZES {
        let vector = u64::from(elements) * u64::from(description.partial_bytes_per_element.max(4));
        Trial::new(function, limits, config, elements, vector)?.prove()?;
    }
    Ok(description)
}

/// An instance over a window of its own.
struct Trial {
    instance: Instance,
    file: File,
    elements: u32,
    slot_stride: u64,
    /// The next slot that nothing has been written to.
    free: u64,
}

impl Trial {
    fn new(
        function: &Function,
        limits: Limits,
        config: &[u8],
        elements: u32,
        vector_bytes: u64,
    ) -> Result<Self, Error> {
        // One page more than a vector needs, to see what lands there.
        let slot_stride = PAGE_BYTES + vector_bytes.next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        let failed = |errno: rustix::io::Errno| Error::Map {
            what: "the check's window",
            source: errno.into(),
        };
        let fd =
            rustix::fs::memfd_create("tributary-check", MemfdFlags::CLOEXEC).map_err(failed)?;
        rustix::fs::ftruncate(&fd, SLOTS * slot_stride).map_err(failed)?;
        let window = Window {
            fd: fd.try_clone().map_err(trial_error)?,
            offset: 0,
            len: SLOTS * slot_stride,
        };
        let instance = function.instantiate(limits, config, window)?;
        let trial = Self {
            instance,
            file: File::from(fd),
            elements,
            slot_stride,
            free: MODEL + 1,
        };
        for slot in 0..=MODEL {
            trial.write_vector(slot)?;
        }
        Ok(trial)
    }

    /// A made-up update or model: finite, of both signs, different for every slot and element.
    fn write_vector(&self, slot: u64) -> Result<(), Error> {
        let mut state = (slot + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut bytes = Vec::new();
        for _ in 0..self.elements {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        self.file
            .write_all_at(&bytes, slot * self.slot_stride + PAGE_BYTES)
            .map_err(trial_error)
    }

    fn prove(&mut self) -> Result<(), Error> {
        let all = self.fold(None, &[0, 1, 2, 3, 4, 5])?;
        let model = self.finish(all)?;
        let finite = model.iter().position(|value| !value.is_finite());
        if let Some(element) = finite {
            return Err(Error::Law {
                law: "finite updates make a finite model",
                element,
                left: model[element],
                right: 0.0,
            });
        }
        let again = self.fold(None, &[0, 1, 2, 3, 4, 5])?;
        self.same("the same calls give the same model", again, &model, 0.0)?;
        let reversed = self.fold(None, &[5, 4, 3, 2, 1, 0])?;
        self.same(
            "the order of updates does not matter",
            reversed,
            &model,
            TOLERANCE,
        )?;
        let half = self.fold(None, &[0, 1, 2])?;
        let stepwise = self.fold(Some(half), &[3, 4, 5])?;
        self.same(
            "folding in steps equals folding at once",
            stepwise,
            &model,
            TOLERANCE,
        )?;

        let (first, second, third) = (
            self.fold(None, &[0])?,
            self.fold(None, &[1, 2])?,
            self.fold(None, &[3, 4, 5])?,
        );
        let merged = self.merge(None, &[first, second, third])?;
        let law = "merging partials equals folding their updates";
        self.same(law, merged, &model, TOLERANCE)?;
        let reversed = self.merge(None, &[third, second, first])?;
        self.same(
            "the order of partials does not matter",
            reversed,
            &model,
            TOLERANCE,
        )?;
        let left = self.merge(None, &[first, second])?;
        let left = self.merge(Some(left), &[third])?;
        let law = "merging is associative";
        self.same(law, left, &model, TOLERANCE)?;
        let right = self.merge(None, &[second, third])?;
        let right = self.merge(Some(first), &[right])?;
        self.same(law, right, &model, TOLERANCE)?;
        let mixed = self.fold(Some(second), &[0, 3, 4, 5])?;
        let law = "folding into a partial equals merging with the fold";
        self.same(law, mixed, &model, TOLERANCE)
    }

    fn same(
        &mut self,
        law: &'static str,
        partial: Place,
        model: &[f32],
        tolerance: f32,
    ) -> Result<(), Error> {
        let other = self.finish(partial)?;
        let largest = model
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let apart = |(left, right): (&f32, &f32)| {
            let distance = (left - right).abs();
            left.to_bits() != right.to_bits()
                && (distance.is_nan() || distance > tolerance * largest)
        };
        match model.iter().zip(&other).position(apart) {
            None => Ok(()),
            Some(element) => Err(Error::Law {
                law,
                element,
                left: model[element],
                right: other[element],
            }),
        }
    }

    /// Folds updates by their slots, as many at a time as the function takes.
    fn fold(&mut self, previous: Option<Place>, updates: &[u64]) -> Result<Place, Error> {
        let inputs: Vec<Input> = updates
            .iter()
            .map(|&slot| Input {
                place: self.place(slot),
                weight: WEIGHTS[slot as usize],
                contributors: 1,
                content: Content::F32,
            })
            .collect();
        self.in_steps(Export::Fold, previous, &inputs)
    }

    fn merge(&mut self, previous: Option<Place>, partials: &[Place]) -> Result<Place, Error> {
        let inputs: Vec<Input> = partials
            .iter()
            .map(|&place| Input {
                place,
                weight: 0.0,
                contributors: 1,
                content: Content::F32,
            })
            .collect();
        self.in_steps(Export::Merge, previous, &inputs)
    }

    fn in_steps(
        &mut self,
        export: Export,
        mut previous: Option<Place>,
        inputs: &[Input],
    ) -> Result<Place, Error> {
        let description = self.instance.description();
        let vector = u64::from(self.elements) * u64::from(description.partial_bytes_per_element);
        let mut output = self.place(0);
        for step in inputs.chunks(description.max_inputs as usize) {
            output = self.take()?;
            let operands = Operands {
                round: ROUND,
                first_element: 0,
                elements: self.elements,
                model_elements: u64::from(self.elements),
                previous,
                output,
                model: Some(self.place(MODEL)),
                inputs: step,
            };
            match export {
                Export::Merge => self.instance.merge(&operands)?,
                _ => self.instance.fold(&operands)?,
            }
            self.untouched(
                export,
                output,
                u64::from(description.scalar_bytes),
                PAGE_BYTES,
            )?;
            self.untouched(export, output, PAGE_BYTES + vector, self.slot_stride)?;
            previous = Some(output);
        }
        Ok(output)
    }

    fn finish(&mut self, partial: Place) -> Result<Vec<f32>, Error> {
        let output = self.take()?;
        self.instance.finish(&Operands {
            round: ROUND,
            first_element: 0,
            elements: self.elements,
            model_elements: u64::from(self.elements),
            previous: Some(partial),
            output,
            model: Some(self.place(MODEL)),
            inputs: &[],
        })?;
        let bytes = u64::from(self.elements) * 4;
        self.untouched(Export::Finish, output, 0, PAGE_BYTES)?;
        self.untouched(Export::Finish, output, PAGE_BYTES + bytes, self.slot_stride)?;
        let model = self.read(output, PAGE_BYTES, PAGE_BYTES + bytes)?;
        // A finished model's slot is not needed again.
        self.free -= 1;
        let values = model.as_chunks::<4>().0.iter();
        Ok(values.map(|value| f32::from_le_bytes(*value)).collect())
    }

    /// A slot to write, filled with the pattern.
    fn take(&mut self) -> Result<Place, Error> {
        let slot = self.place(self.free);
        self.free += 1;
        let pattern = vec![PATTERN; self.slot_stride as usize];
        self.file
            .write_all_at(&pattern, slot.scalars)
            .map_err(trial_error)?;
        Ok(slot)
    }

    fn untouched(&self, export: Export, slot: Place, from: u64, to: u64) -> Result<(), Error> {
        let bytes = self.read(slot, from, to)?;
        let Some(changed) = bytes.iter().position(|byte| *byte != PATTERN) else {
            return Ok(());
        };
        let declared = if from < PAGE_BYTES {
            format!("its {from} bytes of scalars")
        } else {
            format!("its vector of {} bytes", from - PAGE_BYTES)
        };
        Err(Error::Overrun {
            export,
            declared,
            at: from as usize + changed,
        })
    }

    fn read(&self, slot: Place, from: u64, to: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; (to - from) as usize];
        self.file
            .read_exact_at(&mut bytes, slot.scalars + from)
            .map_err(trial_error)?;
        Ok(bytes)
    }

    fn place(&self, slot: u64) -> Place {
        Place::at(slot * self.slot_stride)
    }
}

fn trial_error(source: io::Error) -> Error {
    Error::Map {
        what: "the check's window",
        source,
    }
}
