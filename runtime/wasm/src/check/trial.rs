//! Slots of made-up updates, and an instance that works on them.

use super::updates::Update;
use crate::abi::{Description, PAGE_BYTES};
use crate::encoding::{Content, Encoding};
use crate::error::{Error, Export};
use crate::function::{Function, Limits};
use crate::instance::{Instance, Window};
use crate::operands::{Input, ModelRange, Operands, Place};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What output memory is filled with: as floats of any width it is NaN, so that what a function does not write
/// is no number.
pub(super) const POISON: u8 = 0xFF;
/// Another filling, to tell bytes that happen to be written so from bytes that are not written.
pub(super) const OTHER_POISON: u8 = 0xA5;
const ROUND: u64 = 1;

/// What to try: under which limits and configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) function: &'a Function,
    pub(super) limits: Limits,
    pub(super) config: &'a [u8],
}

/// An instance over a window of its own.
pub(super) struct Trial {
    instance: Instance,
    file: File,
    elements: u32,
    /// Each fold, merge or finish is a call for each of these.
    pub(super) ranges: Vec<ModelRange>,
    /// What outputs are filled with before each call.
    poison: u8,
    slot_stride: u64,
    model: Place,
    /// The next slot that nothing has been written to.
    free: u64,
}

impl Trial {
    /// A trial on a model of `elements`, with room for `slots` updates and partials.
    pub(super) fn new(
        subject: Subject<'_>,
        elements: u32,
        vector_bytes: u64,
        slots: u64,
    ) -> Result<Self, Error> {
        // One page more than a vector needs, to see what lands there.
        let slot_stride = PAGE_BYTES + vector_bytes.next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        let len = (slots + 1) * slot_stride;
        let failed = |errno: rustix::io::Errno| trial_error(errno.into());
        let fd =
            rustix::fs::memfd_create("tributary-check", MemfdFlags::CLOEXEC).map_err(failed)?;
        rustix::fs::ftruncate(&fd, len).map_err(failed)?;
        let window = Window {
            fd: fd.try_clone().map_err(trial_error)?,
            offset: 0,
            len,
        };
        let Subject {
            function,
            limits,
            config,
        } = subject;
        let mut trial = Self {
            instance: function.instantiate(limits, config, window)?,
            file: File::from(fd),
            elements,
            ranges: vec![ModelRange {
                first_element: 0,
                elements,
            }],
            poison: POISON,
            slot_stride,
            model: Place::at(0),
            free: 0,
        };
        trial.model = trial.put(&Update::made_up(Encoding::F32, 1000, elements))?;
        Ok(trial)
    }

    pub(super) fn description(&self) -> Description {
        self.instance.description()
    }

    /// Writes an update to a slot of its own.
    pub(super) fn put(&mut self, update: &Update) -> Result<Place, Error> {
        let place = self.next();
        self.write(&update.bytes, place.vector)?;
        Ok(place)
    }

    /// Writes the current model anew.
    pub(super) fn set_model(&mut self, model: &Update) -> Result<(), Error> {
        self.write(&model.bytes, self.model.vector)
    }

    /// Forgets the slots that `act` used.
    pub(super) fn rewinding<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let free = self.free;
        let result = act(self);
        self.free = free;
        result
    }

    /// Folds or merges twice, over outputs that are filled differently: what differs then was not written.
    pub(super) fn twice(
        &mut self,
        export: Export,
        mut act: impl FnMut(&mut Self, u8) -> Result<Place, Error>,
    ) -> Result<[Place; 2], Error> {
        let first = act(self, POISON)?;
        self.poison = OTHER_POISON;
        let second = act(self, OTHER_POISON);
        self.poison = POISON;
        let second = second?;
        let (first_bytes, second_bytes) = (self.partial(first)?, self.partial(second)?);
        let parts = [
            ("scalars", first_bytes.0, second_bytes.0),
            ("vector", first_bytes.1, second_bytes.1),
        ];
        for (part, first, second) in parts {
            let unwritten = |pair: (&u8, &u8)| pair == (&POISON, &OTHER_POISON);
            if let Some(at) = first.iter().zip(&second).position(unwritten) {
                return Err(Error::Unwritten { export, part, at });
            }
        }
        Ok([first, second])
    }

    pub(super) fn fold(
        &mut self,
        previous: Option<Place>,
        updates: &[Input],
    ) -> Result<Place, Error> {
        self.in_steps(Export::Fold, previous, updates)
    }

    pub(super) fn merge(
        &mut self,
        previous: Option<Place>,
        partials: &[Place],
    ) -> Result<Place, Error> {
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

    /// As many inputs at a time as the function takes.
    fn in_steps(
        &mut self,
        export: Export,
        mut previous: Option<Place>,
        inputs: &[Input],
    ) -> Result<Place, Error> {
        let description = self.description();
        let mut output = self.model;
        for step in inputs.chunks(description.max_inputs as usize) {
            output = self.take()?;
            self.call(export, previous, output, step)?;
            let (scalars, vector) = self.partial_bytes();
            self.untouched(export, output.scalars + scalars..output.vector)?;
            let end = output.scalars + self.slot_stride;
            self.untouched(export, output.vector + vector..end)?;
            previous = Some(output);
        }
        Ok(output)
    }

    pub(super) fn finish(&mut self, partial: Place) -> Result<Vec<f32>, Error> {
        let output = self.take()?;
        self.call(Export::Finish, Some(partial), output, &[])?;
        let bytes = u64::from(self.elements) * 4;
        self.untouched(Export::Finish, output.scalars..output.vector)?;
        let end = output.scalars + self.slot_stride;
        self.untouched(Export::Finish, output.vector + bytes..end)?;
        let model = self.read(output.vector..output.vector + bytes)?;
        let elements = model.as_chunks::<4>().0;
        if let Some(element) = elements.iter().position(|bytes| *bytes == [POISON; 4]) {
            return Err(Error::Unwritten {
                export: Export::Finish,
                part: "vector",
                at: element * 4,
            });
        }
        // A finished model's slot is not needed again.
        self.free -= 1;
        Ok(elements
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect())
    }

    fn call(
        &mut self,
        export: Export,
        previous: Option<Place>,
        output: Place,
        inputs: &[Input],
    ) -> Result<(), Error> {
        for range in &self.ranges {
            let operands = Operands {
                round: ROUND,
                first_element: range.first_element,
                elements: range.elements,
                model_elements: u64::from(self.elements),
                previous,
                output,
                model: Some(self.model),
                inputs,
            };
            match export {
                Export::Merge => self.instance.merge(&operands)?,
                Export::Finish => self.instance.finish(&operands)?,
                Export::Fold | Export::Start | Export::Describe => self.instance.fold(&operands)?,
            }
        }
        Ok(())
    }

    /// A partial as the function left it: its scalars and its vector.
    pub(super) fn partial(&self, place: Place) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let (scalars, vector) = self.partial_bytes();
        Ok((
            self.read(place.scalars..place.scalars + scalars)?,
            self.read(place.vector..place.vector + vector)?,
        ))
    }

    /// Bytes that a partial's scalars and its vector have by the description.
    fn partial_bytes(&self) -> (u64, u64) {
        let description = self.description();
        let vector = u64::from(self.elements) * u64::from(description.partial_bytes_per_element);
        (u64::from(description.scalar_bytes), vector)
    }

    /// A slot to write, poisoned.
    fn take(&mut self) -> Result<Place, Error> {
        let place = self.next();
        let poison = vec![self.poison; self.slot_stride as usize];
        self.write(&poison, place.scalars)?;
        Ok(place)
    }

    fn next(&mut self) -> Place {
        self.free += 1;
        Place::at((self.free - 1) * self.slot_stride)
    }

    fn untouched(&self, export: Export, range: Range<u64>) -> Result<(), Error> {
        let bytes = self.read(range.clone())?;
        let Some(changed) = bytes.iter().position(|byte| *byte != self.poison) else {
            return Ok(());
        };
        let from = range.start % self.slot_stride;
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

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file
            .read_exact_at(&mut bytes, range.start)
            .map_err(trial_error)?;
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, at).map_err(trial_error)
    }
}

fn trial_error(source: io::Error) -> Error {
    Error::Map {
        what: "the check's window",
        source,
    }
}
