//! What can go wrong when a function is deployed, instantiated or called.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An entry point of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Export {
    /// The module's start section, run once when it is instantiated.
    Start,
    /// `describe`.
    Describe,
    /// `fold`.
    Fold,
    /// `merge`.
    Merge,
    /// `finish`.
    Finish,
}

impl Export {
    /// The name in the module.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Describe => "describe",
            Self::Fold => "fold",
            Self::Merge => "merge",
            Self::Finish => "finish",
        }
    }
}

impl std::fmt::Display for Export {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A call that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The code trapped: an unreachable instruction (a panic), an access outside of memory, a stack
    /// overflow, a division by zero. The instance is unusable.
    #[error("{export} trapped: {message}")]
    Trap {
        /// Where.
        export: Export,
        /// The trap, and the function's last error message if it logged one.
        message: String,
    },
    /// The code ran longer than it may. The instance is unusable.
    #[error("{export} ran longer than its deadline of {limit:?}")]
    Deadline {
        /// Where.
        export: Export,
        /// The deadline of one call.
        limit: Duration,
    },
    /// The code failed after it was denied memory. The instance is unusable.
    #[error(
        "{export} failed after it asked for {asked} bytes of its own memory; its limit is {limit} \
         bytes (spec.limits.memory): {message}"
    )]
    MemoryLimit {
        /// Where.
        export: Export,
        /// The limit, in bytes. The window does not count.
        limit: u64,
        /// What the module's own memory would have been, in bytes.
        asked: u64,
        /// How the code failed then.
        message: String,
    },
    /// The code wrote to a page of the window that is not its output, or reached for one that no call has named.
    /// Nothing was written. The instance is unusable.
    #[error("{export} {}: to address {address:#x}, {place}", outside(*.readable))]
    WroteOutside {
        /// Where.
        export: Export,
        /// The page may be read.
        readable: bool,
        /// The address in its linear memory.
        address: u64,
        /// What lies there, as the call sees it: `byte 0 of the vector of input 2`.
        place: String,
    },
    /// The function reported a failure of its own. The instance can be called again.
    #[error("{export} returned error {code}: {message}")]
    Returned {
        /// Where.
        export: Export,
        /// The function's own code, never 0.
        code: i32,
        /// The last error message that it logged during the call.
        message: String,
    },
    /// The call was not made: the host was given operands that cannot be right.
    #[error("{export} was not called: {reason}")]
    Operands {
        /// Where.
        export: Export,
        /// What is wrong with them.
        reason: String,
    },
    /// The call was not made: an earlier call of this instance trapped; make a new instance.
    #[error("{export} was not called: an earlier call left this instance unusable")]
    Unusable {
        /// Where.
        export: Export,
    },
    /// The output's pages could not be made writable, or read-only again. The instance is unusable.
    #[error("{export}: the output's pages could not be {action}: {source}{}", hint(.source))]
    Protect {
        /// Where.
        export: Export,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl CallError {
    /// Whether the instance may be called again.
    pub fn instance_survives(&self) -> bool {
        matches!(self, Self::Returned { .. } | Self::Operands { .. })
    }
}

/// What ails a machine on which mapping fails, where the error's own text does not say.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::NOMEM) => {
            " (out of memory, of address space, or of mappings: see sysctl vm.max_map_count)"
        }
        Some(rustix::io::Errno::FAULT) => {
            " (the segment has no page there: is /dev/shm full, or the segment cut short?)"
        }
        Some(rustix::io::Errno::ACCESS) => {
            " (the window's descriptor must be open for reading and writing)"
        }
        _ => "",
    }
}

/// A module that cannot be deployed, loaded or instantiated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes do not begin as a WASM module does.
    #[error("not a WASM module: {0}")]
    NotWasm(String),
    /// The module is longer than the host takes.
    #[error(
        "the module is {bytes} bytes long; the most is {limit}: strip its names and debug information"
    )]
    ModuleTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The module is malformed, or uses a feature that functions may not use.
    #[error("the module is not valid: {0}")]
    Invalid(String),
    /// The module has more of something than compiling it may cost.
    #[error("{whose} has {found} {what}; the most is {most}: {remedy}")]
    TooMuch {
        /// The module, or what of it.
        whose: String,
        /// How many there are.
        found: u64,
        /// Of what.
        what: &'static str,
        /// The most that there may be.
        most: u64,
        /// What helps.
        remedy: &'static str,
    },
    /// An export that the ABI demands is not there.
    #[error("the module lacks the export `{name}` ({expected})")]
    MissingExport {
        /// The export.
        name: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// An export is there but is not what the ABI demands.
    #[error("the export `{name}` is {found}; it has to be {expected}")]
    ExportType {
        /// The export.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// The module imports what no function may have.
    #[error("the module imports `{module}.{name}`; a function may import only {allowed}")]
    ForbiddenImport {
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
        /// What it may import.
        allowed: String,
    },
    /// The module imports one of the host's functions under another type.
    #[error("the import `tributary.{name}` is declared as {found}; it is {expected}")]
    ImportType {
        /// The import.
        name: &'static str,
        /// The type in the module.
        found: String,
        /// The type that the host offers.
        expected: &'static str,
    },
    /// The module's memory is of a kind that no window can be mapped into.
    #[error("the exported memory {0}")]
    Memory(String),
    /// `describe` refused the configuration.
    #[error("describe refused the configuration: {0}")]
    Config(String),
    /// `describe` pointed outside of the module's memory.
    #[error("describe returned {pointer:#x}, which is not 32 bytes of its memory of {bytes} bytes")]
    DescriptionPointer {
        /// What it returned.
        pointer: u32,
        /// The size of its memory.
        bytes: u64,
    },
    /// A field of the description cannot be true.
    #[error("describe says {field} = {found}; it has to be within {low}..={high}")]
    Description {
        /// The field.
        field: &'static str,
        /// Its value.
        found: u32,
        /// The least that makes sense.
        low: u32,
        /// The most that makes sense.
        high: u32,
    },
    /// The module wants more memory than its limit before it runs at all.
    #[error(
        "the module's memory begins at {asked} bytes; its limit is {limit} bytes (spec.limits.memory)"
    )]
    InitialMemory {
        /// What it asks for, in bytes.
        asked: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Neither the arena nor a range of each operand fits beside the module into one linear memory.
    #[error(
        "the arena's data of {window} bytes do not fit, and neither does a range of each operand: a \
         function can address 4294967296 bytes, of which {own} are kept for its own memory, so at most \
         {available} for the arena: lower spec.limits.memory, or the function's max_inputs"
    )]
    WindowTooLarge {
        /// Bytes of the window.
        window: u64,
        /// Bytes kept for the module's own memory.
        own: u64,
        /// Bytes that remain for a window.
        available: u64,
    },
    /// The window's file, offset or length cannot be mapped.
    #[error("the window cannot be mapped: {0}")]
    Window(String),
    /// The machine refused a mapping.
    #[error("cannot map {what}: {source}{}", hint(.source))]
    Map {
        /// What was to be mapped.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The machine's pages are not of the size that the ABI builds on.
    #[error("this machine has pages of {0} bytes; functions need pages of 4096 bytes")]
    PageSize(usize),
    /// The module broke a law of the algebra that it declares.
    #[error(
        "the function breaks its declared algebra: {law}: element {element} of the finished model is \
         {left} one way and {right} the other"
    )]
    Law {
        /// The law, in words.
        law: String,
        /// The element of the model.
        element: usize,
        /// Its value one way.
        left: f32,
        /// Its value the other way.
        right: f32,
    },
    /// The module makes something else of a model range by range than of the whole.
    #[error(
        "{export} range by range differs from {export} at once, from byte {at} of the {part} on: an \
         element may depend on its coordinate alone, and scalars on weights and contributors alone"
    )]
    Ranges {
        /// Where.
        export: Export,
        /// `scalars` or `vector`.
        part: &'static str,
        /// The first byte that differs.
        at: usize,
    },
    /// The module wrote where it declared not to.
    #[error("{export} wrote beyond {declared}: byte {at} of the slot has changed")]
    Overrun {
        /// Where.
        export: Export,
        /// The extent that `describe` declared.
        declared: String,
        /// The first byte that changed, counted from the start of the slot.
        at: usize,
    },
    /// The module left bytes unwritten that it declared to write.
    #[error(
        "{export} leaves byte {at} of its {part} as it finds it: whatever lay in the slot before becomes a \
         part of the result, so all that `describe` declares has to be written"
    )]
    Unwritten {
        /// Where.
        export: Export,
        /// `scalars` or `vector`.
        part: &'static str,
        /// The first byte that is not written.
        at: usize,
    },
    /// A call failed while the module was checked or described.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The digest is not one.
    #[error("`{0}` is not a digest: 64 lower-case hexadecimal digits")]
    Digest(String),
    /// No module of this digest was deployed here.
    #[error("no module with digest {digest} in {dir}: deploy it first")]
    NotDeployed {
        /// The digest.
        digest: String,
        /// The cache.
        dir: PathBuf,
    },
    /// The module was compiled by another build of this program, or for another processor.
    #[error(
        "the module {digest} was compiled by another build or for another processor: deploy it again"
    )]
    Stale {
        /// The digest.
        digest: String,
    },
    /// The cache's entry is not what this machine wrote.
    #[error(
        "{path} is not what this machine wrote (its MAC does not match): it was not loaded; deploy the module again"
    )]
    Tampered {
        /// The entry.
        path: PathBuf,
    },
    /// The cache's key could have been read or replaced by others.
    #[error(
        "{path} is {found}; the key of the module cache must be a file of 32 bytes with mode 0600: remove it and the cache is built anew"
    )]
    Key {
        /// The key file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// A file of the cache could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// wasmtime refused for a reason of its own.
    #[error("the WASM engine failed: {0}")]
    Engine(String),
}

fn outside(readable: bool) -> &'static str {
    if readable {
        "wrote outside its output"
    } else {
        "reached outside its operands"
    }
}

impl Error {
    /// Whether it says something of the machine, such as a full disk, and nothing of the module.
    #[must_use]
    pub fn is_the_machines(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Map { .. } | Self::Key { .. })
    }
}
