//! The figures that matter, for the README: a table between two marks.

use std::fmt::Write as _;

use super::Results;
use crate::figure::short;

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench` -->\n";
const END: &str = "<!-- end of figures -->";

/// What matters: a figure, and what it means.
const FIGURES: [(&str, &str); 6] = [
    (
        "end_to_end.ingest.tributary_one",
        "32 updates of a ResNet-18 over loopback, to the new model",
    ),
    (
        "end_to_end.flower.n4.over_cpu_per_update",
        "less CPU time of the server for an update and a fetched model",
    ),
    (
        "memory.stream.arena",
        "shared memory after a thousand updates in one round",
    ),
    (
        "autoscale.n60.tributary.first_to_model",
        "60 updates of a ResNet-18 on five hosts, to the new model",
    ),
    (
        "autoscale.n60.tributary.cpu",
        "CPU time of all of the platform for that",
    ),
    (
        "placement.plan.u1000000.best_fit",
        "a plan for a million updates on 10,000 nodes",
    ),
];

/// The README with these figures between its marks; `None` if it has no marks.
#[must_use]
pub fn with_headline(readme: &str, results: &Results) -> Option<String> {
    let (before, after) = readme.split_once(BEGIN)?;
    let (_, after) = after.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", table(results)))
}

fn table(results: &Results) -> String {
    let mut table = String::from("| | median | |\n| --- | --- | --- |\n");
    for (name, meaning) in FIGURES {
        let Some(figure) = results.figures.iter().find(|figure| figure.name == name) else {
            continue;
        };
        let against = match (&figure.against, figure.ratio) {
            (Some(against), Some(ratio)) => format!("{} x {against}", short(ratio)),
            _ => String::new(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| {meaning} | {} {} | {against} |",
            short(figure.value),
            figure.unit
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Figure;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let figure = Figure::single("memory.stream.arena", "arena", "models", 9.5).unwrap();
        let results = Results {
            figures: vec![figure.against("nothing", 2.0)],
            ..Results::default()
        };
        let readme = format!("above\n{BEGIN}old{END}\nbelow\n");
        let new = with_headline(&readme, &results).unwrap();
        assert!(
            new.starts_with("above\n") && new.ends_with("-->\nbelow\n"),
            "{new}"
        );
        assert!(
            new.contains("| 9.50 models | 2.00 x nothing |") && !new.contains("old"),
            "{new}"
        );
        assert_eq!(with_headline(&new, &results).unwrap(), new);
        assert_eq!(with_headline("no marks", &results), None);
    }
}
