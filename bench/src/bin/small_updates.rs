//! Many small updates: how many a second a server takes, and how long each waits for its answer.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::json;
use tributary_bench::figure::Target;
use tributary_bench::load::{Load, Pace, Run};
use tributary_bench::process::Tree;
use tributary_bench::{Figure, Model, Options, Output, Samples, Server};

/// Elements of the model.
const ELEMENTS: usize = 1000;
/// Kept connections, each with one request in flight.
const CONNECTIONS: usize = 64;
/// Leaves of the tree that the planner's own plan is held against.
const FAN_IN: u32 = 64;
/// Updates a second that are to be reached.
const RATE: f64 = 20_000.0;
/// At half of that rate, 99 of 100 updates are to be answered within so many milliseconds.
const P99_MS: f64 = 20.0;

#[derive(Parser)]
#[command(about = "Many small updates over kept connections")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Clients of a round; several sizes are measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000])]
    clients: Vec<u32>,
    /// Seconds of a run [default: 3, or 1 with --quick]
    #[arg(long)]
    seconds: Option<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("small_updates");
    for clients in &arguments.clients {
        let measured = measure(&arguments, *clients);
        let measured = measured.with_context(|| format!("{clients} clients"))?;
        measured.report(&output, *clients)?;
    }
    Ok(())
}

/// What turns of one size have shown.
#[derive(Default)]
struct Measured {
    /// As fast as the server answers, with the planner's own plan.
    closed: Vec<Cost>,
    /// The same with leaves of [`FAN_IN`] updates.
    fan_in: Vec<Cost>,
    /// At half the rate that is wanted.
    open: Vec<Cost>,
}

fn measure(arguments: &Arguments, clients: u32) -> Result<Measured> {
    let seconds = arguments
        .seconds
        .unwrap_or_else(|| arguments.options.pick(3.0, 1.0));
    let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let mut planned = Site::start(clients, None)?;
    let mut leaves = Site::start(clients, Some(FAN_IN))?;
    // Pages, page tables and routes come into being.
    planned.drive(Pace::Closed, duration)?;
    leaves.drive(Pace::Closed, duration)?;
    let mut measured = Measured::default();
    for _ in 0..arguments.options.runs() {
        measured.closed.push(planned.drive(Pace::Closed, duration)?);
        measured.fan_in.push(leaves.drive(Pace::Closed, duration)?);
        let half = Pace::Open { rate: RATE / 2.0 };
        measured.open.push(planned.drive(half, duration)?);
    }
    planned.server.stop()?;
    leaves.server.stop()?;
    Ok(measured)
}

/// A server, and those who send to it.
struct Site {
    server: Server,
    load: Load,
}

/// A run, and the CPU seconds that it took.
struct Cost {
    run: Run,
    /// Of all of the server's processes.
    node: f64,
    /// Of it the server itself: gateway and agent.
    server: f64,
    generator: f64,
}

impl Site {
    /// Starts a server with one worker, for server and generator share the machine.
    fn start(clients: u32, fan_in: Option<u32>) -> Result<Self> {
        let model = Model::flat("small", ELEMENTS);
        let server = Server::start_with(&["--workers", "1"])?;
        server.deploy(&model, clients, |job| {
            if let Some(fan_in) = fan_in {
                job["spec"]["tree"] = json!({ "fanIn": fan_in });
            }
        })?;
        let load = Load::connect(&server, &model, clients, CONNECTIONS)?;
        Ok(Self { server, load })
    }

    fn drive(&mut self, pace: Pace, duration: Duration) -> Result<Cost> {
        let (node, own) = (self.server.tree(), Tree::of(std::process::id()));
        let used = || {
            let all = node.usage()?.cpu_seconds;
            anyhow::Ok([all, node.own_cpu_seconds()?, own.own_cpu_seconds()?])
        };
        let before = used()?;
        let run = self.load.drive(pace, duration)?;
        let after = used()?;
        Ok(Cost {
            run,
            node: after[0] - before[0],
            server: after[1] - before[1],
            generator: after[2] - before[2],
        })
    }
}

impl Cost {
    fn rate(&self) -> f64 {
        self.run.updates as f64 / self.run.seconds
    }

    /// Microseconds for an update.
    fn micros(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.run.updates as f64
    }

    /// A quantile of the latencies in milliseconds.
    fn latency(&self, part: f64) -> Result<f64> {
        Ok(Samples::new(self.run.latencies.clone())?.quantile(part) * 1e3)
    }
}

impl Measured {
    fn report(&self, output: &Output, clients: u32) -> Result<()> {
        let figure = |what: &str, label: &str, unit: &str, samples: &Samples| {
            let name = format!("small_updates.n{clients}.{what}");
            let label = format!("{clients} clients in a round: {label}");
            Figure::new(name, label, unit, samples)
        };
        let plan = format!("leaves of {FAN_IN}");
        let (rate, rate_fan_in) = (samples(&self.closed, Cost::rate)?, self.rate_fan_in()?);
        let ratio = rate.median() / rate_fan_in.median();
        let mut figures = vec![
            figure("rate", "one leaf", "updates/s", &rate)
                .against(plan.as_str(), ratio)
                .target(Target::AtLeast(RATE))
                .plot("small-updates-rate"),
            figure("rate_fan_in", &plan, "updates/s", &rate_fan_in).plot("small-updates-rate"),
        ];
        for (what, label, part) in [("p50", "the median", 0.5), ("p99", "99 of 100", 0.99)] {
            let latencies = self.open.iter().map(|cost| cost.latency(part));
            let latencies = Samples::new(latencies.collect::<Result<_>>()?)?;
            let label = format!("{label} answered after, at {} updates/s", RATE / 2.0);
            let latency = figure(what, &label, "ms", &latencies).plot("small-updates-latency");
            figures.push(match what {
                "p99" => latency.target(Target::AtMost(P99_MS)),
                _ => latency,
            });
        }
        type Part = fn(&Cost) -> f64;
        let parts: [(&str, &str, Part); 3] = [
            ("cpu", "server and worker", |cost| cost.node),
            ("cpu_server", "of it the server", |cost| cost.server),
            ("cpu_generator", "the generator beside them", |cost| {
                cost.generator
            }),
        ];
        for (what, label, part) in parts {
            let micros = samples(&self.closed, |cost| cost.micros(part(cost)))?;
            figures.push(figure(what, label, "CPU µs", &micros).plot("small-updates-cpu"));
        }
        figures.extend(self.turnover()?.map(|turnover| {
            let label = "from a round's last answer to its model";
            figure("turnover", label, "ms", &turnover)
        }));
        self.tell(output);
        figures.iter().try_for_each(|figure| output.figure(figure))
    }

    fn rate_fan_in(&self) -> Result<Samples> {
        samples(&self.fan_in, Cost::rate)
    }

    /// Milliseconds between two rounds; nothing if no round was completed.
    fn turnover(&self) -> Result<Option<Samples>> {
        let turnovers = self.closed.iter().flat_map(|cost| &cost.run.turnovers);
        let millis: Vec<f64> = turnovers.map(|seconds| seconds * 1e3).collect();
        if millis.is_empty() {
            return Ok(None);
        }
        Samples::new(millis).map(Some)
    }

    fn tell(&self, output: &Output) {
        let all = [&self.closed, &self.fan_in, &self.open];
        let sum = |what: fn(&Run) -> u64| -> u64 {
            let costs = all.into_iter().flatten();
            costs.map(|cost| what(&cost.run)).sum()
        };
        output.say(format_args!(
            "{} updates; {} times one had to come again for want of a slot",
            sum(|run| run.updates),
            sum(|run| run.sent_away)
        ));
    }
}

fn samples(costs: &[Cost], quantity: impl Fn(&Cost) -> f64) -> Result<Samples> {
    Samples::new(costs.iter().map(quantity).collect())
}
