//! The WASM host of aggregation functions.
//!
//! A *function* is a core WASM module that speaks the function ABI (`docs/abi.md`): it folds updates
//! into partials, merges partials and finishes a partial into a model. This crate compiles such
//! modules at deploy ([`ModuleCache`]), proves them ([`check()`]) and runs them over an arena's pages
//! ([`Instance`]) without copying a vector.
//!
//! ```text
//!   linear memory of an instance (at most 4 GiB)
//!   0            own            +8 KiB                                    own + window
//!   ├────────────┼──────────────┼──┬────────────────────────────────────┬──┼────────────┤
//!   │ module's   │ call page,   │▒▒│ the arena's data, MAP_SHARED, or   │▒▒│ module's   │
//!   │ own memory │ scratch page │▒▒│ lanes that show ranges of them;    │▒▒│ own growth │
//!   │            │              │▒▒│ read only, but the call's output   │▒▒│            │
//!   └────────────┴──────────────┴──┴────────────────────────────────────┴──┴────────────┘
//! ```
//!
//! The modules, from the outside in:
//! - [`engine`]: wasmtime's configuration, and the `watchdog` that ends calls at their deadline;
//! - [`cache`]: precompiled modules on disk, authenticated by a key that stays on this machine;
//! - `module`: what a module may be, decided before it is compiled; `bulk`: why its bulk memory
//!   operations are rewritten then;
//! - [`instance`]: one module instance over one window; `operands`, `encoding`: what a call works on;
//!   `plan`: the checks before it is made; `window`: the mapping; `host`: the imports and the memory
//!   limit; `abi`: the records that cross the border;
//! - [`mod@check`]: the law tests of the declared algebra.
//!
//! `unsafe` stands in `window` (mapping the arena), in `host` (reading the guest's memory beside pages
//! that others may write), in `cache` (loading code whose MAC has been verified) and in `processor` (one
//! instruction).

mod abi;
mod bulk;
pub mod cache;
pub mod check;
mod encoding;
pub mod engine;
pub mod error;
mod function;
mod host;
pub mod instance;
mod module;
mod operands;
mod plan;
mod processor;
mod watchdog;
mod window;

pub use abi::{Algebra, DESCRIPTION_BYTES, Description, INPUTS_MAX, PAGE_BYTES};
pub use cache::ModuleCache;
pub use check::check;
pub use encoding::{Content, ContentLayout, Encoding, Encodings};
pub use engine::Engine;
pub use error::{CallError, Error, Export};
pub use function::{Function, Limits};
pub use instance::{Instance, Window};
pub use module::MODULE_BYTES_MAX;
pub use operands::{Input, ModelRange, Operands, Place, RANGE_ELEMENTS, ranges};
pub use window::{WINDOW_BYTES_MAX, window_bytes_max};
