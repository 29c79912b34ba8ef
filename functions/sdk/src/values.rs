//! How an update writes its values, and what a fold sees of them.
//!
//! Clients may send fewer bytes than an `f32` per element. Their updates lie in the arena as they came,
//! and a function that declares an encoding decodes it while it folds. One that declares nothing is
//! given `f32` alone.

use crate::error::Error;
use alloc::format;

/// How an update writes its values. The numbers are the ABI's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Encoding {
    /// Four bytes for each element.
    F32 = 0,
    /// IEEE 754 binary16: two bytes for each element.
    F16 = 1,
    /// The upper half of an `f32`: two bytes for each element.
    Bf16 = 2,
    /// One signed byte for each element, to be multiplied by the scale of its run.
    I8 = 3,
    /// Coordinates and values of some elements; the others are zero.
    Sparse = 4,
}

impl Encoding {
    /// Every encoding, by its code.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::I8, Self::Sparse];

    /// The encoding of an ABI code.
    pub(crate) fn of_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }
}

/// The encodings that a function folds. `f32` is always one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encodings(u32);

impl Encodings {
    /// `f32` alone.
    pub const F32: Self = Self(0).with(Encoding::F32);
    /// All of them.
    pub const ALL: Self = Self::F32
        .with(Encoding::F16)
        .with(Encoding::Bf16)
        .with(Encoding::I8)
        .with(Encoding::Sparse);

    /// These and one more.
    #[must_use]
    pub const fn with(self, encoding: Encoding) -> Self {
        Self(self.0 | 1 << encoding as u32)
    }

    /// These but for one. `f32` stays.
    #[must_use]
    pub const fn without(self, encoding: Encoding) -> Self {
        Self(self.0 & !(1 << encoding as u32)).with(Encoding::F32)
    }

    /// Whether `encoding` is one of them.
    #[must_use]
    pub const fn contain(self, encoding: Encoding) -> bool {
        self.0 & 1 << encoding as u32 != 0
    }

    /// The bits of the ABI: bit *n* for code *n*. That of `f32` is left out, because it goes without
    /// saying.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 & !1
    }
}

impl Default for Encodings {
    fn default() -> Self {
        Self::F32
    }
}

/// Elements in a row that have one scale. A run ends where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Run {
    /// Its first element: a coordinate of the whole model.
    pub start: u32,
    /// What its bytes are multiplied by.
    pub scale: f32,
}

/// The values of an update, within the range of a call.
///
/// A call is about the elements from [`Round::first_element`](crate::Round) on, as many as its output
/// has. Dense slices have exactly those. Tables have what concerns them, and state coordinates of the
/// whole model.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// One for each element.
    F32(&'a [f32]),
    /// The bits of one binary16 for each element.
    F16(&'a [u16]),
    /// The upper bits of one `f32` for each element.
    Bf16(&'a [u16]),
    /// An element is its byte times the scale of its run.
    I8 {
        /// One for each element.
        values: &'a [i8],
        /// Ascending. The first one begins at or before the range, the others in it.
        runs: &'a [Run],
    },
    /// Elements that are not named are zero.
    Sparse {
        /// Strictly ascending, and within the range.
        coordinates: &'a [u32],
        /// One for each coordinate.
        values: &'a [f32],
    },
}

impl<'a> Values<'a> {
    /// How they are written.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::F32(_) => Encoding::F32,
            Self::F16(_) => Encoding::F16,
            Self::Bf16(_) => Encoding::Bf16,
            Self::I8 { .. } => Encoding::I8,
            Self::Sparse { .. } => Encoding::Sparse,
        }
    }

    /// The values, if they are `f32`, as they always are for a function that declares no encoding.
    ///
    /// # Errors
    /// They are written in another encoding.
    pub fn f32(&self) -> Result<&'a [f32], Error> {
        match self {
            Self::F32(values) => Ok(values),
            other => Err(Error::new(
                Error::INPUT,
                format!(
                    "an update is written in {:?}, and this function reads F32 alone: do not declare other \
                     encodings in `describe`, or match on `Update::values`",
                    other.encoding()
                ),
            )),
        }
    }

    /// The part of these values within `elements` elements from coordinate `first` on, where they
    /// begin at coordinate 0. `None` if they do not reach that far.
    #[must_use]
    pub fn range(&self, first: usize, elements: usize) -> Option<Self> {
        let whole = first..first.checked_add(elements)?;
        Some(match self {
            Self::F32(values) => Self::F32(values.get(whole)?),
            Self::F16(values) => Self::F16(values.get(whole)?),
            Self::Bf16(values) => Self::Bf16(values.get(whole)?),
            Self::I8 { values, runs } => Self::I8 {
                values: values.get(whole)?,
                runs: runs_within(runs, first as u64, elements as u64),
            },
            Self::Sparse {
                coordinates,
                values,
            } => pairs_within(coordinates, values, first as u64, elements as u64)?,
        })
    }
}

/// The runs that concern a range, of all runs of an update. None if none begins at or before it.
pub(crate) fn runs_within(runs: &[Run], first: u64, elements: u64) -> &[Run] {
    let begun = runs.partition_point(|run| u64::from(run.start) <= first);
    let end = runs.partition_point(|run| u64::from(run.start) < first + elements);
    let start = begun.saturating_sub(1);
    // Of runs that do not ascend, the end may come before the start.
    runs.get(start..end).unwrap_or_default()
}

/// The pairs within a range, of all pairs of an update. `None` if there are fewer values than
/// coordinates.
pub(crate) fn pairs_within<'a>(
    coordinates: &'a [u32],
    values: &'a [f32],
    first: u64,
    elements: u64,
) -> Option<Values<'a>> {
    let start = coordinates.partition_point(|at| u64::from(*at) < first);
    let end = coordinates.partition_point(|at| u64::from(*at) < first + elements);
    Some(Values::Sparse {
        coordinates: coordinates.get(start..end)?,
        values: values.get(start..end)?,
    })
}
