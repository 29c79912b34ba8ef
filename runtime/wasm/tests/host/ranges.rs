//! Models by ranges: one call for each, on one thread or on several, in arenas of any size.

use crate::fixture::{Arena, LIMITS, SUM, Wat, built, load, operands};
use std::sync::LazyLock;
use tributary_wasm::{
    CallError, Function, Input, Instance, Limits, ModelRange, Operands, PAGE_BYTES, Place,
    RANGE_ELEMENTS, Window, ranges,
};

static FEDAVG: LazyLock<Function> = LazyLock::new(|| load(&built("fedavg")).unwrap());
const CONFIG: &str = r#"{"accumulate": "f64"}"#;
/// Three ranges, the last of which is short.
const ELEMENTS: u32 = 2 * RANGE_ELEMENTS + 1021;
const VECTOR_BYTES: u64 = ELEMENTS as u64 * 8;

fn of_range<'a>(whole: &Operands<'a>, range: ModelRange) -> Operands<'a> {
    Operands {
        first_element: range.first_element,
        elements: range.elements,
        ..*whole
    }
}

fn small_ranges() -> Vec<ModelRange> {
    ranges(u64::from(ELEMENTS), RANGE_ELEMENTS).collect()
}

fn values(seed: u32) -> Vec<f32> {
    let value = |element: u32| (element.wrapping_mul(seed * 2 + 1) % 2003) as f32 * 0.37 - 370.0;
    (0..ELEMENTS).map(value).collect()
}

/// Slots 0 to 2 hold updates.
fn arena() -> Arena {
    let arena = Arena::new(12, VECTOR_BYTES);
    (0..3).for_each(|slot| arena.write(slot, &values(slot as u32)));
    arena
}

fn slot_bytes(arena: &Arena, slot: u64) -> Vec<u8> {
    arena.bytes(slot, 0, (PAGE_BYTES + VECTOR_BYTES) as usize)
}

#[test]
fn ranges_in_any_order_make_the_same_bytes_as_one_call() {
    let arena = arena();
    let mut instance = arena.instance(&FEDAVG, LIMITS, CONFIG);
    let updates: Vec<Input> = (0..3)
        .map(|slot| arena.update(slot, 1.5 + slot as f64))
        .collect();
    let at_once = operands(ELEMENTS, arena.place(3), &updates);
    instance.fold(&at_once).unwrap();
    let whole = operands(ELEMENTS, arena.place(4), &updates);
    for range in small_ranges().into_iter().rev() {
        instance.fold(&of_range(&whole, range)).unwrap();
    }
    assert_eq!(slot_bytes(&arena, 3), slot_bytes(&arena, 4));

    let mut finish = operands(ELEMENTS, arena.place(5), &[]);
    finish.previous = Some(arena.place(3));
    instance.finish(&finish).unwrap();
    finish.output = arena.place(6);
    for range in small_ranges() {
        instance.finish(&of_range(&finish, range)).unwrap();
    }
    assert_eq!(slot_bytes(&arena, 5), slot_bytes(&arena, 6));
}

#[test]
fn a_later_range_writes_nothing_but_its_pages() {
    let arena = arena();
    let mut instance = arena.instance(&FEDAVG, LIMITS, CONFIG);
    let updates = [arena.update(0, 2.0)];
    let whole = operands(ELEMENTS, arena.place(3), &updates);
    instance.fold(&of_range(&whole, small_ranges()[1])).unwrap();
    let bytes = slot_bytes(&arena, 3);
    let start = (PAGE_BYTES + u64::from(RANGE_ELEMENTS) * 8) as usize;
    let end = start + RANGE_ELEMENTS as usize * 8;
    assert!(bytes[..start].iter().all(|byte| *byte == 0), "scalars too");
    assert!(bytes[start..end].iter().any(|byte| *byte != 0));
    assert!(bytes[end..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_write_to_another_range_of_the_output_traps() {
    // The first element of the next range.
    let wat = Wat {
        fold: "(f32.store offset=16384 (i32.load offset=12 (local.get $call)) (f32.const 9)) (i32.const 0)",
        ..SUM
    };
    let arena = arena();
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let updates = [arena.update(0, 1.0)];
    let whole = operands(ELEMENTS, arena.place(3), &updates);
    let error = instance
        .fold(&of_range(&whole, small_ranges()[0]))
        .unwrap_err();
    let text = error.to_string();
    let place = "byte 16384 of the vector of the output, outside of the call's range";
    assert!(text.ends_with(place), "{text}");
}

#[test]
fn scalars_of_a_later_range_are_writable_and_dropped() {
    let wat = Wat {
        description: [1, 1, 4, 4, 8, 0, 0, 0],
        fold: "(i32.store (i32.load offset=20 (local.get $call)) (i32.const 77))
               (i32.store (i32.load offset=12 (local.get $call))
                 (i32.load (i32.load offset=20 (local.get $call))))
               (i32.const 0)",
        ..SUM
    };
    let arena = arena();
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let updates = [arena.update(0, 1.0)];
    let whole = operands(ELEMENTS, arena.place(3), &updates);
    instance.fold(&of_range(&whole, small_ranges()[1])).unwrap();
    assert_eq!(arena.bytes(3, 0, 4), [0; 4]);
    assert_eq!(arena.bytes(3, PAGE_BYTES + 16_384, 4), [77, 0, 0, 0]);
    instance.fold(&of_range(&whole, small_ranges()[0])).unwrap();
    assert_eq!(arena.bytes(3, 0, 4), [77, 0, 0, 0]);
}

#[test]
fn threads_write_ranges_of_one_output_at_the_same_time() {
    let arena = arena();
    let updates: Vec<Input> = (0..3)
        .map(|slot| arena.update(slot, 1.5 + slot as f64))
        .collect();
    let mut instances = [0; 2].map(|_| arena.instance(&FEDAVG, LIMITS, CONFIG));
    instances[0]
        .fold(&operands(ELEMENTS, arena.place(3), &updates))
        .unwrap();
    let whole = operands(ELEMENTS, arena.place(4), &updates);
    for _ in 0..50 {
        std::thread::scope(|scope| {
            for (thread, instance) in instances.iter_mut().enumerate() {
                let mine = small_ranges().into_iter().skip(thread).step_by(2);
                scope.spawn(move || {
                    mine.for_each(|range| instance.fold(&of_range(&whole, range)).unwrap());
                });
            }
        });
        assert_eq!(slot_bytes(&arena, 3), slot_bytes(&arena, 4));
    }
}

#[test]
fn ranges_that_cannot_be_right_are_refused() {
    let arena = arena();
    let mut instance = arena.instance(&FEDAVG, LIMITS, CONFIG);
    let updates = [arena.update(0, 1.0)];
    let whole = operands(ELEMENTS, arena.place(3), &updates);
    let mut refusal = |first_element: u64, elements: u32| {
        let range = ModelRange {
            first_element,
            elements,
        };
        let error = instance.fold(&of_range(&whole, range)).unwrap_err();
        assert!(matches!(error, CallError::Operands { .. }), "{error}");
        error.to_string()
    };
    assert!(refusal(0, 4095).contains("multiple of 4096"));
    assert!(refusal(4000, 4096).contains("multiple of 4096"));
    assert!(refusal(8192, 1022).contains("does not lie in the model of 9213"));
    assert!(refusal(u64::MAX, 4096).contains("does not lie"));
    assert!(refusal(0, 0).contains("no elements"));
    let mut wrong = whole;
    wrong.output = Place::at(100);
    let error = instance.fold(&wrong).unwrap_err().to_string();
    assert!(error.contains("not a multiple of 4096"), "{error}");
    wrong.output = arena.place(12);
    let error = instance.fold(&wrong).unwrap_err().to_string();
    assert!(error.contains("the arena's data are"), "{error}");
    wrong.output = arena.place(3);
    wrong.model_elements = u64::MAX;
    assert!(instance.fold(&wrong).unwrap_err().instance_survives());
}

/// An arena of 6 GiB of which little is ever touched, and a view of 16 MiB of it that is mapped whole.
struct Huge {
    arena: Arena,
    by_windows: Instance,
    whole: Instance,
}

/// Where the view begins: beyond what 32 bits address, and not at a large page.
const VIEW: u64 = (5 << 30) + 3 * PAGE_BYTES;
const STRIDE: u64 = PAGE_BYTES + VECTOR_BYTES.next_multiple_of(PAGE_BYTES);

impl Huge {
    fn new(function: &Function, config: &str) -> Self {
        let arena = Arena::named("tributary-huge", 3, 2 << 30);
        let view = Window {
            offset: VIEW,
            len: 16 << 20,
            ..arena.window()
        };
        let instantiate = |window: Window| function.instantiate(LIMITS, config.as_bytes(), window);
        Self {
            by_windows: instantiate(arena.window()).unwrap(),
            whole: instantiate(view).unwrap(),
            arena,
        }
    }

    fn write(&self, slot: u64, values: &[f32]) {
        use std::os::unix::fs::FileExt;
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let at = far(slot).vector;
        self.arena.file.write_all_at(&bytes, at).unwrap();
    }

    fn read(&self, place: Place) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; STRIDE as usize];
        self.arena
            .file
            .read_exact_at(&mut bytes, place.scalars)
            .unwrap();
        bytes
    }
}

/// A slot of the view, in the whole arena.
fn far(slot: u64) -> Place {
    Place::at(VIEW + slot * STRIDE)
}

/// The same slot, in the view.
fn near(slot: u64) -> Place {
    Place::at(slot * STRIDE)
}

fn update(place: Place, weight: f64) -> Input {
    Input {
        place,
        weight,
        contributors: 1,
        content: tributary_wasm::Content::F32,
    }
}

#[test]
fn an_arena_beyond_four_gibibytes_folds_to_the_same_bytes() {
    let mut huge = Huge::new(&FEDAVG, CONFIG);
    assert_eq!(huge.whole.range_elements_max(), u32::MAX);
    let most = huge.by_windows.range_elements_max();
    assert!(
        most >= 1 << 20 && most.is_multiple_of(RANGE_ELEMENTS),
        "{most}"
    );
    (0..3).for_each(|slot| huge.write(slot, &values(slot as u32)));
    // Slots 3, 5 and 7 by the instance that sees all; 4, 6 and 8 by windows.
    type At = fn(u64) -> Place;
    let round = |instance: &mut Instance, at: At, first: u64, parts: &[ModelRange]| {
        let inputs = [update(at(0), 1.0), update(at(1), 2.5)];
        let fold = operands(ELEMENTS, at(first), &inputs);
        let third = [update(at(2), 4.0)];
        let mut onward = operands(ELEMENTS, at(first + 2), &third);
        onward.previous = Some(at(first));
        let partials = [update(at(first + 2), 0.0)];
        let mut merge = operands(ELEMENTS, at(first + 4), &partials);
        merge.previous = Some(at(first));
        let mut finish = operands(ELEMENTS, at(first + 6), &[]);
        finish.previous = Some(at(first + 4));
        finish.model = Some(at(0));
        for range in parts {
            instance.fold(&of_range(&fold, *range)).unwrap();
            instance.fold(&of_range(&onward, *range)).unwrap();
            instance.merge(&of_range(&merge, *range)).unwrap();
            instance.finish(&of_range(&finish, *range)).unwrap();
        }
    };
    let all: Vec<ModelRange> = ranges(u64::from(ELEMENTS), u32::MAX).collect();
    round(&mut huge.whole, near, 3, &all);
    round(&mut huge.by_windows, far, 4, &small_ranges());
    for slot in [3, 5, 7, 9] {
        assert_eq!(
            huge.read(far(slot)),
            huge.read(far(slot + 1)),
            "slot {slot}"
        );
    }
    // Again, in other ranges: lanes show something else now.
    round(&mut huge.by_windows, far, 4, &all);
    assert_eq!(huge.read(far(9)), huge.read(far(10)));
}

#[test]
fn windows_are_writable_only_while_they_are_the_output() {
    // Writes to the address that it kept from its first call.
    let wat = Wat {
        fold: "(if (i32.eqz (global.get $first)) (then
                  (global.set $first (i32.load offset=12 (local.get $call)))))
               (f32.store (global.get $first) (f32.const 5)) (i32.const 0)",
        finish: "(f32.store (global.get $first) (f32.const 6)) (i32.const 0)",
        rest: "(global $first (mut i32) (i32.const 0))",
        ..SUM
    };
    let mut huge = Huge::new(&wat.function(), "");
    let inputs = [update(far(0), 1.0)];
    let mut call = operands(3, far(1), &inputs);
    huge.by_windows.fold(&call).unwrap();
    huge.by_windows.fold(&call).unwrap();
    call.output = far(2);
    call.model_elements = u64::from(RANGE_ELEMENTS) + 3;
    call.first_element = u64::from(RANGE_ELEMENTS);
    let error = huge
        .by_windows
        .fold(&call)
        .expect_err("its address is another");
    assert!(matches!(error, CallError::WroteOutside { .. }), "{error}");
}

#[test]
fn a_window_of_an_input_is_read_only_and_named() {
    let wat = Wat {
        fold: "(f32.store offset=8 (i32.load offset=96 (local.get $call)) (f32.const 9)) (i32.const 0)",
        ..SUM
    };
    let mut huge = Huge::new(&wat.function(), "");
    huge.write(1, &values(1));
    let inputs = [update(far(0), 1.0), update(far(1), 1.0)];
    let whole = operands(ELEMENTS, far(2), &inputs);
    let error = huge
        .by_windows
        .fold(&of_range(&whole, small_ranges()[1]))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("byte 16392 of the vector of input 1"),
        "{text}"
    );
    let untouched: Vec<u8> = values(1)
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(
        huge.read(far(1))[PAGE_BYTES as usize..][..untouched.len()],
        untouched
    );
}

#[test]
fn a_range_longer_than_a_window_is_refused() {
    let huge = Huge::new(&SUM.function(), "");
    let Huge { mut by_windows, .. } = huge;
    let inputs = [update(far(0), 1.0)];
    let most = by_windows.range_elements_max();
    let call = operands(most + RANGE_ELEMENTS, Place::at(0), &inputs);
    let error = by_windows.fold(&call).unwrap_err();
    assert!(error.instance_survives());
    assert!(error.to_string().contains("range by range"), "{error}");
}

#[test]
fn a_module_that_leaves_no_room_for_windows_is_refused() {
    let arena = Arena::named("tributary-huge", 3, 2 << 30);
    let greedy = Limits {
        memory_bytes: (4 << 30) - (16 << 20),
        ..LIMITS
    };
    let error = arena.try_instance(&SUM.function(), greedy, "").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("neither does a range of each operand"),
        "{text}"
    );
    assert!(text.contains("spec.limits.memory"), "{text}");
}
