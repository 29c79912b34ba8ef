//! What a benchmark has to say: figures, as lines of JSON on standard output.

use std::fmt::Display;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::Samples;

/// One figure. Its name is `benchmark.case.what`, and stays the same for ever: pages are compared by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// The median.
    pub value: f64,
    /// Of `value`, `min` and `max`.
    pub unit: String,
    /// What `ratio` compares with, measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub against: Option<String>,
    /// How many times as good as `against` it is: above 1 is better, whether small or large values are good.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio: Option<f64>,
    /// Measurements behind the median.
    pub runs: usize,
    /// The smallest measurement.
    pub min: f64,
    /// The largest measurement.
    pub max: f64,
    /// What it should be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<Target>,
    /// The plot it stands in; figures of one plot have one unit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plot: Option<String>,
    /// What it is called in a plot and a table.
    pub label: String,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The ratio is to be at least this.
    RatioAtLeast(f64),
    /// The value is to be at least this.
    AtLeast(f64),
    /// The value is to be at most this.
    AtMost(f64),
}

impl Figure {
    /// A figure that was measured several times.
    pub fn new(
        name: impl Into<String>,
        label: impl Into<String>,
        unit: impl Into<String>,
        samples: &Samples,
    ) -> Self {
        Self {
            name: name.into(),
            value: samples.median(),
            unit: unit.into(),
            against: None,
            ratio: None,
            runs: samples.runs(),
            min: samples.min(),
            max: samples.max(),
            target: None,
            plot: None,
            label: label.into(),
        }
    }

    /// A figure that was measured once, or counted.
    ///
    /// # Errors
    /// If it is not a finite number.
    pub fn single(
        name: impl Into<String>,
        label: impl Into<String>,
        unit: impl Into<String>,
        value: f64,
    ) -> Result<Self> {
        Ok(Self::new(name, label, unit, &Samples::new(vec![value])?))
    }

    /// The same figure, compared: it is `ratio` times as good as `against`.
    #[must_use]
    pub fn against(mut self, against: impl Into<String>, ratio: f64) -> Self {
        self.against = Some(against.into());
        self.ratio = Some(ratio);
        self
    }

    /// The same figure with a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The same figure as a bar in a plot.
    #[must_use]
    pub fn plot(mut self, plot: impl Into<String>) -> Self {
        self.plot = Some(plot.into());
        self
    }

    /// Whether it is what it should be; `None` without a target.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        Some(match self.target? {
            Target::RatioAtLeast(least) => self.ratio.is_some_and(|ratio| ratio >= least),
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
        })
    }
}

/// Where a benchmark's figures go.
#[derive(Debug)]
pub struct Output {
    benchmark: &'static str,
}

impl Output {
    /// The output of a benchmark.
    #[must_use]
    pub const fn new(benchmark: &'static str) -> Self {
        Self { benchmark }
    }

    /// Tells people what happens.
    pub fn say(&self, message: impl Display) {
        eprintln!("{:>12}  {message}", self.benchmark);
    }

    /// Writes a figure, and tells people.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn figure(&self, figure: &Figure) -> Result<()> {
        self.say(line(figure));
        let json = serde_json::to_string(figure).context("a figure as JSON")?;
        writeln!(std::io::stdout(), "{json}").context("writing a figure")
    }
}

/// A figure as people read it.
fn line(figure: &Figure) -> String {
    let Figure {
        name, value, unit, ..
    } = figure;
    let mut text = format!("{name:42} {:>9} {unit}", short(*value));
    if let (Some(against), Some(ratio)) = (&figure.against, figure.ratio) {
        text += &format!(", {} x {against}", short(ratio));
    }
    match figure.met() {
        Some(true) => text += "  (target met)",
        Some(false) => text += "  (target MISSED)",
        None => {}
    }
    text
}

/// A number with three digits that mean something.
#[must_use]
pub fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ if size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        let samples = Samples::new(vec![2.0, 1.0, 4.0]).unwrap();
        Figure::new("fold.r18.wasm", "WASM", "GB/s", &samples)
    }

    #[test]
    fn a_figure_is_a_line_of_json_and_back() {
        let full = figure()
            .against("torch", 1.4)
            .target(Target::RatioAtLeast(1.3))
            .plot("fold-r18");
        for figure in [figure(), full] {
            let json = serde_json::to_string(&figure).unwrap();
            assert!(!json.contains('\n'));
            assert_eq!(serde_json::from_str::<Figure>(&json).unwrap(), figure);
        }
    }

    #[test]
    fn targets_are_met_or_not() {
        assert_eq!(figure().met(), None);
        assert_eq!(figure().target(Target::AtLeast(2.0)).met(), Some(true));
        assert_eq!(figure().target(Target::AtMost(1.9)).met(), Some(false));
        // A ratio that was not measured is no ratio that is good enough.
        let ratio = Target::RatioAtLeast(1.0);
        assert_eq!(figure().target(ratio).met(), Some(false));
        assert_eq!(
            figure().target(ratio).against("torch", 1.0).met(),
            Some(true)
        );
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 1234.5, 12.34, 1.234, 0.1234, 0.000_012_34].map(short);
        assert_eq!(
            shown,
            ["0", "1234", "12.3", "1.23", "0.1234", "1.23e-5"].map(str::to_owned)
        );
    }
}
