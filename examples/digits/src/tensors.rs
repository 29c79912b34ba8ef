//! The model as a safetensors file: what clients send and what they are sent.

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use crate::model::{Model, TENSORS, Tensor};

/// What can be wrong with a model file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no safetensors file, or a tensor is missing.
    #[error("model file: {0}")]
    Format(#[from] SafeTensorError),
    /// A tensor has another shape or element type than the model.
    #[error("model file: tensor {name} is {found}, but this model has {wanted}")]
    Layout {
        /// Name of the tensor.
        name: &'static str,
        /// What the file says.
        found: String,
        /// What the model has.
        wanted: String,
    },
    /// The file has tensors that the model does not have.
    #[error("model file: {found} tensors, but this model has {}", TENSORS.len())]
    Extra {
        /// Tensors in the file.
        found: usize,
    },
}

/// Writes a model as a safetensors file.
///
/// # Errors
/// Never for a [`Model`]; the encoder's own checks are passed on.
pub fn encode(model: &Model) -> Result<Vec<u8>, Error> {
    let bytes: Vec<u8> = model
        .parameters()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let view = |tensor: &Tensor| {
        let range = tensor.range();
        let data = &bytes[range.start * size_of::<f32>()..range.end * size_of::<f32>()];
        Ok((
            tensor.name,
            TensorView::new(Dtype::F32, tensor.shape.to_vec(), data)?,
        ))
    };
    let views = TENSORS
        .iter()
        .map(view)
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// Reads a model from a safetensors file.
///
/// # Errors
/// When the bytes are no safetensors file, or one of another model.
pub fn decode(bytes: &[u8]) -> Result<Model, Error> {
    let file = SafeTensors::deserialize(bytes)?;
    if file.len() > TENSORS.len() {
        return Err(Error::Extra { found: file.len() });
    }
    let mut model = Model::zero();
    for tensor in TENSORS {
        let view = file.tensor(tensor.name)?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            return Err(Error::Layout {
                name: tensor.name,
                found: format!("{:?} {:?}", view.dtype(), view.shape()),
                wanted: format!("{:?} {:?}", Dtype::F32, tensor.shape),
            });
        }
        let (values, _) = view.data().as_chunks::<{ size_of::<f32>() }>();
        for (parameter, value) in model.parameters_mut()[tensor.range()]
            .iter_mut()
            .zip(values)
        {
            *parameter = f32::from_le_bytes(*value);
        }
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SEED;
    use proptest::prelude::*;

    #[test]
    fn a_file_of_another_model_is_refused() {
        let data = [0u8; 8];
        let view = TensorView::new(Dtype::F32, vec![2], &data).unwrap();
        let names = [
            "hidden.bias",
            "hidden.weight",
            "output.bias",
            "output.weight",
            "more",
        ];
        let file = |count: usize| {
            let views = names[..count].iter().map(|name| (*name, view.clone()));
            safetensors::serialize(views, None).unwrap()
        };
        let problem = |count| decode(&file(count)).unwrap_err().to_string();
        assert_eq!(
            problem(4),
            "model file: tensor hidden.bias is F32 [2], but this model has F32 [32]"
        );
        assert_eq!(problem(5), "model file: 5 tensors, but this model has 4");
        assert!(matches!(decode(&file(0)), Err(Error::Format(_))));
        assert!(matches!(decode(b"not a model"), Err(Error::Format(_))));
    }

    #[test]
    fn the_job_starts_from_the_initial_model() {
        let file = include_bytes!("../../../manifests/digits/initial.safetensors");
        assert_eq!(
            encode(&Model::initial(SEED)).unwrap(),
            file,
            "make it again: `digits initial FILE`"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_model_survives_the_round_trip(seed: u64) {
            let model = Model::initial(seed);
            prop_assert_eq!(decode(&encode(&model).unwrap()).unwrap(), model);
        }
    }
}
