//! Federated averaging: the new model is the mean of the clients' updates, weighted by their examples.
//!
//! Configuration, all optional: `accumulate` `"f32"`, `"f64"` (the default) or `"exact"`; `scaleBits`
//! of exact sums (default 32); `update` `"model"` (the default: clients send models) or `"delta"` (they
//! send what to add to the global model).

// On the machine it is written on, a function is an ordinary library, for its tests.
#![cfg_attr(target_arch = "wasm32", no_std)]

use tributary_sdk::{
    Accumulate, Description, Encoding, Error, Finish, Fold, Function, Merge, WeightedSum,
    add_model, export,
};

/// What clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Update {
    /// Whole models.
    #[default]
    Model,
    /// Differences to the global model.
    Delta,
}

/// The job's configuration.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    accumulate: Accumulate,
    scale_bits: u32,
    update: Update,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            accumulate: Accumulate::default(),
            scale_bits: WeightedSum::SCALE_BITS,
            update: Update::default(),
        }
    }
}

/// The function.
#[derive(Debug)]
pub struct FedAvg {
    sum: WeightedSum,
    update: Update,
}

impl Function for FedAvg {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self {
            sum: WeightedSum::new(config.accumulate, config.scale_bits)?,
            update: config.update,
        })
    }

    fn describe(&self) -> Description {
        let sum = self.sum.describe();
        // What a sparse update does not name is zero: no change to a model, but no model either.
        match self.update {
            Update::Delta => sum,
            Update::Model => Description {
                encodings: sum.encodings.without(Encoding::Sparse),
                ..sum
            },
        }
    }

    fn fold(&self, call: Fold<'_>) -> Result<(), Error> {
        self.sum.fold(call)
    }

    fn merge(&self, call: Merge<'_>) -> Result<(), Error> {
        self.sum.merge(call)
    }

    fn finish(&self, mut call: Finish<'_>) -> Result<(), Error> {
        self.sum.mean(&mut call)?;
        if self.update == Update::Delta {
            add_model(&mut call)?;
        }
        Ok(())
    }
}

export!(FedAvg);
