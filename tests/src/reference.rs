//! Right answers, computed in f64, and to the bit where a job promises bits.

use crate::tensors::Model;

/// A weighted mean and how large the numbers were that went into it.
#[derive(Debug, Clone)]
pub struct Mean {
    values: Vec<f64>,
    /// The weighted mean of the absolute values: what rounding errors are relative to.
    magnitudes: Vec<f64>,
}

impl Mean {
    /// The mean of updates with their weights.
    #[must_use]
    pub fn of<'a>(updates: impl IntoIterator<Item = (&'a Model, f64)>) -> Self {
        let (mut values, mut magnitudes, mut total) = (Vec::new(), Vec::new(), 0.0);
        for (update, weight) in updates {
            total += weight;
            for (at, value) in update.values().map(f64::from).enumerate() {
                if at == values.len() {
                    values.push(0.0);
                    magnitudes.push(0.0);
                }
                values[at] += value * weight;
                magnitudes[at] += value.abs() * weight;
            }
        }
        values
            .iter_mut()
            .chain(&mut magnitudes)
            .for_each(|sum| *sum /= total);
        Self { values, magnitudes }
    }

    /// A model to which a mean of differences is added.
    #[must_use]
    pub fn added_to(mut self, model: &Model) -> Self {
        for (at, value) in model.values().map(f64::from).enumerate() {
            self.values[at] += value;
            self.magnitudes[at] += value.abs();
        }
        self
    }

    /// Checks that a model is what rounding to f32 makes of a mean that is off by at most `relative`.
    ///
    /// # Panics
    /// If an element is not.
    pub fn assert_near(&self, model: &Model, relative: f64) {
        let found: Vec<f32> = model.values().collect();
        assert_eq!(found.len(), self.values.len(), "elements");
        for (at, (found, (value, magnitude))) in found
            .iter()
            .zip(self.values.iter().zip(&self.magnitudes))
            .enumerate()
        {
            let slack = magnitude * relative;
            let (low, high) = ((value - slack) as f32, (value + slack) as f32);
            assert!(
                low <= *found && *found <= high,
                "element {at} is {found}, but the mean is {value} (relative {relative})"
            );
        }
    }
}

/// The model that `accumulate: exact` makes of updates with whole weights, bit for bit.
///
/// # Panics
/// If there is no update.
#[must_use]
pub fn exact(updates: &[(Model, f64)]) -> Model {
    /// The default of `scaleBits`.
    const STEP: f64 = (1_u64 << 32) as f64;
    let total: i64 = updates
        .iter()
        .map(|(_, weight)| (weight * STEP) as i64)
        .sum();
    combined(updates, |values| {
        let term = |(value, weight): (f32, f64)| {
            (f64::from(value) * weight * STEP).round_ties_even() as i64
        };
        let sum: i64 = values.map(term).sum();
        (sum as f64 / total as f64) as f32
    })
}

/// The model that `accumulate: f32` makes of updates that are folded one after the other, in the order of
/// their arrival. Bit for bit.
///
/// # Panics
/// If there is no update.
#[must_use]
pub fn ordered(updates: &[(Model, f64)]) -> Model {
    let total: f64 = updates.iter().map(|(_, weight)| weight).sum();
    combined(updates, |values| {
        let add = |sum: f32, (value, weight): (f32, f64)| value.mul_add(weight as f32, sum);
        (f64::from(values.fold(0.0, add)) / total) as f32
    })
}

/// A model of which every element is made from the updates' elements there, with their weights.
fn combined(
    updates: &[(Model, f64)],
    make: impl Fn(&mut dyn Iterator<Item = (f32, f64)>) -> f32,
) -> Model {
    let mut model = updates.first().expect("at least one update").0.clone();
    for (tensor, place) in model.tensors.iter_mut().enumerate() {
        for (element, value) in place.values.iter_mut().enumerate() {
            let at =
                |(update, weight): &(Model, f64)| (update.tensors[tensor].values[element], *weight);
            *value = make(&mut updates.iter().map(at));
        }
    }
    model
}
