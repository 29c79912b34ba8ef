//! The layout of a job's model.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use safetensors::Dtype;

use super::{
    ALIGNMENT, Header, HeaderError, METADATA_BYTES_MAX, PREFIX_BYTES, Tensor, header::shown,
};

/// What says something of one file, and is not kept for those that are made from it.
const OF_ONE_FILE: [&str; 4] = ["version", "round", "num_examples", "block"];

/// The tensors of a job's model in canonical order. All are F32, and there is at least one element.
#[derive(Debug, Clone)]
pub struct ModelLayout {
    tensors: Vec<Tensor>,
    /// The first model's `__metadata__`, but for what says something of that file alone.
    metadata: BTreeMap<String, String>,
    places: HashMap<String, usize>,
    elements: u64,
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
        let mut metadata = header.texts().clone();
        metadata.retain(|key, _| !OF_ONE_FILE.contains(&key.as_str()));
        Ok(Self {
            tensors,
            metadata,
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

    /// The longest header that an update of this model needs; what is longer can be refused unread. An encoded
    /// update may have two tensors for each of the model's, and metadata.
    #[must_use]
    pub fn update_header_bytes_max(&self) -> u64 {
        (self.header_bytes(&[]).len() as u64 * 3 + METADATA_BYTES_MAX).min(super::HEADER_BYTES_MAX)
    }

    /// The places of tensors in canonical order, by their names.
    pub(super) const fn places(&self) -> &HashMap<String, usize> {
        &self.places
    }

    /// The beginning of a safetensors file with this layout: length, header with the first model's metadata and
    /// `more`, and spaces up to a multiple of [`ALIGNMENT`]. The data in canonical order makes the file whole.
    #[must_use]
    pub fn header_bytes(&self, more: &[(&str, &str)]) -> Vec<u8> {
        let mut json = String::from("{");
        let kept = self.metadata.iter();
        let kept = kept.map(|(key, value)| (key.as_str(), value.as_str()));
        let entries: Vec<_> = kept
            .chain(more.iter().copied())
            .map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)))
            .collect();
        if !entries.is_empty() {
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

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
