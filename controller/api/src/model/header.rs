//! A strict reader of safetensors headers.
//!
//! A header comes from outside, so nothing in it is believed: every length is bounded, every product and sum is
//! checked, names are unique, and the tensors must tile the data from 0 to its end without holes or overlaps. What the
//! format's own library takes is taken, but for a name that comes twice.

use std::{collections::BTreeMap, fmt};

use safetensors::Dtype;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

mod error;
mod kind;

pub use error::HeaderError;
use error::Span;
use kind::known;

use super::{HEADER_BYTES_MAX, METADATA_BYTES_MAX, PREFIX_BYTES};

/// The name under which a header holds what is no tensor.
const METADATA: &str = "__metadata__";

/// A name in an error is cut after so many characters.
const NAME_SHOWN_MAX: usize = 120;

/// A tensor's most dimensions.
const RANK_MAX: usize = 64;

/// A tensor's place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions, the slowest first; none for a single number.
    pub shape: Vec<u64>,
    /// The offset of its first byte in the data.
    pub begin: u64,
    /// The offset after its last byte.
    pub end: u64,
}

/// A safetensors header that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
}

/// Reads the eight bytes before a header: the header's length, bounded by `max`.
///
/// # Errors
/// [`HeaderError::OtherFile`] and [`HeaderError::HeaderLength`].
pub fn header_length(prefix: [u8; PREFIX_BYTES], max: u64) -> Result<usize, HeaderError> {
    let length = u64::from_le_bytes(prefix);
    let max = max.min(HEADER_BYTES_MAX);
    match usize::try_from(length) {
        Ok(bytes) if (2..=max).contains(&length) => Ok(bytes),
        _ => Err(known(prefix).map_or(
            HeaderError::HeaderLength { length, max },
            HeaderError::OtherFile,
        )),
    }
}

impl Header {
    /// Reads a header: the JSON between the length and the data.
    ///
    /// # Errors
    /// Every way in which a header can be wrong by itself.
    pub fn parse(json: &[u8]) -> Result<Self, HeaderError> {
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(HeaderError::Malformed("it does not begin with '{'".into()));
        }
        let entries: Entries = serde_json::from_slice(json)
            .map_err(|error| HeaderError::Malformed(error.to_string()))?;
        let mut tensors = Vec::with_capacity(entries.tensors.len());
        for (name, raw) in entries.tensors {
            tensors.push(raw.check(name)?);
        }
        tensors.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
        let mut previous_end = 0;
        for tensor in &tensors {
            if tensor.begin != previous_end {
                let (tensor, begin) = (shown(&tensor.name), tensor.begin);
                return Err(HeaderError::Discontiguous {
                    tensor,
                    begin,
                    previous_end,
                });
            }
            previous_end = tensor.end;
        }
        let metadata = entries.metadata.unwrap_or_default();
        let texts = metadata.iter().map(|(key, value)| key.len() + value.len());
        let bytes = texts.sum::<usize>() as u64;
        if bytes > METADATA_BYTES_MAX {
            return Err(HeaderError::MetadataLength { bytes });
        }
        Ok(Self { tensors, metadata })
    }

    /// Splits a whole file into its header and its data.
    ///
    /// # Errors
    /// As [`Header::parse`]; also if the file is longer or shorter than its header says.
    pub fn split(file: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let truncated = |needed| HeaderError::Truncated {
            actual: file.len() as u64,
            needed,
        };
        let (prefix, rest) = file
            .split_first_chunk::<PREFIX_BYTES>()
            .ok_or(truncated(PREFIX_BYTES as u64))?;
        let length = header_length(*prefix, HEADER_BYTES_MAX)?;
        let (json, data) = rest
            .split_at_checked(length)
            .ok_or(truncated((PREFIX_BYTES + length) as u64))?;
        let header = Self::parse(json)?;
        header.check_data_bytes(data.len() as u64)?;
        Ok((header, data))
    }

    /// Compares the bytes that follow the header with what it describes.
    ///
    /// # Errors
    /// [`HeaderError::DataLength`].
    pub fn check_data_bytes(&self, actual: u64) -> Result<(), HeaderError> {
        let described = self.data_bytes();
        if described == actual {
            Ok(())
        } else {
            Err(HeaderError::DataLength { described, actual })
        }
    }

    /// The tensors in the order of their data.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The bytes of all tensors.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |tensor| tensor.end)
    }

    /// All entries of `__metadata__`.
    #[must_use]
    pub const fn texts(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// An entry of `__metadata__`.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The entry `round`.
    ///
    /// # Errors
    /// [`HeaderError::Metadata`] if it is no whole number.
    pub fn round(&self) -> Result<Option<u64>, HeaderError> {
        self.number("round", "a whole number", |_: &u64| true)
    }

    /// The entry `num_examples`: the update's weight.
    ///
    /// # Errors
    /// [`HeaderError::Metadata`] if it is no finite number above 0.
    pub fn num_examples(&self) -> Result<Option<f64>, HeaderError> {
        self.number("num_examples", "a finite number above 0", |n: &f64| {
            n.is_finite() && *n > 0.0
        })
    }

    fn number<T: std::str::FromStr>(
        &self,
        key: &'static str,
        expected: &'static str,
        valid: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, HeaderError> {
        let Some(text) = self.metadata(key) else {
            return Ok(None);
        };
        match text.parse::<T>() {
            Ok(number) if valid(&number) => Ok(Some(number)),
            _ => Err(HeaderError::Metadata {
                key,
                value: shown(text),
                expected,
            }),
        }
    }
}

impl Tensor {
    /// The bytes it takes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end - self.begin
    }
}

/// A tensor as the JSON has it; what else may stand there is passed over.
#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawTensor {
    fn check(self, name: String) -> Result<Tensor, HeaderError> {
        let Self {
            dtype,
            shape,
            data_offsets: [begin, end],
        } = self;
        let tensor = || shown(&name);
        let Ok(dtype) = serde_json::from_value::<Dtype>(dtype.as_str().into()) else {
            return Err(HeaderError::UnknownDtype {
                tensor: tensor(),
                dtype: shown(&dtype),
            });
        };
        if shape.len() > RANK_MAX {
            let reason = format!("{} dimensions; at most {RANK_MAX} are allowed", shape.len());
            return Err(HeaderError::Shape {
                tensor: tensor(),
                reason,
            });
        }
        let Some(needed) = byte_size(&shape, dtype) else {
            let reason =
                format!("{shape:?} of {dtype} is no whole number of bytes that fits 64 bits");
            return Err(HeaderError::Shape {
                tensor: tensor(),
                reason,
            });
        };
        let spanned = end.checked_sub(begin);
        if spanned != Some(needed) {
            let (tensor, spanned) = (tensor(), Span(spanned));
            return Err(HeaderError::Size {
                tensor,
                shape,
                dtype,
                needed,
                begin,
                end,
                spanned,
            });
        }
        Ok(Tensor {
            name,
            dtype,
            shape,
            begin,
            end,
        })
    }
}

fn byte_size(shape: &[u64], dtype: Dtype) -> Option<u64> {
    let elements = shape
        .iter()
        .try_fold(1_u64, |product, dimension| product.checked_mul(*dimension))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Hostile names can be megabytes long; errors show their beginning.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(NAME_SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.into(),
    }
}

/// A header's members; unlike a map of serde's, one that refuses a name that comes twice.
struct Entries {
    tensors: BTreeMap<String, RawTensor>,
    metadata: Option<BTreeMap<String, String>>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries {
            tensors: BTreeMap::new(),
            metadata: None,
        };
        while let Some(name) = map.next_key::<String>()? {
            let named = |error: A::Error| de::Error::custom(format!("{:?}: {error}", shown(&name)));
            let twice = if name == METADATA {
                let texts: Option<Texts> = map.next_value().map_err(named)?;
                let Texts(texts) = texts.unwrap_or_default();
                entries.metadata.replace(texts).is_some()
            } else {
                let tensor = map.next_value().map_err(named)?;
                entries.tensors.insert(name.clone(), tensor).is_some()
            };
            if twice {
                return Err(de::Error::custom(format!("{:?} comes twice", shown(&name))));
            }
        }
        Ok(entries)
    }
}

/// The texts of `__metadata__`, each under a name of its own.
#[derive(Default)]
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if texts.insert(key.clone(), value).is_some() {
                return Err(de::Error::custom(format!("{:?} comes twice", shown(&key))));
            }
        }
        Ok(Texts(texts))
    }
}
