//! Updates in every encoding: where their pieces go, and what is refused.

use proptest::prelude::*;

use super::{super::*, entry, header, layout, parse, two};

fn refusal(entries: &[String]) -> String {
    two()
        .match_update(&header(entries))
        .unwrap_err()
        .to_string()
}

/// A header whose tensors follow each other; each is a name, a type and a shape.
fn following(tensors: &[(&str, &str, &str)]) -> Vec<String> {
    let mut begin = 0;
    let entries = tensors.iter().map(|(name, dtype, shape)| {
        let lengths: Vec<u64> = serde_json::from_str(shape).unwrap();
        let width = match *dtype {
            "I8" => 1,
            "F16" | "BF16" => 2,
            "I64" => 8,
            _ => 4,
        };
        let end = begin + lengths.iter().product::<u64>() * width;
        let entry = entry(name, dtype, shape, begin, end);
        begin = end;
        entry
    });
    entries.collect()
}

fn with_block(block: &str, tensors: &[(&str, &str, &str)]) -> Header {
    let entries = following(tensors).join(",");
    parse(&format!(
        r#"{{"__metadata__":{{"block":"{block}"}},{entries}}}"#
    ))
    .unwrap()
}

#[test]
fn codes_names_and_sets_agree() {
    for (code, encoding) in Encoding::ALL.into_iter().enumerate() {
        assert_eq!(encoding.code() as usize, code);
        assert_eq!(Encoding::from_code(encoding.code()), Some(encoding));
    }
    assert_eq!(Encoding::from_code(5), None);
    assert_eq!(Encodings::default().to_string(), "f32");
    assert_eq!(
        Encodings::from_codes([1, 2]).to_string(),
        "f32, f16 and bf16"
    );
    assert_eq!(
        Encodings::from_codes(0..40).to_string(),
        "f32, f16, bf16, i8 and sparse"
    );
    assert!(!Encodings::from_codes([4]).contains(Encoding::I8));
}

#[test]
fn half_floats_take_half_the_slot() {
    for (dtype, encoding) in [("F16", Encoding::F16), ("BF16", Encoding::Bf16)] {
        let update = header(&following(&[("b", dtype, "[3]"), ("w", dtype, "[2,3]")]));
        assert_eq!(two().encoding_of(&update), encoding);
        let plan = two().match_update(&update).unwrap();
        assert_eq!(
            (plan.slot.bytes, plan.slot.count, plan.slot.table),
            (18, 0, None)
        );
        let offsets: Vec<_> = plan
            .segments
            .iter()
            .map(|s| (s.slot_offset, s.bytes, s.part))
            .collect();
        let (b, w) = (Part::Elements { first: 6 }, Part::Elements { first: 0 });
        assert_eq!(offsets, [(12, 6, b), (0, 12, w)]);
    }
}

#[test]
fn scales_become_runs_in_canonical_order() {
    let update = with_block(
        "4",
        &[
            ("b:scale", "F32", "[]"),
            ("w", "I8", "[2,3]"),
            ("w:scale", "F32", "[2]"),
            ("b", "I8", "[3]"),
        ],
    );
    let plan = two().match_update(&update).unwrap();
    assert_eq!(plan.slot.encoding, Encoding::I8);
    assert_eq!(
        (plan.slot.count, plan.slot.values, plan.slot.table),
        (3, 0, Some(16))
    );
    assert_eq!((plan.slot.bytes, plan.slot.gap()), (16 + 3 * 8, 9..16));
    let b = Part::Scales {
        tensor: 1,
        runs: 32,
        start: 6,
        block: 3,
    };
    let w = Part::Scales {
        tensor: 0,
        runs: 16,
        start: 0,
        block: 4,
    };
    let found: Vec<_> = plan
        .segments
        .iter()
        .map(|s| (s.slot_offset, s.bytes, s.part))
        .collect();
    assert_eq!(found[0], (36, 4, b));
    assert_eq!(found[1], (0, 6, Part::Elements { first: 0 }));
    assert_eq!(found[2], (24, 8, w));
    assert_eq!(found[3], (6, 3, Part::Elements { first: 6 }));
}

#[test]
fn pairs_lie_in_canonical_order() {
    let update = header(&following(&[
        ("b:values", "F32", "[1]"),
        ("b:indices", "I32", "[1]"),
        ("w:indices", "U32", "[2]"),
        ("w:values", "F32", "[2]"),
    ]));
    let plan = two().match_update(&update).unwrap();
    assert_eq!(
        (plan.slot.count, plan.slot.table, plan.slot.values),
        (3, Some(0), 16)
    );
    assert_eq!((plan.slot.bytes, plan.slot.gap()), (28, 12..16));
    let w = Part::Indices {
        tensor: 0,
        base: 0,
        elements: 6,
        signed: false,
    };
    let b = Part::Indices {
        tensor: 1,
        base: 6,
        elements: 3,
        signed: true,
    };
    let found: Vec<_> = plan
        .segments
        .iter()
        .map(|s| (s.slot_offset, s.bytes, s.part))
        .collect();
    assert_eq!(
        found,
        [
            (24, 4, Part::Values { tensor: 1 }),
            (8, 4, b),
            (0, 8, w),
            (16, 8, Part::Values { tensor: 0 })
        ]
    );
}

#[test]
fn a_sparse_update_may_be_empty() {
    let update = header(&following(&[
        ("w:indices", "U32", "[0]"),
        ("w:values", "F32", "[0]"),
    ]));
    let plan = two().match_update(&update).unwrap();
    assert_eq!((plan.slot.encoding, plan.slot.count), (Encoding::Sparse, 0));
    assert!(plan.segments.is_empty());
}

#[test]
fn a_model_may_have_such_names_of_its_own() {
    let names = [("w", "F32", "[2]"), ("w:scale", "F32", "[2]")];
    let model = layout(&following(&names));
    let plan = model.match_update(&header(&following(&names))).unwrap();
    assert_eq!(
        (plan.slot.encoding, plan.segments.len()),
        (Encoding::F32, 1)
    );
}

#[test]
fn encodings_are_not_mixed() {
    let cases: [(&[_], &str); 5] = [
        (
            &[("w", "F16", "[2,3]"), ("b", "F32", "[3]")],
            "tensor \"b\" is F32, but \"w\" makes this update f16, and an update has one encoding: \
             send all tensors in F16",
        ),
        (
            &[("w", "F32", "[2,3]"), ("b", "BF16", "[3]")],
            "tensor \"b\" is BF16, but \"w\" makes this update f32, and an update has one encoding: \
             send all tensors in F32",
        ),
        (
            &[
                ("w", "F32", "[2,3]"),
                ("b", "I8", "[3]"),
                ("b:scale", "F32", "[]"),
            ],
            "tensor \"w\" is F32, but \"b\" makes this update i8, and an update has one encoding: \
             send all tensors in I8, each with its \":scale\"",
        ),
        (
            &[
                ("w", "F32", "[2,3]"),
                ("b:indices", "U32", "[1]"),
                ("b:values", "F32", "[1]"),
            ],
            "tensor \"w\" is F32, but \"b:indices\" makes this update sparse, and an update has one encoding: \
             send \":indices\" and \":values\" of all tensors that have entries",
        ),
        (
            &[
                ("w:scale", "F32", "[]"),
                ("b:values", "F32", "[1]"),
                ("b:indices", "U32", "[1]"),
            ],
            "tensor \"w:scale\" is F32, but \"b:values\" makes this update sparse, and an update has one encoding: \
             send \":indices\" and \":values\" of all tensors that have entries",
        ),
    ];
    for (tensors, expected) in cases {
        assert_eq!(refusal(&following(tensors)), expected);
    }
}

#[test]
fn integers_of_a_state_dict_are_refused_by_name() {
    for dtype in ["F32", "F16"] {
        let count = ("bn.num_batches_tracked", "I64", "[]");
        let error = refusal(&following(&[
            count,
            ("w", dtype, "[2,3]"),
            ("b", dtype, "[3]"),
        ]));
        assert_eq!(
            error,
            "tensor \"bn.num_batches_tracked\" is not in the job's model"
        );
        let error = refusal(&following(&[("w", dtype, "[2,3]"), ("b", "I64", "[3]")]));
        assert_eq!(error, "tensor \"b\" is I64; the job's model has F32");
    }
}

#[test]
fn wrong_scales_are_named() {
    let cases: [(&[_], &str); 7] = [
        (
            &[
                ("w", "I8", "[2,3]"),
                ("b", "I8", "[3]"),
                ("b:scale", "F32", "[1]"),
            ],
            "tensor \"w\" is I8, but \"w:scale\" is missing; add it in F32: one number for the tensor, \
             or one for each block",
        ),
        (
            &[
                ("w:scale", "F32", "[]"),
                ("b", "I8", "[3]"),
                ("b:scale", "F32", "[1]"),
            ],
            "tensor \"w:scale\" is there, but \"w\" is missing; add it in I8",
        ),
        (
            &[("b", "I8", "[3]"), ("b:scale", "F32", "[1]")],
            "tensor \"w\" is missing",
        ),
        (
            &[("w", "I8", "[3,2]"), ("w:scale", "F32", "[]")],
            "tensor \"w\" has the shape [3, 2]; the job's model has [2, 3]",
        ),
        (
            &[("w", "I8", "[2,3]"), ("w:scale", "F32", "[2]")],
            "tensor \"w:scale\" has the shape [2], one scale for each block, but __metadata__ has no \"block\"; \
             add the number of elements of a block as a string, like \"block\": \"64\", or give one scale for the tensor",
        ),
        (
            &[("w", "I8", "[2,3]"), ("w:scale", "F16", "[]")],
            "tensor \"w:scale\" is F16; it must be F32",
        ),
        (
            &[("w", "I8", "[2,3]"), ("ww:scale", "F32", "[]")],
            "tensor \"ww:scale\" is not in the job's model; did you mean \"w\"?",
        ),
    ];
    for (tensors, expected) in cases {
        assert_eq!(refusal(&following(tensors)), expected);
    }
}

#[test]
fn wrong_blocks_are_named() {
    let error = |block: &str, shape: &str| {
        let update = with_block(block, &[("w", "I8", "[2,3]"), ("w:scale", "F32", shape)]);
        two().match_update(&update).unwrap_err().to_string()
    };
    for bad in ["", "0", "-4", "+4", "4.0", "four", "18446744073709551616"] {
        assert!(
            error(bad, "[2]").contains("must be a whole number above 0"),
            "{bad:?}"
        );
    }
    let shape = "[2], one scale for each block of 4, or [1], one for the tensor";
    for wrong in ["[3]", "[2,1]", "[0]"] {
        assert!(
            error("4", wrong).ends_with(&format!("the shape must be {shape}")),
            "{wrong}"
        );
    }
}

#[test]
fn empty_tensors_have_no_scale() {
    let model = layout(&following(&[("e", "F32", "[0]"), ("w", "F32", "[2]")]));
    let update = |scale| {
        let tensors = [
            ("e", "I8", "[0]"),
            ("e:scale", "F32", scale),
            ("w", "I8", "[2]"),
            ("w:scale", "F32", "[1]"),
        ];
        model.match_update(&header(&following(&tensors)))
    };
    assert_eq!(update("[0]").unwrap().slot.count, 1);
    let error = update("[1]").unwrap_err().to_string();
    assert!(
        error.ends_with("\"e\" has 0 elements: the shape must be [0], no scale"),
        "{error}"
    );
}

#[test]
fn wrong_pairs_are_named() {
    let cases: [(&[_], &str); 6] = [
        (
            &[("w:indices", "U32", "[2]")],
            "tensor \"w:indices\" is there, but \"w:values\" is missing; the two come together",
        ),
        (
            &[("w:values", "F32", "[2]")],
            "tensor \"w:values\" is there, but \"w:indices\" is missing; the two come together",
        ),
        (
            &[("w:indices", "U32", "[2]"), ("w:values", "F32", "[1]")],
            "tensor \"w:indices\" has 2 entries, but \"w:values\" has 1; each index has one value",
        ),
        (
            &[("w:indices", "I64", "[1]")],
            "tensor \"w:indices\" is I64; it must be U32 or I32",
        ),
        (
            &[("w:values", "F16", "[1]")],
            "tensor \"w:values\" is F16; it must be F32",
        ),
        (
            &[("w:indices", "U32", "[1,1]")],
            "tensor \"w:indices\" has the shape [1, 1]; it must be a list, of shape [k]",
        ),
    ];
    for (tensors, expected) in cases {
        assert_eq!(refusal(&following(tensors)), expected);
    }
}

#[test]
fn what_is_longer_than_the_model_is_sent_dense() {
    // 4096 bytes are the slot's least: 512 pairs, or 509 runs beside 24 bytes.
    let error = refusal(&following(&[
        ("w:indices", "U32", "[513]"),
        ("w:values", "F32", "[513]"),
    ]));
    assert_eq!(
        error,
        "as sparse with 513 entries the update takes 4108 bytes in its slot, which has 4096; \
         send it dense, in F32 or F16"
    );
    let model = layout(&following(&[("w", "F32", "[2000]")]));
    let update = with_block("2", &[("w", "I8", "[2000]"), ("w:scale", "F32", "[1000]")]);
    let error = model.match_update(&update).unwrap_err().to_string();
    assert!(
        error.ends_with("use larger blocks, or send it in F32 or F16"),
        "{error}"
    );
}

#[test]
fn coordinates_have_32_bits() {
    let elements = u64::from(u32::MAX) + 1;
    let model = layout(&[entry("w", "F32", &format!("[{elements}]"), 0, elements * 4)]);
    let update = [
        entry("w", "I8", &format!("[{elements}]"), 0, elements),
        entry("w:scale", "F32", "[]", elements, elements + 4),
    ];
    let error = model
        .match_update(&header(&update))
        .unwrap_err()
        .to_string();
    assert!(error.contains("too many for i8 updates"), "{error}");
}

/// The tensors of an update of any encoding, for a model of the given lengths, in some order.
fn updates() -> impl Strategy<Value = (Vec<u64>, Vec<(String, String, u64)>)> {
    let tensors = prop::collection::vec((1..40_u64, 0..10_u64), 1..6);
    (tensors, 0..5_usize).prop_flat_map(|(tensors, encoding)| {
        let lengths: Vec<_> = tensors.iter().map(|(length, _)| *length).collect();
        let mut parts = Vec::new();
        for (i, (length, pairs)) in tensors.iter().enumerate() {
            let mut part = |suffix: &str, dtype: &str, length| {
                parts.push((format!("t{i}{suffix}"), dtype.to_owned(), length));
            };
            match Encoding::ALL[encoding] {
                Encoding::F32 => part("", "F32", *length),
                Encoding::F16 => part("", "F16", *length),
                Encoding::Bf16 => part("", "BF16", *length),
                Encoding::I8 => {
                    part("", "I8", *length);
                    part(":scale", "F32", length.div_ceil(4));
                }
                Encoding::Sparse => {
                    part(":indices", "U32", *pairs);
                    part(":values", "F32", *pairs);
                }
            }
        }
        (Just(lengths), Just(parts).prop_shuffle())
    })
}

proptest! {
    /// Segments tile the file, and what they read to tiles the slot but for the gap and the room of the runs.
    #[test]
    fn segments_tile_the_file_and_never_overlap((lengths, parts) in updates()) {
        let model: Vec<_> = lengths.iter().enumerate()
            .map(|(i, length)| (format!("t{i}"), format!("[{length}]"))).collect();
        let model: Vec<_> = model.iter().map(|(name, shape)| (name.as_str(), "F32", shape.as_str())).collect();
        let model = layout(&following(&model));
        let shapes: Vec<_> = parts.iter().map(|(_, _, length)| format!("[{length}]")).collect();
        let update: Vec<_> = parts.iter().zip(&shapes)
            .map(|((name, dtype, _), shape)| (name.as_str(), dtype.as_str(), shape.as_str())).collect();
        let update = with_block("4", &update);
        let plan = model.match_update(&update).unwrap();

        prop_assert!(plan.slot.bytes <= SlotLayout::room(model.elements()));
        let count = u64::from(plan.slot.count);
        prop_assert_eq!(SlotLayout::new(plan.slot.encoding, model.elements(), count), Some(plan.slot));
        let mut taken = vec![false; usize::try_from(plan.slot.bytes).unwrap()];
        let mut file_offset = 0;
        for segment in &plan.segments {
            prop_assert_eq!(segment.file_offset, file_offset);
            file_offset += segment.bytes;
            let (from, bytes) = match segment.part {
                Part::Scales { runs, .. } => (runs, segment.bytes * 2),
                _ => (segment.slot_offset, segment.bytes),
            };
            for at in from..from + bytes {
                let place = &mut taken[usize::try_from(at).unwrap()];
                prop_assert!(!std::mem::replace(place, true), "written twice");
            }
        }
        prop_assert_eq!(file_offset, update.data_bytes());
        for (at, taken) in taken.iter().enumerate() {
            prop_assert_eq!(*taken, !plan.slot.gap().contains(&(at as u64)));
        }
    }
}
