//! Makes the result page from the lines that benchmarks wrote.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tributary_bench::place;
use tributary_bench::report::{Notes, Results, Surroundings, figures, with_headline};

#[derive(Parser)]
#[command(about = "Makes the result page from the lines that benchmarks wrote")]
struct Arguments {
    /// What a benchmark wrote to standard output, in a file NAME.jsonl; benchmarks that are not given keep their figures
    lines: Vec<PathBuf>,
    /// The folder of the page
    #[arg(long, default_value_os_t = place::root().join("bench/results"))]
    results: PathBuf,
    /// A README whose table of figures is to be brought up to date
    #[arg(long)]
    readme: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut results = Results::load(&arguments.results.join("latest.json"))?;
    let surroundings = Surroundings::now();
    for file in &arguments.lines {
        let Some(benchmark) = file.file_stem().and_then(|name| name.to_str()) else {
            bail!("{} has no name", file.display());
        };
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let figures = figures(&text)?;
        let strange = figures
            .iter()
            .find(|figure| figure.name.split('.').next() != Some(benchmark));
        if let Some(figure) = strange {
            bail!("{} is no figure of {benchmark}", figure.name);
        }
        results.replace(benchmark, surroundings.clone(), figures);
    }
    let notes = fs::read_to_string(place::root().join("bench/notes.md")).unwrap_or_default();
    results.write(&arguments.results, &Notes::parse(&notes))?;
    if let Some(readme) = &arguments.readme {
        let text = fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
        let text = with_headline(&text, &results);
        fs::write(readme, text.context("the README has no marks for figures")?)?;
    }
    eprintln!("{}", arguments.results.join("report.md").display());
    Ok(())
}
