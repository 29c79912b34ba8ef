//! What must be true at the end of the demonstration.

use std::time::Duration;

use anyhow::Result;
use digits::federated::{Reference, central};
use digits::{CLIENTS, Dataset, Image, ROUNDS};

use super::Outcome;
use super::server::Server;
use super::traces::Leftovers;
use crate::output;

/// Largest relative difference of a parameter from the average in f64.
const DIFFERENCE_MAX: f64 = 1e-5;

/// Largest difference from the accuracy of central training, as a share.
const ACCURACY_GAP_MAX: f64 = 0.02;

/// The checks so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    failed: usize,
}

/// Compares what was learned with the reference average and with central training.
pub(super) fn learning(data: &Dataset, shards: &[Vec<Image>], outcome: &Outcome) -> Result<Checks> {
    let mut checks = Checks::default();
    let fewest = outcome.contributors_min;
    checks.check(
        fewest == CLIENTS as u64,
        &format!("contributors: {fewest} of {CLIENTS} clients inside every model"),
    );

    let mut reference = Reference::new(shards);
    let differences = outcome
        .models
        .iter()
        .map(|round| round.model.relative_difference(reference.next_round()));
    let difference = differences.fold(0.0, f64::max);
    checks.check(
        difference <= DIFFERENCE_MAX,
        &format!(
            "parameters: {} the average in f64 in one process, in all {ROUNDS} rounds",
            agreement(difference)
        ),
    );

    let federated = outcome
        .models
        .last()
        .map_or(0.0, |round| round.model.accuracy(&data.test));
    let central = central(&data.train, ROUNDS).accuracy(&data.test);
    checks.check(
        (federated - central).abs() <= ACCURACY_GAP_MAX,
        &format!(
            "accuracy: {:.2} % federated, {:.2} % trained centrally (within {:.0} points)",
            100.0 * federated,
            100.0 * central,
            100.0 * ACCURACY_GAP_MAX
        ),
    );
    Ok(checks)
}

fn agreement(difference: f64) -> String {
    if difference == 0.0 {
        return "bit for bit".to_owned();
    }
    format!("within {difference:.1e} (relative, at most {DIFFERENCE_MAX:.0e}) of")
}

impl Checks {
    /// The metrics can be read.
    pub(super) fn metrics(&mut self, server: &Server) {
        match server.metrics() {
            Ok(text) => {
                let series = text
                    .lines()
                    .filter(|line| !line.starts_with('#') && !line.is_empty())
                    .count();
                self.check(
                    series > 0,
                    &format!("metrics: {series} series at {}/metrics", server.url()),
                );
            }
            Err(error) => self.check(false, &format!("metrics: {error:#}")),
        }
    }

    /// The server is gone, and everything that it had.
    pub(super) fn stopped(&mut self, took: Duration, leftovers: &Leftovers) {
        let took = output::duration(took);
        match leftovers.describe() {
            None => {
                let gone = leftovers.before().describe();
                self.check(true, &format!("stop: clean in {took}; gone are {gone}"));
            }
            Some(left) => self.check(false, &format!("stop: {left} (after {took})")),
        }
    }

    /// The last word; true when nothing failed.
    pub(super) fn conclude(&self) -> bool {
        println!();
        match self.failed {
            0 => println!(
                "{} the demonstration did what it promises",
                output::mark(true)
            ),
            failed => println!("{} checks failed: {failed}", output::mark(false)),
        }
        self.failed == 0
    }

    fn check(&mut self, passed: bool, message: &str) {
        println!("{} {message}", output::mark(passed));
        self.failed += usize::from(!passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_told_with_its_limit() {
        assert_eq!(agreement(0.0), "bit for bit");
        assert_eq!(
            agreement(2.5e-7),
            "within 2.5e-7 (relative, at most 1e-5) of"
        );
    }

    #[test]
    fn one_failed_check_fails_the_demonstration() {
        let mut checks = Checks::default();
        checks.check(true, "right");
        assert!(checks.conclude());
        checks.check(false, "wrong");
        checks.check(true, "right");
        assert!(!checks.conclude());
    }
}
