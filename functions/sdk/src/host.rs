//! What a function may ask of its host.
//!
//! Outside of a module, as in tests, there is no host: messages are dropped, the configuration is empty
//! and the clock stands still.

use alloc::vec::Vec;

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Level {
    /// Why a call fails. The host shows the last one with the failure.
    Error = 1,
    /// Something that operations should look at.
    Warn = 2,
    /// Something worth knowing.
    Info = 3,
    /// For the function's author.
    Debug = 4,
    /// For the function's author, in detail.
    Trace = 5,
}

#[cfg(target_arch = "wasm32")]
mod imports {
    #[link(wasm_import_module = "tributary")]
    unsafe extern "C" {
        pub(super) fn log(level: i32, text: *const u8, len: usize);
        pub(super) fn config_read(place: *mut u8, len: usize);
        pub(super) safe fn config_len() -> usize;
        pub(super) safe fn clock_ns() -> i64;
    }
}

/// Logs a message (at most 4096 bytes, at most 64 messages per call; the host drops the rest).
pub fn log(level: Level, text: &str) {
    #[cfg(target_arch = "wasm32")]
    // SAFETY: the host reads the `len` bytes at the pointer, which are `text`.
    unsafe {
        imports::log(level as i32, text.as_ptr(), text.len());
    }
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (level, text);
}

/// The job's `config`: a JSON object, or nothing.
#[must_use]
pub fn config() -> Vec<u8> {
    #[cfg(target_arch = "wasm32")]
    {
        let mut bytes = alloc::vec![0; imports::config_len()];
        // SAFETY: the host writes the `len` bytes at the pointer, which are `bytes`.
        unsafe { imports::config_read(bytes.as_mut_ptr(), bytes.len()) };
        bytes
    }
    #[cfg(not(target_arch = "wasm32"))]
    Vec::new()
}

/// Nanoseconds since some fixed moment, for logging how long something took. The host may freeze it:
/// no result may depend on it.
#[must_use]
pub fn clock_ns() -> i64 {
    #[cfg(target_arch = "wasm32")]
    {
        imports::clock_ns()
    }
    #[cfg(not(target_arch = "wasm32"))]
    0
}
