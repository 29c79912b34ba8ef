//! Every bad module gives an error that says what is wrong, and harms nothing else.

use crate::fixture::{Arena, LIMITS, SUM, Wat, fold_by, load, operands};
use std::time::Duration;
use tributary_wasm::{CallError, Error, Export, Limits};

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
    assert!(describing([1, 1, 4, 0, 8, 1, 0, 0]).contains("flags = 1"));
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

const SHORT: Limits = Limits {
    memory_bytes: 4 << 20,
    deadline: Duration::from_millis(50),
};

#[test]
fn a_fold_that_loops_for_ever() {
    let wat = Wat {
        fold: "(loop $for_ever (br $for_ever)) (i32.const 0)",
        ..SUM
    };
    let arena = Arena::new(4, 4096);
    let mut instance = arena.instance(&wat.function(), SHORT, "");
    let inputs = [arena.update(0, 1.0)];
    let folded = instance.fold(&operands(3, arena.extent(1), &inputs));
    let error = folded.expect_err("it never ends");
    assert_eq!(
        error.to_string(),
        "fold ran longer than its deadline of 50ms"
    );
    let again = instance.fold(&operands(3, arena.extent(1), &inputs));
    assert!(matches!(again, Err(CallError::Unusable { .. })));
}

#[test]
fn a_loop_does_not_disturb_another_instance() {
    let endless = Wat {
        fold: "(loop $for_ever (br $for_ever)) (i32.const 0)",
        ..SUM
    };
    let (endless, good) = (endless.function(), SUM.function());
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| {
            let arena = Arena::new(4, 4096);
            let mut instance = arena.instance(&endless, SHORT, "");
            instance.fold(&operands(3, arena.extent(1), &[arena.update(0, 1.0)]))
        });
        let arena = Arena::new(4, 4096);
        arena.write(0, &[1.0, 2.0, 3.0]);
        let mut instance = arena.instance(&good, LIMITS, "");
        // Epochs advance under these calls, for the other's sake.
        while !looping.is_finished() {
            let inputs = [arena.update(0, 1.0)];
            instance
                .fold(&operands(3, arena.extent(1), &inputs))
                .unwrap();
        }
        let error = looping.join().unwrap().expect_err("it never ends");
        assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    });
}

#[test]
fn a_start_section_or_describe_that_loops_for_ever() {
    let arena = Arena::new(4, 4096);
    let start = Wat {
        rest: "(func $spin (loop $for_ever (br $for_ever))) (start $spin)",
        ..SUM
    };
    let describe = Wat {
        describe: "(loop $for_ever (br $for_ever)) (i32.const 1024)",
        ..SUM
    };
    for (wat, name) in [(start, "start"), (describe, "describe")] {
        let made = arena.try_instance(&wat.function(), SHORT, "");
        let error = made.expect_err("it never ends");
        assert!(
            matches!(error, Error::Call(CallError::Deadline { .. })),
            "{error}"
        );
        assert!(error.to_string().starts_with(name), "{error}");
    }
}

#[test]
fn a_fold_that_grows_without_bound() {
    // As an allocator would: grow until it fails, then give up.
    let wat = Wat {
        fold: "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
               unreachable",
        ..SUM
    };
    let (_, folded) = fold_by(wat);
    let error = folded.expect_err("no memory is left");
    let CallError::MemoryLimit { limit, asked, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((limit, asked), (4_194_304, 4_259_840));
}

#[test]
fn a_fold_that_reports_its_lack_of_memory() {
    let wat = Wat {
        fold: "(drop (memory.grow (i32.const 1000))) (i32.const 12)",
        ..SUM
    };
    let (_, folded) = fold_by(wat);
    let error = folded.expect_err("no memory is left");
    assert!(matches!(error, CallError::MemoryLimit { .. }), "{error}");
    assert!(error.to_string().contains("error 12"), "{error}");
}

#[test]
fn a_fold_that_does_without_the_memory_it_was_denied() {
    let wat = Wat {
        fold: "(drop (memory.grow (i32.const 1000))) (call $sum (local.get $call))",
        ..SUM
    };
    fold_by(wat).1.unwrap();
}

/// Checks that a fold which writes to `to` is stopped and that the byte there has not changed.
fn overwrites(fold: &str, rest: &str, place: &str) {
    let (arena, folded) = fold_by(Wat { fold, rest, ..SUM });
    let error = folded.expect_err("it writes where it may not");
    let CallError::WroteOutside { export, .. } = &error else {
        panic!("{fold}: {error}");
    };
    assert_eq!(*export, Export::Fold);
    assert!(error.to_string().contains(place), "{error}");
    assert_eq!(arena.read(0, 3), [1.0, 2.0, 3.0]);
    for slot in [2, 3] {
        let bytes = arena.bytes(slot, 0, arena.stride as usize);
        assert!(
            bytes.iter().all(|byte| *byte == 0),
            "slot {slot} has changed"
        );
    }
}

#[test]
fn a_fold_that_writes_to_its_input() {
    overwrites(
        "(f32.store (i32.load offset=64 (local.get $call)) (f32.const 9)) (i32.const 0)",
        "",
        "byte 4096 of the slot of input 0",
    );
}

#[test]
fn a_fold_that_writes_to_the_call() {
    overwrites(
        "(i32.store offset=4 (local.get $call) (i32.const 0)) (i32.const 0)",
        "",
        "the call page",
    );
}

#[test]
fn a_fold_that_writes_past_its_output() {
    // The output is slot 1: a page of scalars and a page of vector.
    overwrites(
        "(f32.store offset=4096 (i32.load offset=12 (local.get $call)) (f32.const 9)) (i32.const 0)",
        "",
        "a slot that the call does not name",
    );
}

#[test]
fn a_fold_that_writes_into_the_slack_after_the_last_slot() {
    // Three slots of two pages lie between the output and the end.
    overwrites(
        "(f32.store offset=20480 (i32.load offset=12 (local.get $call)) (f32.const 9)) (i32.const 0)",
        "",
        "the slack after the last slot",
    );
}

#[test]
fn bulk_operations_cannot_write_there_either() {
    // Run by the host, a bulk operation on a read-only page would end the process: see `bulk`.
    for len in [4, 64, 200] {
        for operation in ["memory.copy", "memory.fill", "memory.init $bytes"] {
            let from = if operation == "memory.copy" {
                "1024"
            } else {
                "0"
            };
            let input = "(i32.load offset=64 (local.get $call))";
            let fold =
                format!("({operation} {input} (i32.const {from}) (i32.const {len})) (i32.const 0)");
            let bytes = format!(r#"(data $bytes "{}")"#, "x".repeat(300));
            overwrites(&fold, &bytes, "input 0");
        }
    }
}

#[test]
fn a_bulk_operation_that_begins_in_the_output_and_ends_beyond() {
    overwrites(
        "(memory.fill (i32.load offset=12 (local.get $call)) (i32.const 7) (i32.const 4097))
         (i32.const 0)",
        "",
        "a slot that the call does not name",
    );
}

#[test]
fn a_bulk_operation_over_everything() {
    overwrites(
        "(memory.fill (i32.const 2048) (i32.const 0) (i32.const 90000)) (i32.const 0)",
        "",
        "the call page",
    );
}

#[test]
fn accesses_outside_of_memory_trap_and_are_not_blamed_on_the_window() {
    for fold in [
        "(i32.store (i32.const -8) (i32.const 1)) (i32.const 0)",
        "(i32.load (i32.const 0x40000000))",
        "(memory.fill (i32.const -8) (i32.const 1) (i32.const 7)) (i32.const 0)",
        "(memory.fill (i32.const -8) (i32.const 1) (i32.const 9)) (i32.const 0)",
        "(memory.copy (i32.const 0) (i32.const -8) (i32.const 9)) (i32.const 0)",
        "(memory.fill (i32.const -1) (i32.const 1) (i32.const 0)) (i32.const 0)",
    ] {
        let (_, folded) = fold_by(Wat { fold, ..SUM });
        let error = folded.expect_err(fold);
        assert!(matches!(error, CallError::Trap { .. }), "{fold}: {error}");
        assert!(
            error.to_string().contains("out of bounds"),
            "{fold}: {error}"
        );
    }
}

#[test]
fn a_fold_that_traps_half_way() {
    let wat = Wat {
        imports: r#"(import "tributary" "log" (func $log (param i32 i32 i32)))"#,
        fold: "(drop (call $sum (local.get $call)))
               (call $log (i32.const 1) (i32.const 0) (i32.const 13)) unreachable",
        rest: r#"(data (i32.const 0) "all went wrong")"#,
        ..SUM
    };
    let (_, folded) = fold_by(wat);
    let error = folded.expect_err("it traps");
    let text = error.to_string();
    assert!(matches!(error, CallError::Trap { .. }), "{text}");
    assert!(text.starts_with("fold trapped: "), "{text}");
    assert!(text.contains("unreachable"), "{text}");
    assert!(text.ends_with("it last logged: all went wron"), "{text}");
}

#[test]
fn other_traps() {
    for (fold, words) in [
        ("(i32.div_u (i32.const 1) (i32.const 0))", "divide by zero"),
        ("(call $deep)", "call stack exhausted"),
    ] {
        let rest = "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))";
        let (_, folded) = fold_by(Wat { fold, rest, ..SUM });
        let error = folded.expect_err("it traps");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_fold_that_returns_an_error() {
    let wat = Wat {
        imports: r#"(import "tributary" "log" (func $log (param i32 i32 i32)))"#,
        fold: "(call $log (i32.const 1) (i32.const 0) (i32.const 8)) (i32.const 77)",
        rest: r#"(data (i32.const 0) "overflow")"#,
        ..SUM
    };
    let (_, folded) = fold_by(wat);
    let error = folded.expect_err("it says so");
    assert_eq!(error.to_string(), "fold returned error 77: overflow");
}

#[test]
fn imports_given_pointers_that_are_not_the_modules_own_memory() {
    let imports = r#"(import "tributary" "log" (func $log (param i32 i32 i32)))
        (import "tributary" "config_read" (func $config_read (param i32 i32)))"#;
    for fold in [
        "(call $log (i32.const 3) (local.get $call) (i32.const 4))",
        "(call $log (i32.const 3) (i32.const 65534) (i32.const 4))",
        "(call $log (i32.const 3) (i32.const -1) (i32.const -1))",
        "(call $config_read (i32.load offset=12 (local.get $call)) (i32.const 0))",
        "(call $config_read (i32.load offset=64 (local.get $call)) (i32.const 0))",
        "(call $config_read (i32.const 0) (i32.const 10))",
    ] {
        let fold = format!("{fold} (i32.const 0)");
        let (_, folded) = fold_by(Wat {
            imports,
            fold: &fold,
            ..SUM
        });
        let error = folded.expect_err(&fold);
        assert!(matches!(error, CallError::Trap { .. }), "{fold}: {error}");
        assert!(error.to_string().contains("log") || error.to_string().contains("config"));
    }
}
