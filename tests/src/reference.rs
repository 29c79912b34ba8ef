//! Right answers, computed in f64.

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
