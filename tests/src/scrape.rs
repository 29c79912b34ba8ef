//! Metrics, read as Prometheus reads them.

use std::collections::BTreeMap;

/// All series of one moment.
#[derive(Debug, Clone)]
pub struct Scrape(Vec<Series>);

#[derive(Debug, Clone)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    /// Reads the text format.
    ///
    /// # Panics
    /// If a line is none of it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| series(line).unwrap_or_else(|| panic!("no series: {line}")))
                .collect(),
        )
    }

    /// The sum of all series of that name with these labels (and any others); 0 if there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |series: &Series| {
            labels
                .iter()
                .all(|(key, value)| series.labels.get(*key).is_some_and(|found| found == value))
        };
        let found = self
            .0
            .iter()
            .filter(|series| series.name == name && has(series));
        // Not `sum`: that of nothing is -0.
        found.fold(0.0, |sum, series| sum + series.value)
    }

    /// The names of the series that carry this label.
    #[must_use]
    pub fn labelled(&self, key: &str, value: &str) -> Vec<&str> {
        let has = |series: &&Series| series.labels.get(key).is_some_and(|found| found == value);
        self.0
            .iter()
            .filter(has)
            .map(|series| series.name.as_str())
            .collect()
    }
}

/// Values of labels here hold neither commas nor quotes.
fn series(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
    };
    let pairs = labels.split(',').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    };
    let labels = pairs.map(pair).collect::<Option<_>>()?;
    Some(Series {
        name: name.into(),
        labels,
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_labels() {
        let scrape = Scrape::parse(
            "# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4.5\nb 1\nc_bucket{le=\"+Inf\"} 2\n",
        );
        assert_eq!(scrape.sum("a", &[("x", "1")]), 7.5);
        assert_eq!(scrape.sum("a", &[("y", "2")]), 3.0);
        assert_eq!(scrape.sum("b", &[]), 1.0);
        assert_eq!(scrape.sum("a", &[("z", "1")]), 0.0);
        assert_eq!(scrape.labelled("y", "3"), ["a"]);
    }
}
