//! What a function can reach of the host: four imports, and memory up to its limit.

use crate::abi::{IMPORT_MODULE, MEMORY_EXPORT};
use crate::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{Caller, Extern, Linker, ResourceLimiter};

/// The longest message that one `log` may carry; the rest is cut off.
const LOG_BYTES_MAX: usize = 4096;
/// How many messages one call may log; later ones are dropped.
const LOG_MESSAGES_PER_CALL: u32 = 64;
/// How many elements a function's tables may have (each takes a pointer of host memory).
const TABLE_ELEMENTS_MAX: usize = 65_536;
/// How many tables a module may have; compilers make one.
const TABLES_MAX: usize = 1;
const ERROR_LEVEL: i32 = 1;
/// How often a call that the clock finds overdue may go on for what it lacks of processor time: a machine that
/// was paused or is short of time is not the function's fault.
const EXTENSIONS_MAX: u32 = 8;

/// What the host keeps per instance.
pub(crate) struct Host {
    config: Arc<[u8]>,
    /// The window's addresses in it (call page included); empty until it is mapped.
    window: Range<u64>,
    memory_limit: u64,
    started: Instant,
    /// When the current call is looked at.
    deadline: Instant,
    /// What processor time the call may take, what its thread had taken before, how often it has been extended.
    allowed: Duration,
    before: Duration,
    extensions: u32,
    /// What the module's own memory would have become, if growth was denied in the current call.
    pub(crate) denied_bytes: Option<u64>,
    /// The last error that the function logged in the current call.
    pub(crate) last_error: Option<String>,
    messages_left: u32,
}

impl Host {
    pub(crate) fn new(config: &[u8], memory_limit: u64) -> Self {
        let now = Instant::now();
        Self {
            config: config.into(),
            window: 0..0,
            memory_limit,
            started: now,
            deadline: now,
            allowed: Duration::ZERO,
            before: Duration::ZERO,
            extensions: 0,
            denied_bytes: None,
            last_error: None,
            messages_left: 0,
        }
    }

    /// Forgets what the last call left behind.
    pub(crate) fn begin_call(&mut self, now: Instant, processor_time: Duration, allowed: Duration) {
        self.deadline = now + allowed;
        self.allowed = allowed;
        self.before = processor_time;
        self.extensions = 0;
        self.denied_bytes = None;
        self.last_error = None;
        self.messages_left = LOG_MESSAGES_PER_CALL;
    }

    /// Whether the current call has had its time. The clock says when to look, the processor time of its thread
    /// whether it was this call that took it.
    pub(crate) fn is_over(&mut self, now: Instant, processor_time: impl Fn() -> Duration) -> bool {
        if now < self.deadline {
            return false;
        }
        let taken = processor_time().saturating_sub(self.before);
        let left = self.allowed.saturating_sub(taken);
        if left.is_zero() || self.extensions == EXTENSIONS_MAX {
            return true;
        }
        self.extensions += 1;
        self.deadline = now + left;
        false
    }

    /// From now on `window` lies inside the memory and does not count as the module's own.
    pub(crate) fn set_window(&mut self, window: Range<u64>) {
        self.window = window;
    }

    fn window_bytes(&self) -> u64 {
        self.window.end - self.window.start
    }

    /// Whether `len` bytes at `pointer` are the module's own memory: the host touches nothing else on
    /// a function's behalf. In the window it would meet read-only pages and other processes.
    fn owns(&self, pointer: u32, len: u32, memory_bytes: u64) -> bool {
        let (start, end) = (u64::from(pointer), u64::from(pointer) + u64::from(len));
        end <= memory_bytes && (end <= self.window.start || start >= self.window.end)
    }

    fn log(&mut self, level: i32, text: &str) {
        if level <= ERROR_LEVEL {
            self.last_error = Some(text.to_owned());
        }
        if self.messages_left == 0 {
            return;
        }
        self.messages_left -= 1;
        match level {
            i32::MIN..=ERROR_LEVEL => tracing::error!(target: "tributary::function", "{text}"),
            2 => tracing::warn!(target: "tributary::function", "{text}"),
            3 => tracing::info!(target: "tributary::function", "{text}"),
            4 => tracing::debug!(target: "tributary::function", "{text}"),
            _ => tracing::trace!(target: "tributary::function", "{text}"),
        }
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let own = (desired as u64).saturating_sub(self.window_bytes());
        let granted = own <= self.memory_limit;
        if !granted {
            self.denied_bytes = Some(own);
        }
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // The address space is used up: to the module that is a denial like any other.
        tracing::debug!(target: "tributary::function", "memory.grow failed: {error:#}");
        let own_most = (1_u64 << 32).saturating_sub(self.window_bytes());
        self.denied_bytes.get_or_insert(own_most);
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }
}

/// The host's imports: name and type, as the ABI document writes them.
pub(crate) const IMPORTS: [(&str, &str); 4] = [
    ("log", "(i32, i32, i32) -> ()"),
    ("config_len", "() -> i32"),
    ("config_read", "(i32, i32) -> ()"),
    ("clock_ns", "() -> i64"),
];

/// Offers the imports to modules of `engine`.
pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<Host>, Error> {
    let mut linker = Linker::new(engine);
    let defined = linker
        .func_wrap(IMPORT_MODULE, "log", log)
        .and_then(|linker| linker.func_wrap(IMPORT_MODULE, "config_len", config_len))
        .and_then(|linker| linker.func_wrap(IMPORT_MODULE, "config_read", config_read))
        .and_then(|linker| linker.func_wrap(IMPORT_MODULE, "clock_ns", clock_ns))
        .map(|_| ());
    match defined {
        Ok(()) => Ok(linker),
        Err(error) => Err(Error::Engine(format!("{error:#}"))),
    }
}

fn log(mut caller: Caller<'_, Host>, level: i32, pointer: u32, len: u32) -> wasmtime::Result<()> {
    let len = len.min(LOG_BYTES_MAX as u32);
    let mut bytes = vec![0; len as usize];
    let place = own_memory(&mut caller, "log", pointer, len)?;
    // SAFETY: `own_memory` has checked that the `len` bytes at `place` are accessible memory of this
    // instance outside of the window, so no other process touches them, and the instance's one thread
    // is this one. `bytes` is as long and is not in that memory.
    unsafe { place.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    let text = String::from_utf8_lossy(&bytes);
    caller.data_mut().log(level, &text);
    Ok(())
}

#[allow(clippy::needless_pass_by_value)] // The linker hands it over.
fn config_len(caller: Caller<'_, Host>) -> u32 {
    caller.data().config.len() as u32
}

fn config_read(mut caller: Caller<'_, Host>, pointer: u32, len: u32) -> wasmtime::Result<()> {
    let config = Arc::clone(&caller.data().config);
    if len as usize != config.len() {
        return Err(wasmtime::Error::msg(format!(
            "config_read of {len} bytes; config_len is {}",
            config.len()
        )));
    }
    let place = own_memory(&mut caller, "config_read", pointer, len)?;
    // SAFETY: as in `log`: the bytes at `place` are this instance's own, writable, and of `config`'s
    // length; `config` is on the host's heap.
    unsafe { place.copy_from_nonoverlapping(config.as_ptr(), config.len()) };
    Ok(())
}

#[allow(clippy::needless_pass_by_value)] // The linker hands it over.
fn clock_ns(caller: Caller<'_, Host>) -> i64 {
    let elapsed = caller.data().started.elapsed().as_nanos();
    i64::try_from(elapsed).unwrap_or(i64::MAX)
}

/// Where `len` bytes at `pointer` of the caller's own memory lie in the host's address space.
///
/// Never by way of a slice of the whole memory: it would span pages that other processes write.
fn own_memory(
    caller: &mut Caller<'_, Host>,
    import: &str,
    pointer: u32,
    len: u32,
) -> wasmtime::Result<*mut u8> {
    let Some(Extern::Memory(memory)) = caller.get_export(MEMORY_EXPORT) else {
        return Err(wasmtime::Error::msg("the module exports no memory"));
    };
    if !caller
        .data()
        .owns(pointer, len, memory.data_size(&*caller) as u64)
    {
        return Err(wasmtime::Error::msg(format!(
            "{import} of {len} bytes at {pointer:#x}, which is not the module's own memory"
        )));
    }
    // In bounds by the check above, so the addition stays inside the allocation.
    Ok(memory.data_ptr(&*caller).wrapping_add(pointer as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_does_not_count_as_the_modules_own_memory() {
        let mut host = Host::new(b"", 131_072);
        host.set_window(65_536..65_536 * 101);
        assert!(host.memory_growing(0, 65_536 * 102, None).unwrap());
        assert_eq!(host.denied_bytes, None);
        assert!(!host.memory_growing(0, 65_536 * 103, None).unwrap());
        assert_eq!(host.denied_bytes, Some(65_536 * 3));
    }

    #[test]
    fn only_own_memory_is_touched_on_a_functions_behalf() {
        let mut host = Host::new(b"", 131_072);
        host.set_window(100..200);
        assert!(host.owns(0, 100, 300));
        assert!(host.owns(200, 100, 300));
        assert!(!host.owns(0, 101, 300));
        assert!(!host.owns(150, 1, 300));
        assert!(!host.owns(199, 2, 300));
        assert!(!host.owns(200, 101, 300));
        assert!(!host.owns(u32::MAX, u32::MAX, 300));
    }

    #[test]
    fn a_call_is_over_when_it_has_had_its_processor_time() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut host = Host::new(b"", 0);
        let begun = Instant::now();
        host.begin_call(begun, SECOND, SECOND);
        assert!(!host.is_over(begun, || unreachable!("it is not time to look")));
        // The machine stood still for an hour.
        let hour = begun + SECOND * 3600;
        assert!(!host.is_over(hour, || SECOND + SECOND / 4));
        assert!(!host.is_over(hour + SECOND / 2, || unreachable!(
            "a second look is not due"
        )));
        assert!(host.is_over(hour + SECOND, || SECOND * 2));
    }

    #[test]
    fn a_call_that_gets_no_processor_time_ends_all_the_same() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut host = Host::new(b"", 0);
        let begun = Instant::now();
        host.begin_call(begun, Duration::ZERO, SECOND);
        let looks = (1..).find(|look| host.is_over(begun + SECOND * *look, || Duration::ZERO));
        assert_eq!(looks, Some(EXTENSIONS_MAX + 1));
    }

    #[test]
    fn the_last_error_is_kept_and_a_flood_is_not() {
        let mut host = Host::new(b"", 0);
        host.begin_call(Instant::now(), Duration::ZERO, Duration::ZERO);
        for _ in 0..1000 {
            host.log(3, "news");
        }
        host.log(1, "why");
        assert_eq!(host.messages_left, 0);
        assert_eq!(host.last_error.as_deref(), Some("why"));
    }
}
