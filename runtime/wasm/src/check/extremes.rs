//! Weights and values at the ends of what clients may send.
//!
//! Here a function may return an error, as one does whose arithmetic cannot hold the sums; what it must not do is
//! make a model that is not finite.

use super::trial::Trial;
use super::updates::Update;
use super::{has_to_be_finite, input};
use crate::error::{CallError, Error};
use crate::operands::Input;

/// The ends of the weights that a job takes unless it says otherwise, and a mixture of them.
const WEIGHTS: [[f64; 4]; 3] = [[1e-12; 4], [1e12; 4], [1e-12, 1e12, 1.0, 1e12]];
/// The ends of finite values; the second smallest is the smallest that is normal.
const VALUES: [f32; 7] = [
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    f32::from_bits(1),
    0.0,
    1.0,
    -1.0,
];
const LAW: &str =
    "extreme updates, finite as they are, make a finite model or an error of the function's own";

pub(super) fn prove(trial: &mut Trial, elements: u32) -> Result<(), Error> {
    trial.set_model(&extreme(elements, 0))?;
    // Clients that agree on every value, whose sums are as large as can be, and clients that do not.
    for shift in [0, 1] {
        let updates: Vec<Update> = (0..4)
            .map(|client| extreme(elements, client * shift))
            .collect();
        for weights in WEIGHTS {
            trial.rewinding(|trial| {
                let inputs = updates.iter().zip(weights);
                let inputs: Result<Vec<Input>, Error> = inputs
                    .map(|(update, weight)| {
                        let placed = input(trial.put(update)?, update.content, 0);
                        Ok(Input { weight, ..placed })
                    })
                    .collect();
                prove_finite(trial, &inputs?)
            })?;
        }
    }
    Ok(())
}

fn extreme(elements: u32, shift: usize) -> Update {
    let values = (0..elements as usize).map(|element| VALUES[(element + shift) % VALUES.len()]);
    Update::of_values(values.collect())
}

fn prove_finite(trial: &mut Trial, inputs: &[Input]) -> Result<(), Error> {
    let folded = unless_refused(at_once(trial, inputs))?;
    let merged = unless_refused(in_halves(trial, inputs))?;
    for model in [folded, merged].into_iter().flatten() {
        has_to_be_finite(&model, LAW)?;
    }
    Ok(())
}

fn at_once(trial: &mut Trial, inputs: &[Input]) -> Result<Vec<f32>, Error> {
    let partial = trial.fold(None, inputs)?;
    trial.finish(partial)
}

fn in_halves(trial: &mut Trial, inputs: &[Input]) -> Result<Vec<f32>, Error> {
    let (left, right) = inputs.split_at(inputs.len() / 2);
    let partials = [trial.fold(None, left)?, trial.fold(None, right)?];
    let merged = trial.merge(None, &partials)?;
    trial.finish(merged)
}

fn unless_refused<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Call(CallError::Returned { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}
