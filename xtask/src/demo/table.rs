//! The table of rounds, with a progress bar below it on a terminal.

use std::time::Duration;

use console::style;
use indicatif::{ProgressBar, ProgressStyle};

use super::server::RoundStatus;
use crate::output::bytes;

/// A line of the table.
pub(super) struct Row {
    pub(super) round: u64,
    /// On the test set, from 0 to 1.
    pub(super) accuracy: f64,
    pub(super) status: RoundStatus,
}

/// The table on standard output, the bar on standard error.
pub(super) struct Table {
    bar: ProgressBar,
}

const HEADER: &str = "round   accuracy   contributors   aggregation      copied   read in place";

/// What several nodes have beside that.
const SHARES: &str = "   by node, and bytes between nodes";

impl Table {
    /// A table; with `several` nodes it shows each one's part.
    pub(super) fn new(rounds: u64, clients: usize, several: bool) -> Self {
        let bar = ProgressBar::new(rounds * clients as u64);
        let template = "{bar:40.cyan/dim} {pos}/{len} updates, {elapsed}";
        // The template is a constant; should indicatif's language ever change, its own look will do.
        if let Ok(look) = ProgressStyle::with_template(template) {
            bar.set_style(look.progress_chars("━╸─"));
        }
        println!();
        let more = if several { SHARES } else { "" };
        println!("{}", style(format!("{HEADER}{more}")).bold());
        Self { bar }
    }

    /// Counts an accepted update.
    pub(super) fn update_sent(&self) {
        self.bar.inc(1);
    }

    /// Prints a round.
    pub(super) fn row(&self, row: &Row) {
        self.bar.suspend(|| println!("{}", line(row)));
    }

    /// Ends the table.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
        println!();
    }
}

fn line(row: &Row) -> String {
    let status = &row.status;
    let aggregation = status
        .aggregation_seconds
        .map_or_else(|| "-".to_owned(), milliseconds);
    format!(
        "{:>5} {:>8.2} % {:>14} {:>13} {:>11} {:>15}",
        row.round,
        100.0 * row.accuracy,
        status.contributors,
        aggregation,
        bytes(status.bytes_copied),
        bytes(status.bytes_read_in_place),
    ) + &shares(status)
}

fn shares(status: &RoundStatus) -> String {
    if status.shares.is_empty() {
        return String::new();
    }
    let mut shares: Vec<_> = status.shares.iter().collect();
    shares.sort_by(|a, b| a.node.cmp(&b.node));
    let clients: Vec<String> = shares
        .iter()
        .map(|share| share.contributors.to_string())
        .collect();
    let crossed = shares.iter().map(|share| share.bytes).sum();
    format!("   {}, {}", clients.join(" + "), bytes(crossed))
}

fn milliseconds(seconds: f64) -> String {
    format!(
        "{:.1} ms",
        1e3 * Duration::try_from_secs_f64(seconds)
            .unwrap_or_default()
            .as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_titles() {
        let status = RoundStatus {
            phase: "completed".to_owned(),
            contributors: 20,
            aggregation_seconds: Some(0.001_94),
            bytes_copied: 192_800,
            bytes_read_in_place: 3 << 20,
            error: None,
            shares: Vec::new(),
        };
        let line = line(&Row {
            round: 7,
            accuracy: 0.958_33,
            status,
        });
        assert_eq!(line.len(), HEADER.len(), "{line}");
        assert!(
            line.ends_with("1.9 ms   188.3 KiB         3.0 MiB"),
            "{line}"
        );
    }
}
