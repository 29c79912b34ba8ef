//! Data on stdout: as a table for people, as JSON or YAML for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::{args::Format, failure::Failure};

/// Where data goes, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

/// Rows under headings; the columns are as wide as they must be.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Output {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    /// Writes `data`, or for people what `text` makes of it.
    pub(crate) fn write<T: Serialize>(
        self,
        data: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => text(data),
            Format::Json => format!(
                "{}\n",
                serde_json::to_string_pretty(data).map_err(anyhow::Error::from)?
            ),
            Format::Yaml => yaml(data)?,
        };
        write(text.as_bytes())
    }
}

/// Writes bytes to stdout as they are.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(Failure::Stdout)
}

/// Writes a line that is no data to stderr.
pub(crate) fn say(line: &str) {
    // With stderr gone nobody is there to be told.
    let _ = writeln!(io::stderr(), "{line}");
}

fn yaml(data: &impl Serialize) -> Result<String, Failure> {
    // By way of JSON, so that both formats show the same names and values.
    let value = serde_json::to_value(data).map_err(anyhow::Error::from)?;
    Ok(serde_saphyr::to_string(&value).map_err(anyhow::Error::from)?)
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(ToString::to_string).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell: &String| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        for row in &self.rows {
            let cells: Vec<_> = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:<width$}"))
                .collect();
            writeln!(f, "{}", cells.join("   ").trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes for people: `46.8 MB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    // A person reads three digits; the rounding of a float is of no account.
    let (mut value, mut unit) = (number as f64 / 1e3, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time in seconds for people: `1.25 s`, `3.1 ms`.
pub(crate) fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".into(),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "PHASE"]);
        table.row(vec!["digits".into(), "Running".into()]);
        table.row(vec!["é".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME     PHASE\ndigits   Running\né\n");
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (46_830_000, "46.8 MB"),
            (999_990_000, "1.0 GB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(
            (seconds(Some(0.0031)), seconds(Some(1.25)), seconds(None)),
            ("3.1 ms".into(), "1.25 s".into(), "-".into())
        );
    }
}
