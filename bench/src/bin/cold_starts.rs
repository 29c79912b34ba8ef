//! Cold starts and wasted warm seconds, in simulation: traces that are drawn with seeds are replayed through the very
//! function that decides in earnest (`tributary_planning::autoscale::decide`), through a fixed keep-alive, and through
//! one who knows the trace.
//!
//! What is compared is replayed on the same trace; a figure is the median over the seeds.

use anyhow::{Result, ensure};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::{Figure, Options, Output, Samples};
use tributary_planning::autoscale::{Config, warm};
use tributary_planning::simulate::{Outcome, Policy, Setup, simulate};
use tributary_planning::trace::fitted::{
    COLD_START, Functions, INTER_ARRIVAL, LogNormal, Rounds, Weibull,
};
use tributary_planning::trace::{Random, Record, Trace};

/// The keep-alive that the autoscaler is held against, in seconds.
const FIXED: f64 = 60.0;
/// Others, to see what a keep-alive can be made to do.
const KEEP_ALIVES: [f64; 4] = [10.0, 30.0, 120.0, 600.0];
/// What a cold start is thought to be worth, beside the default: more of it buys fewer of them.
const COSTS: [f64; 3] = [30.0, 60.0, 300.0];
/// More workers than any of the traces needs at once.
const WORKERS_MAX: u32 = 2000;

#[derive(Parser)]
#[command(about = "Cold starts and wasted warm seconds, against a fixed keep-alive and an oracle")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bench = Bench {
        seeds: arguments.options.runs() as u64,
        hours: arguments.options.pick(3.0, 1.0),
        output: Output::new("cold_starts"),
    };
    let huawei = bench.draw(|seed| huawei(bench.hours, seed));
    bench.against_fixed("huawei", &huawei)?;
    bench.front("huawei", &huawei)?;
    drop(huawei);
    let bursts = bench.draw(|seed| bursts(bench.hours, seed));
    bench.against_fixed("bursts", &bursts)?;
    bench.front("bursts", &bursts)?;
    drop(bursts);
    let rounds = bench.draw(|seed| rounds(bench.hours, seed));
    bench.against_fixed("rounds", &rounds)?;
    bench.without_forecast(&rounds)
}

struct Bench {
    seeds: u64,
    hours: f64,
    output: Output,
}

/// What a policy came to, seed by seed.
struct Measured {
    cold: Samples,
    wasted: Samples,
    wait: Samples,
}

impl Bench {
    fn draw(&self, one: impl Fn(u64) -> Trace) -> Vec<Trace> {
        (1..=self.seeds).map(one).collect()
    }

    /// The autoscaler as it comes, a fixed keep-alive, and the oracle.
    fn against_fixed(&self, trace: &str, traces: &[Trace]) -> Result<()> {
        let updates = traces
            .iter()
            .map(|trace| trace.records().len())
            .sum::<usize>();
        self.output.say(format_args!(
            "{trace}: {} traces, {} records each",
            traces.len(),
            updates / traces.len()
        ));
        let fixed = measure(traces, fixed(FIXED))?;
        let ours = measure(traces, autoscaler(|_| ()))?;
        let oracle = measure(traces, Policy::Oracle)?;
        for (kind, pick) in KINDS {
            let Kind { name, unit, label } = kind;
            let figure = |who: &str, words: &str, samples: &Samples| {
                Figure::new(
                    format!("cold_starts.{trace}.{who}.{name}"),
                    format!("{words}: {label}, {trace}"),
                    unit,
                    samples,
                )
                .plot(format!("cold-starts-{trace}-{name}"))
            };
            let (fixed, ours) = (pick(&fixed), pick(&ours));
            self.output
                .figure(&figure("fixed_60", "fixed 60 s", fixed))?;
            let mut ours_figure = figure("autoscaler", "the autoscaler", ours);
            if ours.median() > 0.0 {
                let ratio = fixed.median() / ours.median();
                ours_figure = ours_figure.against("fixed 60 s", ratio);
                if name != "wait_p99" {
                    ours_figure = ours_figure.target(Target::RatioAtLeast(1.0));
                }
            }
            self.output.figure(&ours_figure)?;
            self.output
                .figure(&figure("oracle", "oracle", pick(&oracle)))?;
        }
        Ok(())
    }

    /// What other keep-alives come to, and other costs of a cold start.
    fn front(&self, trace: &str, traces: &[Trace]) -> Result<()> {
        let keep_alives = KEEP_ALIVES.iter().map(|seconds| {
            let name = format!("fixed_{seconds:.0}");
            (name, format!("fixed {seconds:.0} s"), fixed(*seconds))
        });
        let costs = COSTS.iter().map(|cost| {
            let policy = autoscaler(|config| config.warm.cold_start_cost_seconds = *cost);
            let label = format!("the autoscaler, a cold start worth {cost:.0} s");
            (format!("cost_{cost:.0}"), label, policy)
        });
        for (name, label, policy) in keep_alives.chain(costs) {
            let measured = measure(traces, policy)?;
            self.policy(trace, &name, &label, &measured)?;
        }
        Ok(())
    }

    /// The same rounds for an autoscaler that is not told of them.
    fn without_forecast(&self, traces: &[Trace]) -> Result<()> {
        let blind: Vec<Trace> = traces.iter().map(arrivals_only).collect();
        let measured = measure(&blind, autoscaler(|_| ()))?;
        self.policy("rounds", "no_forecast", "without the forecast", &measured)
    }

    fn policy(&self, trace: &str, name: &str, words: &str, measured: &Measured) -> Result<()> {
        for (kind, pick) in KINDS {
            let figure = Figure::new(
                format!("cold_starts.{trace}.{name}.{}", kind.name),
                format!("{words}: {}, {trace}", kind.label),
                kind.unit,
                pick(measured),
            );
            self.output
                .figure(&figure.plot(format!("cold-starts-{trace}-{}", kind.name)))?;
        }
        Ok(())
    }
}

/// What is looked at.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    unit: &'static str,
    label: &'static str,
}

/// Where it is among what was measured.
type Pick = fn(&Measured) -> &Samples;

const KINDS: [(Kind, Pick); 3] = [
    (
        Kind {
            name: "cold_rate",
            unit: "%",
            label: "cold starts",
        },
        |measured| &measured.cold,
    ),
    (
        Kind {
            name: "wasted",
            unit: "s",
            label: "warm seconds wasted on an update",
        },
        |measured| &measured.wasted,
    ),
    (
        Kind {
            name: "wait_p99",
            unit: "s",
            label: "wait, 99 of 100",
        },
        |measured| &measured.wait,
    ),
];

fn measure(traces: &[Trace], policy: Policy) -> Result<Measured> {
    let outcomes: Vec<Outcome> = (1..)
        .zip(traces)
        .map(|(seed, trace)| simulate(trace, &setup(policy, seed)))
        .collect();
    let samples = |of: &dyn Fn(&Outcome) -> f64| Samples::new(outcomes.iter().map(of).collect());
    ensure!(
        outcomes
            .iter()
            .all(|outcome| outcome.waits.len() as u64 == outcome.arrivals),
        "an update was not worked on"
    );
    Ok(Measured {
        cold: samples(&|outcome| 100.0 * outcome.cold_rate())?,
        wasted: samples(&|outcome| outcome.wasted_seconds / outcome.arrivals as f64)?,
        wait: samples(&|outcome| outcome.wait_quantile(0.99))?,
    })
}

fn setup(policy: Policy, seed: u64) -> Setup {
    Setup {
        policy,
        period_seconds: Config::default().period_seconds,
        start: COLD_START,
        workers_max: WORKERS_MAX,
        seed,
    }
}

fn fixed(keep_alive_seconds: f64) -> Policy {
    Policy::Fixed { keep_alive_seconds }
}

/// As it comes, but that a worker is there for one update in service: the simulation's workers do one at a time.
fn autoscaler(adjust: impl FnOnce(&mut Config)) -> Policy {
    let mut config = Config {
        updates_per_worker: 1.0,
        warm: warm::Config {
            start_seconds: (COLD_START.mu + COLD_START.sigma.powi(2) / 2.0).exp(),
            ..warm::Config::default()
        },
        ..Config::default()
    };
    adjust(&mut config);
    Policy::Autoscaler(config)
}

/// The published fit: pauses between arrivals by Weibull's distribution, starts log-normal; 200 functions, the n-th
/// asked for 1/n as often as the first.
fn huawei(hours: f64, seed: u64) -> Trace {
    let functions = Functions {
        seconds: hours * 3600.0,
        functions: 200,
        inter_arrival: INTER_ARRIVAL,
        service: LogNormal::of(0.5, 0.5),
    };
    functions.draw(&mut Random::new(seed))
}

/// Twenty functions, each asked for in bursts of one to some hundred requests within seconds, minutes apart.
fn bursts(hours: f64, seed: u64) -> Trace {
    let random = &mut Random::new(seed);
    let pause = Weibull {
        shape: 0.7,
        scale: 240.0,
    };
    let size = LogNormal::of(20.0, 20.0);
    let apart = Weibull {
        shape: 1.0,
        scale: 0.1,
    };
    let service = LogNormal::of(0.5, 0.5);
    let mut records = Vec::new();
    for function in 0..20 {
        let mut begin = pause.draw(random);
        while begin < hours * 3600.0 {
            let mut seconds = begin;
            // At least one.
            for _ in 0..size.draw(random).ceil() as u32 {
                records.push(Record::Arrival {
                    seconds,
                    job: format!("function-{function:04}"),
                    service_seconds: service.draw(random),
                });
                seconds += apart.draw(random);
            }
            begin = seconds + pause.draw(random);
        }
    }
    Trace::new(records)
}

/// Three jobs whose clients train for half a minute, two minutes and five, and then send.
fn rounds(hours: f64, seed: u64) -> Trace {
    let random = &mut Random::new(seed);
    let mut records = Vec::new();
    for (job, training) in [("a", 30.0), ("b", 120.0), ("c", 300.0)] {
        let of_job = Rounds {
            // The slowest client takes about a third longer than the mean.
            rounds: (hours * 3600.0 / (training * 1.35)).ceil() as u64,
            clients: 60,
            training: LogNormal::of(training, training / 8.0),
            service: LogNormal::of(0.5, 0.1),
            pause_seconds: 1.0,
        };
        records.extend(of_job.draw(job, 1.0, random));
    }
    Trace::new(records)
}

fn arrivals_only(trace: &Trace) -> Trace {
    let arrivals = trace.records().iter();
    Trace::new(
        arrivals
            .filter(|record| matches!(record, Record::Arrival { .. }))
            .cloned(),
    )
}
