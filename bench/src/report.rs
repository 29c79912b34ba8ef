//! The result page: what was measured, on what machine, against which targets, with plots.

mod headline;
mod markdown;
mod notes;
mod plot;
mod surroundings;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::Figure;
pub use headline::with_headline;
pub use notes::Notes;
pub use surroundings::Surroundings;

/// All results that there are: of each benchmark the newest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// How each benchmark was run.
    pub benchmarks: BTreeMap<String, Surroundings>,
    /// All figures; a figure's name begins with its benchmark's.
    pub figures: Vec<Figure>,
}

impl Results {
    /// Reads what was written before; nothing if there is nothing.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn load(file: &Path) -> Result<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        serde_json::from_slice(&fs::read(file)?).with_context(|| file.display().to_string())
    }

    /// Puts a benchmark's figures in the place of those it had.
    pub fn replace(&mut self, benchmark: &str, surroundings: Surroundings, figures: Vec<Figure>) {
        self.figures
            .retain(|figure| benchmark_of(figure) != benchmark);
        self.figures.extend(figures);
        self.figures
            .sort_by_key(|figure| benchmark_of(figure).to_owned());
        self.benchmarks.insert(benchmark.to_owned(), surroundings);
    }

    /// Writes `latest.json`, `report.md` and the plots.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, folder: &Path, notes: &Notes) -> Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(folder.join("latest.json"), json)?;
        for name in plot::names(&self.figures) {
            let bars: Vec<&Figure> = plot::of(&self.figures, &name).collect();
            fs::write(folder.join(format!("{name}.svg")), plot::svg(&bars))?;
        }
        fs::write(folder.join("report.md"), markdown::page(self, notes))?;
        Ok(())
    }
}

/// The benchmark that a figure belongs to.
fn benchmark_of(figure: &Figure) -> &str {
    figure.name.split('.').next().unwrap_or_default()
}

/// Reads the lines that a benchmark wrote.
///
/// # Errors
/// If one is no figure.
pub fn figures(lines: &str) -> Result<Vec<Figure>> {
    let figure = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(figure)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Samples;
    use crate::figure::Target;

    fn figure(name: &str) -> Figure {
        let samples = Samples::new(vec![1.0, 2.0, 3.0]).unwrap();
        Figure::new(name, "a label", "GB/s", &samples).plot("a-plot")
    }

    #[test]
    fn a_benchmark_takes_the_place_of_its_earlier_run() {
        let mut results = Results::default();
        results.replace("hop", Surroundings::default(), vec![figure("hop.a")]);
        results.replace(
            "fold",
            Surroundings::default(),
            vec![figure("fold.a"), figure("fold.b")],
        );
        results.replace("fold", Surroundings::default(), vec![figure("fold.c")]);
        let names: Vec<_> = results
            .figures
            .iter()
            .map(|figure| figure.name.as_str())
            .collect();
        assert_eq!(names, ["fold.c", "hop.a"]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::default();
        let missed = figure("fold.a")
            .against("torch", 1.0)
            .target(Target::RatioAtLeast(1.3));
        results.replace("fold", Surroundings::default(), vec![missed]);
        let notes = Notes::parse("# fold\nFolds.\n## fold.a\nThe memory's speed.\n");
        results.write(folder.path(), &notes).unwrap();
        assert_eq!(
            Results::load(&folder.path().join("latest.json")).unwrap(),
            results
        );
        let page = fs::read_to_string(folder.path().join("report.md")).unwrap();
        for part in [
            "Folds.",
            "The memory's speed.",
            "a-plot.svg",
            "| `fold.a` |",
            "missed",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let svg = fs::read_to_string(folder.path().join("a-plot.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("a label"), "{svg}");
    }

    #[test]
    fn lines_are_figures() {
        let line = serde_json::to_string(&figure("fold.a")).unwrap();
        assert_eq!(figures(&format!("{line}\n\n{line}\n")).unwrap().len(), 2);
        assert!(figures("nonsense").is_err());
    }
}
