//! Local training: stochastic gradient descent in f32.
//!
//! The same model, images and order give the same bits, whoever runs it: the sums are written out in a fixed
//! order and nothing depends on threads or on the machine's C library.

use crate::data::Image;
use crate::model::Model;
use crate::random::Random;

/// How a client trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Passes over the images.
    pub passes: usize,
    /// Images in a step; the last step of a pass may have fewer.
    pub batch: usize,
    /// Step size.
    pub learning_rate: f32,
}

impl Recipe {
    /// The job's recipe for one round.
    pub const LOCAL: Self = Self {
        passes: crate::LOCAL_PASSES,
        batch: 16,
        learning_rate: 0.3,
    };
}

/// Trains `model` on `images`, in an order taken from `random`.
pub fn train(mut model: Model, images: &[Image], recipe: Recipe, random: &mut Random) -> Model {
    let mut order: Vec<usize> = (0..images.len()).collect();
    let mut gradient = vec![0.0f32; model.parameters().len()];
    for _ in 0..recipe.passes {
        random.shuffle(&mut order);
        for batch in order.chunks(recipe.batch.max(1)) {
            gradient.fill(0.0);
            for &index in batch {
                model.add_gradient(&images[index], &mut gradient);
            }
            let step = recipe.learning_rate / batch.len() as f32;
            for (parameter, slope) in model.parameters_mut().iter_mut().zip(&gradient) {
                *parameter -= step * slope;
            }
        }
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use crate::{Dataset, SEED};

    #[test]
    fn training_repeats_bit_for_bit_and_learns() {
        let data = Dataset::load(SEED).unwrap();
        let run = |round| {
            let mut random = Random::new(SEED, Purpose::Local { client: 0, round });
            train(
                Model::initial(SEED),
                &data.train[..200],
                Recipe::LOCAL,
                &mut random,
            )
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(
            run(1).loss(&data.train[..200]) < 0.5 * Model::initial(SEED).loss(&data.train[..200])
        );
    }

    #[test]
    fn no_images_change_nothing() {
        let mut random = Random::new(SEED, Purpose::Central);
        assert_eq!(
            train(Model::initial(SEED), &[], Recipe::LOCAL, &mut random),
            Model::initial(SEED)
        );
    }
}
