//! Sums of updates in every encoding against sums of the same values in `f32`.

#![allow(clippy::unwrap_used)] // The helpers of tests, too, are tests.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tributary_sdk::kernel::{Fault, double, exact, single};
use tributary_sdk::{Encoding, Encodings, Error, Run, Values};

/// An update that owns what it writes.
#[derive(Debug, Clone)]
enum Owned {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    I8(Vec<i8>, Vec<Run>),
    Sparse(Vec<u32>, Vec<f32>),
}

impl Owned {
    fn values(&self) -> Values<'_> {
        match self {
            Self::F32(values) => Values::F32(values),
            Self::F16(values) => Values::F16(values),
            Self::Bf16(values) => Values::Bf16(values),
            Self::I8(values, runs) => Values::I8 { values, runs },
            Self::Sparse(coordinates, values) => Values::Sparse {
                coordinates,
                values,
            },
        }
    }

    /// Its values, and its scales where they are no part of them.
    fn decoded(&self, len: usize) -> (Vec<f32>, Vec<f32>) {
        let ones = vec![1.0; len];
        match self {
            Self::F32(values) => (values.clone(), ones),
            Self::F16(values) => (values.iter().map(|bits| f16(*bits)).collect(), ones),
            Self::Bf16(values) => (values.iter().map(|bits| bf16(*bits)).collect(), ones),
            Self::I8(values, runs) => {
                let run = |at| {
                    runs.iter()
                        .rev()
                        .find(|run| run.start as usize <= at)
                        .unwrap()
                };
                let scales = (0..len).map(|at| run(at).scale).collect();
                (values.iter().copied().map(f32::from).collect(), scales)
            }
            Self::Sparse(coordinates, pairs) => {
                let mut values = vec![0.0; len];
                for (at, value) in coordinates.iter().zip(pairs) {
                    values[*at as usize] = *value;
                }
                (values, ones)
            }
        }
    }
}

/// A binary16 by its definition.
fn f16(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        31 if fraction > 0.0 => f32::NAN,
        31 => f32::INFINITY,
        0 => fraction * 2.0_f32.powi(-24),
        _ => (1024.0 + fraction) * 2.0_f32.powi(exponent - 25),
    }
}

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn finite_f16() -> impl Strategy<Value = u16> {
    any::<u16>().prop_filter("finite", |bits| bits & 0x7C00 != 0x7C00)
}

fn small_bf16() -> impl Strategy<Value = u16> {
    (-1000.0_f32..1000.0).prop_map(|value| (value.to_bits() >> 16) as u16)
}

/// Runs that begin where they like, the first one at 0.
fn runs(len: usize) -> impl Strategy<Value = Vec<Run>> {
    let starts = btree_map(0..len as u32, -0.5_f32..2.0, 0..12);
    starts.prop_map(|mut starts| {
        starts.entry(0).or_insert(0.25);
        let run = |(start, scale)| Run { start, scale };
        starts.into_iter().map(run).collect()
    })
}

fn update(len: usize) -> impl Strategy<Value = Owned> {
    let pairs = btree_map(0..len as u32, -100.0_f32..100.0, 0..len.min(200));
    prop_oneof![
        vec(-100.0_f32..100.0, len).prop_map(Owned::F32),
        vec(finite_f16(), len).prop_map(Owned::F16),
        vec(small_bf16(), len).prop_map(Owned::Bf16),
        (vec(any::<i8>(), len), runs(len)).prop_map(|(values, runs)| Owned::I8(values, runs)),
        pairs.prop_map(|pairs| {
            let (coordinates, values) = pairs.into_iter().unzip();
            Owned::Sparse(coordinates, values)
        }),
    ]
}

/// Updates of one length in encodings that follow each other as they like, a weight each.
fn updates() -> impl Strategy<Value = (usize, Vec<(Owned, u32)>)> {
    let lengths = prop_oneof![1_usize..70, 1020_usize..1060, 2040_usize..2110];
    lengths.prop_flat_map(|len| (Just(len), vec((update(len), 1_u32..5000), 1..9)))
}

/// Sums in all three kinds of arithmetic.
#[derive(Debug, PartialEq)]
struct Sums {
    single: Vec<f32>,
    double: Vec<f64>,
    exact: Vec<i64>,
}

const BITS: u32 = 24;

fn sums(updates: &[(Owned, u32)], first: usize, len: usize) -> Sums {
    let values: Vec<Values<'_>> = updates
        .iter()
        .map(|(update, _)| update.values().range(first, len).unwrap())
        .collect();
    let weights: Vec<f64> = updates
        .iter()
        .map(|(_, weight)| f64::from(*weight))
        .collect();
    let narrow: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let steps: Vec<i64> = weights
        .iter()
        .map(|weight| exact::quantise(*weight, BITS).unwrap())
        .collect();
    let first = first as u64;
    let mut sums = Sums {
        single: vec![f32::NAN; len],
        double: vec![f64::NAN; len],
        exact: vec![i64::MIN; len],
    };
    single::weighted_sum(&mut sums.single, None, &values, &narrow, first).unwrap();
    double::weighted_sum(&mut sums.double, None, &values, &weights, first).unwrap();
    exact::weighted_sum(&mut sums.exact, None, &values, &steps, first).unwrap();
    sums
}

/// The same, one element at a time, in the order of the updates and with the roundings that are promised.
fn expected(updates: &[(Owned, u32)], len: usize) -> Sums {
    let decoded: Vec<_> = updates
        .iter()
        .map(|(update, _)| update.decoded(len))
        .collect();
    let terms = |at: usize| {
        let weighted = decoded.iter().zip(updates);
        weighted.map(move |((values, scales), (_, weight))| (values[at], scales[at], *weight))
    };
    let step = f64::from(1 << BITS);
    Sums {
        single: (0..len)
            .map(|at| {
                terms(at).fold(0.0, |sum, (value, scale, weight)| {
                    value * (weight as f32 * scale) + sum
                })
            })
            .collect(),
        double: (0..len)
            .map(|at| {
                terms(at).fold(0.0, |sum, (value, scale, weight)| {
                    f64::from(value) * (f64::from(weight) * f64::from(scale)) + sum
                })
            })
            .collect(),
        exact: (0..len)
            .map(|at| {
                terms(at)
                    .map(|(value, scale, weight)| {
                        let weight = f64::from(weight) * step * f64::from(scale);
                        (f64::from(value) * weight).round_ties_even() as i64
                    })
                    .sum()
            })
            .collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_encoding_is_summed_bit_for_bit_beside_any_other((len, updates) in updates()) {
        prop_assert_eq!(sums(&updates, 0, len), expected(&updates, len));
    }

    #[test]
    fn ranges_are_parts_of_the_whole(
        (len, updates) in updates(),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(len);
        let whole = sums(&updates, 0, len);
        let (low, high) = (sums(&updates, 0, cut), sums(&updates, cut, len - cut));
        prop_assert_eq!([low.single, high.single].concat(), whole.single);
        prop_assert_eq!([low.double, high.double].concat(), whole.double);
        prop_assert_eq!([low.exact, high.exact].concat(), whole.exact);
    }
}

#[test]
fn every_finite_binary16_is_decoded_exactly() {
    let all: Vec<u16> = (0..=u16::MAX)
        .filter(|bits| bits & 0x7C00 != 0x7C00)
        .collect();
    let values: Vec<f32> = all.iter().map(|bits| f16(*bits)).collect();
    let mut sums = vec![f32::NAN; all.len()];
    // A weight that the quick way cannot multiply by 2^112, too.
    for weight in [1.0, 2.0_f32.powi(20)] {
        single::weighted_sum(&mut sums, None, &[Values::F16(&all)], &[weight], 0).unwrap();
        let expected: Vec<f32> = values.iter().map(|value| value * weight).collect();
        assert_eq!(sums, expected);
    }
}

#[test]
fn what_is_not_finite_is_no_number_in_any_encoding() {
    let mut halves = vec![0x3C00_u16; 1500];
    halves[1100] = 0x7C00;
    halves[1200] = 0xFE01;
    let mut sums = vec![0.0; 1500];
    single::weighted_sum(&mut sums, None, &[Values::F16(&halves)], &[2.0], 0).unwrap();
    assert_eq!(sums[1100], f32::INFINITY);
    assert!(sums[1200].is_nan());
    assert!(
        sums.iter()
            .enumerate()
            .all(|(at, sum)| at == 1100 || at == 1200 || *sum == 2.0)
    );

    let bad = f32::INFINITY;
    let bytes = [1_i8; 4];
    let cases = [
        Values::F16(&[0, 0, 0x7C00, 0x7C01]),
        Values::Bf16(&[0, 0, 0xFF80, 0]),
        Values::I8 {
            values: &bytes,
            runs: &[
                Run {
                    start: 0,
                    scale: 1.0,
                },
                Run {
                    start: 2,
                    scale: bad,
                },
            ],
        },
        Values::Sparse {
            coordinates: &[0, 2],
            values: &[1.0, f32::NAN],
        },
    ];
    for values in cases {
        let good = Values::F32(&[1.0; 4]);
        let fault = exact::weighted_sum(&mut [0; 4], None, &[good, values], &[1, 1], 0);
        let expected = Fault::NotFinite {
            element: 2,
            input: 1,
        };
        assert_eq!(fault, Err(expected), "{values:?}");
    }
}

#[test]
fn exact_sums_find_overflow_in_every_encoding() {
    let heavy = 1_i64 << 61;
    let cases = [
        Values::F16(&[0, 0x4000]),
        Values::Bf16(&[0, 0x4000]),
        Values::I8 {
            values: &[0, 2],
            runs: &[Run {
                start: 0,
                scale: 1.0,
            }],
        },
        Values::Sparse {
            coordinates: &[1],
            values: &[2.0],
        },
    ];
    for values in cases {
        let fault = exact::weighted_sum(&mut [0; 2], None, &[values], &[heavy], 0);
        assert_eq!(fault, Err(Fault::Overflow { element: 1 }), "{values:?}");
        let mut sums = [0; 2];
        exact::weighted_sum(&mut sums, None, &[values], &[heavy - 1024], 0).unwrap();
        assert_eq!(sums, [0, (heavy - 1024) * 2], "{values:?}");
    }
}

#[test]
fn broken_tables_are_refused() {
    let run = |start| Run { start, scale: 1.0 };
    let bytes = [1_i8; 4];
    fn runs<'a>(values: &'a [i8], runs: &'a [Run]) -> Values<'a> {
        Values::I8 { values, runs }
    }
    let (late, equal, back) = ([run(1)], [run(0), run(2), run(2)], [run(0), run(3), run(1)]);
    let pairs = |coordinates| Values::Sparse {
        coordinates,
        values: &[1.0, 1.0],
    };
    let broken = [
        runs(&bytes, &[]),
        runs(&bytes, &late),
        runs(&bytes, &equal),
        runs(&bytes, &back),
        pairs(&[5, 1]),
        pairs(&[0, 4]),
        pairs(&[0]),
    ];
    for values in broken {
        let inputs = [Values::F32(&[0.0; 4]), values];
        let fault = double::weighted_sum(&mut [0.0; 4], None, &inputs, &[1.0, 1.0], 0);
        assert_eq!(fault, Err(Fault::Table { input: 1 }), "{values:?}");
    }
}

#[test]
fn who_reads_f32_alone_is_told_of_anything_else() {
    assert_eq!(Values::F32(&[1.0]).f32().unwrap(), [1.0]);
    let error = Values::F16(&[0]).f32().unwrap_err();
    assert_eq!(error.code(), Error::INPUT);
    assert!(error.message().contains("F16"), "{error}");
}

#[test]
fn encodings_are_bits_by_their_codes() {
    assert_eq!(Encodings::default().bits(), 0);
    assert_eq!(Encodings::ALL.bits(), 0b11110);
    let dense = Encodings::ALL.without(Encoding::Sparse);
    assert_eq!(dense.bits(), 0b01110);
    assert!(dense.without(Encoding::F32).contain(Encoding::F32));
    assert!(!dense.contain(Encoding::Sparse));
}
