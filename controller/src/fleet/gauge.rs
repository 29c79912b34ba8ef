//! What a node does, from the counters of its reports.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tributary_api::{Name, status::NodeLoad};
use tributary_planning::capacity::{Capacity, Defaults, Estimator, Observation, Settings};

use crate::link::NodeReport;

/// Reports that are nearer to each other say nothing of rates.
const INTERVAL_MIN: Duration = Duration::from_millis(500);

/// The time constant of the moving averages of arrivals.
const SMOOTHING: Duration = Duration::from_secs(10);

/// Rates and capacity of one node.
#[derive(Debug, Clone)]
pub(crate) struct Gauge {
    estimator: Estimator,
    begun: Instant,
    at: Instant,
    load: NodeLoad,
    /// What was served when an update was folded last: what is in service for longer than a report is measured whole.
    served: NodeLoad,
    /// MC, if the node was told.
    given: Option<f64>,
    /// Version and accepted updates of each job at `at`.
    jobs: BTreeMap<Name, (u64, u32)>,
    arrivals: f64,
    arrivals_of_jobs: BTreeMap<Name, f64>,
}

impl Gauge {
    pub(crate) fn new(report: &NodeReport, now: Instant) -> Self {
        Self {
            estimator: Estimator::new(Settings::default()),
            begun: now,
            at: now,
            load: report.status.load,
            served: report.status.load,
            given: report.capacity.map(f64::from),
            jobs: counts(report),
            arrivals: 0.0,
            arrivals_of_jobs: BTreeMap::new(),
        }
    }

    /// Takes the next report.
    pub(crate) fn observe(&mut self, before: &NodeReport, report: &NodeReport, now: Instant) {
        if before.life != report.life {
            // The counters begin anew; what was learnt of the machine stays.
            (self.at, self.load, self.jobs) = (now, report.status.load, counts(report));
            (self.served, self.given) = (self.load, report.capacity.map(f64::from));
            return;
        }
        let passed = now.saturating_duration_since(self.at);
        if passed < INTERVAL_MIN {
            return;
        }
        let seconds = passed.as_secs_f64();
        let load = report.status.load;
        let updates = load.updates.saturating_sub(self.load.updates) as f64;
        let rate = updates / seconds;
        let observation = Observation {
            arrivals_per_second: Some(rate),
            cores: Some(report.status.cores),
            ..self.serve(load)
        };
        self.estimator
            .observe(now.saturating_duration_since(self.begun), observation);
        let step = 1.0 - (-seconds / SMOOTHING.as_secs_f64()).exp();
        self.arrivals += step * (rate - self.arrivals);
        self.observe_jobs(counts(report), seconds, step);
        (self.at, self.load) = (now, load);
    }

    /// What updates took from their arrival to being folded, and how many there were at a time, while there were any: the
    /// rest of the time says nothing of how long they wait for each other.
    fn serve(&mut self, load: NodeLoad) -> Observation {
        let before = std::mem::replace(&mut self.served, load);
        let folded = load.folded.saturating_sub(before.folded) as f64;
        if folded == 0.0 {
            self.served = before;
            return Observation::default();
        }
        let passed = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e3;
        let served = passed(load.served_milliseconds, before.served_milliseconds);
        let occupied = passed(load.occupied_milliseconds, before.occupied_milliseconds);
        Observation {
            // Counted in milliseconds: less is not told apart.
            seconds_per_update: Some(served.max(1e-3) / folded),
            in_flight: (occupied > 0.0).then(|| served / occupied),
            ..Observation::default()
        }
    }

    fn observe_jobs(&mut self, jobs: BTreeMap<Name, (u64, u32)>, seconds: f64, step: f64) {
        self.arrivals_of_jobs
            .retain(|job, _| jobs.contains_key(job));
        for (job, (version, accepted)) in &jobs {
            let before = self.jobs.get(job).filter(|(before, _)| before == version);
            let new = accepted.saturating_sub(before.map_or(0, |(_, accepted)| *accepted));
            let rate = self.arrivals_of_jobs.entry(job.clone()).or_default();
            *rate += step * (f64::from(new) / seconds - *rate);
        }
        self.jobs = jobs;
    }

    /// What the node can take; `None` until anything of it is known.
    pub(crate) fn capacity(&self, cores: u32) -> Option<Capacity> {
        let measured = self.estimator.capacity();
        let Some(concurrency) = self.given else {
            return measured;
        };
        let usual = measured.unwrap_or_else(|| Defaults::default().of(cores));
        Some(Capacity {
            concurrency,
            ..usual
        })
    }

    /// The same, or what is assumed until then.
    pub(crate) fn capacity_or_default(&self, cores: u32) -> Capacity {
        self.capacity(cores)
            .unwrap_or_else(|| Defaults::default().of(cores))
    }

    /// Whether MC was learnt, and whether the node was told it.
    pub(crate) const fn knows(&self) -> (bool, bool) {
        (self.estimator.has_learnt(), self.given.is_some())
    }

    /// Updates that arrive per second.
    pub(crate) fn arrivals(&self) -> f64 {
        self.arrivals
    }

    /// How many of those are of which job.
    pub(crate) fn arrivals_of_jobs(&self) -> BTreeMap<String, f64> {
        let sum: f64 = self.arrivals_of_jobs.values().sum();
        // A leader counts its followers' updates as well.
        let part = if sum > self.arrivals {
            self.arrivals / sum
        } else {
            1.0
        };
        let rates = self.arrivals_of_jobs.iter();
        rates
            .map(|(job, rate)| (job.to_string(), rate * part))
            .collect()
    }
}

fn counts(report: &NodeReport) -> BTreeMap<Name, (u64, u32)> {
    let jobs = report.jobs.iter();
    jobs.map(|job| (job.name.clone(), (job.version, job.accepted)))
        .collect()
}
