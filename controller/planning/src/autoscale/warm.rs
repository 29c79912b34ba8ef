//! Whether an idle worker is worth keeping.
//!
//! A worker is idle from time 0, and needed again at T. What to do is two times: it is *held* from `from` to `to`.
//! `from = 0` keeps it; a later `from` lets it go at once and has another ready at that time; `to = 0` lets it go for
//! good. With a warm second as the unit, S seconds for a start, and C for a cold start (what waiting for it is
//! thought to be worth), that costs
//!
//! ```text
//! T < from          C                     needed before it is back
//! from <= T <= to   T - from   (+ S)      held until it is needed       (+ S: only if from > 0)
//! T > to            to - from  (+ S) + C  held in vain
//! ```
//!
//! The distribution of T is a histogram of this worker's former idle times, and the pair with the least expected cost
//! is taken. This is the break-even rule: hold on while the probability of being needed in the next second, times C,
//! is above the cost of that second; the pair finds it also where that probability rises again later, as with timers.
//! It is the hybrid histogram policy of Shahrad et al., *Serverless in the Wild* (ATC 2020), with the percentiles
//! replaced by costs. A worker of which too few idle times are known is taken for one like the others on the node were
//! at first. Where that is unknown too, or T is mostly beyond the histogram, the worker is held for
//! C seconds: never more than twice as dear as knowing T (ski rental; Karlin et al., *Competitive snoopy caching*,
//! 1988).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The histogram's first edge, in seconds; decisions are not made more often than that.
const FIRST_SECONDS: f64 = 0.5;
/// Each bin is so much wider than the one before.
const GROWTH: f64 = 1.15;
/// Bins: the last ends after some 4.9 hours.
const BINS: usize = 75;

/// What it costs to keep a worker, and not to have it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// C: a cold start is as bad as a worker that is idle for so many seconds.
    pub cold_start_cost_seconds: f64,
    /// S where it was not measured.
    pub start_seconds: f64,
    /// A worker is let go for at least so long, or not at all: one that ends and starts all the time does nothing else.
    pub let_go_seconds_min: f64,
    /// Idle times that must be known before they are believed.
    pub samples_min: u32,
    /// What an idle time counts when the next one is known: 0.98 remembers about fifty.
    pub remembered: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cold_start_cost_seconds: 120.0,
            start_seconds: 1.0,
            let_go_seconds_min: 10.0,
            samples_min: 6,
            remembered: 0.98,
        }
    }
}

/// When an idle worker is held, in seconds from the beginning of its idle time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// From when on; 0: it is never let go.
    pub from: f64,
    /// Until when; 0: it is let go at once.
    pub to: f64,
}

impl Hold {
    /// Whether there is a worker, or one is being started, after `idle_seconds`.
    #[must_use]
    pub fn holds(&self, idle_seconds: f64, start_seconds: f64) -> bool {
        let ahead = if self.from > 0.0 { start_seconds } else { 0.0 };
        self.to > 0.0 && idle_seconds <= self.to && idle_seconds >= self.from - ahead
    }
}

/// How long a worker was idle, the times before.
#[derive(Clone, Debug, PartialEq)]
pub struct IdleTimes {
    weights: Vec<f64>,
    beyond: f64,
    seen: u32,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self {
            weights: vec![0.0; BINS],
            beyond: 0.0,
            seen: 0,
        }
    }
}

impl IdleTimes {
    /// Adds an idle time; older ones count less.
    pub fn push(&mut self, config: &Config, idle: Duration) {
        let remembered = config.remembered.clamp(0.0, 1.0);
        for weight in self.weights.iter_mut().chain([&mut self.beyond]) {
            *weight *= remembered;
        }
        let seconds = idle.as_secs_f64();
        let bin = (0..BINS).find(|bin| seconds < upper(*bin));
        *bin.map_or(&mut self.beyond, |bin| &mut self.weights[bin]) += 1.0;
        self.seen = self.seen.saturating_add(1);
    }

    /// Whether enough is known to be believed.
    #[must_use]
    pub const fn is_known(&self, config: &Config) -> bool {
        self.seen >= config.samples_min
    }

    /// The pair with the least expected cost, or `None` when too little is known.
    #[must_use]
    pub fn hold(&self, config: &Config, start_seconds: f64) -> Option<Hold> {
        let known: f64 = self.weights.iter().sum();
        if !self.is_known(config) || known <= self.beyond {
            return None;
        }
        let costs = Costs::new(self, config.cold_start_cost_seconds, start_seconds);
        let mut best = (f64::INFINITY, 0, 0);
        let soonest = start_seconds + config.let_go_seconds_min;
        let later = (1..BINS).filter(|from| lower(*from) >= soonest);
        for from in [0].into_iter().chain(later) {
            for to in from..=BINS {
                let cost = costs.of(from, to);
                if cost < best.0 {
                    best = (cost, from, to);
                }
            }
        }
        let (_, from, to) = best;
        Some(if from == to {
            Hold { from: 0.0, to: 0.0 }
        } else {
            Hold {
                from: lower(from),
                to: lower(to),
            }
        })
    }
}

/// What is known of workers of which nothing is known yet: the first idle times of all others on the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Newcomers {
    times: IdleTimes,
    hold: Option<Hold>,
}

impl Newcomers {
    /// Adds one of the first idle times of a worker.
    pub fn push(&mut self, config: &Config, idle: Duration, start_seconds: f64) {
        self.times.push(config, idle);
        self.hold = self.times.hold(config, start_seconds);
    }

    /// As [`IdleTimes::hold`].
    #[must_use]
    pub const fn hold(&self) -> Option<Hold> {
        self.hold
    }
}

/// What to do while nothing is known.
#[must_use]
pub fn unknown(config: &Config) -> Hold {
    Hold {
        from: 0.0,
        to: config.cold_start_cost_seconds,
    }
}

/// A bin's lower edge; the first begins at 0.
fn lower(bin: usize) -> f64 {
    if bin == 0 { 0.0 } else { upper(bin - 1) }
}

fn upper(bin: usize) -> f64 {
    // There are 75 bins.
    FIRST_SECONDS * GROWTH.powi(bin as i32)
}

/// Expected costs in O(1) each, from sums over the bins before.
struct Costs {
    cold: f64,
    start: f64,
    /// Weight of the bins before.
    weight: Vec<f64>,
    /// The same, times each bin's middle.
    seconds: Vec<f64>,
    all: f64,
}

impl Costs {
    fn new(times: &IdleTimes, cold: f64, start: f64) -> Self {
        let (mut weight, mut seconds) = (vec![0.0], vec![0.0]);
        let (mut weights, mut sums) = (0.0, 0.0);
        for (bin, of_bin) in times.weights.iter().enumerate() {
            weights += of_bin;
            sums += of_bin * f64::midpoint(lower(bin), upper(bin));
            weight.push(weights);
            seconds.push(sums);
        }
        Self {
            cold,
            start,
            weight,
            seconds,
            all: weights + times.beyond,
        }
    }

    /// Of holding from the lower edge of bin `from` to the lower edge of bin `to`.
    fn of(&self, from: usize, to: usize) -> f64 {
        let early = self.weight[from];
        let hit = self.weight[to] - early;
        let late = self.all - self.weight[to];
        let begin = lower(from);
        let held = self.seconds[to] - self.seconds[from] - begin * hit;
        let vain = (lower(to) - begin) * late;
        let started = if from > 0 && to > from {
            self.start * (hit + late)
        } else {
            0.0
        };
        self.cold * (early + late) + held + vain + started
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(idle: &[f64]) -> IdleTimes {
        let mut times = IdleTimes::default();
        let config = Config {
            remembered: 1.0,
            ..Config::default()
        };
        for seconds in idle {
            times.push(&config, Duration::from_secs_f64(*seconds));
        }
        times
    }

    fn hold(idle: &[f64]) -> Option<Hold> {
        let config = Config {
            cold_start_cost_seconds: 60.0,
            ..Config::default()
        };
        known(idle).hold(&config, 2.0)
    }

    #[test]
    fn short_idle_times_are_held_and_long_ones_are_not() {
        let short = hold(&[3.0; 20]).unwrap();
        assert_eq!(short.from, 0.0);
        assert!((3.0..5.0).contains(&short.to), "{short:?}");
        // Needed again after anything between half an hour and two hours: never within sight.
        let long: Vec<f64> = (0..40).map(|n| 1800.0 + 135.0 * f64::from(n)).collect();
        assert_eq!(hold(&long).unwrap(), Hold { from: 0.0, to: 0.0 });
    }

    #[test]
    fn a_timer_is_met() {
        let timer = hold(&[600.0; 20]).unwrap();
        assert!(timer.from > 500.0 && timer.from <= 600.0, "{timer:?}");
        assert!(timer.to >= 600.0 && timer.to < 720.0, "{timer:?}");
        assert!(!timer.holds(100.0, 2.0));
        assert!(timer.holds(timer.from - 1.0, 2.0));
        assert!(timer.holds(600.0, 2.0));
        assert!(!timer.holds(900.0, 2.0));
    }

    #[test]
    fn rare_long_times_are_cut_off() {
        let mut idle = vec![5.0; 90];
        idle.extend([5000.0; 10]);
        let hold = hold(&idle).unwrap();
        assert_eq!(hold.from, 0.0);
        assert!(hold.to < 10.0, "{hold:?}");
    }

    #[test]
    fn little_is_not_believed() {
        assert_eq!(hold(&[3.0; 5]), None);
        assert_eq!(hold(&[100_000.0; 20]), None);
        assert!(unknown(&Config::default()).holds(119.0, 2.0));
        assert!(!unknown(&Config::default()).holds(121.0, 2.0));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut times = known(&[3.0; 100]);
        let config = Config::default();
        for _ in 0..200 {
            times.push(&config, Duration::from_secs(600));
        }
        assert!(times.hold(&config, 2.0).unwrap().from > 500.0);
    }

    /// What a pair costs on these idle times, by its definition.
    fn cost(hold: Hold, idle: &[f64], cold: f64, start: f64) -> f64 {
        let started = if hold.from > 0.0 { start } else { 0.0 };
        let one = |needed: &f64| match *needed {
            _ if hold.to == 0.0 => cold,
            needed if needed < hold.from => cold,
            needed if needed <= hold.to => needed - hold.from + started,
            _ => hold.to - hold.from + started + cold,
        };
        idle.iter().map(one).sum()
    }

    proptest! {
        #[test]
        fn no_simple_rule_is_cheaper(
            idle in prop::collection::vec(0.5_f64..5000.0, 6..60),
            cold in 1.0_f64..200.0,
            start in 0.1_f64..10.0,
        ) {
            let config = Config { cold_start_cost_seconds: cold, ..Config::default() };
            let chosen = known(&idle).hold(&config, start).unwrap();
            let ours = cost(chosen, &idle, cold, start);
            let simple = [0.0, 10.0, 60.0, 600.0, cold, 20_000.0];
            for to in simple {
                let fixed = cost(Hold { from: 0.0, to }, &idle, cold, start);
                // Within what the bins' width and the middle of a bin cannot tell.
                prop_assert!(ours <= fixed * GROWTH * GROWTH + 1.0, "{chosen:?}: {ours}, {to}: {fixed}");
            }
        }
    }
}
