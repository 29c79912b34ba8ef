//! What can be wrong with a header.

use std::fmt;

use safetensors::Dtype;

use crate::model::METADATA_BYTES_MAX;

/// What a header lies about.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// The file is of another kind.
    #[error("this is no safetensors file, but {0}")]
    OtherFile(&'static str),
    /// The length before the header is nonsense, or of a header that nobody needs.
    #[error(
        "this is no safetensors file, or its header is too long: it says it has {length} bytes; \
         between 2 and {max} are allowed, {METADATA_BYTES_MAX} of them for __metadata__"
    )]
    HeaderLength {
        /// The length that was read.
        length: u64,
        /// The greatest that is allowed.
        max: u64,
    },
    /// The file ends within its header.
    #[error(
        "this is no safetensors file, or it was cut short: it has {actual} bytes, \
         and its header ends at byte {needed}"
    )]
    Truncated {
        /// The bytes there are.
        actual: u64,
        /// The bytes there would have to be.
        needed: u64,
    },
    /// The header is no JSON, or not of the right shape.
    #[error("the safetensors header is malformed: {0}")]
    Malformed(String),
    /// A dtype that the format does not know.
    #[error("tensor {tensor:?} has the unknown dtype {dtype:?}")]
    UnknownDtype {
        /// The tensor's name.
        tensor: String,
        /// The text that stands where the dtype should.
        dtype: String,
    },
    /// A shape whose size does not fit 64 bits, or with too many dimensions.
    #[error("tensor {tensor:?} has an impossible shape: {reason}")]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// What is impossible.
        reason: String,
    },
    /// Shape and offsets disagree.
    #[error(
        "tensor {tensor:?}: its shape {shape:?} of {dtype} takes {needed} bytes, \
         but its data_offsets [{begin}, {end}] span {spanned}"
    )]
    Size {
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its element type.
        dtype: Dtype,
        /// The bytes of that shape.
        needed: u64,
        /// The first offset.
        begin: u64,
        /// The offset after the last byte.
        end: u64,
        /// The bytes between the two, or `less than nothing`.
        spanned: Span,
    },
    /// A hole or an overlap.
    #[error(
        "tensor {tensor:?} begins at data offset {begin}, but the tensor before it ends at {previous_end}; \
         tensors must follow each other without holes or overlaps"
    )]
    Discontiguous {
        /// The tensor's name.
        tensor: String,
        /// Where it begins.
        begin: u64,
        /// Where it should begin.
        previous_end: u64,
    },
    /// The data is longer or shorter than the header says.
    #[error("the header describes {described} bytes of data, but {actual} follow it")]
    DataLength {
        /// The bytes of all tensors.
        described: u64,
        /// The bytes there are.
        actual: u64,
    },
    /// An entry of `__metadata__` that is no number of the right kind.
    #[error("__metadata__ has {key:?} = {value:?}; it must be {expected}")]
    Metadata {
        /// The entry's name.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// More metadata than anybody needs.
    #[error(
        "__metadata__ has {bytes} bytes of names and values; at most {METADATA_BYTES_MAX} are allowed: \
         keep the rest in a file of its own"
    )]
    MetadataLength {
        /// Bytes of all names and values.
        bytes: u64,
    },
    /// A model with a tensor that is not F32.
    #[error(
        "tensor {tensor:?} is {dtype}; models must be F32 in this version: \
         convert it if its elements are numbers to be averaged (torch: .float(), numpy: .astype(\"float32\")), \
         and leave it out of model and updates if not, as with counters (num_batches_tracked)"
    )]
    NotF32 {
        /// The tensor's name.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A model without elements.
    #[error("the model has no elements")]
    Empty,
}

/// The bytes between two offsets, which may stand in the wrong order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub(super) Option<u64>);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(f),
            None => f.write_str("less than nothing"),
        }
    }
}
