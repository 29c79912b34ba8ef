//! One job on one node.

use std::time::Duration;

use super::forecast::{Forecast, Profile, Rounds};
use super::panic::Panic;
use super::warm::{self, Hold, IdleTimes, Newcomers};
use super::window::Window;
use super::{Config, JobSeen, Reason, RoundSeen, Tree, Wanted};

/// Workers whose idle times are known one by one, at most.
const LEVELS_MAX: usize = 256;
/// Less than this many updates in service on average are none: an average never quite forgets.
const NOTHING: f64 = 0.01;
/// What arithmetic may lose must not cost a worker.
const ROUNDING: f64 = 1e-9;

/// `ceil(in_service / updates_per_worker)`: one at least for anything at all.
pub(super) fn workers(in_service: f64, updates_per_worker: f64) -> u32 {
    if in_service <= ROUNDING {
        return 0;
    }
    // Conversions saturate.
    ((in_service / updates_per_worker.max(NOTHING) - ROUNDING).ceil() as u32).max(1)
}

/// What is remembered of a job on a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct JobState {
    /// The smoothed Q.
    queue: Option<f64>,
    /// The last E that no cold start had a part in.
    seconds: Option<f64>,
    /// A worker was being started the last time: what was done since then may have waited for it.
    starting: bool,
    /// One was being started now or then.
    waited: bool,
    seen: Duration,
    sampled: Window,
    smoothed: Window,
    wished: Window,
    panic: Panic,
    /// The first worker, the second, and so on.
    levels: Vec<Level>,
    rounds: Rounds,
    /// The round as it was seen last, and S.
    round: Option<RoundSeen>,
    start_seconds: f64,
    last: Option<Wish>,
}

/// The n-th worker: needed whenever there is work for n.
#[derive(Clone, Debug, Default, PartialEq)]
struct Level {
    idle_since: Option<Duration>,
    times: IdleTimes,
    hold: Option<Hold>,
}

/// What a job would have on a node of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Wish {
    pub(super) workers: u32,
    reason: Reason,
    leaves: u32,
    top: bool,
    reuse: bool,
}

impl Wish {
    /// What becomes of it with so many workers.
    pub(super) fn granted(self, workers: u32) -> Wanted {
        let top = self.top && workers > 0;
        let spare = if self.reuse {
            workers
        } else {
            let others = u32::from(top) + u32::from(self.leaves > 1);
            workers.saturating_sub(others).max(1).min(workers)
        };
        let leaves = self.leaves.min(spare);
        Wanted {
            workers,
            wished: self.workers,
            reason: if workers < self.workers {
                Reason::NodeFull
            } else {
                self.reason
            },
            tree: Tree {
                leaves,
                middle: leaves > 1,
                top,
            },
        }
    }
}

/// How many are wanted for which reason, so far.
struct Count {
    workers: u32,
    reason: Reason,
}

impl Count {
    fn at_least(&mut self, workers: u32, reason: Reason) {
        if workers > self.workers {
            self.workers = workers;
            self.reason = reason;
        }
    }
}

/// From the one to the other of two times in seconds, after `since`.
fn after(since: Duration, (from, to): (f64, f64)) -> (Duration, Duration) {
    let at = |seconds: f64| {
        let seconds = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        since.saturating_add(seconds)
    };
    (at(from), at(to))
}

/// What a wish is made from.
pub(super) struct View<'a> {
    pub(super) config: &'a Config,
    pub(super) now: Duration,
    pub(super) seen: &'a JobSeen,
    pub(super) workers_max: u32,
}

impl View<'_> {
    /// S, as measured or as configured.
    fn start_seconds(&self) -> f64 {
        let measured = self.seen.start_seconds;
        let sound = measured.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        sound.unwrap_or(self.config.warm.start_seconds)
    }

    /// As many as are needed, but no more than the job has a use for.
    fn workers(&self, in_service: f64) -> u32 {
        self.useful(workers(in_service, self.config.updates_per_worker))
    }

    fn useful(&self, workers: u32) -> u32 {
        workers.min(self.seen.workers_max.unwrap_or(u32::MAX))
    }

    fn workers_of_mean(&self, in_service: f64) -> u32 {
        if in_service < NOTHING {
            return 0;
        }
        self.workers(in_service)
    }
}

impl JobState {
    pub(super) fn wish(&mut self, view: &View<'_>, newcomers: &mut Newcomers) -> Wish {
        (self.round, self.start_seconds) = (view.seen.round, view.start_seconds());
        let wish = match self.in_service(view.seen) {
            Some(in_service) => self.measured(view, in_service, newcomers),
            None => {
                // What came was not measured, but that somebody was needed for it is known.
                if view.seen.arrivals_per_second.is_some_and(|rate| rate > 0.0) {
                    self.track(view, 1, newcomers);
                }
                self.unmeasured(view.seen)
            }
        };
        self.last = Some(wish);
        wish
    }

    /// What is in service: as counted, or q = k * E. What queues up while a worker starts is no load: E is then the
    /// one from before.
    fn in_service(&mut self, seen: &JobSeen) -> Option<f64> {
        let sound = |value: Option<f64>| value.filter(|value| value.is_finite() && *value >= 0.0);
        let waited = self.starting || seen.starting > 0;
        (self.starting, self.waited) = (seen.starting > 0, waited);
        // One that may be too large is better than none: it is held against what was counted.
        let believed = |_: &f64| !waited || self.seconds.is_none();
        if let Some(seconds) = sound(seen.seconds_per_update).filter(believed) {
            self.seconds = Some(seconds);
        }
        let estimated = match sound(seen.arrivals_per_second) {
            Some(0.0) => Some(0.0),
            rate => rate.zip(self.seconds).map(|(rate, seconds)| rate * seconds),
        };
        match sound(seen.in_service) {
            Some(counted) if !waited => Some(counted),
            Some(counted) => estimated.map(|estimated| estimated.min(counted)),
            None => estimated,
        }
    }

    /// Nothing is known: what is there stays, and what was wanted is wanted still.
    fn unmeasured(&self, seen: &JobSeen) -> Wish {
        let mut wish = self.last.unwrap_or_default();
        wish.reason = Reason::NoData;
        wish.workers = wish.workers.max(seen.ready.saturating_add(seen.starting));
        wish.leaves = wish.leaves.max(u32::from(wish.workers > 0));
        wish.top = seen.top;
        wish
    }

    fn measured(&mut self, view: &View<'_>, in_service: f64, newcomers: &mut Newcomers) -> Wish {
        let View {
            config, now, seen, ..
        } = *view;
        let queue = self.smooth(view, in_service);
        let needed = view.workers(in_service);
        self.track(view, needed, newcomers);
        let burst = self.sampled.mean(now, config.panic_seconds).unwrap_or(0.0);
        let panic = self.panic.step(
            now,
            view.workers(burst),
            seen.ready,
            config.panic_threshold,
            config.stable_seconds,
        );
        let planned = self.planned(view);
        let mut count = Count {
            workers: 0,
            reason: Reason::Idle,
        };
        count.at_least(needed, Reason::Load);
        count.at_least(panic, Reason::Panic);
        count.at_least(planned.unwrap_or(0), Reason::Planned);
        let leaves = count.workers.max(view.workers_of_mean(queue));
        let window = self.window(view);
        // Where the round's course is known and nothing comes, nothing is kept for it.
        if planned != Some(0) {
            self.hold(view, window, newcomers.hold(), &mut count);
        }
        let leaves = leaves.min(count.workers);
        let others = u32::from(leaves > 1) + u32::from(seen.top);
        let others = if config.reuse || leaves == 0 {
            0
        } else {
            others
        };
        Wish {
            workers: count.workers.saturating_add(others),
            reason: count.reason,
            leaves,
            top: seen.top,
            reuse: config.reuse,
        }
    }

    /// Q = a * Q + (1 - a) * q, and the windows.
    fn smooth(&mut self, view: &View<'_>, in_service: f64) -> f64 {
        let View { config, now, .. } = *view;
        let passed = now.saturating_sub(self.seen).as_secs_f64();
        let periods = passed / config.period_seconds.max(1e-3);
        let past = config.past_weight.clamp(0.0, 1.0).powf(periods);
        let queue = self
            .queue
            .map_or(in_service, |queue| past * queue + (1.0 - past) * in_service);
        self.queue = Some(queue);
        self.seen = now;
        self.sampled.push(now, in_service, config.panic_seconds);
        self.smoothed.push(now, queue, config.stable_seconds);
        queue
    }

    /// What the stable window wants, and the most that it wanted within the delay.
    fn window(&mut self, view: &View<'_>) -> u32 {
        let View { config, now, .. } = *view;
        let mean = self.smoothed.mean(now, config.stable_seconds);
        let wanted = view.workers_of_mean(mean.unwrap_or(0.0));
        let delay = config.scale_down_delay_seconds;
        self.wished.push(now, f64::from(wanted), delay);
        wanted.max(self.wished.most(now, delay) as u32)
    }

    /// Notes which workers are needed, and for how long they were not.
    fn track(&mut self, view: &View<'_>, needed: u32, newcomers: &mut Newcomers) {
        let (config, start) = (&view.config.warm, view.start_seconds());
        let known = LEVELS_MAX.min(view.workers_max.min(needed) as usize);
        if self.levels.len() < known {
            self.levels.resize_with(known, Level::default);
        }
        for (level, number) in self.levels.iter_mut().zip(1..) {
            if needed < number {
                // What waits for a start is no load, and yet the worker is needed for it.
                if !self.waited {
                    level.idle_since.get_or_insert(view.now);
                }
            } else if let Some(since) = level.idle_since.take() {
                let idle = view.now.saturating_sub(since);
                if !level.times.is_known(config) {
                    newcomers.push(config, idle, start);
                }
                level.times.push(config, idle);
                level.hold = level.times.hold(config, start);
            }
        }
    }

    /// Workers that the round's course asks for; `None` where it is not known.
    fn planned(&mut self, view: &View<'_>) -> Option<u32> {
        let config = view.config;
        let round = view.seen.round?;
        self.rounds.see(view.now, round, view.seen.before);
        let profile = self.rounds.profile()?;
        if round.arrived >= round.expected {
            return Some(0);
        }
        let forecast = Forecast {
            profile,
            expected: round.expected,
            seconds_per_update: self.seconds?,
            updates_per_worker: config.updates_per_worker,
            spread: config.forecast_spread,
            ahead_seconds: view.start_seconds() * config.forecast_starts + config.period_seconds,
        };
        let offset = view.now.saturating_sub(round.opened).as_secs_f64();
        Some(view.useful(forecast.workers(offset)))
    }

    /// When workers may be wanted from now on although nothing new was seen: for what the round still expects, or
    /// because of how long idle workers were idle before.
    pub(super) fn next(
        &self,
        config: &Config,
        others: Option<Hold>,
        now: Duration,
    ) -> Option<Duration> {
        let ahead = |(from, to): (Duration, Duration)| (now <= to).then(|| now.max(from));
        if let Some((round, profile, seconds)) = self.course() {
            if round.arrived >= round.expected {
                return None;
            }
            let start = self.start_seconds * config.forecast_starts + config.period_seconds;
            let span = (profile.first() - start, profile.last() + seconds);
            return ahead(after(round.opened, span));
        }
        let held = self.levels.iter().filter_map(|level| {
            let (since, hold) = (level.idle_since?, level.hold.or(others)?);
            let span = (hold.from - self.start_seconds, hold.to);
            (hold.to > 0.0).then(|| ahead(after(since, span))).flatten()
        });
        held.min()
    }

    /// The open round, if it is known when its updates come.
    fn course(&self) -> Option<(RoundSeen, &Profile, f64)> {
        Some((self.round?, self.rounds.profile()?, self.seconds?))
    }

    /// Idle workers that are worth keeping, or that the window keeps because nothing is known of them.
    fn hold(&self, view: &View<'_>, window: u32, others: Option<Hold>, count: &mut Count) {
        let (busy, start) = (count.workers, view.start_seconds());
        for (level, number) in self.levels.iter().zip(1..) {
            if number <= busy {
                continue;
            }
            let since = level.idle_since.unwrap_or(view.now);
            let idle = view.now.saturating_sub(since).as_secs_f64();
            let first = number == 1 && warm::unknown(&view.config.warm).holds(idle, start);
            let held = match level.hold.or(others) {
                Some(hold) if hold.holds(idle, start) => Some(Reason::KeptWarm),
                Some(_) => None,
                None if window >= number => Some(Reason::Window),
                None => first.then_some(Reason::KeptWarm),
            };
            if let Some(reason) = held {
                count.at_least(count.workers.saturating_add(1), reason);
            }
        }
    }
}
