//! The window: seen whole, written only at the output, and gone with its instance.

use crate::fixture::{Arena, ENGINE, LIMITS, SUM, Wat, operands};
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use std::os::fd::AsRawFd;
use tributary_wasm::{CallError, Error, PAGE_BYTES, Place, WINDOW_BYTES_MAX, Window};

fn mappings(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(name)).count()
}

#[test]
fn folds_merges_and_finishes_in_place() {
    let arena = Arena::new(8, 4096);
    for slot in 0..3 {
        arena.write(slot, &[1.0 + slot as f32, 10.0, 100.0]);
    }
    let mut instance = arena.instance(&SUM.function(), LIMITS, "");
    let two = [arena.update(0, 1.0), arena.update(1, 1.0)];
    instance.fold(&operands(3, arena.place(3), &two)).unwrap();
    assert_eq!(arena.read(3, 3), [3.0, 20.0, 200.0]);

    let third = [arena.update(2, 1.0)];
    let mut onward = operands(3, arena.place(4), &third);
    onward.previous = Some(arena.place(3));
    instance.fold(&onward).unwrap();
    assert_eq!(arena.read(4, 3), [6.0, 30.0, 300.0]);

    let partials = [arena.partial(3), arena.partial(4)];
    instance
        .merge(&operands(3, arena.place(5), &partials))
        .unwrap();
    let mut finish = operands(3, arena.place(6), &[]);
    finish.previous = Some(arena.place(5));
    instance.finish(&finish).unwrap();
    assert_eq!(arena.read(6, 3), [9.0, 50.0, 500.0]);
    assert_eq!(
        arena.read(3, 3),
        [3.0, 20.0, 200.0],
        "a shadow never changes"
    );
}

#[test]
fn what_others_write_between_calls_is_seen() {
    let arena = Arena::new(4, 4096);
    let mut instance = arena.instance(&SUM.function(), LIMITS, "");
    for value in [1.0, 2.0, 3.0] {
        arena.write(0, &[value]);
        let inputs = [arena.update(0, 1.0)];
        instance
            .fold(&operands(1, arena.place(1), &inputs))
            .unwrap();
        assert_eq!(arena.read(1, 1), [value]);
    }
}

#[test]
fn a_slot_is_writable_only_while_it_is_the_output() {
    // Writes to the address that it kept from its first call.
    let wat = Wat {
        fold: "(if (i32.eqz (global.get $first)) (then
                  (global.set $first (i32.load offset=12 (local.get $call)))))
               (f32.store (global.get $first) (f32.const 5)) (i32.const 0)",
        rest: "(global $first (mut i32) (i32.const 0))",
        ..SUM
    };
    let arena = Arena::new(4, 4096);
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let inputs = [arena.update(0, 1.0)];
    instance
        .fold(&operands(3, arena.place(1), &inputs))
        .unwrap();
    instance
        .fold(&operands(3, arena.place(1), &inputs))
        .unwrap();
    let error = instance
        .fold(&operands(3, arena.place(2), &inputs))
        .expect_err("slot 1 is not the output now");
    assert!(matches!(error, CallError::WroteOutside { .. }), "{error}");
}

#[test]
fn data_segments_and_bulk_operations_work_beside_and_in_the_window() {
    let wat = Wat {
        // A pattern from its data into own memory, from there to the output; then part of the output
        // cleared, and an input copied behind it.
        fold: r#"(memory.init $late (i32.const 2000) (i32.const 0) (i32.const 8))
            (memory.copy (i32.load offset=12 (local.get $call)) (i32.const 2000) (i32.const 8))
            (memory.copy (i32.add (i32.load offset=12 (local.get $call)) (i32.const 8))
                (i32.const 3000) (i32.const 8))
            (memory.fill (i32.load offset=12 (local.get $call)) (i32.const 0) (i32.const 4))
            (memory.copy (i32.add (i32.load offset=12 (local.get $call)) (i32.const 16))
                (i32.load offset=64 (local.get $call)) (i32.const 4))
            (memory.init $late (i32.add (i32.load offset=12 (local.get $call)) (i32.const 20))
                (i32.const 0) (i32.const 4))
            (data.drop $late)
            (i32.const 0)"#,
        rest: r#"(data $late "\00\00\80\3f\00\00\00\40")
                 (data (i32.const 3000) "\00\00\40\40\00\00\80\40")"#,
        ..SUM
    };
    let arena = Arena::new(4, 4096);
    arena.write(0, &[9.0]);
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let inputs = [arena.update(0, 1.0)];
    instance
        .fold(&operands(6, arena.place(1), &inputs))
        .unwrap();
    assert_eq!(arena.read(1, 6), [0.0, 2.0, 3.0, 4.0, 9.0, 1.0]);
    let error = instance
        .fold(&operands(6, arena.place(1), &inputs))
        .expect_err("the segment was dropped");
    assert!(matches!(error, CallError::Trap { .. }), "{error}");
}

#[test]
fn overlapping_copies_behave_as_memmove_over_many_pages() {
    let wat = Wat {
        fold: "(memory.copy (i32.load offset=12 (local.get $call))
                 (i32.load offset=64 (local.get $call)) (i32.const 40000))
               (memory.copy (i32.add (i32.load offset=12 (local.get $call)) (i32.const 4))
                 (i32.load offset=12 (local.get $call)) (i32.const 39996))
               (i32.const 0)",
        ..SUM
    };
    let arena = Arena::new(4, 40_000);
    let values: Vec<f32> = (0..10_000_u16).map(f32::from).collect();
    arena.write(0, &values);
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let inputs = [arena.update(0, 1.0)];
    instance
        .fold(&operands(10_000, arena.place(1), &inputs))
        .unwrap();
    let mut expected = vec![0.0];
    expected.extend_from_slice(&values[..9_999]);
    assert_eq!(arena.read(1, 10_000), expected);
}

#[test]
fn own_memory_grows_behind_the_window_and_is_counted_alone() {
    let wat = Wat {
        fold: "(drop (memory.grow (i32.const 2)))
               (i64.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8))
                 (i64.const -1))
               (call $sum (local.get $call))",
        ..SUM
    };
    let arena = Arena::new(4, 4096);
    arena.write(0, &[1.0, 2.0, 3.0]);
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    assert_eq!(instance.own_memory_bytes(), 65_536);
    let inputs = [arena.update(0, 1.0)];
    instance
        .fold(&operands(3, arena.place(1), &inputs))
        .unwrap();
    assert_eq!(instance.own_memory_bytes(), 3 * 65_536);
    assert_eq!(arena.read(1, 3), [1.0, 2.0, 3.0]);
}

#[test]
fn nothing_of_a_window_survives_its_instance() {
    let arena = Arena::named("tributary-leftovers", 4, 1 << 20);
    let function = SUM.function();
    let mut instances = Vec::new();
    for _ in 0..3 {
        let mut instance = arena.instance(&function, LIMITS, "");
        let inputs = [arena.update(0, 1.0)];
        instance
            .fold(&operands(3, arena.place(1), &inputs))
            .unwrap();
        instances.push(instance);
    }
    // Of each while no call runs: what was named of two slots, and what lies behind each. Protections are merged again.
    assert_eq!(mappings("tributary-leftovers"), 3 * 4);
    instances.pop();
    assert_eq!(mappings("tributary-leftovers"), 2 * 4);
    drop(instances);
    assert_eq!(mappings("tributary-leftovers"), 0);
}

#[test]
fn nothing_of_a_window_survives_a_trap_or_a_refusal() {
    let arena = Arena::named("tributary-refused", 4, 4096);
    let trapping = Wat {
        fold: "(f32.store (i32.load offset=64 (local.get $call)) (f32.const 9)) (i32.const 0)",
        ..SUM
    };
    let mut instance = arena.instance(&trapping.function(), LIMITS, "");
    let inputs = [arena.update(0, 1.0)];
    let folded = instance.fold(&operands(3, arena.place(1), &inputs));
    assert!(folded.is_err());
    drop(instance);
    let read_only = {
        let path = format!("/proc/self/fd/{}", arena.file.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap()
    };
    let window = Window {
        fd: read_only,
        ..arena.window()
    };
    let refused = SUM.function().instantiate(LIMITS, b"", window);
    let error = refused.expect_err("not writable");
    assert!(error.to_string().contains("reading and writing"), "{error}");
    assert_eq!(mappings("tributary-refused"), 0);
}

#[test]
fn a_thousand_instances_come_and_go_without_a_trace() {
    let arena = Arena::named("tributary-thousand", 4, 4096);
    let function = SUM.function();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let inputs = [arena.update(0, 1.0)];
    let before = descriptors();
    for _ in 0..1000 {
        let mut instance = arena.instance(&function, LIMITS, "");
        instance
            .fold(&operands(3, arena.place(1), &inputs))
            .unwrap();
    }
    assert_eq!(mappings("tributary-thousand"), 0);
    // Other tests of this process hold a few.
    assert!(descriptors() < before + 500);
}

#[test]
fn windows_that_cannot_be_mapped_are_refused() {
    let function = SUM.function();
    let memory = |bytes: u64| {
        let fd = rustix::fs::memfd_create("tributary-test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        fd
    };
    let try_map = |bytes: u64, offset: u64, len: u64| {
        let window = Window {
            fd: memory(bytes),
            offset,
            len,
        };
        let made = function.instantiate(LIMITS, b"", window);
        made.map(|_| ()).expect_err("it cannot be mapped")
    };
    let short = try_map(16_384, 4096, 16_384);
    assert!(short.to_string().contains("file of 16384 bytes"), "{short}");
    let wrapping = try_map(16_384, u64::MAX - 4095, 16_384);
    assert!(matches!(wrapping, Error::Window(_)), "{wrapping}");
    let unaligned = try_map(65_536, 100, 16_384);
    assert!(unaligned.to_string().contains("offset 100"), "{unaligned}");
    for bytes in [0, 12_000] {
        let ragged = try_map(65_536, 0, bytes);
        assert!(ragged.to_string().contains("not pages"), "{ragged}");
    }
}

#[test]
fn the_largest_window_is_mapped_and_used_at_its_end() {
    // 3.5 GiB of addresses, of which only what is touched becomes memory.
    let slots = WINDOW_BYTES_MAX / (1 << 20);
    let arena = Arena::new(slots, (1 << 20) - PAGE_BYTES);
    let mut instance = arena.instance(&SUM.function(), LIMITS, "");
    arena.write(slots - 2, &[1.0, 2.0]);
    let inputs = [arena.update(slots - 2, 1.0)];
    instance
        .fold(&operands(2, arena.place(slots - 1), &inputs))
        .unwrap();
    assert_eq!(arena.read(slots - 1, 2), [1.0, 2.0]);
}

/// A slot that was never claimed has no memory: reading it would make some, or kill the process where there is none.
#[test]
fn memory_that_no_call_has_named_cannot_be_read() {
    let far = 5 * 8192;
    let wat = Wat {
        fold: &format!(
            "(f32.store (i32.load offset=12 (local.get $call)) \
             (f32.load offset={far} (i32.load offset=64 (local.get $call)))) (i32.const 0)"
        ),
        ..SUM
    };
    let arena = Arena::new(8, 4096);
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let near = [arena.update(0, 1.0)];
    let error = instance
        .fold(&operands(3, arena.place(1), &near))
        .expect_err("slot 5 is nobody's");
    assert!(
        error.to_string().contains("reached outside its operands"),
        "{error}"
    );
    let data = rustix::fs::seek(&arena.file, SeekFrom::Data(far));
    assert_eq!(
        data,
        Err(rustix::io::Errno::NXIO),
        "its pages are still to be made"
    );
    // Once a call has named it, it is there.
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    arena.write(5, &[7.0]);
    let both = [near[0], arena.update(5, 1.0)];
    let call = operands(3, arena.place(1), &both);
    instance.fold(&call).unwrap();
    assert_eq!(arena.read(1, 1), [7.0]);
}

#[test]
fn an_arena_may_begin_anywhere_in_its_segment() {
    let arena = Arena::new(6, 4096);
    arena.write(2, &[7.0]);
    let window = Window {
        offset: 2 * arena.stride,
        len: 4 * arena.stride,
        ..arena.window()
    };
    let mut instance = SUM.function().instantiate(LIMITS, b"", window).unwrap();
    let inputs = [arena.update(0, 1.0)];
    instance
        .fold(&operands(1, Place::at(arena.stride), &inputs))
        .unwrap();
    assert_eq!(arena.read(3, 1), [7.0]);
}

#[test]
fn a_segment_cut_short_is_an_error_and_not_a_signal() {
    let arena = Arena::new(4, 4096);
    let mut instance = arena.instance(&SUM.function(), LIMITS, "");
    arena.file.set_len(arena.stride).unwrap();
    let inputs = [arena.update(0, 1.0)];
    let error = instance
        .fold(&operands(3, arena.place(1), &inputs))
        .expect_err("its pages are gone");
    assert!(matches!(error, CallError::Protect { .. }), "{error}");
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn operands_that_cannot_be_right_are_refused_and_the_instance_stays_usable() {
    let arena = Arena::new(4, 4096);
    let mut instance = arena.instance(&SUM.function(), LIMITS, "");
    let inputs = [arena.update(1, 1.0)];
    let error = instance
        .fold(&operands(3, arena.place(1), &inputs))
        .expect_err("the output is an input");
    assert!(matches!(error, CallError::Operands { .. }), "{error}");
    assert!(error.instance_survives());
    instance
        .fold(&operands(3, arena.place(2), &inputs))
        .unwrap();
}

#[test]
fn instances_move_between_threads() {
    let arena = Arena::new(4, 4096);
    arena.write(0, &[4.0]);
    let mut instance = arena.instance(&SUM.function(), LIMITS, "");
    let output = arena.place(1);
    let inputs = [arena.update(0, 1.0)];
    let thread = std::thread::spawn(move || instance.fold(&operands(1, output, &inputs)));
    thread.join().unwrap().unwrap();
    assert_eq!(arena.read(1, 1), [4.0]);
    // The engine is shared by all of them.
    let _ = ENGINE.clone();
}

#[test]
fn page_tables_stay_warm_across_calls() {
    const PAGES: u64 = 4096;
    let faults = || -> u64 {
        // After the name in parentheses: state, six numbers, flags, then minor faults.
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        fields.split_whitespace().nth(7).unwrap().parse().unwrap()
    };
    let wat = Wat {
        // Only touches every page: speed is no matter here.
        fold: "(memory.copy (i32.load offset=12 (local.get $call))
                 (i32.load offset=64 (local.get $call))
                 (i32.mul (i32.load offset=4 (local.get $call)) (i32.const 4)))
               (i32.const 0)",
        ..SUM
    };
    let elements = (PAGES * PAGE_BYTES / 4) as u32;
    let arena = Arena::new(4, PAGES * PAGE_BYTES);
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let inputs = [arena.update(0, 1.0)];
    let mut fold = |output: u64| {
        let before = faults();
        instance
            .fold(&operands(elements, arena.place(output), &inputs))
            .unwrap();
        faults() - before
    };
    fold(1);
    fold(2);
    // Protections changed twice per call; pages stay where they are.
    for output in [1, 2, 1, 2] {
        let faults = fold(output);
        assert!(faults < PAGES / 16, "{faults} faults");
    }
}
