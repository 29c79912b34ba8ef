//! Encoded updates: what a function is told of them, and which are refused.

use crate::fixture::{Arena, ENGINE, LIMITS, SUM, Wat, operands};
use tributary_wasm::{
    CallError, Content, Encoding, Error, Input, PAGE_BYTES, RANGE_ELEMENTS, Window, check,
};

/// A sum that says it folds everything.
const ALL: Wat<'static> = Wat {
    description: [1, 1, 4, 0, 8, 0b11111, 0, 0],
    ..SUM
};

fn encoded(arena: &Arena, slot: u64, encoding: Encoding, count: u32) -> Input {
    Input {
        content: Content { encoding, count },
        ..arena.update(slot, 1.0)
    }
}

/// Folds one input by a function that copies its record and 16 bytes each of vector and table out.
fn told(input: impl Fn(&Arena) -> Input, first_element: u64) -> (Vec<u32>, Vec<u8>, Vec<u8>) {
    let wat = Wat {
        fold: "(memory.copy (i32.load offset=12 (local.get $call))
                 (i32.add (local.get $call) (i32.const 64)) (i32.const 32))
               (memory.copy (i32.add (i32.load offset=12 (local.get $call)) (i32.const 32))
                 (i32.load offset=64 (local.get $call)) (i32.const 16))
               (memory.copy (i32.add (i32.load offset=12 (local.get $call)) (i32.const 48))
                 (i32.load offset=88 (local.get $call)) (i32.const 16))
               (i32.const 0)",
        ..ALL
    };
    let arena = Arena::new(4, 8 * u64::from(RANGE_ELEMENTS));
    let numbers: Vec<u32> = (0..2 * RANGE_ELEMENTS).collect();
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    std::os::unix::fs::FileExt::write_all_at(&arena.file, &bytes, PAGE_BYTES).unwrap();
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let inputs = [input(&arena)];
    let mut call = operands(RANGE_ELEMENTS, arena.place(1), &inputs);
    call.first_element = first_element;
    call.model_elements = 2 * u64::from(RANGE_ELEMENTS);
    instance.fold(&call).unwrap();
    let out = arena.bytes(1, PAGE_BYTES + first_element * 4, 64);
    let words = out[..32].as_chunks::<4>().0.iter();
    let record = words.map(|word| u32::from_le_bytes(*word)).collect();
    (record, out[32..48].to_vec(), out[48..].to_vec())
}

/// The bytes of four numbers from `first` on, as the slot holds them.
fn numbers(first: u32) -> Vec<u8> {
    (first..first + 4).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn values_and_tables_are_where_the_record_says() {
    let second = u64::from(RANGE_ELEMENTS);
    for (encoding, bytes) in [(Encoding::F32, 4), (Encoding::F16, 2), (Encoding::Bf16, 2)] {
        let (record, vector, _) = told(|arena| encoded(arena, 0, encoding, 0), second);
        assert_eq!(record[5..], [encoding.code(), 0, 0], "{encoding}");
        assert_eq!(vector, numbers(RANGE_ELEMENTS * bytes / 4), "{encoding}");
    }
    let (record, vector, table) = told(|arena| encoded(arena, 0, Encoding::I8, 5), second);
    assert_eq!((record[5], record[7]), (3, 5));
    assert_eq!(vector, numbers(RANGE_ELEMENTS / 4));
    assert_eq!(table, numbers(2 * RANGE_ELEMENTS / 4));
    // All values and all coordinates, whatever the range is.
    for first in [0, second] {
        let (record, vector, table) = told(|arena| encoded(arena, 0, Encoding::Sparse, 9), first);
        assert_eq!((record[5], record[7]), (4, 9));
        assert_eq!(table, numbers(0));
        assert_eq!(vector, numbers(10));
    }
}

#[test]
fn encodings_that_a_function_does_not_fold_are_refused() {
    let arena = Arena::new(4, 4096);
    let wat = Wat {
        description: [1, 1, 4, 0, 8, 0b100, 0, 0],
        ..SUM
    };
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let encodings = instance.description().encodings;
    assert!(encodings.contains(Encoding::F32) && encodings.contains(Encoding::Bf16));
    let inputs = [arena.update(0, 1.0), encoded(&arena, 2, Encoding::F16, 0)];
    let error = instance
        .fold(&operands(3, arena.place(1), &inputs))
        .unwrap_err();
    assert!(matches!(error, CallError::Operands { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("input 1 is encoded as f16; this function folds f32, bf16"),
        "{text}"
    );
    let error = instance
        .merge(&operands(3, arena.place(1), &inputs[1..]))
        .unwrap_err();
    assert!(error.to_string().contains("no encoding"), "{error}");
}

#[test]
fn tables_that_cannot_be_right_are_refused() {
    let arena = Arena::new(4, 8192);
    let mut instance = arena.instance(&ALL.function(), LIMITS, "");
    let mut refusal = |encoding: Encoding, count: u32| {
        let inputs = [encoded(&arena, 0, encoding, count)];
        let error = instance
            .fold(&operands(1024, arena.place(1), &inputs))
            .unwrap_err();
        assert!(matches!(error, CallError::Operands { .. }), "{error}");
        error.to_string()
    };
    assert!(refusal(Encoding::F16, 1).contains("it can be 0 to 0"));
    assert!(refusal(Encoding::I8, 0).contains("it can be 1 to 1024"));
    assert!(refusal(Encoding::Sparse, 1025).contains("it can be 0 to 1024"));
    assert!(refusal(Encoding::Sparse, 513).contains("takes 4108 bytes; a slot has 4096"));
    assert!(refusal(Encoding::I8, 385).contains("takes 4104 bytes"));
}

#[test]
fn tables_are_refused_by_windows() {
    let huge = Arena::named("tributary-huge", 3, 2 << 30);
    let window = Window { ..huge.window() };
    let mut instance = ALL.function().instantiate(LIMITS, b"", window).unwrap();
    for (encoding, taken) in [
        (Encoding::F16, true),
        (Encoding::Bf16, true),
        (Encoding::I8, false),
        (Encoding::Sparse, false),
    ] {
        let inputs = [encoded(&huge, 0, encoding, u32::from(!taken))];
        let folded = instance.fold(&operands(3, huge.place(1), &inputs));
        assert_eq!(folded.is_ok(), taken, "{encoding}");
        if let Err(error) = folded {
            assert!(error.to_string().contains("mapped by windows"), "{error}");
        }
    }
}

#[test]
fn a_function_that_folds_less_than_it_says_is_found() {
    // It adds up bits of any encoding as if they were floats.
    let error = check(&ENGINE, &ALL.function(), LIMITS, b"").unwrap_err();
    assert!(matches!(error, Error::Law { .. }), "{error}");
    assert!(error.to_string().contains("encoded as f16"), "{error}");
}
