//! Which offsets have been seen to before.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of offsets, kept as ranges that neither overlap nor touch: end by start.
#[derive(Debug, Default)]
pub(super) struct Warm {
    ranges: BTreeMap<u64, u64>,
}

impl Warm {
    /// Whether all of `range` is in the set.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        let before = self.ranges.range(..=range.start).next_back();
        before.is_some_and(|(_, end)| *end >= range.end)
    }

    pub(super) fn add(&mut self, range: &Range<u64>) {
        let mut joined = range.clone();
        // From the back: the last range that begins before the end of this one, and so on.
        while let Some((&start, &end)) = self.ranges.range(..=joined.end).next_back() {
            if end < joined.start {
                break;
            }
            self.ranges.remove(&start);
            joined = joined.start.min(start)..joined.end.max(end);
        }
        self.ranges.insert(joined.start, joined.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_covers_what_was_added(
            added in vec((0_u64..60, 1_u64..12), 0..12),
            (start, len) in (0_u64..60, 1_u64..12),
        ) {
            let mut warm = Warm::default();
            let mut known = [false; 80];
            for (start, len) in added {
                warm.add(&(start..start + len));
                known[start as usize..(start + len) as usize].fill(true);
            }
            let asked = start..start + len;
            let expected = known[asked.start as usize..asked.end as usize].iter().all(|at| *at);
            prop_assert_eq!(warm.covers(&asked), expected);
            let ranges: Vec<_> = warm.ranges.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
