//! What is checked, and what is built, in the pieces of an update that have just been read.
//!
//! The checks have no branch for each element, so that they become vector code; who is to blame is
//! searched for only when something is wrong.

use std::ops::Range;
use tributary_api::model::{Encoding, Part, SlotLayout, first_beyond};

/// The greatest byte, in magnitude.
const BYTE_MAX: f32 = 128.0;

/// The greatest scale: 128 times it is still finite.
pub(super) const SCALE_MAX: f32 = f32::MAX / BYTE_MAX;

/// The bits of the first 16-bit number that is not finite.
const F16_INFINITY: u16 = 0x7c00;
const BF16_INFINITY: u16 = 0x7f80;

/// What is wrong with an element; `at` counts from the beginning of its segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// A value beyond the greatest magnitude, perhaps NaN or infinity.
    Value { at: u64, value: f32 },
    /// A scale that is not above 0, not finite, or too large.
    Scale { at: u64, value: f32 },
    /// An index that its tensor does not have.
    Beyond { at: u64, index: i64, elements: u32 },
    /// An index that is not greater than the one before.
    Order { at: u64, index: i64, previous: u32 },
}

/// The pieces of one segment, as they come.
pub(super) struct Pieces {
    part: Part,
    encoding: Encoding,
    /// The greatest magnitude of a value; `None` if any will do, NaN and infinity included.
    most: Option<f32>,
    /// Elements that have come before.
    done: u64,
    /// The newest index, counted in its tensor.
    previous: Option<u32>,
}

impl Pieces {
    pub(super) fn new(part: Part, encoding: Encoding, most: Option<f32>) -> Self {
        Self {
            part,
            encoding,
            most,
            done: 0,
            previous: None,
        }
    }

    /// Checks the piece that has been read to `piece` of the slot's vector and finishes it there.
    pub(super) fn settle(&mut self, vector: &mut [u8], piece: Range<usize>) -> Result<(), Fault> {
        let bytes = piece.len() as u64;
        match self.part {
            Part::Elements { .. } | Part::Values { .. } => self.values(&vector[piece])?,
            Part::Scales {
                runs, start, block, ..
            } => {
                self.scales(&vector[piece.clone()])?;
                let first = runs as usize + self.done as usize * SlotLayout::RUN_BYTES as usize;
                let start = u64::from(start) + self.done * block;
                write_runs(vector, piece, first, start, block);
            }
            Part::Indices {
                base,
                elements,
                signed,
                ..
            } => {
                let piece = &mut vector[piece];
                self.indices(piece, elements, signed)?;
                rebase(piece, base);
            }
        }
        self.done += bytes / self.encoding_width();
        Ok(())
    }

    /// The bytes of one of the segment's elements.
    fn encoding_width(&self) -> u64 {
        match self.part {
            Part::Elements { .. } => self.encoding.value_bytes(),
            Part::Values { .. } | Part::Scales { .. } | Part::Indices { .. } => 4,
        }
    }

    fn values(&self, bytes: &[u8]) -> Result<(), Fault> {
        let Some(most) = self.most else { return Ok(()) };
        match first_value_beyond(self.encoding, bytes, most) {
            None => Ok(()),
            Some((at, value)) => Err(Fault::Value {
                at: self.done + at as u64,
                value,
            }),
        }
    }

    fn scales(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut scales = words(bytes).iter().map(|word| f32::from_le_bytes(*word));
        let most = self.most.map_or(SCALE_MAX, |most| most / BYTE_MAX);
        // A NaN is not in the range either.
        let Some(at) = scales.position(|scale| !(scale > 0.0 && scale <= most)) else {
            return Ok(());
        };
        let (value, at) = (f32::from_le_bytes(words(bytes)[at]), self.done + at as u64);
        Err(if value > most && value <= SCALE_MAX {
            Fault::Value {
                at,
                value: value * BYTE_MAX,
            }
        } else {
            Fault::Scale { at, value }
        })
    }

    /// Every index must be greater than the one before and below `elements`.
    fn indices(&mut self, bytes: &[u8], elements: u32, signed: bool) -> Result<(), Fault> {
        let words = words(bytes);
        let (Some(first), Some(last)) = (words.first(), words.last()) else {
            return Ok(());
        };
        // As U32, negative numbers are the largest.
        let bound = if signed {
            elements.min(1 << 31)
        } else {
            elements
        };
        let beyond = |at, index: u32| Fault::Beyond {
            at,
            index: if signed {
                i64::from(index.cast_signed())
            } else {
                i64::from(index)
            },
            elements,
        };
        let last = u32::from_le_bytes(*last);
        let follows = |previous| previous < u32::from_le_bytes(*first);
        if self.previous.is_none_or(follows) && ascend(words) && last < bound {
            self.previous = Some(last);
            return Ok(());
        }
        Err(self.wrong_index(words, bound, beyond))
    }

    /// The first index of a piece that is too large or out of order; there is one.
    fn wrong_index(
        &self,
        words: &[[u8; 4]],
        bound: u32,
        beyond: impl Fn(u64, u32) -> Fault,
    ) -> Fault {
        let mut previous = self.previous;
        let indices = words.iter().map(|word| u32::from_le_bytes(*word));
        for (at, index) in (self.done..).zip(indices) {
            if index >= bound {
                return beyond(at, index);
            }
            if let Some(previous) = previous.filter(|previous| *previous >= index) {
                let index = i64::from(index);
                return Fault::Order {
                    at,
                    index,
                    previous,
                };
            }
            previous = Some(index);
        }
        beyond(self.done, bound)
    }
}

/// Pieces are cut at multiples of 4 bytes.
fn words(bytes: &[u8]) -> &[[u8; 4]] {
    bytes.as_chunks().0
}

/// Whether each number is greater than the one before.
fn ascend(words: &[[u8; 4]]) -> bool {
    let pairs = words.iter().zip(words.iter().skip(1));
    pairs.fold(true, |ascend, (a, b)| {
        ascend & (u32::from_le_bytes(*a) < u32::from_le_bytes(*b))
    })
}

/// Turns indices of a tensor into coordinates of the model.
fn rebase(bytes: &mut [u8], base: u32) {
    for word in bytes.as_chunks_mut::<4>().0 {
        // An index is below its tensor's end, so the sum is below the model's.
        *word = u32::from_le_bytes(*word).wrapping_add(base).to_le_bytes();
    }
}

/// Writes a run for each scale of `piece`: the first to `first`, where it starts at the coordinate `start`.
///
/// Runs take twice the bytes of scales, and the last scale lies where the last run ends: so a run is never
/// written over a scale that has not been read.
fn write_runs(vector: &mut [u8], piece: Range<usize>, first: usize, start: u64, block: u64) {
    let runs = (first..).step_by(SlotLayout::RUN_BYTES as usize);
    let starts = (0..).map(|run| start + run * block);
    for ((scale, run), start) in piece.step_by(4).zip(runs).zip(starts) {
        vector.copy_within(scale..scale + 4, run + 4);
        // A coordinate: it fits, or the update would have been refused.
        vector[run..run + 4].copy_from_slice(&(start as u32).to_le_bytes());
    }
}

/// The first value of an encoding, little-endian, whose magnitude is not at most `most`.
fn first_value_beyond(encoding: Encoding, bytes: &[u8], most: f32) -> Option<(usize, f32)> {
    match encoding {
        Encoding::F32 | Encoding::Sparse => first_beyond(bytes, most),
        Encoding::F16 => first_half_beyond(bytes, most, F16_INFINITY, half),
        Encoding::Bf16 => first_half_beyond(bytes, most, BF16_INFINITY, brain),
        // Their scales are bounded.
        Encoding::I8 => None,
    }
}

/// As [`first_beyond`] among numbers of 16 bits: without the sign, their bits have the order of their magnitudes.
fn first_half_beyond(
    bytes: &[u8],
    most: f32,
    infinity: u16,
    widen: fn(u16) -> f32,
) -> Option<(usize, f32)> {
    let (halves, _) = bytes.as_chunks::<2>();
    // The first magnitude that is too large.
    let (mut within, mut beyond) = (0, infinity);
    while within < beyond {
        let middle = within.midpoint(beyond);
        if widen(middle) <= most {
            within = middle + 1;
        } else {
            beyond = middle;
        }
    }
    let is_beyond = |half: &[u8; 2]| u16::from_le_bytes(*half) & 0x7fff >= beyond;
    if !halves.iter().fold(false, |any, half| any | is_beyond(half)) {
        return None;
    }
    let at = halves.iter().position(is_beyond)?;
    Some((at, widen(u16::from_le_bytes(halves[at]))))
}

/// The value of a number in half precision.
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// The value of the upper half of an F32.
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests;
