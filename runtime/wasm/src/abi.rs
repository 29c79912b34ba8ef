//! The records that cross the border between host and function: ABI version 1, little-endian.
//!
//! `docs/abi.md` is the statement for function authors; the layouts here are its host side, written
//! and read byte by byte so that no `repr(C)` struct has to be trusted to match.

use crate::encoding::Encodings;
use crate::error::Error;

/// The version this host speaks; a module carries it in the name of an export.
pub(crate) const VERSION: u32 = 1;
/// The export whose presence stamps a module with the version. Never called.
pub(crate) const VERSION_EXPORT: &str = "tributary_abi_v1";
/// The module name of the host's imports.
pub(crate) const IMPORT_MODULE: &str = "tributary";
/// The export that is the function's memory.
pub(crate) const MEMORY_EXPORT: &str = "memory";
/// Bytes of a page: of the call page, of a slot's scalars, and the granularity of protection.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of a WASM page, the granularity of a linear memory.
pub(crate) const WASM_PAGE_BYTES: u64 = 65_536;
/// The most inputs that one call may carry.
pub const INPUTS_MAX: u32 = 64;
/// The most bytes of partial that one element may take.
pub(crate) const PARTIAL_BYTES_PER_ELEMENT_MAX: u32 = 1024;

const CALL_HEADER_BYTES: usize = 64;
const INPUT_BYTES: usize = 32;
/// Bytes of the largest call record; it fits the call page.
pub(crate) const CALL_BYTES_MAX: usize = CALL_HEADER_BYTES + INPUT_BYTES * INPUTS_MAX as usize;
/// Bytes of a description.
pub const DESCRIPTION_BYTES: usize = 32;

const _: () = assert!(CALL_BYTES_MAX as u64 <= PAGE_BYTES);

/// The class of rule that a function declares to be; the planner derives the tree from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algebra {
    /// Folds and merges commute and associate: any tree over the clients gives the same result.
    Monoid,
}

/// What a function says about itself under a given configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Bytes of a partial's vector per element of the model.
    pub partial_bytes_per_element: u32,
    /// Bytes of a partial's scalars page that the function uses; at most [`PAGE_BYTES`].
    pub scalar_bytes: u32,
    /// The most inputs it takes per call, `1..=`[`INPUTS_MAX`].
    pub max_inputs: u32,
    /// The encodings of updates that it folds.
    pub encodings: Encodings,
    /// The class of rule it declares to be.
    pub algebra: Algebra,
}

impl Description {
    /// Reads a description as `describe` left it in memory.
    ///
    /// # Errors
    /// Refuses one that cannot be true.
    pub fn decode(bytes: &[u8; DESCRIPTION_BYTES]) -> Result<Self, Error> {
        let word = |index: usize| {
            let at = index * 4;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        within("abi", word(0), VERSION, VERSION)?;
        within("algebra", word(1), 1, 1)?;
        let description = Self {
            partial_bytes_per_element: within(
                "partial_bytes_per_element",
                word(2),
                1,
                PARTIAL_BYTES_PER_ELEMENT_MAX,
            )?,
            scalar_bytes: within("scalar_bytes", word(3), 0, PAGE_BYTES as u32)?,
            max_inputs: within("max_inputs", word(4), 1, INPUTS_MAX)?,
            encodings: Encodings::from_flags(within("flags", word(5), 0, Encodings::FLAGS_MAX)?),
            algebra: Algebra::Monoid,
        };
        for (name, index) in [("reserved[0]", 6), ("reserved[1]", 7)] {
            within(name, word(index), 0, 0)?;
        }
        Ok(description)
    }

    /// The description as [`Description::decode`] reads it.
    #[must_use]
    pub fn encode(&self) -> [u8; DESCRIPTION_BYTES] {
        let words = [
            VERSION,
            match self.algebra {
                Algebra::Monoid => 1,
            },
            self.partial_bytes_per_element,
            self.scalar_bytes,
            self.max_inputs,
            self.encodings.flags(),
        ];
        let mut bytes = [0; DESCRIPTION_BYTES];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }
}

fn within(field: &'static str, found: u32, low: u32, high: u32) -> Result<u32, Error> {
    if (low..=high).contains(&found) {
        return Ok(found);
    }
    Err(Error::Description {
        field,
        found,
        low,
        high,
    })
}

/// One call, as addresses in the function's linear memory (0 = absent).
#[derive(Debug, Default)]
pub(crate) struct CallRecord {
    pub(crate) elements: u32,
    pub(crate) previous: u32,
    pub(crate) output: u32,
    pub(crate) previous_scalars: u32,
    pub(crate) output_scalars: u32,
    pub(crate) model: u32,
    pub(crate) first_element: u64,
    pub(crate) round: u64,
}

/// One input of a call, as addresses in the function's linear memory.
#[derive(Debug)]
pub(crate) struct InputRecord {
    pub(crate) vector: u32,
    pub(crate) scalars: u32,
    pub(crate) weight: f64,
    pub(crate) contributors: u32,
    /// The code of the vector's encoding.
    pub(crate) encoding: u32,
    pub(crate) table: u32,
    /// Records of the table.
    pub(crate) count: u32,
}

impl CallRecord {
    /// The call's bytes and their number. At most [`INPUTS_MAX`] inputs: the caller has checked.
    pub(crate) fn encode(&self, inputs: &[InputRecord]) -> ([u8; CALL_BYTES_MAX], usize) {
        debug_assert!(inputs.len() <= INPUTS_MAX as usize);
        let mut bytes = [0; CALL_BYTES_MAX];
        let words = [
            inputs.len() as u32,
            self.elements,
            self.previous,
            self.output,
            self.previous_scalars,
            self.output_scalars,
            self.model,
            0,
        ];
        for (at, word) in words.iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[32..40].copy_from_slice(&self.first_element.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.round.to_le_bytes());
        let places = bytes[CALL_HEADER_BYTES..].as_chunks_mut::<INPUT_BYTES>().0;
        for (place, input) in places.iter_mut().zip(inputs) {
            place[0..4].copy_from_slice(&input.vector.to_le_bytes());
            place[4..8].copy_from_slice(&input.scalars.to_le_bytes());
            place[8..16].copy_from_slice(&input.weight.to_le_bytes());
            place[16..20].copy_from_slice(&input.contributors.to_le_bytes());
            place[20..24].copy_from_slice(&input.encoding.to_le_bytes());
            place[24..28].copy_from_slice(&input.table.to_le_bytes());
            place[28..32].copy_from_slice(&input.count.to_le_bytes());
        }
        (bytes, CALL_HEADER_BYTES + INPUT_BYTES * inputs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(words: [u32; 8]) -> Result<Description, Error> {
        let mut bytes = [0; DESCRIPTION_BYTES];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        Description::decode(&bytes)
    }

    #[test]
    fn a_sane_description_is_read() {
        let read = description([1, 1, 8, 16, 12, 0b110, 0, 0]).unwrap();
        assert_eq!(read.partial_bytes_per_element, 8);
        assert_eq!(read.scalar_bytes, 16);
        assert_eq!(read.max_inputs, 12);
        assert_eq!(read.encodings.to_string(), "f32, f16, bf16");
    }

    #[test]
    fn every_lie_names_its_field() {
        let sane = [1, 1, 8, 16, 12, 0, 0, 0];
        let lies = [
            (0, 2, "abi"),
            (1, 7, "algebra"),
            (2, 0, "partial_bytes_per_element"),
            (2, 1025, "partial_bytes_per_element"),
            (3, 4097, "scalar_bytes"),
            (4, 0, "max_inputs"),
            (4, 65, "max_inputs"),
            (5, 32, "flags"),
            (6, 1, "reserved[0]"),
            (7, 1, "reserved[1]"),
        ];
        for (index, value, field) in lies {
            let mut words = sane;
            words[index] = value;
            let error = description(words).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
            assert!(error.contains(&value.to_string()), "{error}");
        }
    }

    #[test]
    fn a_call_is_laid_out_as_the_document_says() {
        let record = CallRecord {
            elements: 3,
            previous: 4,
            output: 5,
            previous_scalars: 6,
            output_scalars: 7,
            model: 8,
            first_element: 9,
            round: 10,
        };
        let input = InputRecord {
            vector: 11,
            scalars: 12,
            weight: 0.5,
            contributors: 13,
            encoding: 14,
            table: 15,
            count: 16,
        };
        let (bytes, used) = record.encode(&[input]);
        assert_eq!(used, 96);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(
            [0, 4, 8, 12, 16, 20, 24, 28].map(word),
            [1, 3, 4, 5, 6, 7, 8, 0]
        );
        assert_eq!([32, 40].map(long), [9, 10]);
        let words = [64, 68, 80, 84, 88, 92].map(word);
        assert_eq!(words, [11, 12, 13, 14, 15, 16]);
        assert_eq!(f64::from_bits(long(72)), 0.5);
    }
}
