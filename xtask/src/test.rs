//! Every check that a change has to pass, in one command.
//!
//! A step that fails does not stop the others, except that nothing runs without a build: whoever waits for
//! CI wants to know everything that is wrong, not the first thing.

mod evidence;
mod python;
mod steps;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{output, setup};
use setup::Scope;
use steps::{Context, STEPS, Step};

/// How a step ended.
#[derive(Debug)]
enum Verdict {
    Passed,
    Failed,
}

/// A step that has been looked at.
struct Record {
    name: &'static str,
    verdict: Verdict,
    took: Duration,
}

/// Runs every step; false when one failed.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let started = Instant::now();
    let recipe = setup::run(workspace, Scope::Test)?;
    let context = Context { workspace, recipe };
    let mut records = Vec::new();
    for step in STEPS {
        let record = run_step(step, &context);
        let stop = step.vital && !matches!(record.verdict, Verdict::Passed);
        records.push(record);
        if stop {
            break;
        }
    }
    Ok(conclude(&records, STEPS.len(), started.elapsed()))
}

fn run_step(step: &Step, context: &Context) -> Record {
    println!();
    output::progress("test", step.name);
    let started = Instant::now();
    let verdict = match (step.run)(context) {
        Ok(()) => Verdict::Passed,
        Err(error) => {
            output::failure(&format!("{error:#}"));
            Verdict::Failed
        }
    };
    let record = Record {
        name: step.name,
        verdict,
        took: started.elapsed(),
    };
    output::detail(line(&record));
    record
}

fn conclude(records: &[Record], steps: usize, took: Duration) -> bool {
    println!();
    output::progress(
        "summary",
        format_args!("{} of {steps} steps", records.len()),
    );
    for record in records {
        output::detail(line(record));
    }
    let failed: Vec<_> = records
        .iter()
        .filter(|record| matches!(record.verdict, Verdict::Failed))
        .map(|record| record.name)
        .collect();
    let took = output::duration(took);
    println!();
    if failed.is_empty() {
        println!("{} all {steps} steps in {took}", output::mark(true));
    } else {
        println!(
            "{} {} (after {took})",
            output::mark(false),
            failed.join(", ")
        );
    }
    failed.is_empty()
}

fn line(record: &Record) -> String {
    let Record {
        name,
        verdict,
        took,
    } = record;
    let took = output::duration(*took);
    match verdict {
        Verdict::Passed => format!("passed  {took:>12}  {name}"),
        Verdict::Failed => format!("FAILED  {took:>12}  {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(verdict: Verdict) -> Record {
        Record {
            name: "a step",
            verdict,
            took: Duration::from_secs(200),
        }
    }

    #[test]
    fn one_failure_fails_all() {
        let passed = || record(Verdict::Passed);
        assert!(conclude(&[passed(), passed()], 2, Duration::ZERO));
        assert!(!conclude(
            &[passed(), record(Verdict::Failed)],
            2,
            Duration::ZERO
        ));
    }

    #[test]
    fn lines_align() {
        let passed = line(&record(Verdict::Passed));
        let failed = line(&record(Verdict::Failed));
        assert_eq!(passed, "passed    3 min 20 s  a step");
        assert_eq!(failed, "FAILED    3 min 20 s  a step");
    }
}
