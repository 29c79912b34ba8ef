//! What would harm the process that compiles or runs it is refused before it is compiled.

use crate::fixture::{SUM, Wat, load};
use std::fmt::Write as _;
use tributary_wasm::Error;

fn refused(rest: &str) -> Error {
    load(&Wat { rest, ..SUM }.wasm()).expect_err(rest)
}

/// An indirect call that meets a declared subtype ends the process in an engine without garbage collection.
const SUBTYPE: &str = "
    (type $a (sub (func (param i32) (result i32))))
    (type $b (sub $a (func (param i32) (result i32))))
    (table 1 funcref)
    (elem (i32.const 0) $callee)
    (func $callee (type $b) (local.get 0))
    (func $caller (result i32) (call_indirect (type $a) (i32.const 1) (i32.const 0)))";

#[test]
fn features_that_functions_do_not_need_are_refused() {
    let cases = [
        SUBTYPE,
        "(type $a (sub final (func)))  (type $s (struct (field i32)))",
        "(rec (type $x (func)) (type $y (func)))",
        "(type $l (array i8))",
        "(func (param externref))",
        "(func (param anyref))",
        "(global funcref (ref.null func))",
        "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
        "(table 1 funcref) (func (drop (table.grow (ref.null func) (i32.const 1))))",
        "(table 1 externref)",
        "(tag $t) (func (throw $t))",
        "(func (try_table (catch_all 0)))",
        "(func (drop (i32.atomic.load (i32.const 0))))",
        "(func (atomic.fence))",
        "(func $f (return_call $f))",
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
    ];
    for rest in cases {
        let error = refused(rest);
        assert!(matches!(error, Error::Invalid(_)), "{rest}: {error}");
    }
}

#[test]
fn an_error_says_what_functions_may_use() {
    let text = refused(SUBTYPE).to_string();
    assert!(text.contains("functions may use"), "{text}");
}

/// A function whose body is so many times `piece`.
fn repeated(locals: usize, piece: &str, times: usize) -> String {
    let mut text = "(func (local".to_owned();
    text.push_str(&" i32".repeat(locals));
    text.push(')');
    for at in 0..times {
        let local = at % locals.max(1);
        text.push_str(&piece.replace('#', &local.to_string()));
    }
    text + ")"
}

/// Costs a compiler gigabytes: at each join, all locals may have two values.
const JOIN: &str = "(block (br_if 0 (local.get #)) (local.set # (i32.const 1)))";

#[test]
fn what_costs_the_compiler_too_much_is_refused_with_the_bound() {
    let many = |text: &str, times: usize| text.repeat(times);
    let mut types = String::new();
    for at in 0..1030 {
        let params = " i32".repeat(at % 40) + &" i64".repeat(at / 40);
        let _ = write!(types, "(type (func (param{params})))");
    }
    let nested = format!("(func {} {})", many("(block ", 513), many(")", 513));
    let branches = format!("(func (br_table {} (i32.const 0)))", many("0 ", 4098));
    let elements = format!(
        "(func $e) (table 1 funcref) (elem func {})",
        many("$e ", 65_537)
    );
    let exported: String = (0..1025)
        .map(|at| format!("(export \"e{at}\" (func $sum))"))
        .collect();
    let cases = [
        (repeated(3000, JOIN, 3000), "3000 locals; the most is 512"),
        (
            repeated(500, JOIN, 30_000),
            "bytes of code; the most is 262144",
        ),
        (
            many(&repeated(10, JOIN, 20_000), 20),
            "bytes of code; the most is 4194304",
        ),
        (many("(func)", 8193), "functions; the most is 8192"),
        (types, "types; the most is 1024"),
        (
            format!("(func (param{}))", many(" i32", 65)),
            "65 parameters; the most is 64",
        ),
        (
            format!("(func (result{}) unreachable)", many(" i32", 17)),
            "17 results; the most is 16",
        ),
        (nested, "513 blocks within blocks; the most is 512"),
        (branches, "targets in one br_table; the most is 4096"),
        (
            elements,
            "65537 elements in its element segments; the most is 65536",
        ),
        (
            format!("(func $e) {}", many("(elem func $e)", 1025)),
            "1025 element segments; the most is 1024",
        ),
        (
            many("(data \"\")", 1024),
            "1025 data segments; the most is 1024",
        ),
        (
            many("(global i32 (i32.const 0))", 1025),
            "1025 globals; the most is 1024",
        ),
        (exported, "exports; the most is 1024"),
    ];
    for (rest, told) in cases {
        let error = refused(&rest);
        assert!(matches!(error, Error::TooMuch { .. }), "{told}: {error}");
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
}

#[test]
fn a_module_is_looked_at_before_it_is_compiled() {
    // Within every bound, and still slow to compile: that it lacks an export is said without that.
    let text = format!("(module {})", repeated(500, JOIN, 15_000));
    let error = load(&wat::parse_str(text).unwrap()).expect_err("no exports");
    assert!(matches!(error, Error::MissingExport { .. }), "{error}");
}
