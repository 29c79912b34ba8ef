//! Repeated measurements, and taking them in turns.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// The pause before each turn: whatever the one before has left running (spinning threads, dirty pages) ends in it.
const PAUSE: Duration = Duration::from_millis(30);

/// What one quantity was, run by run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Takes measurements; they need no order.
    ///
    /// # Errors
    /// If there are none, or one is not a finite number.
    pub fn new(values: Vec<f64>) -> Result<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            bail!("no measurements, or one that is no number: {values:?}");
        }
        let mut values = values;
        values.sort_by(f64::total_cmp);
        Ok(Self(values))
    }

    /// How many there are.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.0.len()
    }

    /// The middle one; between two, their mean.
    #[must_use]
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len().is_multiple_of(2) {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        } else {
            self.0[middle]
        }
    }

    /// The one that a share `part` (0 to 1) of them do not exceed.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// The smallest.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The largest.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// Each measurement turned into another quantity, such as seconds into bytes per second.
    ///
    /// # Errors
    /// If one becomes no finite number.
    pub fn map(&self, turn: impl Fn(f64) -> f64) -> Result<Self> {
        Self::new(self.0.iter().copied().map(turn).collect())
    }
}

/// One who takes part in a comparison.
pub struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Contender")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Contender<'a> {
    /// A contender; `run` does its work once and says what it measured, most often seconds.
    pub fn new(name: impl Into<String>, run: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// Lets contenders run in turns: `warm_ups` times without counting, then `runs` times. The result has their order.
///
/// # Errors
/// The first of a contender, with its name.
pub fn interleave(
    warm_ups: usize,
    runs: usize,
    contenders: &mut [Contender<'_>],
) -> Result<Vec<Samples>> {
    let mut values = vec![Vec::with_capacity(runs); contenders.len()];
    for turn in 0..warm_ups + runs {
        for (contender, values) in contenders.iter_mut().zip(&mut values) {
            thread::sleep(PAUSE);
            let value = (contender.run)().with_context(|| contender.name.clone())?;
            if turn >= warm_ups {
                values.push(value);
            }
        }
    }
    values.into_iter().map(Samples::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples::new(values.to_vec()).unwrap()
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(samples(&[7.0]).median(), 7.0);
        assert!(Samples::new(vec![]).is_err());
        assert!(Samples::new(vec![1.0, f64::NAN]).is_err());
    }

    #[test]
    fn quantiles_are_measurements() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let hundred = samples(&hundred);
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|part| hundred.quantile(part)),
            [1.0, 50.0, 99.0, 100.0]
        );
        assert_eq!((hundred.min(), hundred.max()), (1.0, 100.0));
    }

    #[test]
    fn contenders_take_turns_and_warm_ups_do_not_count() {
        let order = std::cell::RefCell::new(Vec::new());
        let turn = |name: char| {
            order.borrow_mut().push(name);
            Ok(order.borrow().len() as f64)
        };
        let mut contenders = [
            Contender::new("a", || turn('a')),
            Contender::new("b", || turn('b')),
        ];
        let measured = interleave(1, 2, &mut contenders).unwrap();
        drop(contenders);
        assert_eq!(order.into_inner(), ['a', 'b', 'a', 'b', 'a', 'b']);
        assert_eq!(measured, [samples(&[3.0, 5.0]), samples(&[4.0, 6.0])]);
    }

    #[test]
    fn an_error_names_the_contender() {
        let mut contenders = [Contender::new("torch", || bail!("it is not installed"))];
        let error = interleave(0, 1, &mut contenders).unwrap_err();
        assert_eq!(format!("{error:#}"), "torch: it is not installed");
    }
}
