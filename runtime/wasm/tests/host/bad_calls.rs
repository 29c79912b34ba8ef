//! Every bad call gives an error that says what is wrong, and harms nothing else.

use crate::fixture::{Arena, LIMITS, SUM, Wat, fold_by, operands};
use std::time::Duration;
use tributary_wasm::{CallError, Error, Export, Limits};

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
    let folded = instance.fold(&operands(3, arena.place(1), &inputs));
    let error = folded.expect_err("it never ends");
    assert_eq!(
        error.to_string(),
        "fold ran longer than its deadline of 50ms"
    );
    let again = instance.fold(&operands(3, arena.place(1), &inputs));
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
            instance.fold(&operands(3, arena.place(1), &[arena.update(0, 1.0)]))
        });
        let arena = Arena::new(4, 4096);
        arena.write(0, &[1.0, 2.0, 3.0]);
        let mut instance = arena.instance(&good, LIMITS, "");
        // Epochs advance under these calls, for the other's sake.
        while !looping.is_finished() {
            let inputs = [arena.update(0, 1.0)];
            instance
                .fold(&operands(3, arena.place(1), &inputs))
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
        "byte 0 of the vector of input 0",
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
        "4084 bytes behind the vector of the output",
    );
}

#[test]
fn a_fold_that_writes_into_the_slack_after_the_last_slot() {
    // Three slots of two pages lie between the output and the end.
    overwrites(
        "(f32.store offset=20480 (i32.load offset=12 (local.get $call)) (f32.const 9)) (i32.const 0)",
        "",
        "20468 bytes behind the vector of the output",
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
        "4084 bytes behind the vector of the output",
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
