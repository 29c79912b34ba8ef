//! The function over shared memory of the aggregator's own: the same module, in the same host, as in Tributary's workers.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use tributary_wasm::{
    CallError, Content, Engine, Function, Input, Instance, Limits, ModuleCache, Operands,
    PAGE_BYTES, Place, Window, ranges,
};

use super::message::{self, Work};
use crate::segment::{PARTS, Segment};

/// What the function may use, as in the jobs of other benchmarks.
const LIMITS: Limits = Limits {
    memory_bytes: 64 << 20,
    deadline: Duration::from_secs(60),
};
/// The function's configuration, likewise.
const CONFIG: &[u8] = br#"{"accumulate":"f32"}"#;

/// An input that lies in its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) slot: usize,
    pub(super) weight: f64,
    pub(super) contributors: u32,
}

/// Room for one input. Only one is made for each slot, before anything reads it.
pub(super) struct Room {
    segment: Arc<Segment>,
    slot: usize,
}

impl Room {
    /// Takes the slot's pages.
    pub(super) fn take(segment: &Arc<Segment>, slot: usize) -> Self {
        segment.take(slot);
        Self {
            segment: Arc::clone(segment),
            slot,
        }
    }

    /// All of it: what a partial fills.
    pub(super) fn slot(&mut self) -> &mut [u8] {
        // SAFETY: there is one room for each slot, and what lies in it is read when the room has been given up.
        unsafe { self.segment.bytes(self.slot) }
    }

    /// What an update fills.
    pub(super) fn vector(&mut self) -> &mut [u8] {
        &mut self.slot()[PAGE_BYTES as usize..]
    }
}

/// An aggregator's inputs, sums and instances of the function: one for each half of the coordinates.
pub(super) struct Combiner {
    segment: Arc<Segment>,
    instances: Vec<Instance>,
    merges: bool,
    /// The slot after the inputs': two for sums, and one for the model.
    sums: usize,
    newest: Option<usize>,
    contributors: u32,
}

#[derive(Clone, Copy)]
enum Call {
    Fold,
    Merge,
    Finish,
}

impl Combiner {
    /// Loads the function and makes room.
    pub(super) fn new(work: &Work, place: &message::Place) -> Result<Self> {
        let segment = Arc::new(Segment::sparse(place.expected + 3, work.elements)?);
        let engine = Engine::new()?;
        let function = ModuleCache::open(&work.cache)?.load(&engine, &work.digest)?;
        let instances = (0..PARTS).map(|_| instantiate(&function, &segment));
        Ok(Self {
            instances: instances.collect::<Result<_>>()?,
            segment,
            merges: place.merges,
            sums: place.expected,
            newest: None,
            contributors: 0,
        })
    }

    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Clients inside the sums.
    pub(super) fn contributors(&self) -> u32 {
        self.contributors
    }

    /// Adds inputs to the sums.
    pub(super) fn combine(&mut self, items: &[Item]) -> Result<()> {
        self.contributors += items.iter().map(|item| item.contributors).sum::<u32>();
        let mut items = items;
        if self.merges
            && self.newest.is_none()
            && let Some((first, rest)) = items.split_first()
        {
            // The first child's sums are gone on from where they lie.
            (self.newest, items) = (Some(first.slot), rest);
        }
        let call = if self.merges { Call::Merge } else { Call::Fold };
        let most = self.instances[0].description().max_inputs as usize;
        for chunk in items.chunks(most) {
            let inputs: Vec<Input> = chunk.iter().map(|item| self.input(item)).collect();
            let output = self.sums + usize::from(self.newest == Some(self.sums));
            self.segment.take(output);
            self.call(call, output, &inputs)?;
            self.newest = Some(output);
        }
        Ok(())
    }

    /// The sums, with their scalars.
    pub(super) fn partial(&self) -> &[u8] {
        let slot = self.newest.unwrap_or(self.sums);
        // SAFETY: no call runs while `self` is borrowed, and rooms have been given up before their inputs were combined.
        unsafe { self.segment.bytes(slot) }
    }

    /// Makes the model.
    pub(super) fn finish(&mut self) -> Result<&[u8]> {
        let model = self.sums + 2;
        self.segment.take(model);
        self.call(Call::Finish, model, &[])?;
        // SAFETY: no call runs while `self` is borrowed, and nobody else knows this slot.
        let slot = unsafe { self.segment.bytes(model) };
        Ok(&slot[PAGE_BYTES as usize..])
    }

    fn input(&self, item: &Item) -> Input {
        Input {
            place: place(&self.segment, item.slot),
            weight: if self.merges { 0.0 } else { item.weight },
            contributors: item.contributors,
            content: Content::F32,
        }
    }

    fn call(&mut self, call: Call, output: usize, inputs: &[Input]) -> Result<()> {
        let segment = &self.segment;
        let operands = Operands {
            round: 1,
            first_element: 0,
            elements: 0,
            model_elements: segment.elements() as u64,
            previous: self.newest.map(|slot| place(segment, slot)),
            output: place(segment, output),
            model: None,
            inputs,
        };
        thread::scope(|scope| {
            let parts = (0..).zip(&mut self.instances).map(|(part, instance)| {
                let (first, elements) = segment.part(part);
                scope.spawn(move || on_part(instance, call, &operands, first, elements))
            });
            let parts: Vec<_> = parts.collect();
            parts.into_iter().try_for_each(|part| match part.join() {
                Ok(called) => Ok(called?),
                Err(_) => bail!("a thread that calls the function has panicked"),
            })
        })
    }
}

/// Calls the function on a part of the coordinates, in pieces that the instance can see at a time.
fn on_part(
    instance: &mut Instance,
    call: Call,
    operands: &Operands<'_>,
    first: usize,
    elements: usize,
) -> Result<(), CallError> {
    for piece in ranges(elements as u64, instance.range_elements_max()) {
        let operands = Operands {
            first_element: first as u64 + piece.first_element,
            elements: piece.elements,
            ..*operands
        };
        match call {
            Call::Fold => instance.fold(&operands)?,
            Call::Merge => instance.merge(&operands)?,
            Call::Finish => instance.finish(&operands)?,
        }
    }
    Ok(())
}

fn place(segment: &Segment, slot: usize) -> Place {
    Place::at(segment.stride() * slot as u64)
}

fn instantiate(function: &Function, segment: &Segment) -> Result<Instance> {
    let window = Window {
        fd: segment.descriptor()?,
        offset: 0,
        len: segment.len(),
    };
    Ok(function.instantiate(LIMITS, CONFIG, window)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ablation::replay::{Updates, check};
    use crate::{Model, place as files};

    fn combiner(
        folder: &std::path::Path,
        expected: usize,
        merges: bool,
        elements: usize,
    ) -> Combiner {
        let wasm = std::fs::read(files::function("fedavg").unwrap()).unwrap();
        let cache = ModuleCache::open(folder).unwrap();
        let digest = cache.deploy(&Engine::new().unwrap(), &wasm).unwrap();
        let work = Work {
            run: "run".into(),
            elements,
            digest,
            cache: folder.to_owned(),
            eager: false,
        };
        let place = message::Place {
            name: "test".into(),
            host: 0,
            expected,
            merges,
            parent: None,
        };
        Combiner::new(&work, &place).unwrap()
    }

    /// Needs what `cargo xtask build` makes.
    #[test]
    fn leaves_and_a_top_make_the_mean() {
        const ELEMENTS: usize = 9_001;
        let folder = tempfile::tempdir().unwrap();
        let updates = Updates::of(Model::flat("small", ELEMENTS));
        let mut top = combiner(folder.path(), 3, true, ELEMENTS);
        for leaf in 0..3 {
            let mut combiner = combiner(folder.path(), 2, false, ELEMENTS);
            let items: Vec<Item> = (0..2)
                .map(|slot| {
                    let client = leaf * 2 + slot;
                    let mut room = Room::take(combiner.segment(), slot);
                    room.vector()
                        .copy_from_slice(updates.update(client).pieces()[1]);
                    Item {
                        slot,
                        weight: Updates::weight(client),
                        contributors: 1,
                    }
                })
                .collect();
            // One after the other, as when it is eager, or both.
            match leaf {
                0 => items
                    .iter()
                    .for_each(|item| combiner.combine(&[*item]).unwrap()),
                _ => combiner.combine(&items).unwrap(),
            }
            Room::take(top.segment(), leaf)
                .slot()
                .copy_from_slice(combiner.partial());
            let item = Item {
                slot: leaf,
                weight: 0.0,
                contributors: combiner.contributors(),
            };
            top.combine(&[item]).unwrap();
        }
        assert_eq!(top.contributors(), 6);
        check(&updates.mean(6), top.finish().unwrap()).unwrap();
    }
}
