//! The network: 64 pixels, 32 hidden units (ReLU), 10 classes (softmax); 2,410 parameters.
//!
//! The parameters are one flat vector of f32, tensor after tensor in the order of [`TENSORS`]. Aggregation
//! sees only this vector.

use std::ops::Range;

use crate::data::{CLASSES, Image, PIXELS};
use crate::random::{Purpose, Random};

/// Units of the hidden layer.
pub const HIDDEN: usize = 32;

/// A named part of the parameter vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in safetensors files.
    pub name: &'static str,
    /// Its shape; a matrix has one row per unit that it feeds.
    pub shape: &'static [usize],
    /// Where it begins in the parameter vector.
    start: usize,
}

impl Tensor {
    /// The tensor's place in the parameter vector.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.shape.iter().product::<usize>()
    }
}

const HIDDEN_BIAS: Tensor = Tensor {
    name: "hidden.bias",
    shape: &[HIDDEN],
    start: 0,
};
const HIDDEN_WEIGHT: Tensor = Tensor {
    name: "hidden.weight",
    shape: &[HIDDEN, PIXELS],
    start: HIDDEN,
};
const OUTPUT_BIAS: Tensor = Tensor {
    name: "output.bias",
    shape: &[CLASSES],
    start: HIDDEN + HIDDEN * PIXELS,
};
const OUTPUT_WEIGHT: Tensor = Tensor {
    name: "output.weight",
    shape: &[CLASSES, HIDDEN],
    start: HIDDEN + HIDDEN * PIXELS + CLASSES,
};

/// The model's tensors in the order of their names, which is the order in safetensors files.
pub const TENSORS: [Tensor; 4] = [HIDDEN_BIAS, HIDDEN_WEIGHT, OUTPUT_BIAS, OUTPUT_WEIGHT];

/// Length of the parameter vector.
pub const PARAMETERS: usize = HIDDEN + HIDDEN * PIXELS + CLASSES + CLASSES * HIDDEN;

/// The network's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    parameters: Vec<f32>,
}

/// What a forward pass computed for one image; [`Model::add_gradient`] goes back through it.
#[derive(Clone, Debug)]
struct Activations {
    hidden: [f32; HIDDEN],
    probabilities: [f32; CLASSES],
}

impl Model {
    /// The first global model: He's initialisation, biases zero.
    pub fn initial(seed: u64) -> Self {
        let mut random = Random::new(seed, Purpose::InitialModel);
        let mut model = Self::zero();
        for (tensor, inputs) in [(HIDDEN_WEIGHT, PIXELS), (OUTPUT_WEIGHT, HIDDEN)] {
            let scale = libm::sqrt(2.0 / inputs as f64);
            for parameter in &mut model.parameters[tensor.range()] {
                *parameter = (scale * random.normal()) as f32;
            }
        }
        model
    }

    /// A model whose parameters are all zero.
    pub fn zero() -> Self {
        Self {
            parameters: vec![0.0; PARAMETERS],
        }
    }

    /// All parameters; [`PARAMETERS`] of them.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// All parameters, to be changed in place.
    pub fn parameters_mut(&mut self) -> &mut [f32] {
        &mut self.parameters
    }

    /// The digit that the model sees in `image`.
    pub fn predict(&self, image: &Image) -> u8 {
        let probabilities = self.forward(image).probabilities;
        let mut best = 0;
        for class in 1..CLASSES {
            if probabilities[class] > probabilities[best] {
                best = class;
            }
        }
        best as u8
    }

    /// Share of `images` that the model reads rightly, from 0 to 1.
    pub fn accuracy(&self, images: &[Image]) -> f64 {
        let right = images
            .iter()
            .filter(|image| self.predict(image) == image.label)
            .count();
        right as f64 / images.len().max(1) as f64
    }

    /// Mean cross-entropy of the model on `images`, in nats.
    pub fn loss(&self, images: &[Image]) -> f64 {
        let loss = |image: &Image| {
            let probability = self.forward(image).probabilities[usize::from(image.label)];
            -libm::log(f64::from(probability).max(f64::MIN_POSITIVE))
        };
        images.iter().map(loss).sum::<f64>() / images.len().max(1) as f64
    }

    /// Largest difference of two parameters relative to the larger one; 0 when all are the same.
    pub fn relative_difference(&self, other: &Self) -> f64 {
        let pairs = self.parameters.iter().zip(&other.parameters);
        let relative = |(&a, &b): (&f32, &f32)| {
            let (a, b) = (f64::from(a), f64::from(b));
            if a == b {
                0.0
            } else {
                (a - b).abs() / a.abs().max(b.abs())
            }
        };
        // `f64::max` would drop a NaN, and a NaN must never look like agreement.
        pairs.map(relative).fold(0.0, |most, next| {
            if next.is_nan() {
                f64::INFINITY
            } else {
                most.max(next)
            }
        })
    }

    /// Adds the gradient of the cross-entropy on `image` to `gradient` (laid out as the parameters).
    pub(crate) fn add_gradient(&self, image: &Image, gradient: &mut [f32]) {
        let Activations {
            hidden,
            probabilities: mut error,
        } = self.forward(image);
        error[usize::from(image.label)] -= 1.0;

        let mut hidden_error = [0.0f32; HIDDEN];
        let (weights, at) = (&self.parameters[OUTPUT_WEIGHT.range()], OUTPUT_WEIGHT.start);
        for (class, &error) in error.iter().enumerate() {
            gradient[OUTPUT_BIAS.start + class] += error;
            let row = class * HIDDEN;
            for unit in 0..HIDDEN {
                gradient[at + row + unit] += error * hidden[unit];
                hidden_error[unit] += error * weights[row + unit];
            }
        }
        for (unit, &error) in hidden_error.iter().enumerate() {
            if hidden[unit] <= 0.0 {
                continue; // the ReLU was closed
            }
            gradient[HIDDEN_BIAS.start + unit] += error;
            let row = HIDDEN_WEIGHT.start + unit * PIXELS;
            for (slope, &pixel) in gradient[row..row + PIXELS].iter_mut().zip(&image.pixels) {
                *slope += error * pixel;
            }
        }
    }

    fn forward(&self, image: &Image) -> Activations {
        let mut hidden = [0.0; HIDDEN];
        self.layer(HIDDEN_WEIGHT, HIDDEN_BIAS, &image.pixels, &mut hidden);
        for unit in &mut hidden {
            *unit = unit.max(0.0);
        }
        let mut probabilities = [0.0; CLASSES];
        self.layer(OUTPUT_WEIGHT, OUTPUT_BIAS, &hidden, &mut probabilities);
        softmax(&mut probabilities);
        Activations {
            hidden,
            probabilities,
        }
    }

    /// `output = weight * input + bias`
    fn layer(&self, weight: Tensor, bias: Tensor, input: &[f32], output: &mut [f32]) {
        let rows = self.parameters[weight.range()].chunks_exact(input.len());
        let biases = &self.parameters[bias.range()];
        for ((out, row), &bias) in output.iter_mut().zip(rows).zip(biases) {
            *out = bias + row.iter().zip(input).map(|(&w, &x)| w * x).sum::<f32>();
        }
    }
}

fn softmax(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in &mut *values {
        *value = libm::expf(*value - largest);
        sum += *value;
    }
    for value in values {
        *value /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, SEED};

    #[test]
    fn the_tensors_fill_the_vector_in_the_order_of_their_names() {
        let mut next = 0;
        for tensor in TENSORS {
            assert_eq!(tensor.range().start, next);
            next = tensor.range().end;
        }
        assert_eq!(next, PARAMETERS);
        assert!(TENSORS.is_sorted_by_key(|tensor| tensor.name));
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let image = Dataset::load(SEED).unwrap().train[0].clone();
        let model = Model::initial(SEED);
        let mut gradient = vec![0.0; PARAMETERS];
        model.add_gradient(&image, &mut gradient);
        let step = 1e-2;
        for index in (0..PARAMETERS).step_by(13) {
            let loss_at = |shift: f32| {
                let mut moved = model.clone();
                moved.parameters[index] += shift;
                moved.loss(std::slice::from_ref(&image))
            };
            let slope = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
            let error = (slope - f64::from(gradient[index])).abs();
            assert!(
                error < 5e-3,
                "parameter {index}: slope {slope}, gradient {}",
                gradient[index]
            );
        }
    }

    #[test]
    fn an_untrained_model_guesses() {
        let data = Dataset::load(SEED).unwrap();
        assert!(Model::initial(SEED).accuracy(&data.test) < 0.4);
        assert!((Model::zero().loss(&data.test) - libm::log(10.0)).abs() < 1e-6);
    }

    #[test]
    fn the_difference_is_relative_and_never_hides_a_nan() {
        let mut model = Model::zero();
        model.parameters.fill(2.0);
        let mut other = model.clone();
        assert_eq!(model.relative_difference(&other), 0.0);
        other.parameters[7] = 1.0;
        assert_eq!(model.relative_difference(&other), 0.5);
        other.parameters[3] = f32::NAN;
        assert_eq!(model.relative_difference(&other), f64::INFINITY);
    }
}
