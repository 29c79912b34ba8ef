//! The page itself.

use std::fmt::Write as _;

use super::{Notes, Results, Surroundings, benchmark_of, plot};
use crate::Figure;
use crate::figure::{Target, short};

/// The whole page.
pub(super) fn page(results: &Results, notes: &Notes) -> String {
    let mut page = String::from(
        "# Benchmarks\n\n\
         Made by `cargo xtask bench`. Figures are medians; ratios compare what was measured in turns in one run, and above \
         1 is always better. [latest.json](latest.json) has the same figures for programs.\n\n",
    );
    targets(&mut page, results, notes);
    for (benchmark, surroundings) in &results.benchmarks {
        section(&mut page, results, notes, benchmark, surroundings);
    }
    page
}

/// All targets, and what bounds those that are missed.
fn targets(page: &mut String, results: &Results, notes: &Notes) {
    let with_target = || {
        results
            .figures
            .iter()
            .filter(|figure| figure.target.is_some())
    };
    let missed: Vec<&Figure> = with_target()
        .filter(|figure| figure.met() == Some(false))
        .collect();
    let all = with_target().count();
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        page,
        "## Targets\n\n{} of {all} targets are met.\n",
        all - missed.len()
    );
    if missed.is_empty() {
        return;
    }
    page.push_str(
        "| missed | is | target | by | what bounds it |\n| --- | --- | --- | --- | --- |\n",
    );
    for figure in missed {
        let (is, target, by) = shortfall(figure);
        let why = notes
            .about(&figure.name)
            .unwrap_or("not known yet")
            .replace('\n', " ");
        let _ = writeln!(
            page,
            "| `{}` | {is} | {target} | {by} | {why} |",
            figure.name
        );
    }
    page.push('\n');
}

/// What a figure is, what it should be, and how far it is from that.
fn shortfall(figure: &Figure) -> (String, String, String) {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let value = |value: f64| format!("{} {}", short(value), figure.unit);
    match figure.target {
        Some(Target::RatioAtLeast(least)) => {
            let ratio = figure.ratio.unwrap_or_default();
            (
                format!("{} x", short(ratio)),
                at_least(least, "x"),
                percent(1.0 - ratio / least),
            )
        }
        Some(Target::AtLeast(least)) => (
            value(figure.value),
            at_least(least, &figure.unit),
            percent(1.0 - figure.value / least),
        ),
        Some(Target::AtMost(most)) => (
            value(figure.value),
            format!("at most {} {}", short(most), figure.unit),
            percent(figure.value / most - 1.0),
        ),
        None => (value(figure.value), String::new(), String::new()),
    }
}

fn at_least(least: f64, unit: &str) -> String {
    format!("at least {} {unit}", short(least))
}

fn section(
    page: &mut String,
    results: &Results,
    notes: &Notes,
    benchmark: &str,
    surroundings: &Surroundings,
) {
    let _ = writeln!(page, "## {benchmark}\n");
    if let Some(note) = notes.about(benchmark) {
        let _ = writeln!(page, "{note}\n");
    }
    let _ = writeln!(page, "```console\n$ cargo xtask bench {benchmark}\n```\n");
    let figures: Vec<Figure> = results
        .figures
        .iter()
        .filter(|figure| benchmark_of(figure) == benchmark)
        .cloned()
        .collect();
    for name in plot::names(&figures) {
        let _ = writeln!(page, "![{name}]({name}.svg)\n");
    }
    page.push_str("| figure | what | median | range | runs | against | ratio | target |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for figure in &figures {
        row(page, figure);
    }
    about(page, surroundings);
}

fn row(page: &mut String, figure: &Figure) {
    let Figure {
        name, label, unit, ..
    } = figure;
    let range = if figure.runs > 1 {
        format!("{} to {}", short(figure.min), short(figure.max))
    } else {
        String::new()
    };
    let ratio = figure
        .ratio
        .map(|ratio| format!("{} x", short(ratio)))
        .unwrap_or_default();
    let target = match figure.met() {
        Some(true) => format!("{}: met", shortfall(figure).1),
        Some(false) => format!("{}: **missed**", shortfall(figure).1),
        None => String::new(),
    };
    let _ = writeln!(
        page,
        "| `{name}` | {label} | {} {unit} | {range} | {} | {} | {ratio} | {target} |",
        short(figure.value),
        figure.runs,
        figure.against.as_deref().unwrap_or_default(),
    );
}

/// Where it was measured.
fn about(page: &mut String, surroundings: &Surroundings) {
    let Surroundings {
        date,
        commit,
        machine,
        versions,
    } = surroundings;
    let list = |facts: &std::collections::BTreeMap<String, String>| {
        let facts = facts.iter().map(|(name, value)| format!("{name} {value}"));
        facts.collect::<Vec<_>>().join("; ")
    };
    let _ = writeln!(
        page,
        "\nMeasured {date}, commit {commit}. Machine: {}. Versions: {}.\n",
        list(machine),
        list(versions)
    );
}
