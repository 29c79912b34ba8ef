//! The WASM engine: one per process.

use crate::abi::PAGE_BYTES;
use crate::error::Error;
use crate::module;
use crate::watchdog::Watchdog;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Bytes of address space reserved for each linear memory: all that 32-bit addresses reach, so that
/// compiled code needs no bounds checks and a memory never moves under its window.
const RESERVATION_BYTES: u64 = 1 << 32;
/// Bytes after it that always trap, for addresses with a constant offset.
const GUARD_BYTES: u64 = 32 << 20;
/// Bytes of native stack that a call may use.
const STACK_BYTES: usize = 512 << 10;

/// The compiler and the runtime that functions share, with the thread that ends overdue calls.
///
/// Cloning is cheap; clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wasmtime: wasmtime::Engine,
    watchdog: Watchdog,
    compatibility: u64,
}

impl Engine {
    /// Configures the engine and starts its watchdog thread.
    ///
    /// # Errors
    /// Fails if the machine's pages are not of 4096 bytes, if the processor cannot run what functions
    /// need, or if no thread can be started.
    pub fn new() -> Result<Self, Error> {
        let page_bytes = rustix::param::page_size();
        if page_bytes as u64 != PAGE_BYTES {
            return Err(Error::PageSize(page_bytes));
        }
        let wasmtime = wasmtime::Engine::new(&configuration())
            .map_err(|error| Error::Engine(format!("{error:#}")))?;
        let watchdog = Watchdog::start({
            let wasmtime = wasmtime.clone();
            move || wasmtime.increment_epoch()
        })
        .map_err(|error| Error::Engine(format!("cannot start the watchdog thread: {error}")))?;
        let mut hasher = DefaultHasher::new();
        wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        module::RULES.hash(&mut hasher);
        let compatibility = hasher.finish();
        Ok(Self {
            shared: Arc::new(Shared {
                wasmtime,
                watchdog,
                compatibility,
            }),
        })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.shared.wasmtime
    }

    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.shared.watchdog
    }

    /// Tells apart engines that cannot run each other's compiled modules.
    pub(crate) fn compatibility(&self) -> u64 {
        self.shared.compatibility
    }
}

fn configuration() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .epoch_interruption(true)
        // The same bits on every host, whatever its processor makes of a relaxed instruction.
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        // One memory of 32-bit addresses: the window goes into it. (`module` refuses more than this.)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        // Memory never moves, for the window's sake, and is unmapped when its instance is dropped, and
        // the window with it. (A pooled memory would keep the window mapped for the next tenant.)
        .allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand)
        .memory_reservation(RESERVATION_BYTES)
        .memory_guard_size(GUARD_BYTES)
        .memory_may_move(false)
        // A copy-on-write image would take the window for a part of itself when the memory grows.
        .memory_init_cow(false)
        .max_wasm_stack(STACK_BYTES)
        // `bulk` relies on a call being opaque to the optimiser.
        .compiler_inlining(wasmtime::Inlining::No);
    config
}
