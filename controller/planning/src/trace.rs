//! Arrivals: recorded, or made up from what was measured elsewhere.
//!
//! A [`Trace`] is written and read as CSV or as lines of JSON. [`huawei`] reads a public data set's tables; [`fitted`]
//! draws from the distributions that were fitted to it, and makes rounds of federated learning.

mod csv;
pub mod fitted;
pub mod huawei;
mod random;

pub use random::Random;

use serde::{Deserialize, Serialize};

/// One thing that happens, `seconds` after the trace's beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Record {
    /// A round opens.
    Round {
        /// When.
        seconds: f64,
        /// The job.
        job: String,
        /// The round's number.
        round: u64,
        /// Updates that it expects.
        expected: u32,
    },
    /// An update (or a request) arrives.
    Arrival {
        /// When.
        seconds: f64,
        /// The job.
        job: String,
        /// How long a worker works on it.
        service_seconds: f64,
    },
}

impl Record {
    /// When it happens.
    #[must_use]
    pub const fn seconds(&self) -> f64 {
        match self {
            Self::Round { seconds, .. } | Self::Arrival { seconds, .. } => *seconds,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn job(&self) -> &str {
        match self {
            Self::Round { job, .. } | Self::Arrival { job, .. } => job,
        }
    }
}

/// Records in the order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    records: Vec<Record>,
}

/// Why a trace cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Error {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Error {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}

/// The columns of a trace as CSV.
const COLUMNS: [&str; 6] = [
    "kind",
    "seconds",
    "job",
    "service_seconds",
    "round",
    "expected",
];

impl Trace {
    /// Puts records in order. Those that happen at no time, or take none that can be told, are left out.
    #[must_use]
    pub fn new(records: impl IntoIterator<Item = Record>) -> Self {
        let sound = |record: &Record| {
            let time = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
            let served = match record {
                Record::Round { .. } => true,
                Record::Arrival {
                    service_seconds, ..
                } => time(*service_seconds),
            };
            time(record.seconds()) && served
        };
        let mut records: Vec<Record> = records.into_iter().filter(sound).collect();
        records.sort_by(|a, b| a.seconds().total_cmp(&b.seconds()));
        Self { records }
    }

    /// What happens, in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// When the last thing happens; 0 for an empty trace.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.records.last().map_or(0.0, Record::seconds)
    }

    /// Reads lines of JSON.
    ///
    /// # Errors
    /// If a line that is not empty is no record.
    pub fn from_json_lines(text: &str) -> Result<Self, Error> {
        let lines = (1..).zip(text.lines());
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let record = |(number, line)| {
            serde_json::from_str(line).map_err(|error| Error::new(number, error.to_string()))
        };
        Ok(Self::new(lines.map(record).collect::<Result<Vec<_>, _>>()?))
    }

    /// Writes lines of JSON.
    ///
    /// # Errors
    /// None that a record can cause; those of the serializer.
    pub fn to_json_lines(&self) -> Result<String, serde_json::Error> {
        let mut text = String::new();
        for record in &self.records {
            text += &serde_json::to_string(record)?;
            text.push('\n');
        }
        Ok(text)
    }

    /// Reads CSV with a header that names the columns `kind` (`round` or `arrival`), `seconds`, `job`, and
    /// `service_seconds` (arrivals) or `round` and `expected` (rounds), in any order.
    ///
    /// # Errors
    /// If a column is missing or a value is not what it should be.
    pub fn from_csv(text: &str) -> Result<Self, Error> {
        let table = csv::Table::parse(text, &COLUMNS)?;
        let records = table.rows().map(|row| {
            let (seconds, job) = (row.number("seconds")?, row.text("job").to_owned());
            match row.text("kind") {
                "round" => Ok(Record::Round {
                    seconds,
                    job,
                    round: row.whole("round")?,
                    expected: row.whole("expected")?,
                }),
                "arrival" => Ok(Record::Arrival {
                    seconds,
                    job,
                    service_seconds: row.number("service_seconds")?,
                }),
                other => Err(row.error(format!("kind is {other:?}, not round or arrival"))),
            }
        });
        Ok(Self::new(records.collect::<Result<Vec<_>, _>>()?))
    }

    /// Writes CSV. Names of jobs have no commas and quotes.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut text = COLUMNS.join(",") + "\n";
        for record in &self.records {
            text += &match record {
                Record::Round {
                    seconds,
                    job,
                    round,
                    expected,
                } => format!("round,{seconds},{job},,{round},{expected}\n"),
                Record::Arrival {
                    seconds,
                    job,
                    service_seconds,
                } => format!("arrival,{seconds},{job},{service_seconds},,\n"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let job = "[a-z][a-z0-9-]{0,8}";
        // Short in decimals: JSON is not read to the last bit of others.
        let time = |most: u32| (0..most * 8).prop_map(|eighths| f64::from(eighths) / 8.0);
        let arrival =
            (time(1_000_000), job, time(100)).prop_map(|(seconds, job, service)| Record::Arrival {
                seconds,
                job,
                service_seconds: service,
            });
        let round = (time(1_000_000), job, any::<u64>(), any::<u32>()).prop_map(
            |(seconds, job, round, expected)| Record::Round {
                seconds,
                job,
                round,
                expected,
            },
        );
        prop_oneof![arrival, round]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in prop::collection::vec(any_record(), 0..20)) {
            let trace = Trace::new(records);
            prop_assert_eq!(&Trace::from_csv(&trace.to_csv()).unwrap(), &trace);
            let json = trace.to_json_lines().unwrap();
            prop_assert_eq!(Trace::from_json_lines(&json).unwrap(), trace);
        }

        #[test]
        fn nonsense_is_an_error_or_a_trace(text in "[a-z0-9.,\n\"-]{0,200}") {
            let _ = Trace::from_csv(&text);
            let _ = Trace::from_csv(&format!("{}\n{text}", COLUMNS.join(",")));
            let _ = Trace::from_json_lines(&text);
            let _ = huawei::cold_starts(&text);
        }
    }

    #[test]
    fn errors_name_line_and_way_out() {
        let told = |text: &str| Trace::from_csv(text).unwrap_err().to_string();
        assert_eq!(
            told("kind,seconds,job\n"),
            "line 1: there is no column service_seconds; there are kind, seconds, job"
        );
        let header = COLUMNS.join(",");
        assert_eq!(
            told(&format!("{header}\narrival,soon,j,1,,\n")),
            "line 2: seconds is \"soon\", not a number"
        );
        assert_eq!(
            told(&format!("{header}\narrival,1,j,1\n")),
            "line 2: 4 values for 6 columns"
        );
        let error = Trace::from_json_lines("\n{}\n").unwrap_err();
        assert_eq!(error.line, 2);
    }
}
