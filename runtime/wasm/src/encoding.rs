//! How an update's values are encoded, and where the parts of an encoded update lie in its slot.

use std::fmt;

/// How the values of an update are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// A 32-bit float per element. Every function takes it.
    #[default]
    F32,
    /// A half-precision float per element.
    F16,
    /// The upper half of a 32-bit float per element.
    Bf16,
    /// A signed byte per element, and a table of runs: each says from which coordinate on its scale
    /// counts.
    I8,
    /// Only the values that are not zero, and a table of their coordinates.
    Sparse,
}

impl Encoding {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::I8, Self::Sparse];

    /// The number that stands for it in calls, descriptions and slots.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The encoding that `code` stands for.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Whether a table belongs to the values: of scales, or of coordinates. Not folded by windows.
    #[must_use]
    pub fn has_table(self) -> bool {
        matches!(self, Self::I8 | Self::Sparse)
    }

    /// Bytes of one element in the vector; none if the vector does not hold every element.
    #[must_use]
    pub fn element_bytes(self) -> Option<u64> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::I8 => Some(1),
            Self::Sparse => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::Sparse => "sparse",
        })
    }
}

/// The encodings that a function folds. `f32` is always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encodings {
    flags: u32,
}

impl Encodings {
    /// The largest flags of a description: a bit for each encoding.
    pub(crate) const FLAGS_MAX: u32 = (1 << Encoding::ALL.len()) - 1;

    /// Nothing but `f32`.
    pub const F32_ONLY: Self = Self {
        flags: 1 << Encoding::F32 as u32,
    };

    /// Those named, and `f32`.
    #[must_use]
    pub fn of(encodings: &[Encoding]) -> Self {
        let bits = encodings.iter().map(|encoding| 1 << encoding.code());
        Self::from_flags(bits.fold(0, |flags, bit: u32| flags | bit))
    }

    /// From a description's flags, of which only bits up to [`Self::FLAGS_MAX`] count.
    pub(crate) fn from_flags(flags: u32) -> Self {
        Self {
            flags: flags & Self::FLAGS_MAX | Self::F32_ONLY.flags,
        }
    }

    pub(crate) fn flags(self) -> u32 {
        self.flags
    }

    /// Whether `encoding` is one of them.
    #[must_use]
    pub fn contains(self, encoding: Encoding) -> bool {
        self.flags & (1 << encoding.code()) != 0
    }

    /// All of them, in the order of their codes.
    pub fn iter(self) -> impl Iterator<Item = Encoding> {
        Encoding::ALL
            .into_iter()
            .filter(move |encoding| self.contains(*encoding))
    }
}

impl Default for Encodings {
    fn default() -> Self {
        Self::F32_ONLY
    }
}

impl fmt::Display for Encodings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|encoding| encoding.to_string()).collect();
        formatter.write_str(&names.join(", "))
    }
}

/// What a slot's vector holds: an encoding, and how long its table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Content {
    /// How the values are encoded.
    pub encoding: Encoding,
    /// Records of the table: scale runs of `i8`, entries of `sparse`; else 0.
    pub count: u32,
}

impl Content {
    /// A float per element: plain updates, models, and what stands for the vectors of partials.
    pub const F32: Self = Self {
        encoding: Encoding::F32,
        count: 0,
    };

    /// Where the parts lie when the model has `elements`; sizes beyond `u64` end at its maximum.
    #[must_use]
    pub fn layout(self, elements: u64) -> ContentLayout {
        let count = u64::from(self.count);
        match self.encoding {
            Encoding::Sparse => {
                let values = (count * 4).next_multiple_of(TABLE_ALIGN);
                ContentLayout {
                    values,
                    table: Some(0),
                    bytes: values + count * 4,
                }
            }
            Encoding::I8 => {
                let table = elements
                    .checked_next_multiple_of(TABLE_ALIGN)
                    .unwrap_or(u64::MAX);
                ContentLayout {
                    values: 0,
                    table: Some(table),
                    bytes: table.saturating_add(count * RUN_BYTES),
                }
            }
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => ContentLayout {
                values: 0,
                table: None,
                bytes: elements.saturating_mul(self.encoding.element_bytes().unwrap_or(0)),
            },
        }
    }
}

/// Bytes of one scale run: the coordinate where it begins (u32) and its scale (f32).
const RUN_BYTES: u64 = 8;
/// What follows another part begins at a multiple of this.
const TABLE_ALIGN: u64 = 8;

/// Where the parts of an encoded update lie, in bytes from the first of its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentLayout {
    /// The first value.
    pub values: u64,
    /// The table: of coordinates (u32 each), or of scale runs (u32 and f32 each).
    pub table: Option<u64>,
    /// Where the last part ends.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_document() {
        let codes = Encoding::ALL.map(Encoding::code);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        for encoding in Encoding::ALL {
            assert_eq!(Encoding::from_code(encoding.code()), Some(encoding));
        }
        assert_eq!(Encoding::from_code(5), None);
    }

    #[test]
    fn f32_is_in_every_set() {
        assert_eq!(Encodings::from_flags(0), Encodings::F32_ONLY);
        let some = Encodings::of(&[Encoding::Bf16, Encoding::Sparse]);
        assert_eq!(some, Encodings::from_flags(0b10100));
        assert_eq!(some.to_string(), "f32, bf16, sparse");
        assert!(!some.contains(Encoding::F16));
        assert_eq!(Encodings::FLAGS_MAX, 31);
    }

    #[test]
    fn parts_follow_each_other() {
        let layout = |encoding, count| Content { encoding, count }.layout(1021);
        let found = |layout: ContentLayout| (layout.values, layout.table, layout.bytes);
        assert_eq!(found(layout(Encoding::F32, 0)), (0, None, 4084));
        assert_eq!(found(layout(Encoding::Bf16, 0)), (0, None, 2042));
        assert_eq!(found(layout(Encoding::I8, 3)), (0, Some(1024), 1048));
        assert_eq!(found(layout(Encoding::Sparse, 3)), (16, Some(0), 28));
        assert_eq!(found(layout(Encoding::Sparse, 0)), (0, Some(0), 0));
    }

    #[test]
    fn sizes_beyond_reason_do_not_wrap() {
        for encoding in Encoding::ALL {
            let content = Content {
                encoding,
                count: u32::MAX,
            };
            assert!(content.layout(u64::MAX).bytes > 1 << 34, "{encoding}");
        }
    }
}
