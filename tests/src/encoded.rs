//! Updates in other encodings than F32, and the numbers that they stand for.

use std::collections::HashMap;

use safetensors::{Dtype, tensor::TensorView};

use crate::tensors::{Model, Tensor};

/// How an update is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    F32,
    /// Half precision.
    F16,
    /// The upper half of each number.
    Bf16,
    /// Whole numbers of 8 bits with one scale for each tensor.
    I8,
    /// Whole numbers of 8 bits with a scale for each block of so many elements.
    Blocks(usize),
    /// Every third element; the others are 0.
    Sparse,
}

/// A tensor as it stands in a file.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// An encoded update.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The tensors of its file.
    pub raw: Vec<Raw>,
    /// `block` of its metadata.
    pub block: Option<String>,
    /// The numbers that it stands for.
    pub decoded: Model,
}

impl Encoded {
    /// Encodes an update.
    #[must_use]
    pub fn new(update: &Model, coding: Coding) -> Self {
        let (mut raw, mut tensors) = (Vec::new(), Vec::new());
        for tensor in &update.tensors {
            let (parts, values) = encode(tensor, coding);
            raw.extend(parts);
            tensors.push(Tensor {
                values,
                ..tensor.clone()
            });
        }
        let block = match coding {
            Coding::Blocks(block) => Some(block.to_string()),
            _ => None,
        };
        let decoded = Model { tensors };
        Self {
            raw,
            block,
            decoded,
        }
    }

    /// The same with one tensor of the file changed.
    ///
    /// # Panics
    /// If there is no such tensor.
    #[must_use]
    pub fn edited(mut self, name: &str, edit: impl FnOnce(&mut Raw)) -> Self {
        let found = self.raw.iter_mut().find(|raw| raw.name == name);
        edit(found.unwrap_or_else(|| panic!("no tensor {name}")));
        self
    }

    /// The same without a tensor of the file.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.raw.retain(|raw| raw.name != name);
        self
    }

    /// The safetensors file.
    ///
    /// # Panics
    /// If the tensors are none.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        let views = self.raw.iter().map(|raw| {
            let view = TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes);
            (raw.name.clone(), view.expect("as many bytes as elements"))
        });
        let block = self.block.iter().cloned();
        let metadata: HashMap<_, _> = block.map(|block| ("block".to_owned(), block)).collect();
        safetensors::serialize(views, Some(metadata)).expect("valid tensors")
    }
}

impl Raw {
    /// Sets a number of 32 bits.
    pub fn set(&mut self, index: usize, word: [u8; 4]) {
        self.bytes[index * 4..index * 4 + 4].copy_from_slice(&word);
    }

    /// Sets a number of 16 bits.
    pub fn set_half(&mut self, index: usize, bits: u16) {
        self.bytes[index * 2..index * 2 + 2].copy_from_slice(&bits.to_le_bytes());
    }
}

/// The tensors that stand for one, and the values that they stand for.
fn encode(tensor: &Tensor, coding: Coding) -> (Vec<Raw>, Vec<f32>) {
    match coding {
        Coding::F32 => (
            vec![raw(tensor, Dtype::F32, tensor.bytes())],
            tensor.values.clone(),
        ),
        Coding::F16 => halves(tensor, Dtype::F16, half_bits, half_value),
        Coding::Bf16 => halves(
            tensor,
            Dtype::BF16,
            |value| (value.to_bits() >> 16) as u16,
            |bits| f32::from_bits(u32::from(bits) << 16),
        ),
        Coding::I8 => quantised(tensor, tensor.values.len().max(1), &[]),
        Coding::Blocks(block) => {
            let blocks = tensor.values.len().div_ceil(block);
            quantised(tensor, block, &[blocks])
        }
        Coding::Sparse => pairs(tensor),
    }
}

fn raw(tensor: &Tensor, dtype: Dtype, bytes: Vec<u8>) -> Raw {
    Raw {
        name: tensor.name.clone(),
        dtype,
        shape: tensor.shape.clone(),
        bytes,
    }
}

fn halves(
    tensor: &Tensor,
    dtype: Dtype,
    encode: fn(f32) -> u16,
    decode: fn(u16) -> f32,
) -> (Vec<Raw>, Vec<f32>) {
    let bits: Vec<u16> = tensor.values.iter().map(|value| encode(*value)).collect();
    let bytes = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let values = bits.iter().map(|bits| decode(*bits)).collect();
    (vec![raw(tensor, dtype, bytes)], values)
}

/// Half precision: sign, 5 bits of exponent, 10 of fraction. What is too small for it becomes 0, what is too
/// large its greatest number; the rest is cut off.
fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 0xff).saturating_sub(112) as u16;
    match exponent {
        0 => sign,
        1..31 => sign | exponent << 10 | (bits >> 13 & 0x3ff) as u16,
        _ => sign | 0x7bff,
    }
}

fn half_value(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// Each block is scaled so that its greatest number becomes 127. A tensor without elements has no scale.
fn quantised(tensor: &Tensor, block: usize, shape: &[usize]) -> (Vec<Raw>, Vec<f32>) {
    let (mut bytes, mut scales, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for block in tensor.values.chunks(block) {
        let greatest = block
            .iter()
            .fold(f32::MIN_POSITIVE, |max, value| max.max(value.abs()));
        let scale = greatest / 127.0;
        scales.extend(scale.to_le_bytes());
        for value in block {
            let whole = (value / scale).round() as i8;
            bytes.push(whole.cast_unsigned());
            values.push(scale * f32::from(whole));
        }
    }
    let shape = if scales.is_empty() {
        vec![0]
    } else {
        shape.to_vec()
    };
    let scale = Raw {
        name: format!("{}:scale", tensor.name),
        dtype: Dtype::F32,
        shape,
        bytes: scales,
    };
    (vec![raw(tensor, Dtype::I8, bytes), scale], values)
}

fn pairs(tensor: &Tensor) -> (Vec<Raw>, Vec<f32>) {
    let (mut indices, mut entries) = (Vec::new(), Vec::new());
    let mut values = vec![0.0; tensor.values.len()];
    for (index, value) in tensor.values.iter().enumerate().step_by(3) {
        indices.extend((index as u32).to_le_bytes());
        entries.extend(value.to_le_bytes());
        values[index] = *value;
    }
    let part = |suffix: &str, dtype, bytes: Vec<u8>| Raw {
        name: format!("{}:{suffix}", tensor.name),
        dtype,
        shape: vec![bytes.len() / 4],
        bytes,
    };
    let parts = [
        part("indices", Dtype::U32, indices),
        part("values", Dtype::F32, entries),
    ];
    (parts.to_vec(), values)
}
