//! A soak: a whole cluster in which something always breaks, while clients train two jobs on it.
//!
//! - [`plan`]: what breaks when and for how long, from a seed. The same seed breaks the same things again.
//! - [`faults`]: carries the plan out on a [`Cluster`], and repairs everything at its end.
//! - [`jobs`]: the two jobs, and what each client sends in each round. Whoever holds a model can tell from it which
//!   updates are in it: each has a coordinate of its own.
//! - [`clients`]: clients that go on whatever happens, as the Python client does.
//! - [`ledger`]: every model that anybody saw equals its reference, and no update counts twice.
//! - [`remains`]: what must be left in the end: no slot in use, no stale segment, no process.
//!
//! Time decides nothing but this: once everything is repaired, every job completes a round with all its clients.

pub mod clients;
pub mod faults;
pub mod jobs;
pub mod ledger;
pub mod plan;
pub mod remains;
pub mod report;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::Sidecar;
use crate::cluster::{Cluster, Size};
use clients::Crowd;
use faults::Breaker;
use jobs::{JOBS, Job};
use ledger::Ledger;
use plan::Plan;
use remains::Memory;
pub use report::Report;

/// How long a repaired cluster may take for one more round with everybody. Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at what goes on.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the memory of nodes is looked at.
const WEIGHING: Duration = Duration::from_secs(10);
const SIZE: Size = Size {
    nodes: 4,
    controllers: 3,
    nats: 3,
};

/// How long, and what breaks.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long things break.
    pub lasts: Duration,
    /// What the plan is made from.
    pub seed: u64,
    /// Tells people how it goes, once a minute.
    pub talks: bool,
}

/// Runs a soak.
///
/// # Panics
/// With the seed and what was wrong.
#[must_use]
pub fn run(options: &Options) -> Report {
    let mut cluster = Cluster::start(Sidecar::Ebpf, SIZE);
    for job in JOBS {
        cluster.deploy(&job.manifest(), &job.initial());
    }
    let (ledger, mut memory) = (Ledger::new(), Memory::default());
    let crowd = Crowd::new(cluster.doors(), &ledger);
    let plan = Plan::new(options.seed, options.lasts);
    let mut breaker = Breaker::new(&plan);
    let outcome = thread::scope(|scope| {
        // However this ends, the clients do not go on for ever.
        let _end = End(&crowd);
        crowd.start(scope);
        break_things(options, &mut cluster, &mut breaker, &crowd, &mut memory)?;
        one_more_round(&mut cluster, &crowd, &ledger)
    });
    let outcome = outcome
        .and_then(|()| crowd.fault().map_or(Ok(()), Err))
        .and_then(|()| ledger.check())
        .and_then(|()| remains::check(&mut cluster, &mut memory));
    let report = Report::new(options, &breaker, &crowd, &ledger, &memory);
    if let Err(wrong) = outcome {
        panic!(
            "soak with seed {}: {wrong}\n{report}\n{}",
            options.seed,
            breaker.history()
        );
    }
    report
}

/// Ends all clients when it goes.
struct End<'a>(&'a Crowd<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

/// Carries the plan out.
fn break_things(
    options: &Options,
    cluster: &mut Cluster,
    breaker: &mut Breaker<'_>,
    crowd: &Crowd<'_>,
    memory: &mut Memory,
) -> Result<(), String> {
    let began = Instant::now();
    let (mut weighed, mut told) = (began, began);
    while !breaker.is_over(began.elapsed()) {
        crowd.fault().map_or(Ok(()), Err)?;
        breaker.step(cluster, began.elapsed());
        if weighed.elapsed() > WEIGHING {
            weighed = Instant::now();
            memory.weigh(cluster);
        }
        if options.talks && told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            report::say(&crowd.progress(began.elapsed()));
        }
        thread::sleep(PAUSE);
    }
    breaker.repair_all(cluster);
    Ok(())
}

/// Waits until each job has completed a round with all its clients, then lets them go home between two rounds.
fn one_more_round(cluster: &mut Cluster, crowd: &Crowd<'_>, ledger: &Ledger) -> Result<(), String> {
    let since: Vec<u64> = JOBS.iter().map(|job| ledger.newest(job)).collect();
    wait(crowd, "all nodes are ready again", || {
        cluster.ready_nodes() == SIZE.nodes
    })?;
    for (job, since) in JOBS.iter().zip(since) {
        let what = format!("job {} has counted all its clients again", job.name);
        wait(crowd, &what, || ledger.all_since(job, since))?;
    }
    crowd.send_home(ledger);
    wait(crowd, "all clients have gone home", || crowd.is_home())?;
    // What some have sent for a round that the others did not fill is closed in as well.
    for job in JOBS {
        settle(cluster, job);
    }
    Ok(())
}

/// Closes a round that has begun, by a rule that asks for one update only.
fn settle(cluster: &Cluster, job: &Job) {
    if job.staleness_max > 0 {
        cluster.deploy(
            &job.manifest().round(&job.round("count: 1")),
            &job.initial(),
        );
    }
}

fn wait(crowd: &Crowd<'_>, what: &str, mut there: impl FnMut() -> bool) -> Result<(), String> {
    let began = Instant::now();
    while !there() {
        crowd.fault().map_or(Ok(()), Err)?;
        if began.elapsed() > PATIENCE {
            return Err(format!(
                "waited in vain for {} s: {what}",
                PATIENCE.as_secs()
            ));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
