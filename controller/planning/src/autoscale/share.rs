//! How jobs share a node that is too small for all of them.
//!
//! Worker slots are one resource, so dominant-resource fairness is weighted max-min fairness: the tenants' parts are
//! raised together, in proportion to their weights, until the slots are out; who has enough stops. Within a tenant
//! jobs count alike. Priorities are strict, above a floor: a part of each job's fair share that no priority takes
//! away.
//!
//! Fair shares are fractions and slots are not. As in weighted fair queuing (Demers, Keshav, Shenker 1989), each job is
//! held against a fluid server that gives fractions: its *lag* is what it got less than that, in worker-seconds. Each
//! job has its share rounded down; the slots that are left go to the largest lags. So nobody is ever a whole slot away
//! from its share, and in the long run everybody has it, also where it is a tenth of a slot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What division may lose.
const ROUNDING: f64 = 1e-9;
/// A job that was not served for long does not get a node for itself afterwards.
const LAG_SLICES_MAX: f64 = 10.0;

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The part of its fair share that a job has against all priorities, of 1.
    pub floor: f64,
    /// A slot changes hands for lags of this many worker-seconds, not for less: a worker that changes its job at each
    /// decision does nothing else.
    pub slice_seconds: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            floor: 0.1,
            slice_seconds: 10.0,
        }
    }
}

/// What a job wants of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand<'a> {
    /// The job.
    pub job: &'a str,
    /// Whose it is.
    pub tenant: &'a str,
    /// The tenant's weight. The largest that any of its jobs names counts; what is not above 0 counts as 1.
    pub weight: f64,
    /// Higher ones come first.
    pub priority: i32,
    /// Workers that it wants.
    pub slots: u32,
}

/// What jobs got less than their fair shares, in worker-seconds; and who had a slot beyond its share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lags {
    jobs: BTreeMap<String, Lag>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Lag {
    seconds: f64,
    /// What it should have had and what it had, since the last time.
    share: f64,
    granted: u32,
}

/// Divides `slots` among `demands`; `passed` seconds after the last time.
#[must_use]
pub fn divide<'a>(
    config: &Config,
    mut before: Lags,
    passed: f64,
    slots: u32,
    demands: &[Demand<'a>],
) -> (Lags, BTreeMap<&'a str, u32>) {
    let shares = shares(config, slots, demands);
    let slice = config.slice_seconds.max(1e-3);
    let mut lags: Vec<Lag> = demands
        .iter()
        .map(|demand| {
            let mut lag = before.jobs.remove(demand.job).unwrap_or_default();
            lag.seconds += (lag.share - f64::from(lag.granted)) * passed;
            let most = slice * LAG_SLICES_MAX;
            lag.seconds = lag.seconds.clamp(-most, most);
            lag
        })
        .collect();
    let mut granted: Vec<u32> = shares.iter().map(|share| whole(*share)).collect();
    let given: u32 = granted.iter().sum();
    let total: u32 = whole(shares.iter().sum::<f64>());
    let mut next: Vec<usize> = (0..demands.len())
        .filter(|at| shares[*at] - f64::from(granted[*at]) > ROUNDING)
        .collect();
    let urgency = |at: usize| {
        let lag = lags[at];
        let had = lag.granted > granted[at];
        let fraction = shares[at] - f64::from(granted[at]);
        // Who had the slot keeps it until another's lag is a slice larger.
        let kept = if had { slice } else { 0.0 };
        (lag.seconds + kept, fraction)
    };
    next.sort_by(|a, b| {
        let (x, y) = (urgency(*a), urgency(*b));
        let by_lag = y.0.total_cmp(&x.0);
        by_lag.then(y.1.total_cmp(&x.1)).then(a.cmp(b))
    });
    let left = usize::try_from(total.saturating_sub(given)).unwrap_or(usize::MAX);
    for at in next.into_iter().take(left) {
        granted[at] += 1;
    }
    for (at, lag) in lags.iter_mut().enumerate() {
        lag.share = shares[at];
        lag.granted = granted[at];
        if demands[at].slots == 0 {
            // Who wants nothing saves nothing up.
            *lag = Lag::default();
        }
    }
    let names = demands.iter().map(|demand| demand.job);
    let after = names.clone().map(str::to_owned).zip(lags).collect();
    (Lags { jobs: after }, names.zip(granted).collect())
}

/// Each job's fair share, as a fraction of slots.
#[must_use]
pub fn shares(config: &Config, slots: u32, demands: &[Demand<'_>]) -> Vec<f64> {
    let total = f64::from(slots);
    let wanted: Vec<f64> = demands
        .iter()
        .map(|demand| f64::from(demand.slots))
        .collect();
    if wanted.iter().sum::<f64>() <= total {
        return wanted;
    }
    let all: Vec<usize> = (0..demands.len()).collect();
    let fair = among(total, demands, &all, &wanted);
    let floor = config.floor.clamp(0.0, 1.0);
    let mut shares: Vec<f64> = fair.iter().map(|share| share * floor).collect();
    let mut left = total - shares.iter().sum::<f64>();
    let mut classes: Vec<i32> = demands.iter().map(|demand| demand.priority).collect();
    classes.sort_unstable();
    classes.dedup();
    for class in classes.into_iter().rev() {
        let members = all.iter().filter(|at| demands[**at].priority == class);
        let members: Vec<usize> = members.copied().collect();
        let lacking: Vec<f64> = (0..demands.len())
            .map(|at| wanted[at] - shares[at])
            .collect();
        let given = among(left, demands, &members, &lacking);
        for at in members {
            shares[at] += given[at];
            left -= given[at];
        }
    }
    shares
}

/// Weighted max-min fairness between the members' tenants, and then between each tenant's jobs.
fn among(total: f64, demands: &[Demand<'_>], members: &[usize], wanted: &[f64]) -> Vec<f64> {
    let mut tenants = BTreeMap::<&str, Vec<usize>>::new();
    for at in members {
        tenants.entry(demands[*at].tenant).or_default().push(*at);
    }
    let of_tenants: Vec<(f64, f64)> = tenants
        .values()
        .map(|jobs| {
            let weights = jobs.iter().map(|at| weight(&demands[*at]));
            let sum: f64 = jobs.iter().map(|at| wanted[*at]).sum();
            (weights.fold(0.0, f64::max), sum)
        })
        .collect();
    let mut shares = vec![0.0; demands.len()];
    for (jobs, part) in tenants.values().zip(max_min(total, &of_tenants)) {
        let of_jobs: Vec<(f64, f64)> = jobs.iter().map(|at| (1.0, wanted[*at])).collect();
        for (at, share) in jobs.iter().zip(max_min(part, &of_jobs)) {
            shares[*at] = share;
        }
    }
    shares
}

fn weight(demand: &Demand<'_>) -> f64 {
    let sound = demand.weight.is_finite() && demand.weight > 0.0;
    if sound { demand.weight } else { 1.0 }
}

/// Weighted max-min fairness: `(weight, wanted)` each. Who wants least for its weight is served first; the rest is
/// shared by those who want more.
fn max_min(total: f64, wanted: &[(f64, f64)]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| {
        let relative = |at: usize| wanted[at].1 / wanted[at].0;
        relative(*a).total_cmp(&relative(*b)).then(a.cmp(b))
    });
    let mut shares = vec![0.0; wanted.len()];
    let mut left = total.max(0.0);
    let mut weights: f64 = wanted.iter().map(|(weight, _)| weight).sum();
    for at in order {
        let (weight, most) = wanted[at];
        let part = (left * weight / weights).min(most).max(0.0);
        shares[at] = part;
        left -= part;
        weights -= weight;
    }
    shares
}

fn whole(share: f64) -> u32 {
    (share + ROUNDING) as u32
}

#[cfg(test)]
mod tests;
