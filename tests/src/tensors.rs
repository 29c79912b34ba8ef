//! Models and updates, encoded and decoded by the safetensors crate as any client would.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::random::Random;

/// The tensors of a model: names and shapes.
pub type Shapes = &'static [(&'static str, &'static [usize])];

/// 41 elements, a matrix, a vector and a single number: no size that a vector width divides.
pub const SMALL: Shapes = &[
    ("dense.bias", &[5]),
    ("dense.weight", &[7, 5]),
    ("scale", &[]),
];

/// 206,503 elements, 0.8 MB: folding it takes long enough to be interrupted.
pub const LARGE: Shapes = &[
    ("embedding", &[1021, 200]),
    ("head", &[101, 13]),
    ("norm", &[6, 3, 11, 5]),
    ("zero", &[0, 9]),
];

/// A tensor of f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements, the last dimension fastest.
    pub values: Vec<f32>,
}

/// A model or an update: tensors in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The tensors.
    pub tensors: Vec<Tensor>,
}

impl Model {
    /// Every element is `value`.
    #[must_use]
    pub fn filled(shapes: Shapes, value: f32) -> Self {
        Self::made(shapes, || value)
    }

    /// Every element is random, of either sign.
    #[must_use]
    pub fn random(shapes: Shapes, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self::made(shapes, || random.value())
    }

    fn made(shapes: Shapes, mut value: impl FnMut() -> f32) -> Self {
        let mut tensors: Vec<Tensor> = shapes
            .iter()
            .map(|(name, shape)| Tensor {
                name: (*name).into(),
                shape: shape.to_vec(),
                values: (0..shape.iter().product::<usize>())
                    .map(|_| value())
                    .collect(),
            })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self { tensors }
    }

    /// All elements, tensor by tensor.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        self.tensors
            .iter()
            .flat_map(|tensor| tensor.values.iter().copied())
    }

    /// The elements' bits: two models are the same model if these are the same.
    #[must_use]
    pub fn bits(&self) -> Vec<u32> {
        self.values().map(f32::to_bits).collect()
    }

    /// The tensor of that name.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// The same update with its first element set, as the functions of [`crate::guest`] look for it.
    #[must_use]
    pub fn marked(mut self, mark: f32) -> Self {
        self.tensors[0].values[0] = mark;
        self
    }

    /// A safetensors file.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        self.file_with(&[])
    }

    /// A safetensors file with `__metadata__`.
    #[must_use]
    pub fn file_with(&self, metadata: &[(&str, &str)]) -> Vec<u8> {
        let data: Vec<Vec<u8>> = self.tensors.iter().map(Tensor::bytes).collect();
        let views = self.tensors.iter().zip(&data).map(|(tensor, data)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data)
                .expect("as many bytes as elements");
            (tensor.name.clone(), view)
        });
        let pairs = metadata
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()));
        let metadata: HashMap<String, String> = pairs.collect();
        let metadata = (!metadata.is_empty()).then_some(metadata);
        safetensors::serialize(views, metadata).expect("valid tensors")
    }

    /// Reads a safetensors file of f32 tensors.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn from_file(file: &[u8]) -> Self {
        let read = SafeTensors::deserialize(file).expect("a safetensors file");
        let mut tensors: Vec<Tensor> = read
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                assert_eq!(view.dtype(), Dtype::F32, "{name}");
                let values = view
                    .data()
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes));
                Tensor {
                    name,
                    shape: view.shape().to_vec(),
                    values: values.collect(),
                }
            })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self { tensors }
    }
}

impl Tensor {
    /// The elements as they stand in a file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }
}
