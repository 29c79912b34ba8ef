//! From a module's bytes to compiled code.
//!
//! What a module may be is decided before the compiler sees it: [`check`] validates it against the few
//! features that functions may use (`bounds`), bounds what compiling costs, and compares its imports and
//! exports with the ABI (`interface`). All of that takes time in proportion to the module.

mod bounds;
mod interface;

use crate::bulk;
use crate::engine::Engine;
use crate::error::Error;
use wasmtime::Module;

/// The longest module that is taken; custom sections (names, debug information) count.
pub const MODULE_BYTES_MAX: usize = 16 << 20;

/// Changes whenever [`check`] becomes stricter, so that what was compiled under laxer rules is not loaded.
pub(crate) const RULES: u64 = 1;

const MAGIC: &[u8] = b"\0asm";

/// Refuses what is not a function, or is out of bounds.
pub(crate) fn check(wasm: &[u8]) -> Result<(), Error> {
    if !wasm.starts_with(MAGIC) {
        let found = String::from_utf8_lossy(&wasm[..wasm.len().min(16)]);
        return Err(Error::NotWasm(format!(
            "it begins with {found:?} instead of \"\\0asm\""
        )));
    }
    if wasm.len() > MODULE_BYTES_MAX {
        return Err(Error::ModuleTooLarge {
            bytes: wasm.len(),
            limit: MODULE_BYTES_MAX,
        });
    }
    let types = bounds::check(wasm)?;
    interface::check(wasm, &types)
}

/// Checks and compiles a module.
pub(crate) fn compile(engine: &Engine, wasm: &[u8]) -> Result<Module, Error> {
    check(wasm)?;
    let guarded = bulk::guard(wasm)?;
    Module::new(engine.wasmtime(), guarded.as_deref().unwrap_or(wasm))
        .map_err(|error| Error::Invalid(format!("{error:#}")))
}
