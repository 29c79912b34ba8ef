//! What a federated run is compared with: the same average in f64 in one process, and central training.

use crate::data::Image;
use crate::model::Model;
use crate::random::{Purpose, Random};
use crate::training::{Recipe, train};
use crate::{LOCAL_PASSES, SEED};

/// One client's part of a round: trains the global model on its shard.
///
/// Both the clients of Tributary and [`Reference`] call this, so that a difference between the two results
/// can only come from the aggregation.
pub fn local_update(global: &Model, shard: &[Image], client: usize, round: u64) -> Model {
    let purpose = Purpose::Local {
        client: client as u64,
        round,
    };
    train(
        global.clone(),
        shard,
        Recipe::LOCAL,
        &mut Random::new(SEED, purpose),
    )
}

/// Federated averaging in one process: no server, no files, every sum in f64.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    shards: &'a [Vec<Image>],
    model: Model,
    round: u64,
}

impl<'a> Reference<'a> {
    /// Starts from the job's initial model, before round 1.
    pub fn new(shards: &'a [Vec<Image>]) -> Self {
        Self {
            shards,
            model: Model::initial(SEED),
            round: 0,
        }
    }

    /// Runs the next round and gives its model.
    pub fn next_round(&mut self) -> &Model {
        self.round += 1;
        let train = |(client, shard): (usize, &Vec<Image>)| {
            (
                shard.len() as f64,
                local_update(&self.model, shard, client, self.round),
            )
        };
        let updates: Vec<(f64, Model)> = self.shards.iter().enumerate().map(train).collect();
        self.model = weighted_mean(&updates);
        &self.model
    }

    /// Runs `rounds` rounds and gives the last model.
    pub fn run(mut self, rounds: u64) -> Model {
        for _ in 0..rounds {
            self.next_round();
        }
        self.model
    }
}

/// The weighted mean of models, summed in f64 and rounded to f32 once; zero when there are none.
pub fn weighted_mean(updates: &[(f64, Model)]) -> Model {
    let total: f64 = updates.iter().map(|(weight, _)| weight).sum();
    let mut mean = Model::zero();
    if total > 0.0 {
        for (index, parameter) in mean.parameters_mut().iter_mut().enumerate() {
            let term =
                |(weight, model): &(f64, Model)| weight * f64::from(model.parameters()[index]);
            *parameter = (updates.iter().map(term).sum::<f64>() / total) as f32;
        }
    }
    mean
}

/// Trains on all images in one place, with as many passes over them as `rounds` rounds make.
pub fn central(images: &[Image], rounds: u64) -> Model {
    let recipe = Recipe {
        passes: LOCAL_PASSES * rounds as usize,
        ..Recipe::LOCAL
    };
    let mut random = Random::new(SEED, Purpose::Central);
    train(Model::initial(SEED), images, recipe, &mut random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CLIENTS, CONCENTRATION, Dataset, ROUNDS, shards};

    #[test]
    fn the_mean_weighs_and_rounds_once() {
        let model = |value: f32| {
            let mut model = Model::zero();
            model.parameters_mut().fill(value);
            model
        };
        let mean = weighted_mean(&[(1.0, model(1.0)), (3.0, model(2.0))]);
        assert!(mean.parameters().iter().all(|&value| value == 1.75));
        // In f32 the two small terms would vanish beside the large one.
        let mean = weighted_mean(&[(1.0, model(3e8)), (1.0, model(4.0)), (1.0, model(-3e8))]);
        assert!(
            mean.parameters()
                .iter()
                .all(|&value| value == (4.0f64 / 3.0) as f32)
        );
        assert_eq!(weighted_mean(&[]), Model::zero());
    }

    #[test]
    fn federated_accuracy_is_within_two_points_of_central() {
        let data = Dataset::load(SEED).unwrap();
        let shards = shards::deal(&data.train, CLIENTS, CONCENTRATION, SEED).unwrap();
        let federated = Reference::new(&shards).run(ROUNDS).accuracy(&data.test);
        let central = central(&data.train, ROUNDS).accuracy(&data.test);
        assert!(central > 0.9, "central {central}");
        assert!(
            (federated - central).abs() <= 0.02,
            "federated {federated}, central {central}"
        );
    }
}
