//! What a soak has to tell in the end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Options;
use super::clients::Crowd;
use super::faults::Breaker;
use super::ledger::Ledger;
use super::remains::Memory;

/// The report, line by line.
#[derive(Debug, Clone)]
pub struct Report {
    lines: Vec<String>,
    /// For each job the versions that were seen and checked.
    pub versions: Vec<usize>,
    /// Rounds whose status was compared with their model.
    pub compared: u64,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        breaker: &Breaker<'_>,
        crowd: &Crowd<'_>,
        ledger: &Ledger,
        memory: &Memory,
    ) -> Self {
        let mut lines = vec![format!(
            "seed {}, {} s of faults",
            options.seed,
            options.lasts.as_secs()
        )];
        let summary = ledger.summary();
        for (job, versions, several, longest) in &summary {
            lines.push(format!(
                "job {job}: {versions} versions equal their reference, {several} of them made again by another leader; the \
                 longest round took {}",
                seconds(*longest)
            ));
        }
        let faults = breaker.counts.iter();
        let faults: Vec<String> = faults
            .map(|(kind, count)| format!("{kind:?} {count}"))
            .collect();
        lines.push(format!("faults: {}", faults.join(", ")));
        let tally = &crowd.tally;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        lines.push(format!(
            "updates: {} taken, {} known already, {} sent again because their node had lost them, {} of those too late",
            get(&tally.taken),
            get(&tally.repeated),
            get(&tally.resent),
            get(&tally.lost)
        ));
        lines.push(format!(
            "requests: {} redirected, {} without an answer; {} times a client was ahead of its job",
            get(&tally.redirected),
            get(&tally.unanswered),
            get(&tally.ahead)
        ));
        lines.push(format!(
            "rounds whose status counts what their model shows: {}",
            get(&tally.compared)
        ));
        lines.push(format!(
            "memory of a node with its workers: {} MiB at most; an agent grew by {} MiB at most",
            memory.most >> 20,
            memory.grown >> 20
        ));
        Self {
            lines,
            versions: summary
                .iter()
                .map(|(_, versions, _, _)| *versions)
                .collect(),
            compared: get(&tally.compared),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Tells people how it goes.
pub(super) fn say(line: &str) {
    #[allow(
        clippy::print_stderr,
        reason = "who waits for 20 minutes wants to know"
    )]
    {
        eprintln!("{line}");
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
