//! Federated learning on handwritten digits: a small job that is real in every part.
//!
//! Twenty clients hold label-skewed shards of the UCI optical digits data and train a small network on
//! them. What a deployment would keep on twenty devices lives here in one library, so that the same local
//! training can be run in three ways and the results compared:
//!
//! 1. by clients that talk to Tributary over HTTP ([`DataPlane`]),
//! 2. averaged in one process in f64 ([`federated::Reference`]), which is what 1. must equal,
//! 3. without federation, on all the data in one place ([`federated::central`]).
//!
//! # Layout
//! - [`data`]: the images, and the fixed split into training and test set
//! - [`shards`]: which client holds which images
//! - [`model`]: the network, its four tensors, its predictions
//! - [`tensors`]: the model as a safetensors file
//! - [`training`]: stochastic gradient descent, in f32, the same bits for the same seed
//! - [`federated`]: the reference average, and central training
//! - [`data_plane`]: the client's side of the HTTP interface
//! - [`random`]: the seeded generator under all of it

#![forbid(unsafe_code)]

pub mod data;
pub mod data_plane;
pub mod federated;
pub mod model;
pub mod random;
pub mod shards;
pub mod tensors;
pub mod training;

pub use data::{Dataset, Image};
pub use data_plane::DataPlane;
pub use model::Model;

/// Clients of the job.
pub const CLIENTS: usize = 20;

/// Rounds of the job. `manifests/digits.yaml` says the same.
pub const ROUNDS: u64 = 20;

/// Concentration of the Dirichlet distribution that skews the labels: the smaller, the more skewed.
pub const CONCENTRATION: f64 = 0.5;

/// Passes that a client makes over its shard in each round.
pub const LOCAL_PASSES: usize = 5;

/// The seed of everything: split, shards, initial model and the order of training examples.
pub const SEED: u64 = 0x7472_6962_7574_6172;

/// The job's name in `manifests/digits.yaml`.
pub const JOB: &str = "digits";

/// A client's name in URLs: `client-00` to `client-19`.
pub fn client_name(client: usize) -> String {
    format!("client-{client:02}")
}
