//! A job's workers.

use std::collections::VecDeque;

use super::Outcome;
use crate::autoscale::JobSeen;

/// What a newer start counts in the mean.
const NEWER: f64 = 0.1;

#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Since when each idle worker is idle, the longest first. The last one is used next, so the first may end.
    pub(super) idle: VecDeque<f64>,
    pub(super) busy: u32,
    pub(super) starting: u32,
    /// When updates arrived that no worker has begun with, and how long each will take.
    pub(super) waiting: VecDeque<(f64, f64)>,
    /// Of the period.
    pub(super) arrived: u32,
    pub(super) service_seconds: f64,
    /// Updates in service, times seconds.
    in_service: f64,
    seen: f64,
    start_seconds: Option<f64>,
}

/// What a node would report of a period.
pub(super) struct Seen {
    arrivals_per_second: f64,
    seconds_per_update: Option<f64>,
    in_service: f64,
    ready: u32,
    starting: u32,
    start_seconds: Option<f64>,
}

impl Seen {
    pub(super) fn of(self, job: &str, node: &str) -> JobSeen {
        JobSeen {
            arrivals_per_second: Some(self.arrivals_per_second),
            seconds_per_update: self.seconds_per_update,
            in_service: Some(self.in_service),
            ready: self.ready,
            starting: self.starting,
            start_seconds: self.start_seconds,
            ..JobSeen::new(job, node, "tenant")
        }
    }
}

impl Pool {
    pub(super) fn workers(&self) -> u32 {
        // There are at most as many as `workers_max`.
        self.idle.len() as u32 + self.busy + self.starting
    }

    /// Counts what was in service until `seconds`.
    pub(super) fn pass(&mut self, seconds: f64) {
        let in_service = f64::from(self.busy) + self.waiting.len() as f64;
        self.in_service += in_service * (seconds - self.seen).max(0.0);
        self.seen = seconds;
    }

    /// A worker is free: the seconds of the update that it begins with, if one waits.
    pub(super) fn free(&mut self, seconds: f64, outcome: &mut Outcome) -> Option<f64> {
        let Some((arrived, service_seconds)) = self.waiting.pop_front() else {
            self.idle.push_back(seconds);
            return None;
        };
        self.busy += 1;
        outcome.waits.push(seconds - arrived);
        Some(service_seconds)
    }

    /// Takes the worker that became idle last, if there is one.
    pub(super) fn take_idle(&mut self, seconds: f64, outcome: &mut Outcome) -> bool {
        let Some(since) = self.idle.pop_back() else {
            return false;
        };
        outcome.wasted_seconds += seconds - since;
        self.busy += 1;
        true
    }

    /// Ends workers that were idle for `keep_alive` seconds.
    pub(super) fn expire(&mut self, seconds: f64, keep_alive: f64, outcome: &mut Outcome) {
        while let Some(since) = self.idle.front().copied() {
            if since + keep_alive > seconds {
                return;
            }
            self.idle.pop_front();
            outcome.wasted_seconds += keep_alive;
        }
    }

    /// Ends so many idle workers, those that were idle for longest.
    pub(super) fn stop(&mut self, workers: u32, seconds: f64, outcome: &mut Outcome) {
        for _ in 0..workers {
            let Some(since) = self.idle.pop_front() else {
                return;
            };
            outcome.wasted_seconds += seconds - since;
        }
    }

    /// The trace is over.
    pub(super) fn end(&mut self, seconds: f64, keep_alive: f64, outcome: &mut Outcome) {
        self.expire(seconds, keep_alive, outcome);
        for since in self.idle.drain(..) {
            outcome.wasted_seconds += (seconds - since).max(0.0);
        }
    }

    pub(super) fn started(&mut self, start_seconds: f64) {
        self.starting += 1;
        let mean = self.start_seconds.get_or_insert(start_seconds);
        *mean += NEWER * (start_seconds - *mean);
    }

    /// What was seen in the period that ends now; a new one begins.
    pub(super) fn seen(&mut self, period_seconds: f64) -> Seen {
        let arrived = std::mem::take(&mut self.arrived);
        let service = std::mem::take(&mut self.service_seconds);
        Seen {
            arrivals_per_second: f64::from(arrived) / period_seconds,
            seconds_per_update: (arrived > 0).then(|| service / f64::from(arrived)),
            in_service: std::mem::take(&mut self.in_service) / period_seconds,
            ready: self.idle.len() as u32 + self.busy,
            starting: self.starting,
            start_seconds: self.start_seconds,
        }
    }
}
