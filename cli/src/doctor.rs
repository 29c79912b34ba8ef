//! `tributary doctor`: says what this machine lacks, and what that costs.
//!
//! `facts` looks at the machine; `checks` judges what was seen, and is a pure function so that machines that
//! nobody has at hand can be tested.

mod checks;
mod facts;

use serde::Serialize;

use crate::{
    args::DoctorOptions,
    failure::Failure,
    output::{Output, Table},
    state_dir::state_dir,
};
use facts::Facts;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    /// As it should be.
    Good,
    /// Tributary works, at a cost.
    Costs,
    /// Tributary does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    grade: Grade,
    /// What was seen.
    found: String,
    /// What that costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    usable: bool,
    checks: Vec<Check>,
}

pub(crate) fn run(output: &Output, options: &DoctorOptions) -> Result<(), Failure> {
    let facts = Facts::gather(&state_dir(options.state_dir.clone())?);
    let checks = checks::all(&facts);
    let usable = checks.iter().all(|check| check.grade != Grade::Missing);
    output.write(&Report { usable, checks }, text)?;
    if usable {
        Ok(())
    } else {
        Err(anyhow::anyhow!("this machine lacks what Tributary needs").into())
    }
}

fn text(report: &Report) -> String {
    let mut table = Table::new(&["CHECK", "", "FOUND"]);
    for check in &report.checks {
        table.row(vec![
            check.name.into(),
            check.grade.word().into(),
            check.found.clone(),
        ]);
        for (label, advice) in [("cost", &check.cost), ("remedy", &check.remedy)] {
            if let Some(advice) = advice {
                table.row(vec![
                    String::new(),
                    String::new(),
                    format!("{label}: {advice}"),
                ]);
            }
        }
    }
    let costs = report
        .checks
        .iter()
        .filter(|check| check.grade == Grade::Costs)
        .count();
    let verdict = match (report.usable, costs) {
        (false, _) => "Tributary does not run on this machine as it is.".into(),
        (true, 0) => "Tributary runs on this machine as it should.".into(),
        (true, costs) => {
            format!("Tributary runs on this machine; {costs} of its parts could do better.")
        }
    };
    format!("{table}\n{verdict}\n")
}

impl Grade {
    const fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Costs => "warn",
            Self::Missing => "FAIL",
        }
    }
}
