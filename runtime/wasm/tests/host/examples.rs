//! The ABI is no matter of Rust: the built `mean` module, which is written in C, and the module that the
//! ABI's document shows.

use crate::fixture::{Arena, ENGINE, LIMITS, built, load, operands};
use tributary_wasm::{CallError, Error, Input, check};

#[test]
fn it_passes_the_law_tests() {
    let mean = load(&built("mean")).unwrap();
    let description = check(&ENGINE, &mean, LIMITS, b"").unwrap();
    assert_eq!(description.partial_bytes_per_element, 8);
    assert_eq!(description.scalar_bytes, 8);
    assert_eq!(check(&ENGINE, &mean, LIMITS, b"{}").unwrap(), description);
    let error = check(&ENGINE, &mean, LIMITS, b"{\"a\": 1}").expect_err("no configuration");
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert!(
        error.to_string().contains("mean takes no configuration"),
        "{error}"
    );
}

#[test]
fn it_means_without_weights() {
    let elements = 1300;
    let arena = Arena::new(12, elements as u64 * 8);
    let value = |slot: u64, element: usize| (element as f32 * 0.25 - 7.0) * (slot as f32 + 1.0);
    for slot in 0..5 {
        let values: Vec<f32> = (0..elements).map(|element| value(slot, element)).collect();
        arena.write(slot, &values);
    }
    let mut mean = arena.instance(&load(&built("mean")).unwrap(), LIMITS, "");
    // Weights that would matter to a weighted mean.
    let updates: Vec<Input> = (0..5)
        .map(|slot| arena.update(slot, 10.0_f64.powi(slot as i32)))
        .collect();
    let elements = elements as u32;
    mean.fold(&operands(elements, arena.place(5), &updates[..2]))
        .unwrap();
    let mut onward = operands(elements, arena.place(6), &updates[2..3]);
    onward.previous = Some(arena.place(5));
    mean.fold(&onward).unwrap();
    mean.fold(&operands(elements, arena.place(7), &updates[3..]))
        .unwrap();
    let partials = [arena.partial(6), arena.partial(7)];
    mean.merge(&operands(elements, arena.place(8), &partials))
        .unwrap();
    let mut finish = operands(elements, arena.place(9), &[]);
    finish.previous = Some(arena.place(8));
    mean.finish(&finish).unwrap();
    for (element, found) in arena.read(9, elements as usize).iter().enumerate() {
        let expected: f64 = (0..5)
            .map(|slot| f64::from(value(slot, element)))
            .sum::<f64>()
            / 5.0;
        assert!(
            (f64::from(*found) - expected).abs() < 1e-4,
            "{found} for {expected}"
        );
    }
}

#[test]
fn it_says_why_it_cannot_finish() {
    let arena = Arena::new(4, 4096);
    let mut mean = arena.instance(&load(&built("mean")).unwrap(), LIMITS, "");
    let mut finish = operands(3, arena.place(1), &[]);
    // A slot of zeros is a partial without clients.
    finish.previous = Some(arena.place(0));
    let error = mean.finish(&finish).expect_err("no clients");
    assert!(
        matches!(error, CallError::Returned { code: 4, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("there are no clients"),
        "{error}"
    );
}

#[test]
fn the_module_in_the_document_is_a_function() {
    let document = include_str!("../../../../docs/abi.md");
    let text = document.split_once("```wat\n").unwrap().1;
    let text = text.split_once("```").unwrap().0;
    let sum = load(&wat::parse_str(text).unwrap()).unwrap();
    check(&ENGINE, &sum, LIMITS, b"").unwrap();
}
