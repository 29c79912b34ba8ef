//! How an update differs from the job's model.

use safetensors::Dtype;

use super::{
    Encoding,
    names::{INDICES, SCALE, VALUES, part},
};

/// How an update differs from the job's model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutMismatch {
    /// The model has a tensor that the update lacks.
    #[error("tensor {tensor:?} is missing{}", others(*more))]
    Missing {
        /// The first such tensor in canonical order.
        tensor: String,
        /// How many more are missing.
        more: usize,
    },
    /// The update has a tensor that the model lacks.
    #[error("tensor {tensor:?} is not in the job's model{}", did_you_mean(nearest.as_deref()))]
    Unexpected {
        /// The first such tensor in the order of the file.
        tensor: String,
        /// The model's tensor with the most similar name.
        nearest: Option<String>,
    },
    /// A tensor has another shape than in the model.
    #[error("tensor {tensor:?} has the shape {found:?}; the job's model has {expected:?}")]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// Its shape in the model.
        expected: Vec<u64>,
        /// Its shape in the update.
        found: Vec<u64>,
    },
    /// A tensor has another element type than in the model.
    #[error("tensor {tensor:?} is {found}; the job's model has {expected}")]
    Dtype {
        /// The tensor's name.
        tensor: String,
        /// Its element type in the model.
        expected: Dtype,
        /// Its element type in the update.
        found: Dtype,
    },
    /// A tensor is of another encoding than the update.
    #[error(
        "tensor {tensor:?} is {found}, but {by:?} makes this update {encoding}, and an update has one encoding: {}",
        whole(*encoding)
    )]
    Mixed {
        /// The tensor's name.
        tensor: String,
        /// Its element type.
        found: Dtype,
        /// The update's encoding.
        encoding: Encoding,
        /// The tensor from which the encoding is seen.
        by: String,
    },
    /// An I8 tensor without its scale.
    #[error(
        "tensor {tensor:?} is I8, but {scale:?} is missing; add it in F32: one number for the tensor, \
         or one for each block",
        scale = part(tensor, SCALE)
    )]
    NoScale {
        /// The tensor's name.
        tensor: String,
    },
    /// A scale that is of no tensor.
    #[error(
        "tensor {scale:?} is there, but {tensor:?} is missing; add it in I8",
        scale = part(tensor, SCALE)
    )]
    ScaleAlone {
        /// The name of the tensor that is not there.
        tensor: String,
    },
    /// A scale has neither one number nor one for each block.
    #[error(
        "tensor {scale:?} has the shape {found:?}, but {tensor:?} has {elements} elements: the shape must be {expected}",
        scale = part(tensor, SCALE)
    )]
    ScaleShape {
        /// The name of the tensor that is scaled.
        tensor: String,
        /// The scale's shape.
        found: Vec<u64>,
        /// The tensor's elements.
        elements: u64,
        /// The shapes that go with them.
        expected: String,
    },
    /// Scales of blocks whose size is not told.
    #[error(
        "tensor {tensor:?} has the shape {found:?}, one scale for each block, but __metadata__ has no \"block\"; \
         add the number of elements of a block as a string, like \"block\": \"64\", or give one scale for the tensor"
    )]
    NoBlock {
        /// The scale's name.
        tensor: String,
        /// Its shape.
        found: Vec<u64>,
    },
    /// The size of a block makes no sense.
    #[error(
        "__metadata__ has \"block\" = {value:?}; it must be a whole number above 0, like \"64\""
    )]
    Block {
        /// What stands there.
        value: String,
    },
    /// A tensor that goes with another has a wrong element type.
    #[error("tensor {tensor:?} is {found}; it must be {expected}")]
    PartDtype {
        /// Its name.
        tensor: String,
        /// Its element type.
        found: Dtype,
        /// What it must be.
        expected: &'static str,
    },
    /// Indices or values that are no list.
    #[error("tensor {tensor:?} has the shape {found:?}; it must be a list, of shape [k]")]
    PartShape {
        /// Its name.
        tensor: String,
        /// Its shape.
        found: Vec<u64>,
    },
    /// Indices without values, or values without indices.
    #[error("tensor {tensor:?} is there, but {lacking:?} is missing; the two come together")]
    HalfAPair {
        /// Which of the two is there.
        tensor: String,
        /// Which of the two is not.
        lacking: String,
    },
    /// Indices and values of different numbers.
    #[error(
        "tensor {:?} has {indices} entries, but {:?} has {values}; each index has one value",
        part(tensor, INDICES),
        part(tensor, VALUES)
    )]
    Pairs {
        /// The name of the tensor that they are of.
        tensor: String,
        /// The indices.
        indices: u64,
        /// The values.
        values: u64,
    },
    /// The encoded update is longer than the same in F32, for which a slot is made.
    #[error(
        "as {encoding} with {count} {} the update takes {needed} bytes in its slot, which has {room}; {}",
        counted(*encoding), shorter(*encoding)
    )]
    DoesNotFit {
        /// The encoding.
        encoding: Encoding,
        /// What it counts.
        count: u64,
        /// The bytes it takes.
        needed: u64,
        /// The bytes there are.
        room: u64,
    },
    /// Coordinates are 32 bits wide.
    #[error(
        "the model has {elements} elements, too many for {encoding} updates; send them in F32, F16 or BF16"
    )]
    Elements {
        /// The encoding.
        encoding: Encoding,
        /// The model's elements.
        elements: u64,
    },
}

fn others(more: usize) -> String {
    if more == 0 {
        String::new()
    } else {
        format!(", and {more} more")
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean {name:?}?"))
        .unwrap_or_default()
}

/// What an update of an encoding consists of.
fn whole(encoding: Encoding) -> String {
    match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => {
            format!("send all tensors in {}", encoding.dtype())
        }
        Encoding::I8 => "send all tensors in I8, each with its \":scale\"".into(),
        Encoding::Sparse => {
            "send \":indices\" and \":values\" of all tensors that have entries".into()
        }
    }
}

const fn counted(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::I8 => "scales",
        _ => "entries",
    }
}

const fn shorter(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::I8 => "use larger blocks, or send it in F32 or F16",
        _ => "send it dense, in F32 or F16",
    }
}
