//! The layout of a job's model, and how updates in another order are matched against it.

use std::{collections::HashMap, fmt::Write as _};

use safetensors::Dtype;

use super::{ALIGNMENT, Header, HeaderError, PREFIX_BYTES, Tensor, header::shown};
use crate::manifest::nearest;

/// What an update's header may have beyond twice the model's own header: metadata and white space.
const HEADER_SLACK_BYTES: u64 = 64 << 10;

/// The tensors of a job's model in canonical order. All are F32, and there is at least one element.
#[derive(Debug, Clone)]
pub struct ModelLayout {
    tensors: Vec<Tensor>,
    places: HashMap<String, usize>,
    elements: u64,
}

/// A run of bytes that an update's file and the canonical order have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the data of the file.
    pub file_offset: u64,
    /// Where it begins in canonical order.
    pub canonical_offset: u64,
    /// Its length; a multiple of four, never 0.
    pub bytes: u64,
}

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
}

impl ModelLayout {
    /// The layout of the model that `header` describes.
    ///
    /// # Errors
    /// [`HeaderError::NotF32`] and [`HeaderError::Empty`].
    pub fn from_header(header: &Header) -> Result<Self, HeaderError> {
        let tensors = header.tensors().to_vec();
        if let Some(Tensor { name, dtype, .. }) = tensors.iter().find(|t| t.dtype != Dtype::F32) {
            return Err(HeaderError::NotF32 {
                tensor: shown(name),
                dtype: *dtype,
            });
        }
        let elements = header.data_bytes() / 4;
        if elements == 0 {
            return Err(HeaderError::Empty);
        }
        let places = tensors
            .iter()
            .enumerate()
            .map(|(i, t)| (t.name.clone(), i))
            .collect();
        Ok(Self {
            tensors,
            places,
            elements,
        })
    }

    /// The layout of a whole safetensors file, and its data in canonical order.
    ///
    /// # Errors
    /// As [`Header::split`] and [`ModelLayout::from_header`].
    pub fn from_file(file: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let (header, data) = Header::split(file)?;
        Ok((Self::from_header(&header)?, data))
    }

    /// The tensors in canonical order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The number of elements of all tensors.
    #[must_use]
    pub const fn elements(&self) -> u64 {
        self.elements
    }

    /// The bytes of all tensors.
    #[must_use]
    pub const fn data_bytes(&self) -> u64 {
        self.elements * 4
    }

    /// The tensor and the place in it of the element at `canonical` (an index, not an offset), for errors:
    /// `layer.weight[3, 7]`. `None` beyond the model's end.
    #[must_use]
    pub fn coordinate(&self, canonical: u64) -> Option<String> {
        let offset = canonical.checked_mul(4)?;
        let place = self.tensors.partition_point(|tensor| tensor.end <= offset);
        let tensor = self.tensors.get(place)?;
        let mut rest = (offset - tensor.begin) / 4;
        let mut indices = vec![0; tensor.shape.len()];
        for (index, dimension) in indices.iter_mut().zip(&tensor.shape).rev() {
            *index = rest % dimension;
            rest /= dimension;
        }
        Some(format!("{}{indices:?}", shown(&tensor.name)))
    }

    /// The longest header that an update of this model needs; what is longer can be refused unread.
    #[must_use]
    pub fn update_header_bytes_max(&self) -> u64 {
        (self.header_bytes(&[]).len() as u64 * 2 + HEADER_SLACK_BYTES).min(super::HEADER_BYTES_MAX)
    }

    /// Says where each piece of an update's data belongs: segments in the order of the file, which together
    /// cover the whole data of the file and of the model.
    ///
    /// # Errors
    /// The first tensor that differs from the model, and how.
    pub fn match_update(&self, update: &Header) -> Result<Vec<Segment>, LayoutMismatch> {
        self.match_tensors(update.tensors())
    }

    /// As [`ModelLayout::match_update`], for another model: equal layouts are one segment.
    ///
    /// # Errors
    /// The first tensor that differs from the model, and how.
    pub fn match_model(&self, other: &Self) -> Result<Vec<Segment>, LayoutMismatch> {
        self.match_tensors(&other.tensors)
    }

    fn match_tensors(&self, tensors: &[Tensor]) -> Result<Vec<Segment>, LayoutMismatch> {
        let mut segments: Vec<Segment> = Vec::new();
        for found in tensors {
            let expected = self.expected(found)?;
            if found.bytes() > 0 {
                push(&mut segments, found, expected);
            }
        }
        // Names are unique in both, and every name of the update is one of the model's.
        if tensors.len() < self.tensors.len() {
            return Err(self.missing(tensors));
        }
        Ok(segments)
    }

    fn expected(&self, found: &Tensor) -> Result<&Tensor, LayoutMismatch> {
        let Some(place) = self.places.get(&found.name) else {
            let names = self.tensors.iter().map(|tensor| tensor.name.as_str());
            let nearest = nearest(&found.name, names).map(shown);
            return Err(LayoutMismatch::Unexpected {
                tensor: shown(&found.name),
                nearest,
            });
        };
        let expected = &self.tensors[*place];
        let tensor = shown(&found.name);
        if found.dtype != expected.dtype {
            let (expected, found) = (expected.dtype, found.dtype);
            return Err(LayoutMismatch::Dtype {
                tensor,
                expected,
                found,
            });
        }
        if found.shape != expected.shape {
            let (expected, found) = (expected.shape.clone(), found.shape.clone());
            return Err(LayoutMismatch::Shape {
                tensor,
                expected,
                found,
            });
        }
        Ok(expected)
    }

    fn missing(&self, found: &[Tensor]) -> LayoutMismatch {
        let there: std::collections::HashSet<_> = found.iter().map(|t| &t.name).collect();
        let mut missing = self
            .tensors
            .iter()
            .filter(|tensor| !there.contains(&tensor.name));
        let tensor = missing
            .next()
            .map(|tensor| shown(&tensor.name))
            .unwrap_or_default();
        LayoutMismatch::Missing {
            tensor,
            more: missing.count(),
        }
    }

    /// The beginning of a safetensors file with this layout: length, header with `metadata`, and spaces up to
    /// a multiple of [`ALIGNMENT`]. The data in canonical order makes the file whole.
    #[must_use]
    pub fn header_bytes(&self, metadata: &[(&str, &str)]) -> Vec<u8> {
        let mut json = String::from("{");
        if !metadata.is_empty() {
            let entries: Vec<_> = metadata
                .iter()
                .map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)))
                .collect();
            let _ = write!(json, "\"__metadata__\":{{{}}},", entries.join(","));
        }
        for tensor in &self.tensors {
            let Tensor {
                name,
                dtype,
                shape,
                begin,
                end,
            } = tensor;
            let name = quoted(name);
            // Writing to a String cannot fail. A Vec's Debug is JSON for numbers.
            let _ = write!(
                json,
                "{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}},"
            );
        }
        json.pop(); // the last comma: there is at least one tensor
        json.push('}');
        let padded = (PREFIX_BYTES + json.len()).next_multiple_of(ALIGNMENT);
        let mut bytes = Vec::with_capacity(padded);
        bytes.extend_from_slice(&((padded - PREFIX_BYTES) as u64).to_le_bytes());
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(padded, b' ');
        bytes
    }
}

impl PartialEq for ModelLayout {
    fn eq(&self, other: &Self) -> bool {
        self.tensors == other.tensors
    }
}

impl Eq for ModelLayout {}

fn push(segments: &mut Vec<Segment>, found: &Tensor, expected: &Tensor) {
    let segment = Segment {
        file_offset: found.begin,
        canonical_offset: expected.begin,
        bytes: found.bytes(),
    };
    match segments.last_mut() {
        Some(last) if last.canonical_offset + last.bytes == segment.canonical_offset => {
            last.bytes += segment.bytes;
        }
        _ => segments.push(segment),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
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
