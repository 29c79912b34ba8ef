//! How the elements of an update are encoded, and where the encoded parts lie in a slot.

use std::{fmt, ops::Range};

use safetensors::Dtype;

/// Slots begin at pages and hold whole pages.
const PAGE: u64 = 4096;

/// How the elements of an update are encoded. An update has one encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Encoding {
    /// Numbers of 32 bits.
    #[default]
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// The upper half of an F32.
    Bf16 = 2,
    /// Whole numbers of 8 bits, and a scale for each run of elements.
    I8 = 3,
    /// The elements that are not 0: coordinates and F32 values.
    Sparse = 4,
}

/// A set of encodings: those that a function folds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encodings(u32);

/// Where the parts of an encoded update lie in the vector of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLayout {
    /// The encoding.
    pub encoding: Encoding,
    /// What the encoding counts: runs of scales, or pairs; else 0.
    pub count: u32,
    /// The offset of the first value.
    pub values: u64,
    /// The offset of the runs of scales, or of the coordinates.
    pub table: Option<u64>,
    /// The offset after the last byte.
    pub bytes: u64,
    /// Bytes between the two parts that belong to neither, from and to.
    gap: (u64, u64),
}

impl Encoding {
    /// All encodings, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::I8, Self::Sparse];

    /// The number that stands for it in slots and calls.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The encoding of a code.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Its name in documents and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::Sparse => "sparse",
        }
    }

    /// The bytes of one value.
    #[must_use]
    pub const fn value_bytes(self) -> u64 {
        match self {
            Self::F32 | Self::Sparse => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }

    /// The type that a file's values of this encoding have.
    pub(super) const fn dtype(self) -> Dtype {
        match self {
            Self::F32 | Self::Sparse => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
            Self::I8 => Dtype::I8,
        }
    }

    /// The dense encoding whose values have this type.
    pub(super) fn of_dtype(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::I8 => Some(Self::I8),
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Encodings {
    /// The encodings of these codes, and F32, which every function folds. Unknown codes do not count.
    #[must_use]
    pub fn from_codes(codes: impl IntoIterator<Item = u32>) -> Self {
        let known = codes.into_iter().filter_map(Encoding::from_code);
        Self(known.fold(bit(Encoding::F32), |set, encoding| set | bit(encoding)))
    }

    /// Whether `encoding` belongs to it.
    #[must_use]
    pub const fn contains(self, encoding: Encoding) -> bool {
        self.0 & bit(encoding) != 0
    }
}

impl Default for Encodings {
    fn default() -> Self {
        Self::from_codes([])
    }
}

/// `f32, f16 and i8`.
impl fmt::Display for Encodings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Encoding::ALL
            .into_iter()
            .filter(|encoding| self.contains(*encoding))
            .map(Encoding::name)
            .collect();
        match names.split_last() {
            Some((last, [])) => f.write_str(last),
            Some((last, others)) => write!(f, "{} and {last}", others.join(", ")),
            None => Ok(()),
        }
    }
}

const fn bit(encoding: Encoding) -> u32 {
    1 << encoding.code()
}

impl SlotLayout {
    /// Bytes of a run of scales: the coordinate where it starts, and the scale.
    pub const RUN_BYTES: u64 = 8;

    /// Where an update of a model of `elements` elements lies. `count` is what the encoding counts; it does not
    /// matter to the dense encodings.
    ///
    /// `None` if coordinates of the model, or offsets in the slot, do not fit their types.
    #[must_use]
    pub fn new(encoding: Encoding, elements: u64, count: u64) -> Option<Self> {
        match encoding {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => {
                let bytes = elements.checked_mul(encoding.value_bytes())?;
                Some(Self::dense(encoding, bytes))
            }
            Encoding::I8 => Self::scaled(elements, count),
            Encoding::Sparse => Self::pairs(elements, count),
        }
    }

    const fn dense(encoding: Encoding, bytes: u64) -> Self {
        Self {
            encoding,
            count: 0,
            values: 0,
            table: None,
            bytes,
            gap: (bytes, bytes),
        }
    }

    /// The elements, then the runs at a multiple of 8.
    fn scaled(elements: u64, runs: u64) -> Option<Self> {
        let table = u64::from(u32::try_from(elements).ok()?).next_multiple_of(8);
        Some(Self {
            encoding: Encoding::I8,
            count: u32::try_from(runs).ok()?,
            values: 0,
            table: Some(table),
            bytes: table + runs * Self::RUN_BYTES,
            gap: (elements, table),
        })
    }

    /// The coordinates, then the values at a multiple of 8.
    fn pairs(elements: u64, pairs: u64) -> Option<Self> {
        u32::try_from(elements).ok()?;
        let count = u32::try_from(pairs).ok()?;
        let coordinates = pairs * 4;
        let values = coordinates.next_multiple_of(8);
        Some(Self {
            encoding: Encoding::Sparse,
            count,
            values,
            table: Some(0),
            bytes: values + pairs * 4,
            gap: (coordinates, values),
        })
    }

    /// The bytes between the two parts that belong to neither.
    #[must_use]
    pub const fn gap(&self) -> Range<u64> {
        self.gap.0..self.gap.1
    }

    /// The bytes that every slot of a model of `elements` elements has for an update: the model's own in F32,
    /// in whole pages.
    #[must_use]
    pub const fn room(elements: u64) -> u64 {
        elements
            .saturating_mul(4)
            .div_ceil(PAGE)
            .saturating_mul(PAGE)
    }
}
