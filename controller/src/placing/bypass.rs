//! Slow nodes that a job does without for a while: a pure function of what was decided and what is said of them.
//!
//! The while is counted in rounds, since that is when a node would be measured: ten at first, and twice as many each
//! time that the node is slow again. When it is over the node may take part again, and what it did before does not count.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tributary_api::Name;

use crate::stragglers::Judged;

/// The rounds of the first while.
const ROUNDS: u64 = 10;

/// The most rounds of any.
const ROUNDS_MAX: u64 = 640;

/// A node that is bypassed, or was and is not well yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bypass {
    /// The round from which on it may take part again.
    pub(crate) until: u64,
    /// How often it was bypassed since it was last well.
    pub(crate) times: u32,
}

/// All of a job.
pub(crate) type Bypasses = BTreeMap<Name, Bypass>;

/// The bypasses after `before`, while round `open` is. Without a verdict nothing changes but time.
pub(super) fn next(
    before: &Bypasses,
    judged: Option<&Judged>,
    open: u64,
    is_member: impl Fn(&Name) -> bool,
) -> Bypasses {
    let mut bypasses = before.clone();
    let Some(judged) = judged else {
        return bypasses;
    };
    // Who is well again has a clean slate.
    bypasses.retain(|node, bypass| bypass.until > open || judged.slow.contains(node));
    let slow = judged.now.union(&judged.overdue);
    for node in slow.filter(|node| is_member(node)) {
        let bypass = bypasses.entry(node.clone()).or_default();
        if bypass.until <= open {
            bypass.until = open + rounds(bypass.times);
            bypass.times += 1;
        }
    }
    bypasses
}

/// The nodes that the job does without in round `open`.
pub(crate) fn active(bypasses: &Bypasses, open: u64) -> BTreeSet<Name> {
    let active = bypasses.iter().filter(|(_, bypass)| bypass.until > open);
    active.map(|(node, _)| node.clone()).collect()
}

/// `before`, with every bypass over: the job cannot do without these nodes.
pub(super) fn lifted(before: &Bypasses, open: u64) -> Bypasses {
    let mut lifted = before.clone();
    for bypass in lifted.values_mut() {
        bypass.until = bypass.until.min(open);
    }
    lifted
}

fn rounds(times: u32) -> u64 {
    (ROUNDS << times.min(16)).min(ROUNDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    fn judged(slow: &[&str], now: &[&str]) -> Judged {
        let names = |names: &[&str]| names.iter().map(|node| name(node)).collect();
        Judged {
            slow: names(slow),
            now: names(now),
            overdue: BTreeSet::new(),
        }
    }

    fn next_of(before: &Bypasses, judged: &Judged, open: u64) -> Bypasses {
        next(before, Some(judged), open, |_| true)
    }

    #[test]
    fn each_while_is_twice_as_long_until_the_node_is_well() {
        let mut bypasses = Bypasses::new();
        let mut open = 5;
        for (times, expected) in (1..).zip([10, 20, 40, 80, 160, 320, 640, 640]) {
            bypasses = next_of(&bypasses, &judged(&["n"], &["n"]), open);
            let until = open + expected;
            assert_eq!(bypasses[&name("n")], Bypass { until, times });
            // Meanwhile nothing is added, whatever is still said of it.
            assert_eq!(
                next_of(&bypasses, &judged(&["n"], &["n"]), until - 1),
                bypasses
            );
            assert!(active(&bypasses, until - 1).contains(&name("n")));
            assert!(active(&bypasses, until).is_empty());
            // It takes part again, is still called slow, and nothing is known of it since.
            assert_eq!(next_of(&bypasses, &judged(&["n"], &[]), until), bypasses);
            open = until;
        }
        assert_eq!(next_of(&bypasses, &judged(&[], &[]), open), Bypasses::new());
    }

    #[test]
    fn without_a_verdict_nothing_changes() {
        let before = next_of(&Bypasses::new(), &judged(&["n"], &["n"]), 1);
        assert_eq!(next(&before, None, 100, |_| true), before);
    }

    #[test]
    fn who_takes_no_part_is_not_bypassed() {
        let judged = judged(&["n"], &["n"]);
        let none = next(&Bypasses::new(), Some(&judged), 1, |_| false);
        assert_eq!(none, Bypasses::new());
    }
}
