//! One instance of a function over one window: what a worker calls.

use crate::abi::{DESCRIPTION_BYTES, Description, MEMORY_EXPORT};
use crate::engine::Engine;
use crate::error::{CallError, Error, Export};
use crate::function::{Function, Limits};
use crate::host::Host;
use crate::operands::Operands;
use crate::plan::{Plan, plan};
use crate::processor;
use crate::window::Mapping;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use wasmtime::{Memory, Store, Trap, TypedFunc, UpdateDeadline};

/// The part of a segment's file that an instance sees: the arena's data.
#[derive(Debug)]
pub struct Window {
    /// The segment's file, open for reading and writing.
    pub fd: OwnedFd,
    /// Where the data begin in it, in bytes; a multiple of the page size.
    pub offset: u64,
    /// Bytes of the data; a multiple of the page size.
    pub len: u64,
}

/// An instance of a function with an arena mapped into its memory.
///
/// It may move between threads and is called by one at a time. Dropping it unmaps the arena.
pub struct Instance {
    engine: Engine,
    limits: Limits,
    description: Description,
    fold: TypedFunc<u32, i32>,
    merge: TypedFunc<u32, i32>,
    finish: TypedFunc<u32, i32>,
    usable: bool,
    mapping: Mapping,
    memory: Memory,
    store: Store<Host>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Instance")
            .field("limits", &self.limits)
            .field("description", &self.description)
            .field("usable", &self.usable)
            .finish_non_exhaustive()
    }
}

impl Instance {
    pub(crate) fn new(
        function: &Function,
        limits: Limits,
        config: &[u8],
        window: Window,
    ) -> Result<Self, Error> {
        let engine = function.engine();
        let mut store = new_store(engine, config, limits);
        let started = run(engine, limits, Export::Start, &mut store, |store| {
            function.instantiate_pre(store)
        });
        let instance = started.map_err(|error| initial_memory_error(error, limits))?;
        let missing = |name: &str| Error::Engine(format!("the module lost its export `{name}`"));
        let memory = instance
            .get_memory(&mut store, MEMORY_EXPORT)
            .ok_or_else(|| missing(MEMORY_EXPORT))?;
        let mut call = |export: Export| {
            instance
                .get_typed_func::<u32, i32>(&mut store, export.name())
                .map_err(|_| missing(export.name()))
        };
        let (fold, merge, finish) = (
            call(Export::Fold)?,
            call(Export::Merge)?,
            call(Export::Finish)?,
        );
        let describe = instance
            .get_typed_func::<(), u32>(&mut store, Export::Describe.name())
            .map_err(|_| missing(Export::Describe.name()))?;
        let pointer = run(engine, limits, Export::Describe, &mut store, |store| {
            describe.call(store, ())
        })?;
        let description = read_description(&mut store, memory, pointer)?;
        // Only now: whatever `describe` allocated lies before the window.
        let mapping = Mapping::map(
            &mut store,
            memory,
            window,
            &description,
            limits.memory_bytes,
        )?;
        Ok(Self {
            engine: engine.clone(),
            limits,
            description,
            fold,
            merge,
            finish,
            usable: true,
            mapping,
            memory,
            store,
        })
    }

    /// What the function said of itself under this instance's configuration.
    pub fn description(&self) -> Description {
        self.description
    }

    /// The most elements that one call may be about. `u32::MAX` if the arena's data are mapped as a
    /// whole.
    pub fn range_elements_max(&self) -> u32 {
        self.mapping.reach().window_elements.unwrap_or(u32::MAX)
    }

    /// Bytes of the module's own memory, without the window.
    pub fn own_memory_bytes(&self) -> u64 {
        let window = self.mapping.addresses();
        self.memory.data_size(&self.store) as u64 - (window.end - window.start)
    }

    /// Folds updates: `output = previous ⊕ lift(inputs)`.
    ///
    /// # Errors
    /// See [`CallError`]; [`CallError::instance_survives`] says whether to make a new instance. After
    /// an error the output's content is undefined.
    pub fn fold(&mut self, operands: &Operands<'_>) -> Result<(), CallError> {
        self.call(Export::Fold, operands)
    }

    /// Merges partials: `output = previous ⊕ inputs`.
    ///
    /// # Errors
    /// As [`Instance::fold`].
    pub fn merge(&mut self, operands: &Operands<'_>) -> Result<(), CallError> {
        self.call(Export::Merge, operands)
    }

    /// Finishes a partial: `output` = the new model.
    ///
    /// # Errors
    /// As [`Instance::fold`].
    pub fn finish(&mut self, operands: &Operands<'_>) -> Result<(), CallError> {
        self.call(Export::Finish, operands)
    }

    fn call(&mut self, export: Export, operands: &Operands<'_>) -> Result<(), CallError> {
        if !self.usable {
            return Err(CallError::Unusable { export });
        }
        let plan = plan(export, &self.description, self.mapping.reach(), operands)
            .map_err(|reason| CallError::Operands { export, reason })?;
        // Whatever fails from here on leaves the instance unusable, unless the function itself says so.
        self.usable = false;
        let protect = |action| {
            move |source| CallError::Protect {
                export,
                action,
                source,
            }
        };
        self.mapping
            .open(&plan, operands)
            .map_err(protect("opened for writing"))?;
        let function = self.function(export);
        let address = self.mapping.call_address();
        let called = run(
            &self.engine,
            self.limits,
            export,
            &mut self.store,
            |store| function.call(store, address),
        );
        self.mapping.close(&plan).map_err(protect("closed again"))?;
        let code = called.map_err(|error| self.blame_window(error, &plan))?;
        self.usable = true;
        self.judge(export, code)
    }

    fn function(&self, export: Export) -> TypedFunc<u32, i32> {
        match export {
            Export::Merge => self.merge.clone(),
            Export::Finish => self.finish.clone(),
            Export::Fold | Export::Start | Export::Describe => self.fold.clone(),
        }
    }

    fn judge(&mut self, export: Export, code: i32) -> Result<(), CallError> {
        let host = self.store.data();
        match (code, host.denied_bytes) {
            (0, _) => Ok(()),
            (_, Some(asked)) => {
                let message = format!("it returned error {code}{}", last_words(host));
                self.usable = false;
                Err(CallError::MemoryLimit {
                    export,
                    limit: self.limits.memory_bytes,
                    asked,
                    message,
                })
            }
            (_, None) => Err(CallError::Returned {
                export,
                code,
                message: host
                    .last_error
                    .clone()
                    .unwrap_or_else(|| "it logged no reason".into()),
            }),
        }
    }

    /// Tells a write to a read-only page of the window from other accesses out of bounds.
    fn blame_window(&self, error: Failure, plan: &Plan) -> CallError {
        let window: Range<u64> = self.mapping.addresses();
        match error.fault_address {
            Some(address) if window.contains(&address) => CallError::WroteOutside {
                export: error.export,
                readable: self.mapping.is_readable(address),
                address,
                place: self.mapping.place(address, plan),
            },
            _ => error.into(),
        }
    }
}

fn new_store(engine: &Engine, config: &[u8], limits: Limits) -> Store<Host> {
    let mut store = Store::new(engine.wasmtime(), Host::new(config, limits.memory_bytes));
    store.limiter(|host| host);
    store.epoch_deadline_callback(|mut context| {
        // The epoch is the whole engine's: it may have advanced for another call.
        let is_over = context
            .data_mut()
            .is_over(Instant::now(), processor::thread_time);
        if is_over {
            Ok(UpdateDeadline::Interrupt)
        } else {
            Ok(UpdateDeadline::Continue(1))
        }
    });
    store
}

/// How compiled code failed.
struct Failure {
    export: Export,
    fault_address: Option<u64>,
    error: CallError,
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Call(failure.error)
    }
}

/// Runs compiled code under the deadline.
fn run<T>(
    engine: &Engine,
    limits: Limits,
    export: Export,
    store: &mut Store<Host>,
    code: impl FnOnce(&mut Store<Host>) -> wasmtime::Result<T>,
) -> Result<T, Failure> {
    /// Stands for deadlines that lie beyond what the clock can count.
    const FOREVER: Duration = Duration::from_secs(1 << 32);
    let allowed = limits.deadline.min(FOREVER);
    let now = Instant::now();
    store
        .data_mut()
        .begin_call(now, processor::thread_time(), allowed);
    store.set_epoch_deadline(1);
    let watched = engine.watchdog().watch(now + allowed);
    processor::clear_upper_halves();
    let result = code(store);
    drop(watched);
    result.map_err(|error| classify(export, limits, &error, store.data()))
}

fn classify(export: Export, limits: Limits, error: &wasmtime::Error, host: &Host) -> Failure {
    let trap = error.downcast_ref::<Trap>();
    let message = format!("{}{}", error.root_cause(), last_words(host));
    let failed = match (trap, host.denied_bytes) {
        (Some(Trap::Interrupt), _) => CallError::Deadline {
            export,
            limit: limits.deadline,
        },
        (_, Some(asked)) => CallError::MemoryLimit {
            export,
            limit: limits.memory_bytes,
            asked,
            message,
        },
        _ => CallError::Trap { export, message },
    };
    Failure {
        export,
        fault_address: fault_address(trap, error),
        error: failed,
    }
}

/// The address of a memory fault. wasmtime tells it only in words.
fn fault_address(trap: Option<&Trap>, error: &wasmtime::Error) -> Option<u64> {
    const BEFORE: &str = "memory fault at wasm address 0x";
    if trap != Some(&Trap::MemoryOutOfBounds) {
        return None;
    }
    let text = format!("{error:#}");
    let digits = text.split_once(BEFORE)?.1;
    let end = digits.find(|digit: char| !digit.is_ascii_hexdigit());
    u64::from_str_radix(&digits[..end.unwrap_or(digits.len())], 16).ok()
}

fn last_words(host: &Host) -> String {
    match &host.last_error {
        Some(text) => format!("; it last logged: {text}"),
        None => String::new(),
    }
}

/// Instantiating fails with a denial of memory only if the module begins too large.
fn initial_memory_error(failure: Failure, limits: Limits) -> Error {
    match failure.error {
        CallError::MemoryLimit { asked, .. } => Error::InitialMemory {
            asked,
            limit: limits.memory_bytes,
        },
        error => Error::Call(error),
    }
}

fn read_description(
    store: &mut Store<Host>,
    memory: Memory,
    pointer: u32,
) -> Result<Description, Error> {
    if pointer == 0 {
        let reason = store.data().last_error.clone();
        return Err(Error::Config(
            reason.unwrap_or_else(|| "it logged no reason".into()),
        ));
    }
    let mut bytes = [0; DESCRIPTION_BYTES];
    // The window is not mapped yet: the memory is the module's own, every byte of it.
    memory
        .read(&*store, pointer as usize, &mut bytes)
        .map_err(|_| Error::DescriptionPointer {
            pointer,
            bytes: memory.data_size(&*store) as u64,
        })?;
    Description::decode(&bytes)
}
