//! Models: the layout of a job's model, and how updates are matched against it.
//!
//! The format is safetensors: eight bytes with the length of a JSON header, the header, and the tensors' data
//! without holes. A job's *canonical order* is the order of the data in its model file. An update may hold the
//! same tensors in another order and another [`Encoding`]; [`ModelLayout::match_update`] says which piece goes where.

mod encoding;
mod header;
mod layout;
mod magnitude;
mod mismatch;
mod names;
mod update;

pub use encoding::{Encoding, Encodings, SlotLayout};
pub use header::{Header, HeaderError, Tensor, header_length};
pub use layout::ModelLayout;
pub use magnitude::first_beyond;
pub use mismatch::LayoutMismatch;
pub use safetensors::Dtype;
pub use update::{Part, Segment, UpdatePlan};

/// The greatest header that is read.
pub const HEADER_BYTES_MAX: u64 = 16 << 20;

/// The most bytes of the names and values in `__metadata__`, of a model and of an update.
pub const METADATA_BYTES_MAX: u64 = 64 << 10;

/// The length of what stands before the header.
pub const PREFIX_BYTES: usize = 8;

/// The data of every model that is served begins at a multiple of this.
pub const ALIGNMENT: usize = 64;

#[cfg(test)]
mod tests;
