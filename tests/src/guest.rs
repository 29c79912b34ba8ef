//! Functions that misbehave, in WAT.
//!
//! All of them add updates up, without weights, in f32; [`mischief`] does worse when it sees a mark in
//! an update's first element, so that it passes the law tests at deploy.

use std::fs;
use std::path::{Path, PathBuf};

/// A fold traps on it.
pub const TRAP: f32 = 66601.0;
/// A fold never ends on it.
pub const LOOP: f32 = 66602.0;
/// A fold writes into it.
pub const WRITE: f32 = 66603.0;
/// A fold grows its memory until it is refused, then traps on it.
pub const GROW: f32 = 66604.0;
/// A fold returns error 7 on it.
pub const ERROR: f32 = 66605.0;
/// A finish traps if the sum begins with it.
pub const FINISH_TRAP: f32 = 77700.0;
/// A finish makes the model's fourth element infinite if the sum begins with it.
pub const FINISH_INFINITE: f32 = 77701.0;

const MISCHIEF: &str = r"
  (local $input i32) (local $left i32) (local $mark f32)
  (local.set $left (i32.load (local.get $call)))
  (local.set $input (i32.add (local.get $call) (i32.const 64)))
  (block $done (loop $next
    (br_if $done (i32.eqz (local.get $left)))
    (local.set $mark (f32.load (i32.load (local.get $input))))
    (if (f32.eq (local.get $mark) (f32.const 66601)) (then unreachable))
    (if (f32.eq (local.get $mark) (f32.const 66602)) (then (loop $for_ever (br $for_ever))))
    (if (f32.eq (local.get $mark) (f32.const 66603)) (then (f32.store (i32.load (local.get $input)) (f32.const 1))))
    (if (f32.eq (local.get $mark) (f32.const 66604)) (then
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))
    (if (f32.eq (local.get $mark) (f32.const 66605)) (then (return (i32.const 7))))
    (local.set $input (i32.add (local.get $input) (i32.const 32)))
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br $next)))
  (call $sum (local.get $call))";

const FINISH: &str = r"
  (if (f32.eq (f32.load (i32.load offset=8 (local.get $call))) (f32.const 77700)) (then unreachable))
  (memory.copy (i32.load offset=12 (local.get $call)) (i32.load offset=8 (local.get $call))
    (i32.mul (i32.load offset=4 (local.get $call)) (i32.const 4)))
  (if (f32.eq (f32.load (i32.load offset=8 (local.get $call))) (f32.const 77701)) (then
    (f32.store offset=12 (i32.load offset=12 (local.get $call)) (f32.const inf))))
  (i32.const 0)";

/// A sum that trips over marked updates.
#[must_use]
pub fn mischief() -> Vec<u8> {
    module(MISCHIEF, "")
}

/// A function whose fold does what `fold` says before it adds up.
#[must_use]
pub fn always(fold: &str) -> Vec<u8> {
    module(&format!("{fold} (call $sum (local.get $call))"), "")
}

/// The same, with more at the module's level.
#[must_use]
pub fn with(more: &str, fold: &str) -> Vec<u8> {
    module(
        &format!("{fold} (call $sum (local.get $call))) {more} (func (result i32) (i32.const 0)"),
        "",
    )
}

/// A sum that lacks an export.
#[must_use]
pub fn without(export: &str) -> Vec<u8> {
    module("(call $sum (local.get $call))", export)
}

/// Writes a module to a file.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn stored(folder: &Path, name: &str, module: &[u8]) -> PathBuf {
    let file = folder.join(format!("{name}.wasm"));
    fs::write(&file, module).expect("a file in the test's own folder");
    file
}

fn module(fold: &str, without: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
  (memory (export "memory") 1)
  ;; abi 1, monoid, 4 bytes per element, no scalars, 8 inputs
  (data (i32.const 1024) "\01\00\00\00\01\00\00\00\04\00\00\00\00\00\00\00\08\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
  (func (export "tributary_abi_v1"))
  (func (export "describe") (result i32) (i32.const 1024))
  (func (export "fold") (param $call i32) (result i32) {fold})
  (func (export "merge") (param $call i32) (result i32) (call $sum (local.get $call)))
  (func (export "finish") (param $call i32) (result i32) {FINISH})
  (func $sum (param $call i32) (result i32)
    (local $at i32) (local $end i32) (local $input i32) (local $last i32) (local $value f32)
    (local.set $end (i32.mul (i32.load offset=4 (local.get $call)) (i32.const 4)))
    (local.set $last (i32.add (local.get $call)
      (i32.add (i32.const 64) (i32.mul (i32.load (local.get $call)) (i32.const 32)))))
    (block $done (loop $elements
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $value (f32.const 0))
      (if (i32.load offset=8 (local.get $call)) (then (local.set $value
        (f32.load (i32.add (i32.load offset=8 (local.get $call)) (local.get $at))))))
      (local.set $input (i32.add (local.get $call) (i32.const 64)))
      (block $summed (loop $inputs
        (br_if $summed (i32.ge_u (local.get $input) (local.get $last)))
        (local.set $value (f32.add (local.get $value)
          (f32.load (i32.add (i32.load (local.get $input)) (local.get $at)))))
        (local.set $input (i32.add (local.get $input) (i32.const 32)))
        (br $inputs)))
      ;; no sum leaves the range of f32
      (f32.store (i32.add (i32.load offset=12 (local.get $call)) (local.get $at))
        (f32.max (f32.const -0x1.fffffep127) (f32.min (f32.const 0x1.fffffep127) (local.get $value))))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br $elements)))
    (i32.const 0))
)"#
    );
    let text = text.replace(&format!("(export \"{without}\")"), "");
    wat::parse_str(text).expect("valid WAT")
}
