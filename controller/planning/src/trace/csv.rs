//! Tables of plain values: comma-separated, with a header, without quotes.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::Error;

/// A table whose columns are found by name.
pub(super) struct Table<'a> {
    columns: BTreeMap<&'a str, usize>,
    rows: Vec<(usize, Vec<&'a str>)>,
}

/// A line of a table.
pub(super) struct Row<'t, 'a> {
    table: &'t Table<'a>,
    line: usize,
    values: &'t [&'a str],
}

impl<'a> Table<'a> {
    /// Reads a table that has the columns `needed`, and perhaps others.
    pub(super) fn parse(text: &'a str, needed: &[&str]) -> Result<Self, Error> {
        let mut lines = (1..).zip(text.lines());
        let lines = lines.by_ref().filter(|(_, line)| !line.trim().is_empty());
        let mut columns = BTreeMap::new();
        let mut rows = Vec::new();
        for (number, line) in lines {
            if line.contains('"') {
                return Err(Error::new(number, "quotes are not read; leave them out"));
            }
            let values: Vec<&str> = line.split(',').map(str::trim).collect();
            if columns.is_empty() {
                columns = values.iter().copied().zip(0..).collect();
                check(number, &values, needed)?;
            } else if values.len() == columns.len() {
                rows.push((number, values));
            } else {
                let what = format!("{} values for {} columns", values.len(), columns.len());
                return Err(Error::new(number, what));
            }
        }
        if columns.is_empty() {
            return Err(Error::new(1, "there is no header that names the columns"));
        }
        Ok(Self { columns, rows })
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_, 'a>> {
        self.rows.iter().map(|(line, values)| Row {
            table: self,
            line: *line,
            values,
        })
    }
}

fn check(line: usize, there: &[&str], needed: &[&str]) -> Result<(), Error> {
    match needed.iter().find(|column| !there.contains(column)) {
        None => Ok(()),
        Some(missing) => {
            let there = there.join(", ");
            let what = format!("there is no column {missing}; there are {there}");
            Err(Error::new(line, what))
        }
    }
}

impl Row<'_, '_> {
    /// The text of a column; nothing where there is no such column.
    pub(super) fn text(&self, column: &str) -> &str {
        let at = self.table.columns.get(column);
        at.and_then(|at| self.values.get(*at))
            .copied()
            .unwrap_or("")
    }

    pub(super) fn number(&self, column: &str) -> Result<f64, Error> {
        self.value(column, "a number")
    }

    pub(super) fn whole<T: FromStr>(&self, column: &str) -> Result<T, Error> {
        self.value(column, "a whole number that is not too large")
    }

    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::new(self.line, what)
    }

    fn value<T: FromStr>(&self, column: &str, wanted: &str) -> Result<T, Error> {
        let text = self.text(column);
        text.parse()
            .map_err(|_| self.error(format!("{column} is {text:?}, not {wanted}")))
    }
}
