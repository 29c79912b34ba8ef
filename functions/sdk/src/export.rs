//! From a [`Function`] to the exports of a module.

use crate::Function;
use crate::abi;
use crate::call::{Finish, Fold, Merge, Partial, PartialMut, Round, Update};
use crate::error::Error;
use crate::host::{self, Level};
use crate::values::{Encoding, Values, pairs_within, runs_within};
use alloc::format;
use alloc::vec::Vec;
use core::cell::UnsafeCell;

/// Makes a module of a [`Function`](crate::Function): the ABI's exports, for WASM targets only.
#[macro_export]
macro_rules! export {
    ($function:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static MODULE: $crate::export::Module<$function> = $crate::export::Module::new();

            #[unsafe(no_mangle)]
            extern "C" fn tributary_abi_v1() {}

            #[unsafe(no_mangle)]
            extern "C" fn describe() -> usize {
                MODULE.describe()
            }

            #[unsafe(no_mangle)]
            extern "C" fn fold(call: usize) -> i32 {
                // SAFETY: the host passes the address of a call record of the ABI.
                unsafe { MODULE.fold(call) }
            }

            #[unsafe(no_mangle)]
            extern "C" fn merge(call: usize) -> i32 {
                // SAFETY: the host passes the address of a call record of the ABI.
                unsafe { MODULE.merge(call) }
            }

            #[unsafe(no_mangle)]
            extern "C" fn finish(call: usize) -> i32 {
                // SAFETY: the host passes the address of a call record of the ABI.
                unsafe { MODULE.finish(call) }
            }
        };
    };
}

/// What a module keeps between calls. Made by [`export!`](crate::export!); not for direct use.
#[derive(Debug)]
pub struct Module<F> {
    function: UnsafeCell<Option<F>>,
    description: UnsafeCell<abi::Description>,
}

// SAFETY: a module instance runs on one thread at a time (the ABI has no threads), and its entry points
// do not call each other.
unsafe impl<F> Sync for Module<F> {}

/// A call that the ABI describes, with the bytes behind its addresses.
struct Record {
    call: abi::Call,
    inputs: &'static [abi::Input],
}

impl<F: Function> Module<F> {
    /// A module that `describe` has not yet configured.
    #[must_use]
    #[allow(clippy::new_without_default)] // Only a static is ever made of it.
    pub const fn new() -> Self {
        Self {
            function: UnsafeCell::new(None),
            description: UnsafeCell::new(abi::Description {
                abi: 1,
                algebra: 1,
                partial_bytes_per_element: 0,
                scalar_bytes: 0,
                max_inputs: 0,
                encodings: 0,
                reserved: [0; 2],
            }),
        }
    }

    /// The export `describe`: the address of the description, or 0 if the configuration is refused.
    pub fn describe(&self) -> usize {
        match self.function() {
            Err(error) => {
                host::log(Level::Error, error.message());
                0
            }
            Ok(function) => {
                let description = function.describe();
                let place = self.description.get();
                // SAFETY: the cell is this module's, and no reference into it exists: see `Sync`.
                unsafe {
                    (*place).partial_bytes_per_element = description.partial_bytes_per_element;
                    (*place).scalar_bytes = description.scalar_bytes;
                    (*place).max_inputs = description.max_inputs;
                    (*place).encodings = description.encodings.bits();
                }
                place as usize
            }
        }
    }

    /// The export `fold`.
    ///
    /// # Safety
    /// `call` must be the address of a call record, and what that names must be as the ABI says, until
    /// the function returns.
    pub unsafe fn fold(&self, call: usize) -> i32 {
        // SAFETY: passed on.
        let record = unsafe { Record::read(call) };
        answer(self.function().and_then(|function| {
            let size = Size::of(function, &record.call);
            let updates = record.inputs.iter().map(|input| {
                // SAFETY: the ABI, as `fold` demands it.
                unsafe { update(input, &record.call) }
            });
            let updates = updates.collect::<Result<_, _>>()?;
            function.fold(Fold {
                round: record.round(),
                // SAFETY: the ABI, as `fold` demands it.
                previous: unsafe { record.previous(size) },
                // SAFETY: the ABI, as `fold` demands it.
                output: unsafe { record.output(size) },
                updates,
            })
        }))
    }

    /// The export `merge`.
    ///
    /// # Safety
    /// As for [`Module::fold`].
    pub unsafe fn merge(&self, call: usize) -> i32 {
        // SAFETY: passed on.
        let record = unsafe { Record::read(call) };
        answer(self.function().and_then(|function| {
            let size = Size::of(function, &record.call);
            let partials: Vec<_> = record
                .inputs
                .iter()
                // SAFETY: the ABI: a partial's vector and scalars, which nobody writes during the call.
                .map(|input| unsafe {
                    partial(input.vector, input.scalars, input.contributors, size)
                })
                .collect();
            function.merge(Merge {
                round: record.round(),
                // SAFETY: the ABI, as `merge` demands it.
                previous: unsafe { record.previous(size) },
                // SAFETY: the ABI, as `merge` demands it.
                output: unsafe { record.output(size) },
                partials,
            })
        }))
    }

    /// The export `finish`.
    ///
    /// # Safety
    /// As for [`Module::fold`].
    pub unsafe fn finish(&self, call: usize) -> i32 {
        // SAFETY: passed on.
        let record = unsafe { Record::read(call) };
        let call = record.call;
        let elements = call.elements as usize;
        answer(self.function().and_then(|function| {
            let size = Size::of(function, &call);
            function.finish(Finish {
                round: record.round(),
                // SAFETY: the ABI: a finish always has a partial.
                partial: unsafe { partial(call.previous, call.previous_scalars, 0, size) },
                model: match call.model {
                    0 => &[],
                    // SAFETY: the ABI: a model is `elements` f32, which nobody writes during the call.
                    model => unsafe { slice(model, elements) },
                },
                // SAFETY: the ABI: the output is `elements` f32, which alias no operand.
                output: unsafe { slice_mut(call.output, elements) },
            })
        }))
    }

    /// The function, made at the first call from the job's configuration.
    fn function(&self) -> Result<&F, Error> {
        // SAFETY: entry points do not overlap (see `Sync`), and the value, once made, is never replaced,
        // so the shared reference that is handed out stays valid.
        let place = unsafe { &mut *self.function.get() };
        match place {
            Some(function) => Ok(function),
            None => Ok(place.insert(configure()?)),
        }
    }
}

/// Reads the job's configuration and makes the function of it.
fn configure<F: Function>() -> Result<F, Error> {
    let config = host::config();
    let config: &[u8] = if config.is_empty() { b"{}" } else { &config };
    let config = serde_json::from_slice(config)
        .map_err(|error| Error::new(Error::CONFIG, format!("{error}")))?;
    F::new(config)
}

fn answer(result: Result<(), Error>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            host::log(Level::Error, error.message());
            error.code()
        }
    }
}

/// Bytes of a partial under a call.
#[derive(Clone, Copy)]
struct Size {
    vector: usize,
    scalars: usize,
}

impl Size {
    fn of(function: &impl Function, call: &abi::Call) -> Self {
        let description = function.describe();
        Self {
            vector: call.elements as usize * description.partial_bytes_per_element as usize,
            scalars: (description.scalar_bytes as usize).min(abi::SCALARS_BYTES_MAX),
        }
    }
}

impl Record {
    /// # Safety
    /// `call` must be the address of a call record of the ABI.
    unsafe fn read(call: usize) -> Self {
        let header = call as *const abi::Call;
        // SAFETY: the record begins with a header, aligned to a page, followed by `count` inputs; the
        // host changes none of it during the call.
        unsafe {
            let call = *header;
            let inputs = core::slice::from_raw_parts(header.add(1).cast(), call.count as usize);
            Self { call, inputs }
        }
    }

    fn round(&self) -> Round {
        Round {
            number: self.call.round,
            first_element: self.call.first_element,
        }
    }

    /// # Safety
    /// The call's previous partial, if it has one, must be as the ABI says.
    unsafe fn previous<'a>(&self, size: Size) -> Option<Partial<'a>> {
        let call = &self.call;
        // SAFETY: passed on.
        (call.previous != 0)
            .then(|| unsafe { partial(call.previous, call.previous_scalars, 0, size) })
    }

    /// # Safety
    /// The call's output must be as the ABI says, and must be taken once.
    unsafe fn output<'a>(&self, size: Size) -> PartialMut<'a> {
        // SAFETY: the ABI: the output's vector and scalars alias no operand and each other not.
        unsafe {
            PartialMut {
                vector: slice_mut(self.call.output, size.vector),
                scalars: slice_mut(self.call.output_scalars, size.scalars),
            }
        }
    }
}

/// # Safety
/// `input` must be one of a fold's, and what it names must be as the ABI says, until the fold returns.
unsafe fn update<'a>(input: &abi::Input, call: &abi::Call) -> Result<Update<'a>, Error> {
    // SAFETY: passed on.
    let values = unsafe { values(input, call) };
    let values = values.ok_or_else(|| {
        Error::new(
            Error::INPUT,
            format!("an update has encoding {}, which is none", input.encoding),
        )
    })?;
    Ok(Update {
        values,
        weight: input.weight,
        contributors: input.contributors,
    })
}

/// The values of an input in the range of a call; `None` if the encoding is not one.
///
/// # Safety
/// As for [`update`].
unsafe fn values<'a>(input: &abi::Input, call: &abi::Call) -> Option<Values<'a>> {
    let first = call.first_element;
    let elements = call.elements as usize;
    let count = input.count as usize;
    let encoding = Encoding::of_code(input.encoding)?;
    // SAFETY: the ABI: a dense vector has `elements` elements from the range's first on, a table and
    // the values beside it have `count`, and nobody writes them during the call.
    unsafe {
        Some(match encoding {
            Encoding::F32 => Values::F32(slice(input.vector, elements)),
            Encoding::F16 => Values::F16(slice(input.vector, elements)),
            Encoding::Bf16 => Values::Bf16(slice(input.vector, elements)),
            Encoding::I8 => Values::I8 {
                values: slice(input.vector, elements),
                runs: runs_within(slice(input.table, count), first, elements as u64),
            },
            Encoding::Sparse => {
                let (coordinates, values) = (slice(input.table, count), slice(input.vector, count));
                pairs_within(coordinates, values, first, elements as u64)?
            }
        })
    }
}

/// # Safety
/// A partial of `size` must lie at the addresses, and nobody may write it during the call.
unsafe fn partial<'a>(vector: u32, scalars: u32, contributors: u32, size: Size) -> Partial<'a> {
    // SAFETY: passed on.
    unsafe {
        Partial {
            vector: slice(vector, size.vector),
            scalars: slice(scalars, size.scalars),
            contributors,
        }
    }
}

/// # Safety
/// `len` values of `T` must lie at the address, which is aligned for them, and nobody may write them
/// during the call.
unsafe fn slice<'a, T>(address: u32, len: usize) -> &'a [T] {
    if len == 0 {
        // The address of nothing may be 0.
        return &[];
    }
    // SAFETY: passed on; an address is an offset in the module's own linear memory.
    unsafe { core::slice::from_raw_parts(address as usize as *const T, len) }
}

/// # Safety
/// As for [`slice`], and nobody else may read them either.
unsafe fn slice_mut<'a, T>(address: u32, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: passed on.
    unsafe { core::slice::from_raw_parts_mut(address as usize as *mut T, len) }
}
