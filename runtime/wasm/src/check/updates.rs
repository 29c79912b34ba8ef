//! Made-up updates: finite, of both signs, different for every seed and element.

use crate::encoding::{Content, Encoding};

/// An update as a slot holds it, and what it says.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) content: Content,
    /// The slot's vector.
    pub(super) bytes: Vec<u8>,
    /// The values that it stands for.
    pub(super) values: Vec<f32>,
}

impl Update {
    /// An update of `elements` values.
    pub(super) fn made_up(encoding: Encoding, seed: u64, elements: u32) -> Self {
        let mut random = Random::new(seed);
        let drawn: Vec<u32> = (0..elements).map(|_| random.next()).collect();
        match encoding {
            Encoding::F32 => Self::of_values(drawn.iter().map(|bits| unit(*bits)).collect()),
            Encoding::F16 => dense(encoding, &drawn, |bits| {
                let half = ((bits & 0x83ff) | ((bits >> 16) & 0xf) << 10) as u16;
                (half.to_le_bytes().to_vec(), half_value(half))
            }),
            Encoding::Bf16 => dense(encoding, &drawn, |bits| {
                let upper = (unit(bits).to_bits() >> 16) as u16;
                let value = f32::from_bits(u32::from(upper) << 16);
                (upper.to_le_bytes().to_vec(), value)
            }),
            Encoding::I8 => in_runs(&drawn),
            Encoding::Sparse => sparse(&drawn),
        }
    }

    /// An update that is written down as it is.
    pub(super) fn of_values(values: Vec<f32>) -> Self {
        Self {
            content: Content::F32,
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            values,
        }
    }
}

fn dense(encoding: Encoding, drawn: &[u32], one: impl Fn(u32) -> (Vec<u8>, f32)) -> Update {
    let (bytes, values): (Vec<Vec<u8>>, Vec<f32>) = drawn.iter().map(|bits| one(*bits)).unzip();
    Update {
        content: Content { encoding, count: 0 },
        bytes: bytes.concat(),
        values,
    }
}

/// Bytes under a few scales, which change at odd places.
fn in_runs(drawn: &[u32]) -> Update {
    const RUN: usize = 333;
    let scale = |run: usize| (run + 1) as f32 / 640.0;
    let byte = |bits: u32| (bits >> 8) as i8;
    let runs = drawn.len().div_ceil(RUN);
    let mut bytes: Vec<u8> = drawn.iter().map(|bits| byte(*bits) as u8).collect();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    for run in 0..runs {
        bytes.extend_from_slice(&((run * RUN) as u32).to_le_bytes());
        bytes.extend_from_slice(&scale(run).to_le_bytes());
    }
    let values = drawn.iter().enumerate();
    Update {
        content: Content {
            encoding: Encoding::I8,
            count: runs as u32,
        },
        bytes,
        values: values
            .map(|(at, bits)| scale(at / RUN) * f32::from(byte(*bits)))
            .collect(),
    }
}

/// About one element in eight.
fn sparse(drawn: &[u32]) -> Update {
    let named = |bits: u32| bits & 7 == 0;
    let values: Vec<f32> = drawn
        .iter()
        .map(|bits| if named(*bits) { unit(*bits) } else { 0.0 })
        .collect();
    let coordinates: Vec<u32> = (0..)
        .zip(drawn)
        .filter(|(_, bits)| named(**bits))
        .map(|(at, _)| at)
        .collect();
    let mut bytes: Vec<u8> = coordinates.iter().flat_map(|at| at.to_le_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    for at in &coordinates {
        bytes.extend_from_slice(&values[*at as usize].to_le_bytes());
    }
    Update {
        content: Content {
            encoding: Encoding::Sparse,
            count: coordinates.len() as u32,
        },
        bytes,
        values,
    }
}

/// A value from -1 up to 1.
fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// What a half-precision float stands for, if it is finite.
fn half_value(half: u16) -> f32 {
    let (exponent, mantissa) = (
        i32::from((half >> 10) & 31),
        f32::from(half & 0x3ff) / 1024.0,
    );
    let size = match exponent {
        0 => mantissa * 2.0_f32.powi(-14),
        _ => (1.0 + mantissa) * 2.0_f32.powi(exponent - 15),
    };
    if half >> 15 == 1 { -size } else { size }
}

/// Xorshift: the same numbers on every machine.
struct Random {
    state: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self {
            state: (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
        }
    }

    fn next(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_laid_out_as_slots_are() {
        for encoding in Encoding::ALL {
            for elements in [1, 333, 1021, 5117] {
                let update = Update::made_up(encoding, 3, elements);
                assert_eq!(update.content.encoding, encoding);
                let layout = update.content.layout(u64::from(elements));
                assert_eq!(layout.bytes, update.bytes.len() as u64, "{encoding}");
                assert_eq!(update.values.len(), elements as usize);
                assert!(update.values.iter().all(|value| value.is_finite()));
            }
        }
    }

    #[test]
    fn halves_are_what_they_stand_for() {
        let values = [0x0001, 0x0400, 0x3c00, 0xc000, 0x3555].map(half_value);
        let expected = [5.960_464_5e-8, 6.103_515_6e-5, 1.0, -2.0, 0.333_251_95];
        assert_eq!(values, expected);
    }
}
