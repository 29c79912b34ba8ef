//! Weighted sums as a building block: the partial of every weighted mean.
//!
//! A partial's vector is the weighted sum of its updates, its scalar the sum of their weights.

use crate::Description;
use crate::call::{Finish, Fold, Merge, Partial, Round, Update};
use crate::error::Error;
use crate::kernel::{Fault, double, exact, single};
use crate::values::{Encodings, Values};
use alloc::format;
use alloc::vec::Vec;
use serde::Deserialize;

/// The arithmetic of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accumulate {
    /// `f32`: half the memory traffic of the others, about seven digits.
    F32,
    /// `f64`: about sixteen digits.
    #[default]
    F64,
    /// 64-bit fixed point: the same bits in any order and any tree.
    Exact,
}

/// A weighted sum of updates.
///
/// Exact sums count in steps of 2^-`scale_bits`, weights and weighted values alike: a mean is off by at
/// most `n · 2^-(scale_bits + 1)` divided by the sum of the `n` weights, and the sums have to stay below
/// 2^(62 - `scale_bits`) in absolute value. The default of 32 bits carries sums up to 2^30, such as
/// 1.07 billion examples, with steps of 2.3e-10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightedSum {
    accumulate: Accumulate,
    scale_bits: u32,
}

/// Inputs per call: each call reads and writes the partial once, so many are better. On large pages 32 in one
/// call were measured a quarter faster than in four; on small ones it makes no difference.
const INPUTS_MAX: u32 = 32;

impl WeightedSum {
    /// The default of `scale_bits`.
    pub const SCALE_BITS: u32 = 32;

    /// A sum in the given arithmetic; `scale_bits` matters to exact ones.
    ///
    /// # Errors
    /// Exact sums take 16 to 48 bits of scale.
    pub fn new(accumulate: Accumulate, scale_bits: u32) -> Result<Self, Error> {
        if !(16..=48).contains(&scale_bits) {
            return Err(Error::new(
                Error::CONFIG,
                format!("scaleBits is {scale_bits}; it has to be within 16..=48"),
            ));
        }
        Ok(Self {
            accumulate,
            scale_bits,
        })
    }

    /// What a function that keeps such sums says about itself.
    #[must_use]
    pub fn describe(&self) -> Description {
        Description {
            partial_bytes_per_element: match self.accumulate {
                Accumulate::F32 => 4,
                Accumulate::F64 | Accumulate::Exact => 8,
            },
            scalar_bytes: 8,
            max_inputs: INPUTS_MAX,
            encodings: Encodings::ALL,
        }
    }

    /// Folds updates, each multiplied by its weight.
    ///
    /// # Errors
    /// A weight must be finite and not negative. Exact sums refuse what they cannot represent: values
    /// that are not finite, weights too small to count, sums out of range.
    pub fn fold(&self, mut call: Fold<'_>) -> Result<(), Error> {
        let values: Vec<Values<'_>> = call.updates.iter().map(|update| update.values).collect();
        let first = call.round.first_element;
        let explain = |fault| explain(fault, call.round);
        let previous = call.previous.as_ref();
        match self.accumulate {
            Accumulate::F32 => {
                // The sum of the weights is the sum of those that were used.
                let weights = weights(&call.updates, narrow)?;
                let before = previous.map(Partial::vector);
                single::weighted_sum(call.output.vector(), before, &values, &weights, first)
                    .map_err(explain)?;
                let used = weights.iter().map(|weight| f64::from(*weight));
                *call.output.scalars() = scalar::<f64>(previous) + used.sum::<f64>();
            }
            Accumulate::F64 => {
                let weights = weights(&call.updates, Ok)?;
                let before = previous.map(Partial::vector);
                double::weighted_sum(call.output.vector(), before, &values, &weights, first)
                    .map_err(explain)?;
                *call.output.scalars() = scalar::<f64>(previous) + weights.iter().sum::<f64>();
            }
            Accumulate::Exact => {
                let weights = weights(&call.updates, |weight| self.quantise(weight))?;
                let before = previous.map(Partial::vector);
                exact::weighted_sum(call.output.vector(), before, &values, &weights, first)
                    .map_err(explain)?;
                *call.output.scalars() = add_weights(scalar(previous), weights)?;
            }
        }
        Ok(())
    }

    /// Merges sums.
    ///
    /// # Errors
    /// Exact sums must stay in range.
    pub fn merge(&self, mut call: Merge<'_>) -> Result<(), Error> {
        let previous = call.previous.as_ref();
        match self.accumulate {
            Accumulate::F32 => {
                let ones = alloc::vec![1.0; call.partials.len()];
                let before = previous.map(Partial::vector);
                let vectors = vectors(&call.partials);
                let vectors: Vec<Values<'_>> = vectors.into_iter().map(Values::F32).collect();
                let first = call.round.first_element;
                single::weighted_sum(call.output.vector(), before, &vectors, &ones, first)
                    .map_err(|fault| explain(fault, call.round))?;
                *call.output.scalars() = sum_scalars(previous, &call.partials);
            }
            Accumulate::F64 => {
                let before = previous.map(Partial::vector);
                double::plain_sum(call.output.vector(), before, &vectors(&call.partials));
                *call.output.scalars() = sum_scalars(previous, &call.partials);
            }
            Accumulate::Exact => {
                let before = previous.map(Partial::vector);
                exact::plain_sum(call.output.vector(), before, &vectors(&call.partials))
                    .map_err(|fault| explain(fault, call.round))?;
                let weights = call
                    .partials
                    .iter()
                    .map(|partial| *partial.scalars::<i64>());
                *call.output.scalars() = add_weights(scalar(previous), weights)?;
            }
        }
        Ok(())
    }

    /// Writes the weighted mean into the call's output.
    ///
    /// # Errors
    /// The weights must not sum to zero or to infinity, and no mean of finite sums may leave the range of
    /// `f32`. Sums in `f32` have to be finite: one that is not may be an overflow of finite updates. Sums in
    /// `f64` do not overflow with weights below 1e250, so what is not finite there was sent.
    pub fn mean(&self, call: &mut Finish<'_>) -> Result<(), Error> {
        let weight = match self.accumulate {
            Accumulate::Exact => *call.partial.scalars::<i64>() as f64,
            Accumulate::F32 | Accumulate::F64 => *call.partial.scalars::<f64>(),
        };
        if weight.is_nan() || weight <= 0.0 || weight.is_infinite() {
            return Err(Error::new(
                Error::EMPTY,
                format!("the weights sum to {weight}: there is no mean"),
            ));
        }
        match self.accumulate {
            Accumulate::F32 => divide(call, weight, |sum: f32| f64::from(sum), |_| true),
            Accumulate::F64 => divide(call, weight, |sum: f64| sum, f64::is_finite),
            // Both are counted in the same steps, which cancel.
            Accumulate::Exact => divide(call, weight, |sum: i64| sum as f64, |_| true),
        }
    }

    fn quantise(&self, weight: f64) -> Result<i64, Error> {
        match exact::quantise(weight, self.scale_bits) {
            Some(0) if weight > 0.0 => Err(Error::new(
                Error::INPUT,
                format!(
                    "the weight {weight} is too small for scaleBits {}",
                    self.scale_bits
                ),
            )),
            Some(steps) => Ok(steps),
            None => Err(Error::new(
                Error::OVERFLOW,
                format!(
                    "the weight {weight} is too large for scaleBits {}",
                    self.scale_bits
                ),
            )),
        }
    }
}

/// The updates' weights, checked and converted.
fn weights<W>(
    updates: &[Update<'_>],
    convert: impl Fn(f64) -> Result<W, Error>,
) -> Result<Vec<W>, Error> {
    let checked = updates.iter().map(|update| {
        let weight = update.weight;
        if weight.is_finite() && weight >= 0.0 {
            return convert(weight);
        }
        Err(Error::new(
            Error::INPUT,
            format!("a weight is {weight}; it has to be finite and not negative"),
        ))
    });
    checked.collect()
}

/// A weight for sums in `f32`.
fn narrow(weight: f64) -> Result<f32, Error> {
    let narrow = weight as f32;
    if narrow.is_finite() && (narrow > 0.0 || weight == 0.0) {
        return Ok(narrow);
    }
    Err(Error::new(
        Error::INPUT,
        format!(
            "the weight {weight} is beyond what an f32 can hold; use other weights, or accumulate f64"
        ),
    ))
}

fn vectors<'a, T: bytemuck::Pod>(partials: &[Partial<'a>]) -> Vec<&'a [T]> {
    partials.iter().map(Partial::vector).collect()
}

/// The previous sum of weights.
fn scalar<T: bytemuck::Pod>(previous: Option<&Partial<'_>>) -> T {
    previous.map_or_else(T::zeroed, |partial| *partial.scalars())
}

fn sum_scalars(previous: Option<&Partial<'_>>, partials: &[Partial<'_>]) -> f64 {
    let weights = partials.iter().map(|partial| partial.scalars::<f64>());
    scalar::<f64>(previous) + weights.sum::<f64>()
}

fn add_weights(start: i64, weights: impl IntoIterator<Item = i64>) -> Result<i64, Error> {
    let mut sum = start;
    for weight in weights {
        sum = exact::add(sum, weight).ok_or_else(|| {
            Error::new(
                Error::OVERFLOW,
                "the sum of the weights leaves the range of exact sums",
            )
        })?;
    }
    Ok(sum)
}

/// Divides sums by `weight`. A result that is not finite is an error if its sum `has_to_give` a finite one.
fn divide<T: bytemuck::Pod>(
    call: &mut Finish<'_>,
    weight: f64,
    widen: impl Fn(T) -> f64,
    has_to_give: impl Fn(f64) -> bool,
) -> Result<(), Error> {
    /// Elements that are divided, then looked at while they are in the first-level cache.
    const BLOCK: usize = 1024;
    let sums = call.partial.vector::<T>();
    let blocks = call.output.chunks_mut(BLOCK).zip(sums.chunks(BLOCK));
    for (block, (values, sums)) in blocks.enumerate() {
        for (value, sum) in values.iter_mut().zip(sums) {
            *value = (widen(*sum) / weight) as f32;
        }
        if all_finite(values) {
            continue;
        }
        let mut pairs = values.iter().zip(sums);
        let out_of_range =
            |(value, sum): (&f32, &T)| !value.is_finite() && has_to_give(widen(*sum));
        if let Some(element) = pairs.position(out_of_range) {
            return Err(overflow(call.round, block * BLOCK + element));
        }
    }
    Ok(())
}

/// Whether all are finite; in a form that compilers make vector instructions of.
fn all_finite(values: &[f32]) -> bool {
    const MAGNITUDE: u32 = 0x7fff_ffff;
    let largest = values.iter().fold(0, |largest: u32, value| {
        largest.max(value.to_bits() & MAGNITUDE)
    });
    f32::from_bits(largest).is_finite()
}

fn overflow(round: Round, element: usize) -> Error {
    let coordinate = round.first_element + element as u64;
    Error::new(
        Error::OVERFLOW,
        format!("coordinate {coordinate} of the model leaves the range of f32"),
    )
}

/// Adds the current model to what `output` holds, for updates that are differences to it.
///
/// # Errors
/// No sum of finite numbers may leave the range of `f32`.
pub fn add_model(call: &mut Finish<'_>) -> Result<(), Error> {
    let mut out_of_range = false;
    for (value, model) in call.output.iter_mut().zip(call.model) {
        let sum = *value + model;
        out_of_range |= !sum.is_finite() & value.is_finite() & model.is_finite();
        *value = sum;
    }
    if !out_of_range {
        return Ok(());
    }
    let infinite = call.output.iter().position(|value| value.is_infinite());
    Err(overflow(call.round, infinite.unwrap_or_default()))
}

fn explain(fault: Fault, round: Round) -> Error {
    let coordinate = |element: usize| round.first_element + element as u64;
    match fault {
        Fault::Overflow { element } => Error::new(
            Error::OVERFLOW,
            format!(
                "coordinate {} leaves the range of exact sums; use a smaller scaleBits",
                coordinate(element)
            ),
        ),
        Fault::NotFinite { element, input } => Error::new(
            Error::INPUT,
            format!(
                "coordinate {} of input {input} is not finite",
                coordinate(element)
            ),
        ),
        Fault::Table { input } => Error::new(
            Error::INPUT,
            format!(
                "the coordinates or scale runs of input {input} do not ascend, or do not begin at the \
                 model's first element"
            ),
        ),
    }
}
