//! Models with the tensor shapes of real networks, as safetensors files.

use serde_json::{Map, Value, json};

/// A tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// How many elements it has.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A model's tensors, in the order of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// What it is called in figures' names.
    pub name: String,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
}

impl Model {
    /// ResNet-18: 11,689,512 parameters in 62 tensors.
    #[must_use]
    pub fn resnet18() -> Self {
        resnet("r18", &[2, 2, 2, 2], Block::Basic)
    }

    /// ResNet-152: 60,192,808 parameters in 467 tensors.
    #[must_use]
    pub fn resnet152() -> Self {
        resnet("r152", &[3, 8, 36, 3], Block::Bottleneck)
    }

    /// A model of one tensor.
    #[must_use]
    pub fn flat(name: impl Into<String>, elements: usize) -> Self {
        let tensor = Tensor {
            name: "weight".into(),
            shape: vec![elements],
        };
        Self {
            name: name.into(),
            tensors: vec![tensor],
        }
    }

    /// How many elements all tensors have together.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.tensors.iter().map(Tensor::elements).sum()
    }

    /// Bytes of the elements in F32.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.elements() as u64 * 4
    }

    /// What stands before the elements in a safetensors file whose elements are all of one type, such as `F32` with
    /// 4 bytes. Ends at a multiple of 8 bytes.
    #[must_use]
    pub fn header(&self, dtype: &str, element_bytes: usize) -> Vec<u8> {
        let mut document = Map::new();
        let mut offset = 0;
        for tensor in &self.tensors {
            let end = offset + tensor.elements() * element_bytes;
            let entry =
                json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end] });
            document.insert(tensor.name.clone(), entry);
            offset = end;
        }
        with_length(&Value::Object(document))
    }
}

/// A safetensors file in memory: a header, and bytes that several files may share.
#[derive(Clone, Debug)]
pub struct Update {
    header: Vec<u8>,
    elements: Vec<u8>,
}

impl Update {
    /// A client's F32 update: small numbers that differ from client to client.
    #[must_use]
    pub fn f32(model: &Model, client: u64) -> Self {
        let elements = values(client)
            .take(model.elements())
            .flat_map(f32::to_le_bytes);
        Self {
            header: model.header("F32", 4),
            elements: elements.collect(),
        }
    }

    /// An update of another element type, from its header and its elements' bytes.
    #[must_use]
    pub const fn new(header: Vec<u8>, elements: Vec<u8>) -> Self {
        Self { header, elements }
    }

    /// The file in pieces, to be sent one after the other.
    #[must_use]
    pub fn pieces(&self) -> [&[u8]; 2] {
        [&self.header, &self.elements]
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn len(&self) -> u64 {
        (self.header.len() + self.elements.len()) as u64
    }

    /// Never: a file has a header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A client's numbers without end: finite, of both signs, small, and never denormal (which would measure something
/// else). The same client has the same ones every time; `peers/contender.py` makes the same, bit for bit.
pub fn values(client: u64) -> impl Iterator<Item = f32> {
    let offset = (client as u32).wrapping_mul(0x9e37_79b9);
    (0_u32..).map(move |index| {
        let hash = index.wrapping_mul(0x9e37_79b1).wrapping_add(offset);
        // 23 bits of mantissa in [1, 2), moved to both sides of 0 and scaled to what weights look like.
        let one_to_two = f32::from_bits(0x3f80_0000 | hash >> 9);
        (one_to_two - 1.5) * 0.125
    })
}

/// A safetensors header with its length before it, padded so that what follows is aligned.
#[must_use]
pub fn with_length(document: &Value) -> Vec<u8> {
    let mut text = document.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}

/// What the stages of a ResNet are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Basic,
    Bottleneck,
}

/// The tensors that are trained, in torchvision's names and order.
fn resnet(name: &str, blocks: &[usize; 4], block: Block) -> Model {
    let mut tensors = Vec::new();
    let mut channels = 64;
    convolution(&mut tensors, "conv1", "bn1", [64, 3, 7]);
    for (stage, count) in blocks.iter().enumerate() {
        let width = 64 << stage;
        let out = if block == Block::Basic {
            width
        } else {
            4 * width
        };
        for index in 0..*count {
            let place = format!("layer{}.{index}", stage + 1);
            let shapes: &[[usize; 3]] = match block {
                Block::Basic => &[[width, channels, 3], [width, width, 3]],
                Block::Bottleneck => &[[width, channels, 1], [width, width, 3], [out, width, 1]],
            };
            for (at, shape) in (1..).zip(shapes) {
                let (conv, norm) = (format!("{place}.conv{at}"), format!("{place}.bn{at}"));
                convolution(&mut tensors, &conv, &norm, *shape);
            }
            if index == 0 && channels != out {
                let (conv, norm) = (
                    format!("{place}.downsample.0"),
                    format!("{place}.downsample.1"),
                );
                convolution(&mut tensors, &conv, &norm, [out, channels, 1]);
            }
            channels = out;
        }
    }
    tensors.push(tensor("fc.weight", &[1000, channels]));
    tensors.push(tensor("fc.bias", &[1000]));
    Model {
        name: name.into(),
        tensors,
    }
}

/// A convolution without bias, and the normalisation after it. The shape is output, input, and kernel width.
fn convolution(tensors: &mut Vec<Tensor>, conv: &str, norm: &str, [out, into, width]: [usize; 3]) {
    tensors.push(tensor(
        &format!("{conv}.weight"),
        &[out, into, width, width],
    ));
    tensors.push(tensor(&format!("{norm}.weight"), &[out]));
    tensors.push(tensor(&format!("{norm}.bias"), &[out]));
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor {
        name: name.into(),
        shape: shape.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_have_their_known_sizes() {
        let (small, large) = (Model::resnet18(), Model::resnet152());
        assert_eq!((small.tensors.len(), small.elements()), (62, 11_689_512));
        assert_eq!((large.tensors.len(), large.elements()), (467, 60_192_808));
        assert_eq!(large.tensors[9].name, "layer1.0.conv3.weight");
        assert_eq!(large.tensors[9].shape, [256, 64, 1, 1]);
    }

    #[test]
    fn an_update_is_a_safetensors_file() {
        let model = Model::flat("small", 3);
        let update = Update::f32(&model, 7);
        let file = update.pieces().concat();
        assert_eq!(file.len() as u64, update.len());
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
        let expected = json!({"weight": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}});
        assert_eq!(header, expected);
        assert_eq!(file.len(), 8 + length + 12);
        assert!(length.is_multiple_of(8));
    }

    #[test]
    fn values_are_ordinary_numbers() {
        let first: Vec<f32> = values(1).take(10_000).collect();
        assert!(
            first
                .iter()
                .all(|value| value.is_normal() && value.abs() < 1.0)
        );
        assert!(first.iter().any(|value| *value < 0.0));
        assert_eq!(first, values(1).take(10_000).collect::<Vec<_>>());
        assert_ne!(first, values(2).take(10_000).collect::<Vec<_>>());
    }
}
