//! Histograms of the server's metrics.

use crate::Scrape;

/// Times that the server has counted into buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending, and how many times do not exceed each.
    buckets: Vec<(f64, f64)>,
    count: f64,
}

impl Histogram {
    /// The histogram of that name whose labels hold `labels`, such as `kind="cold"`; an empty one if there is none.
    #[must_use]
    pub fn read(scrape: &Scrape, name: &str, labels: &str) -> Self {
        let bucket = format!("{name}_bucket");
        let buckets = scrape.series(&bucket).filter_map(|(have, count)| {
            let (_, bound) = have.split_once("le=\"")?;
            let bound: f64 = bound.split('"').next()?.parse().ok()?;
            (have.contains(labels) && bound.is_finite()).then_some((bound, count))
        });
        Self {
            buckets: buckets.collect(),
            count: scrape.sum(&format!("{name}_count"), labels),
        }
    }

    /// How many times were counted.
    #[must_use]
    pub const fn count(&self) -> f64 {
        self.count
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.buckets.iter().map(|(_, count)| *count);
        // Before the first time there are no buckets.
        let before = before.chain(std::iter::repeat(0.0));
        let buckets = self.buckets.iter().zip(before);
        Self {
            buckets: buckets
                .map(|((bound, count), before)| (*bound, count - before))
                .collect(),
            count: self.count - earlier.count,
        }
    }

    /// The time in seconds that a share `part` (0 to 1) of them do not exceed, interpolated within its bucket; the
    /// last bound if it is above that.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let wanted = self.count * part;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= wanted {
                let share = (wanted - below) / (count - below).max(1.0);
                return lower + (bound - lower) * share;
            }
            (lower, below) = (*bound, *count);
        }
        lower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(counts: [u32; 3]) -> Scrape {
        let [low, high, all] = counts;
        Scrape(format!(
            "wait_seconds_bucket{{kind=\"cold\",le=\"0.001\"}} {low}\n\
             wait_seconds_bucket{{kind=\"cold\",le=\"0.002\"}} {high}\n\
             wait_seconds_bucket{{kind=\"cold\",le=\"+Inf\"}} {all}\n\
             wait_seconds_bucket{{kind=\"warm\",le=\"0.001\"}} 99\n\
             wait_seconds_sum{{kind=\"cold\"}} 0.5\n\
             wait_seconds_count{{kind=\"cold\"}} {all}\n"
        ))
    }

    fn read(counts: [u32; 3]) -> Histogram {
        Histogram::read(&scrape(counts), "wait_seconds", "kind=\"cold\"")
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = read([10, 20, 20]);
        assert_eq!(histogram.count(), 20.0);
        let near = |part, expected: f64| (histogram.quantile(part) - expected).abs() < 1e-9;
        assert!(near(0.25, 0.0005) && near(0.5, 0.001) && near(0.75, 0.0015));
        // Above the last bound nothing is known.
        assert_eq!(read([0, 0, 5]).quantile(0.5), 0.002);
        assert_eq!(Histogram::default().quantile(0.5), 0.0);
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let later = read([10, 30, 30]).since(&read([10, 20, 20]));
        assert_eq!(later.count(), 10.0);
        assert!((later.quantile(0.5) - 0.0015).abs() < 1e-9);
        let all = read([10, 20, 20]);
        assert_eq!(all.since(&Histogram::default()), all);
    }
}
