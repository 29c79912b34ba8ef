//! Every bad module gives an error that says what is wrong, and harms nothing else.

use crate::fixture::{Arena, LIMITS, SUM, Wat, load};
use tributary_wasm::Error;

fn refused(wat: Wat<'_>) -> Error {
    load(&wat.wasm()).expect_err("the module is bad")
}

fn without_export(name: &str) -> Error {
    let text = SUM.text().replace(&format!("(export \"{name}\")"), "");
    load(&wat::parse_str(text).unwrap()).expect_err("the module is bad")
}

#[test]
fn bytes_that_are_not_wasm() {
    for bytes in [&b"#!/bin/sh\n"[..], b"", b"\0as", b"(module)"] {
        let error = load(bytes).expect_err("not WASM");
        assert!(matches!(error, Error::NotWasm(_)), "{error}");
    }
}

#[test]
fn a_module_cut_short() {
    let wasm = SUM.wasm();
    let error = load(&wasm[..wasm.len() - 7]).expect_err("cut short");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[test]
fn a_module_too_long() {
    let mut wasm = SUM.wasm();
    wasm.resize(tributary_wasm::MODULE_BYTES_MAX + 1, 0);
    let error = load(&wasm).expect_err("too long");
    assert!(error.to_string().contains("16777217"), "{error}");
}

#[test]
fn a_component_is_not_a_function() {
    let component = wat::parse_str("(component)").unwrap();
    let error = load(&component).expect_err("a component");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[test]
fn each_missing_export_is_named() {
    for name in [
        "memory",
        "tributary_abi_v1",
        "describe",
        "fold",
        "merge",
        "finish",
    ] {
        let error = without_export(name);
        assert!(
            matches!(&error, Error::MissingExport { name: missing, .. } if *missing == name),
            "{error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_wrong_signature_is_shown_beside_the_right_one() {
    let text = SUM.text().replace(
        r#"(func (export "fold") (param $call i32) (result i32)"#,
        r#"(func (export "fold") (param $call i32) (param i64) (result i32)"#,
    );
    let error = load(&wat::parse_str(text).unwrap()).expect_err("wrong signature");
    assert_eq!(
        error.to_string(),
        "the export `fold` is (i32, i64) -> i32; it has to be (i32) -> i32"
    );
}

#[test]
fn an_export_of_the_wrong_kind() {
    let text = SUM
        .text()
        .replace(r#"(func (export "tributary_abi_v1"))"#, "")
        .replace(
            r#"(memory (export "memory") 1)"#,
            r#"(memory (export "memory") 1) (global (export "tributary_abi_v1") i32 (i32.const 1))"#,
        );
    let error = load(&wat::parse_str(text).unwrap()).expect_err("a global");
    assert!(error.to_string().contains("is a global"), "{error}");
}

#[test]
fn a_forbidden_import_is_named_with_what_is_allowed() {
    for (module, name) in [
        ("wasi_snapshot_preview1", "fd_write"),
        ("tributary", "open"),
        ("env", "log"),
    ] {
        let import = format!(r#"(import "{module}" "{name}" (func (param i32)))"#);
        let error = refused(Wat {
            imports: &import,
            ..SUM
        });
        let text = error.to_string();
        assert!(text.contains(&format!("`{module}.{name}`")), "{text}");
        assert!(text.contains("tributary.log"), "{text}");
    }
}

#[test]
fn an_import_of_the_wrong_type() {
    let error = refused(Wat {
        imports: r#"(import "tributary" "clock_ns" (func (result i32)))"#,
        ..SUM
    });
    assert_eq!(
        error.to_string(),
        "the import `tributary.clock_ns` is declared as () -> i32; it is () -> i64"
    );
}

#[test]
fn memories_that_no_window_fits_into() {
    let error = refused(Wat {
        memory: r#"(memory (export "memory") 1 16)"#,
        ..SUM
    });
    assert!(
        error.to_string().contains("a maximum of 16 pages"),
        "{error}"
    );
    for memory in [
        r#"(memory (export "memory") 1) (memory 1)"#,
        r#"(memory (export "memory") i64 1)"#,
        r#"(memory (export "memory") 1 16 shared)"#,
    ] {
        // Parts of the text suit a 32-bit memory only: all that counts is the refusal.
        let text = Wat { memory, ..SUM }.text();
        let refused = wat::parse_str(text).map(|wasm| load(&wasm).expect_err(memory));
        assert!(
            matches!(refused, Ok(Error::Invalid(_))),
            "{memory}: {refused:?}"
        );
    }
}

#[test]
fn a_memory_that_begins_beyond_its_limit() {
    let wat = Wat {
        memory: r#"(memory (export "memory") 65)"#,
        ..SUM
    };
    let error = Arena::new(4, 4096)
        .try_instance(&wat.function(), LIMITS, "")
        .expect_err("65 pages are more than 4 MiB");
    assert!(
        matches!(
            error,
            Error::InitialMemory {
                asked: 4_259_840,
                limit: 4_194_304
            }
        ),
        "{error}"
    );
}

#[test]
fn tables_that_take_the_hosts_memory() {
    for rest in [&"(table 65536 funcref)".repeat(2), "(table 65537 funcref)"] {
        let error = refused(Wat { rest, ..SUM });
        assert!(error.to_string().contains("table"), "{error}");
    }
    let wat = Wat {
        rest: "(table 65536 funcref)",
        ..SUM
    };
    Arena::new(4, 4096).instance(&wat.function(), LIMITS, "");
}

#[test]
fn lies_in_describe() {
    let arena = Arena::new(4, 4096);
    let describing = |description: [u32; 8]| {
        let wat = Wat { description, ..SUM };
        let made = arena.try_instance(&wat.function(), LIMITS, "");
        made.expect_err("it lies").to_string()
    };
    assert!(describing([2, 1, 4, 0, 8, 0, 0, 0]).contains("abi = 2"));
    assert!(describing([1, 9, 4, 0, 8, 0, 0, 0]).contains("algebra = 9"));
    assert!(describing([1, 1, 0, 0, 8, 0, 0, 0]).contains("partial_bytes_per_element = 0"));
    assert!(describing([1, 1, 4, 5000, 8, 0, 0, 0]).contains("scalar_bytes = 5000"));
    assert!(describing([1, 1, 4, 0, 65, 0, 0, 0]).contains("max_inputs = 65"));
    assert!(describing([1, 1, 4, 0, 8, 32, 0, 0]).contains("flags = 32"));
}

#[test]
fn describe_points_outside_of_its_memory() {
    for pointer in ["65505", "-1"] {
        let describe = format!("(i32.const {pointer})");
        let wat = Wat {
            describe: &describe,
            ..SUM
        };
        let made = Arena::new(4, 4096).try_instance(&wat.function(), LIMITS, "");
        let error = made.expect_err("nothing there");
        assert!(matches!(error, Error::DescriptionPointer { .. }), "{error}");
    }
}

#[test]
fn describe_refuses_a_configuration_with_its_reason() {
    let wat = Wat {
        imports: r#"(import "tributary" "log" (func $log (param i32 i32 i32)))"#,
        describe: "(call $log (i32.const 1) (i32.const 0) (i32.const 11)) (i32.const 0)",
        rest: r#"(data (i32.const 0) "no such key")"#,
        ..SUM
    };
    let made = Arena::new(4, 4096).try_instance(&wat.function(), LIMITS, "{\"x\": 1}");
    let error = made.expect_err("refused");
    assert!(error.to_string().contains("no such key"), "{error}");
}
