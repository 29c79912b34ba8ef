//! `check` passes what keeps its word and names what does not.

use crate::fixture::{ENGINE, LIMITS, SUM, Wat, load};
use tributary_wasm::{CallError, Error, check};

fn verdict(wat: Wat<'_>) -> Error {
    check(&ENGINE, &wat.function(), LIMITS, b"").expect_err("it breaks a law")
}

#[test]
fn a_sum_is_a_monoid() {
    let description = check(&ENGINE, &SUM.function(), LIMITS, b"").unwrap();
    assert_eq!(description.partial_bytes_per_element, 4);
    let one_by_one = Wat {
        description: [1, 1, 4, 0, 1, 0, 0, 0],
        ..SUM
    };
    check(&ENGINE, &one_by_one.function(), LIMITS, b"").unwrap();
}

#[test]
fn the_last_update_wins_is_not_commutative() {
    // Copies its first input and forgets the rest.
    let wat = Wat {
        fold: "(memory.copy (i32.load offset=12 (local.get $call))
                 (i32.load offset=64 (local.get $call))
                 (i32.mul (i32.load offset=4 (local.get $call)) (i32.const 4)))
               (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(
        error.to_string().contains("the order of updates"),
        "{error}"
    );
}

#[test]
fn a_fold_that_forgets_the_previous_partial() {
    // Folds one at a time must go on from what they had.
    let wat = Wat {
        fold: "(drop (call $sum (local.get $call)))
               (if (i32.load offset=8 (local.get $call)) (then
                 (memory.fill (i32.load offset=12 (local.get $call)) (i32.const 0) (i32.const 4))))
               (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(error.to_string().contains("folding in steps"), "{error}");
}

#[test]
fn a_merge_that_averages_is_not_associative() {
    let wat = Wat {
        merge: "(drop (call $sum (local.get $call)))
            (f32.store (i32.load offset=12 (local.get $call))
              (f32.mul (f32.const 0.5) (f32.load (i32.load offset=12 (local.get $call)))))
            (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(matches!(error, Error::Law { element: 0, .. }), "{error}");
}

#[test]
fn a_function_with_a_memory_of_its_own_is_found() {
    let wat = Wat {
        fold: "(drop (call $sum (local.get $call)))
            (global.set $calls (f32.add (global.get $calls) (f32.const 1)))
            (f32.store (i32.load offset=12 (local.get $call)) (global.get $calls))
            (i32.const 0)",
        rest: "(global $calls (mut f32) (f32.const 0))",
        ..SUM
    };
    let error = verdict(wat);
    assert!(error.to_string().contains("the same calls"), "{error}");
}

#[test]
fn a_model_that_is_not_finite_is_found() {
    let wat = Wat {
        finish: "(f32.store (i32.load offset=12 (local.get $call)) (f32.const nan)) (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(error.to_string().contains("finite"), "{error}");
}

#[test]
fn a_vector_larger_than_declared_is_found() {
    // Writes one element more than there are.
    let wat = Wat {
        fold: "(drop (call $sum (local.get $call)))
            (f32.store (i32.add (i32.load offset=12 (local.get $call))
                (i32.mul (i32.load offset=4 (local.get $call)) (i32.const 4)))
              (f32.const 1))
            (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(matches!(error, Error::Overrun { at: 4100, .. }), "{error}");
}

#[test]
fn partials_larger_than_declared_trap_at_the_page() {
    // Declares four bytes per element and writes from the 4097th byte on.
    let wat = Wat {
        fold: "(drop (call $sum (local.get $call)))
            (if (i32.eq (i32.load offset=4 (local.get $call)) (i32.const 1024)) (then
              (f32.store offset=4096 (i32.load offset=12 (local.get $call)) (f32.const 1))))
            (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(
        matches!(error, Error::Call(CallError::WroteOutside { .. })),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("right behind the vector of the output"),
        "{error}"
    );
}

#[test]
fn scalars_that_were_not_declared_are_found() {
    let wat = Wat {
        description: [1, 1, 4, 8, 8, 0, 0, 0],
        fold: "(i64.store (i32.load offset=20 (local.get $call)) (i64.const 0))
            (call $sum (local.get $call))",
        merge: "(drop (call $sum (local.get $call)))
            (i64.store (i32.load offset=20 (local.get $call)) (i64.const 0))
            (i64.store offset=4 (i32.load offset=20 (local.get $call)) (i64.const 1))
            (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(matches!(error, Error::Overrun { at: 8, .. }), "{error}");
    assert!(error.to_string().contains("8 bytes of scalars"), "{error}");
}

#[test]
fn a_fold_that_depends_on_where_its_range_begins_is_found() {
    // Writes something else if the call is not about the beginning.
    let wat = Wat {
        fold: "(drop (call $sum (local.get $call)))
            (if (i64.ne (i64.load offset=32 (local.get $call)) (i64.const 0)) (then
              (f32.store (i32.load offset=12 (local.get $call)) (f32.const 1))))
            (i32.const 0)",
        ..SUM
    };
    let error = verdict(wat);
    let Error::Ranges { part, at, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((*part, *at), ("vector", 16_384));
}

#[test]
fn scalars_that_depend_on_the_range_are_found() {
    // The number of elements that the call was about.
    let wat = Wat {
        description: [1, 1, 4, 4, 8, 0, 0, 0],
        fold: "(i32.store (i32.load offset=20 (local.get $call)) (i32.load offset=4 (local.get $call)))
            (call $sum (local.get $call))",
        merge: "(i32.store (i32.load offset=20 (local.get $call)) (i32.const 0))
            (call $sum (local.get $call))",
        ..SUM
    };
    let error = verdict(wat);
    let scalars = matches!(
        error,
        Error::Ranges {
            part: "scalars",
            ..
        }
    );
    assert!(scalars, "{error}");
}

#[test]
fn a_finish_that_fails_is_reported() {
    let wat = Wat {
        finish: "(i32.const 5)",
        ..SUM
    };
    let error = verdict(wat);
    assert!(
        error.to_string().contains("finish returned error 5"),
        "{error}"
    );
}

#[test]
fn what_a_function_leaves_unwritten_is_found() {
    let first_only =
        "(i32.store (i32.load offset=12 (local.get $call)) (i32.const 0)) (i32.const 0)";
    let with_scalars = [1, 1, 4, 8, 8, 0, 0, 0];
    // A count for which the poison is a number like any other.
    let copy_counts = "(f32.store (i32.load offset=12 (local.get $call)) (f32.convert_i32_s
        (i32.load (i32.load offset=8 (local.get $call))))) (i32.const 0)";
    let cases = [
        (
            Wat {
                fold: "(i32.const 0)",
                ..SUM
            },
            "fold leaves byte 0 of its vector",
        ),
        (
            Wat {
                fold: "(i32.const 0)",
                finish: copy_counts,
                ..SUM
            },
            "fold leaves byte 0 of its vector",
        ),
        (
            Wat {
                fold: first_only,
                ..SUM
            },
            "fold leaves byte 4 of its vector",
        ),
        (
            Wat {
                description: with_scalars,
                ..SUM
            },
            "fold leaves byte 0 of its scalars",
        ),
        (
            Wat {
                merge: "(i32.const 0)",
                ..SUM
            },
            "merge leaves byte 0 of its vector",
        ),
        (
            Wat {
                finish: "(i32.const 0)",
                ..SUM
            },
            "finish leaves byte 0 of its vector",
        ),
        (
            Wat {
                finish: first_only,
                ..SUM
            },
            "finish leaves byte 4 of its vector",
        ),
    ];
    for (wat, told) in cases {
        let error = verdict(wat);
        assert!(matches!(error, Error::Unwritten { .. }), "{told}: {error}");
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
}

#[test]
fn finite_updates_that_make_an_infinite_model_are_found() {
    let clamped = "(f32.max (f32.const -0x1.fffffep127) (f32.min (f32.const 0x1.fffffep127) (local.get $value)))";
    let unclamped = |wat: Wat<'_>| {
        let text = wat.text().replace(clamped, "(local.get $value)");
        check(
            &ENGINE,
            &load(&wat::parse_str(text).unwrap()).unwrap(),
            LIMITS,
            b"",
        )
    };
    let error = unclamped(SUM).expect_err("a sum of the largest values is infinite");
    assert!(error.to_string().contains("extreme updates"), "{error}");
    // An error of its own is an answer.
    let finish = format!(
        "(if (f32.gt (f32.abs (f32.load (i32.load offset=8 (local.get $call)))) (f32.const 3.4e38))
           (then (return (i32.const 2)))) {}",
        SUM.finish
    );
    unclamped(Wat {
        finish: &finish,
        ..SUM
    })
    .unwrap();
}
