//! Write an aggregation function for Tributary.
//!
//! A function is a type that implements [`Function`] and is named to [`export!`]. It folds clients'
//! updates into a *partial*, merges partials, and finishes a partial into a new model; the platform
//! decides how many times, where and in which shape of tree. `docs/abi.md` is the contract beneath.
//!
//! ```
//! use tributary_sdk::{Description, Encodings, Error, Finish, Fold, Function, Merge, NoConfig};
//!
//! /// Counts, per element, the clients whose value is positive.
//! struct Votes;
//!
//! impl Function for Votes {
//!     type Config = NoConfig;
//!
//!     fn new(_: NoConfig) -> Result<Self, Error> {
//!         Ok(Self)
//!     }
//!
//!     fn describe(&self) -> Description {
//!         Description {
//!             partial_bytes_per_element: 4,
//!             scalar_bytes: 0,
//!             max_inputs: 16,
//!             encodings: Encodings::F32,
//!         }
//!     }
//!
//!     fn fold(&self, mut call: Fold<'_>) -> Result<(), Error> {
//!         let counts = call.output.begin::<u32>(call.previous.as_ref());
//!         for update in &call.updates {
//!             for (count, value) in counts.iter_mut().zip(update.f32()?) {
//!                 *count += u32::from(*value > 0.0);
//!             }
//!         }
//!         Ok(())
//!     }
//!
//!     fn merge(&self, mut call: Merge<'_>) -> Result<(), Error> {
//!         let counts = call.output.begin::<u32>(call.previous.as_ref());
//!         for partial in &call.partials {
//!             for (count, other) in counts.iter_mut().zip(partial.vector::<u32>()) {
//!                 *count += other;
//!             }
//!         }
//!         Ok(())
//!     }
//!
//!     fn finish(&self, call: Finish<'_>) -> Result<(), Error> {
//!         for (value, count) in call.output.iter_mut().zip(call.partial.vector::<u32>()) {
//!             *value = *count as f32;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! tributary_sdk::export!(Votes);
//!
//! let partial = tributary_sdk::testing::fold(&Votes, None, &[(&[1.0, -1.0], 1.0), (&[2.0, 3.0], 1.0)])?;
//! assert_eq!(tributary_sdk::testing::finish(&Votes, &partial, &[0.0, 0.0])?, [2.0, 1.0]);
//! # Ok::<(), Error>(())
//! ```
//!
//! Build it as a `cdylib` for `wasm32-unknown-unknown`; `functions/README.md` has the commands. The
//! crate also builds for the machine you write on, with the same arithmetic in plain Rust, so that a
//! function can be tested with `cargo test` (see [`testing`]).
//!
//! Layout: [`call`] what a function is given; [`values`] how updates are written; [`weighted_sum`] means of updates, in `f32`, `f64` or
//! exactly; [`kernel`] the loops beneath; [`host`] the host's imports; `export` the entry points.

#![no_std]

extern crate alloc;

mod abi;
pub mod call;
mod error;
pub mod export;
pub mod host;
pub mod kernel;
#[cfg(all(target_arch = "wasm32", feature = "runtime"))]
mod runtime;
pub mod testing;
pub mod values;
pub mod weighted_sum;

pub use call::{Finish, Fold, Merge, Partial, PartialMut, Round, Update};
pub use error::Error;
pub use values::{Encoding, Encodings, Run, Values};
pub use weighted_sum::{Accumulate, WeightedSum, add_model};

use serde::de::DeserializeOwned;

/// An aggregation rule.
///
/// One value is made per instance, from the job's configuration; calls must not change what it
/// computes, so they get it shared. Everything that has to survive a call belongs into the partial.
pub trait Function: Sized {
    /// The job's `config`, from JSON. A job without one is an empty object.
    type Config: DeserializeOwned;

    /// Makes the function, or says what is wrong with its configuration.
    ///
    /// # Errors
    /// The job is refused with the error's message.
    fn new(config: Self::Config) -> Result<Self, Error>;

    /// How large its partials are and how many inputs it takes at once.
    fn describe(&self) -> Description;

    /// Folds updates: `output = previous ⊕ updates`. Without `previous` it begins a partial; the
    /// output's bytes are undefined before it writes them.
    ///
    /// # Errors
    /// The round fails with the error's code and message.
    fn fold(&self, call: Fold<'_>) -> Result<(), Error>;

    /// Merges partials: `output = previous ⊕ partials`.
    ///
    /// # Errors
    /// As for [`Function::fold`].
    fn merge(&self, call: Merge<'_>) -> Result<(), Error>;

    /// Makes the new model out of the final partial.
    ///
    /// # Errors
    /// As for [`Function::fold`].
    fn finish(&self, call: Finish<'_>) -> Result<(), Error>;
}

/// What a function says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Bytes of a partial's vector per element of the model, 1 to 1024.
    pub partial_bytes_per_element: u32,
    /// Bytes of scalars that a partial carries beside its vector, at most 4096.
    pub scalar_bytes: u32,
    /// The most inputs that one call may have, 1 to 64.
    pub max_inputs: u32,
    /// The encodings of updates that it folds; it is given no others. [`Encodings::F32`] if in doubt.
    pub encodings: Encodings,
}

/// The configuration of a function that has none.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}
