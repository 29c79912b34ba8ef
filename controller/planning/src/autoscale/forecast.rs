//! A round is predictable: who comes is known, and when they came in former rounds.
//!
//! A [`Profile`] is the distribution F of arrivals' offsets from a round's opening. Of n expected updates that take E
//! seconds each, `n * (F(t) - F(t - E))` are in service at offset t: those that came within the last E seconds. A
//! worker takes I of them, and must be started S seconds before. Arrivals are random, so where m are expected in
//! service there are often more: `m + z * sqrt(m)` are planned for, z standard deviations of a Poisson distributed
//! number.

use std::time::Duration;

use super::RoundSeen;

/// Quantiles that are kept of a distribution, beside its beginning.
const QUANTILES: usize = 20;
/// Times at which a round's arrivals are noted, at most.
const POINTS_MAX: usize = 512;
/// Seconds that make no difference.
const JUST_THEN: f64 = 1e-9;
/// What the newest round counts in the profile.
const NEWEST: f64 = 0.5;

/// When updates arrive in a round: quantiles of their offsets, in seconds from its opening.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// From the first arrival to the last, in equal parts of the updates. They never fall.
    offsets: [f64; QUANTILES + 1],
}

impl Profile {
    /// The profile of some arrivals; `None` without any.
    #[must_use]
    pub fn of(offsets: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = offsets.into_iter().filter(|o| o.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |quantile: usize| sorted[(last * quantile).div_ceil(QUANTILES)];
        Some(Self {
            offsets: std::array::from_fn(at),
        })
    }

    /// The part of a round's updates that have arrived by `offset`.
    #[must_use]
    pub fn arrived(&self, offset: f64) -> f64 {
        let next = self.offsets.partition_point(|quantile| *quantile <= offset);
        if next == 0 {
            return 0.0;
        }
        if next > QUANTILES {
            return 1.0;
        }
        let (from, to) = (self.offsets[next - 1], self.offsets[next]);
        let within = (offset - from) / (to - from);
        ((next - 1) as f64 + within) / QUANTILES as f64
    }

    /// The offset of the first arrival.
    #[must_use]
    pub const fn first(&self) -> f64 {
        self.offsets[0]
    }

    /// The offset of the last arrival.
    #[must_use]
    pub const fn last(&self) -> f64 {
        self.offsets[QUANTILES]
    }

    /// Mixes a newer profile in.
    fn renew(&mut self, newer: &Self) {
        for (old, new) in self.offsets.iter_mut().zip(newer.offsets) {
            *old += NEWEST * (new - *old);
        }
    }
}

/// What a round needs when.
#[derive(Clone, Copy, Debug)]
pub struct Forecast<'a> {
    /// When its updates arrive.
    pub profile: &'a Profile,
    /// Updates that will come in all.
    pub expected: u32,
    /// E.
    pub seconds_per_update: f64,
    /// I.
    pub updates_per_worker: f64,
    /// z.
    pub spread: f64,
    /// S, and what passes until the next decision.
    pub ahead_seconds: f64,
}

impl Forecast<'_> {
    /// Workers that there should be, or be started, at `offset` seconds from the round's opening: what will be needed
    /// at any time until one that is started now is ready.
    #[must_use]
    pub fn workers(&self, offset: f64) -> u32 {
        let until = offset + self.ahead_seconds.max(0.0);
        let service = self.seconds_per_update.max(0.0);
        // In service are most where arrivals end or services begin to end, or at the ends of what is looked at.
        let quantiles = self.profile.offsets.iter();
        let corners = quantiles.flat_map(|quantile| [*quantile, quantile + service]);
        let corners = corners.filter(|corner| (offset..=until).contains(corner));
        let most = corners
            .chain([offset, until])
            .map(|at| self.in_service(at))
            .fold(0.0, f64::max);
        let spread = self.spread.max(0.0) * most.sqrt();
        let planned = (most + spread).min(f64::from(self.expected));
        super::job::workers(planned, self.updates_per_worker)
    }

    /// Who is done just then is in service still: so the most of a time is at one of its corners.
    fn in_service(&self, at: f64) -> f64 {
        let service = self.seconds_per_update.max(0.0) + JUST_THEN;
        let before = self.profile.arrived(at - service);
        f64::from(self.expected) * (self.profile.arrived(at) - before)
    }
}

/// Watches rounds, and learns the profile from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rounds {
    current: Option<u64>,
    /// Offset and the updates that had arrived by then.
    points: Vec<(f64, u32)>,
    profile: Option<Profile>,
}

impl Rounds {
    pub(super) const fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Takes what is seen of a round; a new number closes the one before, of which that is seen at its end.
    pub(super) fn see(&mut self, now: Duration, round: RoundSeen, before: Option<RoundSeen>) {
        if self.current != Some(round.number) {
            if let Some(before) = before {
                self.finish(before);
            }
            self.close();
            self.current = Some(round.number);
        }
        self.note(now, round);
    }

    /// What a round was in the end: it may have ended between two looks, and have been seen by none.
    fn finish(&mut self, round: RoundSeen) {
        if self.current != Some(round.number) {
            self.points.clear();
        }
        let noted = self.points.last().map_or(0, |(_, arrived)| *arrived);
        if let Some(last) = round.last.filter(|_| round.arrived > noted) {
            self.note(last, round);
        }
    }

    fn note(&mut self, at: Duration, round: RoundSeen) {
        let (before, last) = self.points.last().copied().unwrap_or_default();
        let offset = |at: Duration| at.saturating_sub(round.opened).as_secs_f64();
        let at = offset(at);
        if round.arrived == last && self.points.len() > 1 {
            // Nothing came: the time before the next arrival is as near to it as can be.
            if self.points[self.points.len() - 2].1 == last {
                self.points.pop();
            }
        }
        if let Some(first) = round.first.filter(|_| last == 0 && round.arrived > 0) {
            self.points.push((offset(first).max(before).min(at), 0));
        }
        if round.arrived >= last {
            self.points.push((at, round.arrived));
        }
        if self.points.len() > POINTS_MAX {
            let mut even = false;
            self.points.retain(|_| {
                even = !even;
                even
            });
        }
    }

    /// Takes the round's arrivals into the profile.
    fn close(&mut self) {
        let points = std::mem::take(&mut self.points);
        let Some(newest) = quantiles(&points) else {
            return;
        };
        match &mut self.profile {
            Some(profile) => profile.renew(&newest),
            none => *none = Some(newest),
        }
    }
}

/// The profile of what was noted; between two times arrivals are taken to be even.
fn quantiles(points: &[(f64, u32)]) -> Option<Profile> {
    let (_, all) = *points.last()?;
    if all == 0 {
        return None;
    }
    let mut offsets = [0.0; QUANTILES + 1];
    for (part, offset) in offsets.iter_mut().enumerate() {
        let wanted = f64::from(all) * part as f64 / QUANTILES as f64;
        // The beginning is where the first one came, not where nobody had come.
        let wanted = wanted.max(1e-6);
        let after = points.partition_point(|(_, arrived)| f64::from(*arrived) < wanted);
        let (to, upper) = points[after.min(points.len() - 1)];
        let (from, lower) = match after.checked_sub(1) {
            Some(before) => points[before],
            None => (to, 0),
        };
        let width = f64::from(upper) - f64::from(lower);
        let within = if width > 0.0 {
            (wanted - f64::from(lower)) / width
        } else {
            1.0
        };
        *offset = from + (to - from) * within.clamp(0.0, 1.0);
    }
    Some(Profile { offsets })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forecast(profile: &Profile, expected: u32, ahead_seconds: f64) -> Forecast<'_> {
        Forecast {
            profile,
            expected,
            seconds_per_update: 0.5,
            updates_per_worker: 2.0,
            spread: 0.0,
            ahead_seconds,
        }
    }

    #[test]
    fn workers_are_ready_before_the_first_and_go_after_the_last() {
        // 100 updates from 30 s to 50 s: 5 a second, 2.5 in service.
        let profile = Profile::of((0..=100).map(|n| 30.0 + f64::from(n) * 0.2)).unwrap();
        let forecast = forecast(&profile, 100, 3.0);
        let at = [0.0, 26.9, 27.2, 35.0, 49.0, 50.6].map(|offset| forecast.workers(offset));
        assert_eq!(at, [0, 0, 1, 2, 2, 0]);
    }

    #[test]
    fn all_at_once_are_all_in_service() {
        let profile = Profile::of([10.0; 50]).unwrap();
        assert_eq!(forecast(&profile, 50, 1.0).workers(9.5), 25);
        assert_eq!(forecast(&profile, 50, 1.0).workers(8.5), 0);
        assert_eq!(Profile::of([]), None);
    }

    #[test]
    fn what_is_in_service_until_a_moment_is_seen_by_who_looks_beyond_it() {
        // Half of all come at one moment, and are done at one moment.
        let profile = Profile::of([0.0, 42.6, 46.3]).unwrap();
        let until = |ahead| forecast(&profile, 132, ahead).workers(38.0);
        assert_eq!(until(5.099), until(6.0));
    }

    #[test]
    fn there_is_room_for_chance() {
        let profile = Profile::of((0..=100).map(|n| f64::from(n) * 0.2)).unwrap();
        let forecast = Forecast {
            spread: 2.0,
            ..forecast(&profile, 100, 0.0)
        };
        // 2.5 and twice its root.
        assert_eq!(forecast.workers(10.0), 3);
        let few = Forecast {
            expected: 1,
            ..forecast
        };
        assert_eq!(few.workers(10.0), 1);
    }

    #[test]
    fn rounds_are_learnt() {
        let mut rounds = Rounds::default();
        for number in 1..=4_u64 {
            let opened = Duration::from_secs(100 * number);
            for second in 0..100 {
                let arrived = u32::try_from(second * 2_u64)
                    .unwrap()
                    .saturating_sub(60)
                    .min(40);
                let round = RoundSeen {
                    number,
                    opened,
                    expected: 40,
                    arrived,
                    first: None,
                    last: None,
                };
                rounds.see(opened + Duration::from_secs(second), round, None);
                assert_eq!(rounds.profile().is_some(), number > 1);
            }
        }
        let profile = rounds.profile().unwrap();
        assert!((profile.first() - 30.0).abs() < 0.1, "{profile:?}");
        assert!((profile.arrived(40.0) - 0.5).abs() < 0.05, "{profile:?}");
        assert_eq!(profile.arrived(51.0), 1.0);
    }

    #[test]
    fn who_looks_seldom_learns_when_the_first_came_all_the_same() {
        let mut rounds = Rounds::default();
        let second = |second: u64| Duration::from_secs(second);
        for (number, now, arrived, first) in [
            (1, 100, 0, None),
            // Nobody looked for fifty seconds; the first came after forty.
            (1, 150, 10, Some(second(140))),
            (2, 160, 0, None),
        ] {
            let round = RoundSeen {
                number,
                opened: second(100),
                expected: 10,
                arrived,
                first,
                last: None,
            };
            rounds.see(second(now), round, None);
        }
        let profile = rounds.profile().unwrap();
        assert!((profile.first() - 40.0).abs() < 0.01, "{profile:?}");
        assert_eq!(profile.last(), 50.0);
    }

    #[test]
    fn a_round_that_ended_between_two_looks_is_learnt() {
        let second = |second: u64| Duration::from_secs(second);
        let round = |number, opened, arrived| RoundSeen {
            number,
            opened: second(opened),
            expected: 10,
            arrived,
            first: (arrived > 0).then(|| second(opened + 3)),
            last: (arrived > 0).then(|| second(opened + 5)),
        };
        // Seen half full, and then not before the next one was open; or not seen at all.
        for halves in [Some(5), None] {
            let mut rounds = Rounds::default();
            if let Some(arrived) = halves {
                rounds.see(second(104), round(1, 100, arrived), None);
            }
            rounds.see(second(110), round(2, 106, 0), Some(round(1, 100, 10)));
            let profile = rounds.profile().unwrap();
            let ends = (profile.first(), profile.last());
            assert!((ends.0 - 3.0).abs() < 0.01 && ends.1 == 5.0, "{profile:?}");
            assert!((profile.arrived(4.0) - 0.5).abs() < 0.06, "{profile:?}");
        }
    }

    #[test]
    fn a_round_without_arrivals_teaches_nothing() {
        let mut rounds = Rounds::default();
        for number in 1..5 {
            let round = RoundSeen {
                number,
                opened: Duration::ZERO,
                expected: 10,
                arrived: 0,
                first: None,
                last: None,
            };
            rounds.see(Duration::from_secs(number), round, None);
        }
        assert_eq!(rounds.profile(), None);
    }

    proptest! {
        #[test]
        fn a_profile_is_a_distribution(
            offsets in prop::collection::vec(0.0_f64..100.0, 1..200), at in 0.0_f64..100.0,
        ) {
            let profile = Profile::of(offsets.clone()).unwrap();
            let arrived = profile.arrived(at);
            prop_assert!((0.0..=1.0).contains(&arrived));
            prop_assert!(profile.arrived(at + 1.0) >= arrived);
            let exact = offsets.iter().filter(|offset| **offset <= at).count() as f64;
            let exact = exact / offsets.len() as f64;
            let coarse = 1.0 / QUANTILES as f64 + 2.0 / offsets.len() as f64;
            prop_assert!((arrived - exact).abs() <= coarse, "{arrived} {exact}");
        }

        #[test]
        fn more_updates_or_more_time_ahead_never_need_fewer(
            offsets in prop::collection::vec(0.0_f64..100.0, 1..50),
            at in 0.0_f64..120.0, expected in 0_u32..1000, more in 0_u32..1000, ahead in 0.0_f64..10.0,
        ) {
            let profile = Profile::of(offsets).unwrap();
            let base = forecast(&profile, expected, ahead).workers(at);
            prop_assert!(forecast(&profile, expected + more, ahead).workers(at) >= base);
            prop_assert!(forecast(&profile, expected, ahead + 1.0).workers(at) >= base);
        }

        #[test]
        fn whatever_is_seen_nothing_breaks(
            seen in prop::collection::vec((0_u64..200, 0_u64..4, 0_u32..50), 0..700),
        ) {
            let mut rounds = Rounds::default();
            for (second, number, arrived) in seen {
                let round = RoundSeen { number, opened: Duration::from_secs(10), expected: 20, arrived, first: None, last: None };
                rounds.see(Duration::from_secs(second), round, None);
                if let Some(profile) = rounds.profile() {
                    prop_assert!(profile.offsets.iter().all(|offset| offset.is_finite()));
                    let workers = forecast(profile, 20, 2.0).workers(second as f64);
                    prop_assert!(workers <= 10);
                }
            }
            prop_assert!(rounds.points.len() <= POINTS_MAX);
        }
    }
}
