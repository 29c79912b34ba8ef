use super::*;
use proptest::prelude::*;

/// The same number, or both are none.
fn same(a: Option<(usize, f32)>, b: Option<(usize, f32)>) -> bool {
    let bits = |found: Option<(usize, f32)>| {
        found.map(|(at, value)| {
            (
                at,
                value.is_nan(),
                value.is_sign_negative() && !value.is_nan(),
            )
        })
    };
    bits(a) == bits(b)
}

fn indices(elements: u32, signed: bool) -> Part {
    Part::Indices {
        tensor: 0,
        base: 1000,
        elements,
        signed,
    }
}

/// Settles `values` as the pieces of a segment.
fn settle_indices(part: Part, pieces: &[&[u32]]) -> Result<Vec<u32>, Fault> {
    let mut vector: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece.iter().flat_map(|index| index.to_le_bytes()))
        .collect();
    let (mut settled, mut begin) = (Pieces::new(part, Encoding::Sparse, Some(f32::MAX)), 0);
    for piece in pieces {
        let end = begin + piece.len() * 4;
        settled.settle(&mut vector, begin..end)?;
        begin = end;
    }
    let words = vector.as_chunks().0.iter();
    Ok(words.map(|word| u32::from_le_bytes(*word)).collect())
}

proptest! {
    #[test]
    fn finds_the_first_that_is_too_large(
        values in proptest::collection::vec(any::<f32>(), 0..300), most in prop_oneof![Just(f32::MAX), 0f32..f32::MAX],
    ) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let expected = values.iter().position(|v| v.is_nan() || v.abs() > most);
        prop_assert_eq!(first_value_beyond(Encoding::F32, &bytes, most).map(|(at, _)| at), expected);
    }

    #[test]
    fn finds_the_first_that_is_too_large_of_16_bits(
        values in proptest::collection::vec(any::<u16>(), 0..100),
        most in prop_oneof![Just(f32::MAX), 0f32..70_000.0, Just(65504.0), Just(1.0), Just(0.0)],
    ) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for (encoding, decode) in [(Encoding::F16, half as fn(u16) -> f32), (Encoding::Bf16, brain)] {
            let decoded = values.iter().map(|bits| decode(*bits));
            let expected = decoded.enumerate().find(|(_, value)| value.is_nan() || value.abs() > most);
            let found = first_value_beyond(encoding, &bytes, most);
            prop_assert!(same(found, expected), "{encoding}: {found:?}, not {expected:?}");
        }
    }

    /// Whatever comes, in whatever pieces: it ascends and is in the tensor, or the first fault is found.
    #[test]
    fn indices_are_rebased_or_their_first_fault_is_named(
        values in proptest::collection::vec(0..60_u32, 0..12), cut in 0..12_usize, sort in any::<bool>(), elements in 1..70_u32,
    ) {
        let mut values = values;
        if sort {
            values.sort_unstable();
            values.dedup();
        }
        let (first, second) = values.split_at(cut.min(values.len()));
        let fault = (0..values.len()).find_map(|at| {
            let index = i64::from(values[at]);
            let before = at.checked_sub(1).map(|before| values[before]);
            match before {
                _ if values[at] >= elements => Some(Fault::Beyond { at: at as u64, index, elements }),
                Some(previous) if previous >= values[at] => Some(Fault::Order { at: at as u64, index, previous }),
                _ => None,
            }
        });
        let expected = match fault {
            Some(fault) => Err(fault),
            None => Ok(values.iter().map(|index| index + 1000).collect()),
        };
        prop_assert_eq!(settle_indices(indices(elements, false), &[first, second]), expected);
    }
}

#[test]
fn every_number_of_16_bits_is_judged_rightly() {
    for bits in 0..=u16::MAX {
        for (encoding, value) in [(Encoding::F16, half(bits)), (Encoding::Bf16, brain(bits))] {
            let found = first_value_beyond(encoding, &bits.to_le_bytes(), f32::MAX);
            let expected = (!value.is_finite()).then_some((0, value));
            assert!(
                same(found, expected),
                "{bits:#06x} in {encoding}: {found:?}, not {expected:?}"
            );
        }
    }
}

#[test]
fn negative_indices_are_shown_as_they_were_sent() {
    let beyond = |index| Fault::Beyond {
        at: 1,
        index,
        elements: u32::MAX,
    };
    let found = settle_indices(indices(u32::MAX, true), &[&[3, u32::MAX]]);
    assert_eq!(found, Err(beyond(-1)));
    let found = settle_indices(indices(u32::MAX, false), &[&[3, u32::MAX]]);
    assert_eq!(found, Err(beyond(i64::from(u32::MAX))));
}

#[test]
fn scales_that_make_no_finite_number_are_found() {
    let part = Part::Scales {
        tensor: 0,
        runs: 0,
        start: 0,
        block: 1,
    };
    for good in [f32::MIN_POSITIVE, f32::from_bits(1), 1.0, SCALE_MAX] {
        let pieces = Pieces::new(part, Encoding::I8, Some(f32::MAX));
        assert_eq!(pieces.scales(&good.to_le_bytes()), Ok(()), "{good:e}");
        assert!((good * -128.0).is_finite());
    }
    let above = f32::from_bits(SCALE_MAX.to_bits() + 1);
    for bad in [0.0, -0.0, -1.0, above, f32::INFINITY, f32::NAN] {
        let pieces = Pieces::new(part, Encoding::I8, None);
        let found = pieces.scales(&[1f32.to_le_bytes(), bad.to_le_bytes()].concat());
        assert!(
            matches!(found, Err(Fault::Scale { at: 1, .. })),
            "{bad:e}: {found:?}"
        );
    }
}
