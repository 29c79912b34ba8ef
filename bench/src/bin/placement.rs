//! How long placement takes: pure functions, no network and no processes.
//!
//! A round's updates are divided as a whole (`plan`), given to nodes one by one as they come (`one_by_one`), and
//! divided anew when something has changed (`lost`, `joined`, `more`). `decision` is one update's choice of a node on
//! more and more nodes: it grows with the number's logarithm.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use tributary_bench::figure::{Target, short};
use tributary_bench::{Contender, Figure, Options, Output, Samples, interleave};
use tributary_planning::capacity::Capacity;
use tributary_planning::homes::{self, homes};
use tributary_planning::placement::{
    Assigner, Job, Node, NodeState, Placement, Plan, Policy, Settings, plan,
};

/// The policies, with their names in figures.
const POLICIES: [(&str, Policy); 4] = [
    ("best_fit", Policy::BestFit),
    ("worst_fit", Policy::WorstFit),
    ("first_fit", Policy::FirstFit),
    ("spread", Policy::Spread),
];
/// Updates in a batch whose decisions are timed together.
const DECISIONS: u32 = 200_000;
/// Of all room, the part that updates take.
const FILLED: f64 = 0.7;

#[derive(Parser)]
#[command(about = "How long it takes to place updates on nodes")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

/// So many updates on so many nodes, and the milliseconds that a plan may take.
struct Case {
    name: &'static str,
    nodes: usize,
    updates: u32,
    milliseconds: f64,
}

const LARGE: Case = Case {
    name: "u1000000",
    nodes: 10_000,
    updates: 1_000_000,
    milliseconds: 2000.0,
};
const SMALL: Case = Case {
    name: "u10000",
    nodes: 500,
    updates: 10_000,
    milliseconds: 10.0,
};

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bench = Bench {
        runs: arguments.options.runs(),
        output: Output::new("placement"),
    };
    for case in [LARGE, SMALL] {
        bench.whole(&case)?;
        bench.one_by_one(&case)?;
    }
    bench.jobs()?;
    bench.changes()?;
    bench.homes()?;
    bench.growth(if arguments.options.quick {
        &[100, 10_000]
    } else {
        &[100, 1000, 10_000, 100_000]
    })
}

struct Bench {
    runs: usize,
    output: Output,
}

impl Bench {
    /// A round's updates as a whole.
    fn whole(&self, case: &Case) -> Result<()> {
        let nodes = nodes(case.nodes, case.updates);
        let jobs = POLICIES.map(|(_, policy)| job("job", case.updates, policy));
        let contenders = POLICIES.iter().zip(&jobs).map(|((name, _), job)| {
            let run = || {
                let (made, seconds) = timed(|| fresh(&nodes, std::slice::from_ref(job)));
                check(placed(&made, "job")?, case.updates)?;
                Ok(seconds)
            };
            Contender::new(*name, run)
        });
        self.policies("plan", "a plan", case, &mut contenders.collect::<Vec<_>>())
    }

    /// The same updates as they come.
    fn one_by_one(&self, case: &Case) -> Result<()> {
        let nodes = nodes(case.nodes, case.updates);
        let contenders = POLICIES.iter().map(|(name, policy)| {
            let job = job("job", case.updates, *policy);
            let nodes = &nodes;
            let run = move || {
                let (assigner, seconds) = timed(|| assigned(nodes, &job, case.updates));
                let sum: u32 = assigner?.shares().values().sum();
                ensure!(sum == case.updates, "{sum} updates have a node");
                Ok(seconds)
            };
            Contender::new(*name, run)
        });
        self.policies(
            "one_by_one",
            "one by one",
            case,
            &mut contenders.collect::<Vec<_>>(),
        )
    }

    fn policies(
        &self,
        what: &str,
        label: &str,
        case: &Case,
        contenders: &mut [Contender<'_>],
    ) -> Result<()> {
        let Case { nodes, updates, .. } = case;
        let measured = interleave(1, self.runs, contenders)?;
        for ((policy, _), seconds) in POLICIES.iter().zip(measured) {
            let name = format!("placement.{what}.{}.{policy}", case.name);
            let label = format!("{label}: {updates} updates, {nodes} nodes, {policy}");
            let figure = Figure::new(name, label, "ms", &milliseconds(&seconds)?)
                .target(Target::AtMost(case.milliseconds))
                .plot(format!("placement-{}", case.name));
            self.output.figure(&figure)?;
        }
        Ok(())
    }

    /// As many updates, of many jobs.
    fn jobs(&self) -> Result<()> {
        let nodes = nodes(LARGE.nodes, LARGE.updates);
        let jobs = many(100, 10_000);
        let run = || {
            let (made, seconds) = timed(|| fresh(&nodes, &jobs));
            ensure!(
                made.jobs.len() == jobs.len(),
                "not all jobs have an outcome"
            );
            Ok(seconds)
        };
        let figure = Figure::new(
            "placement.plan.jobs100.best_fit",
            "a plan: 100 jobs of 10000 updates, 10000 nodes, best_fit",
            "ms",
            &self.measure("jobs", run)?,
        );
        self.output
            .figure(&figure.target(Target::AtMost(LARGE.milliseconds)))
    }

    /// What changes little is planned anew, with what was before.
    fn changes(&self) -> Result<()> {
        let mut nodes = nodes(LARGE.nodes, LARGE.updates);
        let one = vec![job("job", LARGE.updates, Policy::BestFit)];
        let before = fresh(&nodes, &one);
        let had = placed(&before, "job")?.shares.clone();
        let (lost, share) = had.iter().next().context("a node that is used")?;
        let again =
            |nodes: &[Node], jobs: &[Job]| plan(nodes, jobs, Some(&before), &Settings::default());
        let more = [one.clone(), vec![job("more", 100, Policy::BestFit)]].concat();
        let seconds = self.measure("more", || Ok(timed(|| again(&nodes, &more)).1))?;
        self.change("more", "one job more", &seconds)?;
        let seconds = {
            let mut larger = nodes.clone();
            larger.push(node("joined".into(), 1000));
            self.measure("joined", || Ok(timed(|| again(&larger, &one)).1))?
        };
        self.change("joined", "one node more", &seconds)?;
        let gone = nodes.iter_mut().find(|node| node.name == *lost);
        gone.context("the node")?.state = NodeState::Lost;
        let seconds = self.measure("lost", || {
            let (made, seconds) = timed(|| again(&nodes, &one));
            let moved = placed(&made, "job")?.moved_since(placed(&before, "job")?);
            ensure!(
                moved == u64::from(*share),
                "{moved} updates moved, not {share}"
            );
            Ok(seconds)
        })?;
        self.change("lost", "one node lost; only its updates move", &seconds)
    }

    fn change(&self, what: &str, label: &str, milliseconds: &Samples) -> Result<()> {
        let name = format!("placement.change.{what}");
        let label = format!("{label}: 1000000 updates, 10000 nodes");
        self.output
            .figure(&Figure::new(name, label, "ms", milliseconds).plot("placement-change"))
    }

    /// The table that says whose home is where.
    fn homes(&self) -> Result<()> {
        const NODES: u32 = 1000;
        let share = |node: u32| (format!("node-{node:06}"), 50 + node % 100);
        let shares: Vec<_> = (0..NODES).map(share).collect();
        let before = homes(None, &shares);
        let samples = self.measure("homes", || Ok(timed(|| homes(None, &shares)).1))?;
        let figure = Figure::new(
            "placement.homes.first",
            format!("homes for clients: {NODES} nodes"),
            "ms",
            &samples,
        );
        self.output.figure(&figure.plot("placement-change"))?;
        let fewer = &shares[1..];
        let owned = before.nodes.iter().position(|node| *node == shares[0].0);
        let owned = owned.map_or(0, |at| {
            let buckets = before.buckets.iter();
            buckets.filter(|bucket| usize::from(**bucket) == at).count()
        });
        let samples = self.measure("homes", || {
            let (after, seconds) = timed(|| homes(Some(&before), fewer));
            let moved = after.moved_since(&before);
            ensure!(moved == owned, "{moved} buckets moved, not {owned}");
            Ok(seconds)
        })?;
        let buckets = homes::BUCKETS;
        let label = format!("the same when one is lost: {owned} of {buckets} buckets move");
        let figure = Figure::new("placement.homes.lost", label, "ms", &samples);
        self.output.figure(&figure.plot("placement-change"))
    }

    /// One update's choice of a node, on more and more nodes.
    fn growth(&self, sizes: &[usize]) -> Result<()> {
        let least = *sizes.first().context("sizes")? as f64;
        for (name, policy) in POLICIES {
            let job = job("job", DECISIONS, policy);
            let sites: Vec<_> = sizes.iter().map(|n| nodes(*n, DECISIONS)).collect();
            let contenders = sizes.iter().zip(&sites).map(|(size, nodes)| {
                Contender::new(format!("{size} nodes"), || decisions(nodes, &job))
            });
            let measured = interleave(1, self.runs, &mut contenders.collect::<Vec<_>>())?;
            let first = measured[0].median();
            for (size, seconds) in sizes.iter().zip(measured) {
                let logarithm = (*size as f64).log2() / least.log2();
                let nanoseconds = seconds.map(|seconds| seconds * 1e9)?;
                let label = format!(
                    "an update's node, of {size}, {name} (log n: {} x)",
                    short(logarithm)
                );
                let name = format!("placement.decision.n{size}.{name}");
                let mut figure = Figure::new(name, label, "ns", &nanoseconds);
                if *size as f64 > least {
                    let ratio = first / seconds.median();
                    figure = figure.against(format!("{least} nodes"), ratio);
                }
                self.output.figure(&figure.plot("placement-decision"))?;
            }
        }
        Ok(())
    }

    fn measure<'a>(&self, name: &str, run: impl FnMut() -> Result<f64> + 'a) -> Result<Samples> {
        let measured = interleave(1, self.runs, &mut [Contender::new(name, run)])?;
        milliseconds(&measured[0])
    }
}

/// Seconds for each of [`DECISIONS`], without what is prepared before the first.
fn decisions(nodes: &[Node], job: &Job) -> Result<f64> {
    let mut assigner = Assigner::new(nodes, job, &Settings::default())?;
    let (overload, seconds) = timed(|| {
        let decided = (0..DECISIONS).map(|_| assigner.assign_one().overload);
        decided.filter(|overload| *overload).count()
    });
    ensure!(overload == 0, "{overload} updates found no room");
    Ok(seconds / f64::from(DECISIONS))
}

fn assigned(nodes: &[Node], job: &Job, updates: u32) -> Result<Assigner> {
    let mut assigner = Assigner::new(nodes, job, &Settings::default())?;
    for _ in 0..updates {
        black_box(assigner.assign_one());
    }
    Ok(assigner)
}

fn fresh(nodes: &[Node], jobs: &[Job]) -> Plan {
    plan(nodes, jobs, None, &Settings::default())
}

fn placed<'a>(plan: &'a Plan, job: &str) -> Result<&'a Placement> {
    plan.placement(job).context("the job has no node")
}

fn check(placement: &Placement, updates: u32) -> Result<()> {
    let sum: u32 = placement.shares.values().sum();
    if sum != updates || placement.overload > 0 {
        bail!(
            "{sum} of {updates} updates have a node, {} of them without room",
            placement.overload
        );
    }
    Ok(())
}

/// Nodes of four sizes that have room for `updates`, and some more.
fn nodes(count: usize, updates: u32) -> Vec<Node> {
    let mean = f64::from(updates) / FILLED / count as f64;
    let sized = |at: usize| {
        let size = [0.5, 0.75, 1.25, 1.5][at % 4];
        node(format!("node-{at:06}"), (mean * size).ceil() as u32)
    };
    (0..count).map(sized).collect()
}

/// A node that was measured, with something to do already.
fn node(name: String, room: u32) -> Node {
    let seconds_per_update = 0.05;
    let arrivals_per_second = 20.0;
    Node {
        capacity: Some(Capacity {
            concurrency: f64::from(room) + arrivals_per_second * seconds_per_update,
            seconds_per_update,
        }),
        arrivals_per_second,
        ..Node::new(name, 16)
    }
}

fn many(count: u32, updates: u32) -> Vec<Job> {
    let one = |number| job(&format!("job-{number:04}"), updates, Policy::BestFit);
    (0..count).map(one).collect()
}

fn job(name: &str, updates: u32, policy: Policy) -> Job {
    let updates = NonZeroU32::new(updates).unwrap_or(NonZeroU32::MIN);
    Job {
        policy,
        ..Job::new(name, "tenant", updates)
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let done = black_box(work());
    (done, started.elapsed().as_secs_f64())
}

fn milliseconds(seconds: &Samples) -> Result<Samples> {
    seconds.map(|seconds| seconds * 1e3)
}
