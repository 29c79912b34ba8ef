//! The ablation: 20, 60 and 100 clients send updates of a ResNet-18 at the same times to platforms that differ in one
//! thing at a time, on five hosts.
//!
//! Without a hierarchy, and with one through a broker, every hop is a message that refers to an object in the broker's
//! store. Then Tributary: updates stay where they are packed, in shared memory. Real processes and real bytes; nobody
//! waits for anything but what is to come.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tributary_bench::ablation::broker::{Aggregation, Broker, Shape, aggregate, serve};
use tributary_bench::ablation::platform::{Platform, Setting, node_knows, planned_nodes};
use tributary_bench::ablation::replay::{Trace, Updates};
use tributary_bench::ablation::{Cost, broker};
use tributary_bench::{Figure, Model, Options, Output, Samples};

/// Hosts.
const HOSTS: usize = 5;
/// With more clients than these, rounds are repeated less often.
const FEW: usize = 20;
/// Workers of a node where every aggregator is to have its own: eight leaves for the sixteen updates that a node is
/// given by default, a middle and the top.
const WORKERS: u32 = 10;
/// A worker without work ends after this time, where the job's manifest decides that: every round begins without any.
const KEEP_ALIVE: &str = "1s";
/// What is compared with the hierarchy through a broker.
const COMPARED: [&str; 3] = ["first_to_model", "cpu", "sent"];
/// The option that gives a node its autoscaler's parameters.
const AUTOSCALER: &str = "--autoscaler";

#[derive(Parser)]
#[command(about = "The ablation: one arrival trace through platforms that differ in one thing")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Clients of a round [default: 20, 60 and 100; 6 with --quick]
    #[arg(long)]
    clients: Vec<usize>,
    /// Only these
    #[arg(long, value_enum)]
    variant: Vec<Variant>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is started as by itself.
#[derive(Subcommand)]
enum Role {
    /// A host's activator
    #[command(hide = true)]
    Agent {
        #[arg(long)]
        nats: String,
        #[arg(long)]
        host: usize,
        #[arg(long)]
        started: PathBuf,
    },
    /// An aggregator
    #[command(hide = true)]
    Aggregator {
        #[arg(long)]
        nats: String,
        #[arg(long)]
        subject: String,
    },
}

/// What is compared, each with one thing more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variant {
    Flat,
    Broker,
    BrokerEager,
    Locality,
    Planned,
    Reuse,
    Tree,
    Tributary,
}

const VARIANTS: [Variant; 8] = [
    Variant::Flat,
    Variant::Broker,
    Variant::BrokerEager,
    Variant::Locality,
    Variant::Planned,
    Variant::Reuse,
    Variant::Tree,
    Variant::Tributary,
];

impl Variant {
    /// Its name in figures, and what it is.
    const fn presented(self) -> (&'static str, &'static str) {
        match self {
            Self::Flat => ("flat", "NATS, one aggregator"),
            Self::Broker => ("broker", "NATS, a hierarchy, spread"),
            Self::BrokerEager => ("broker_eager", "NATS, a hierarchy, spread, eager"),
            Self::Locality => ("locality", "Tributary, leaves of 2, reactive, no re-use"),
            Self::Planned => ("planned", "Tributary, leaves of 2, planned, no re-use"),
            Self::Reuse => ("reuse", "Tributary, leaves of 2, planned, re-use"),
            Self::Tree => ("tree", "Tributary, leaves of 2"),
            Self::Tributary => ("tributary", "Tributary as it comes"),
        }
    }

    /// How its nodes are started.
    fn setting(self, clients: usize) -> Setting {
        let autoscaler = match self {
            Self::Locality | Self::Planned => Some(autoscaler(false)),
            Self::Reuse => Some(autoscaler(true)),
            _ => None,
        };
        let workers = (self != Self::Tributary).then_some(WORKERS);
        Setting {
            workers,
            autoscaler,
            chosen: planned_nodes(HOSTS, clients),
        }
    }

    /// What its job's manifest says.
    fn adjust(self, clients: usize, job: &mut Value) {
        let spec = &mut job["spec"];
        if self != Self::Tributary {
            spec["tree"] = json!({ "fanIn": broker::LEAF_INPUTS });
        }
        match self {
            // A round that closes with whoever comes first is not foreseen; its workers stay for a fixed time.
            Self::Locality => spec["round"]["count"] = clients.into(),
            Self::Tree => {}
            _ => return,
        }
        spec["keepAlive"] = KEEP_ALIVE.into();
    }

    /// Why it cannot be had.
    const fn missing(self, knows_autoscaler: bool) -> Option<&'static str> {
        match self {
            Self::Locality | Self::Planned | Self::Reuse if !knows_autoscaler => {
                Some("nodes have no --autoscaler")
            }
            Self::Tree if knows_autoscaler => Some("with an autoscaler that is `reuse`"),
            _ => None,
        }
    }
}

/// The autoscaler's parameters: times of minutes are scaled to rounds of seconds.
fn autoscaler(reuse: bool) -> Value {
    json!({
        "reuse": reuse,
        "period_seconds": 0.5,
        "stable_seconds": 2.0,
        "panic_seconds": 1.0,
        "scale_down_delay_seconds": 1.0,
        "warm": { "cold_start_cost_seconds": 1.0, "start_seconds": 0.05 },
    })
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(role) = arguments.role {
        return play(role);
    }
    let quick = arguments.options.quick;
    let clients = match &arguments.clients[..] {
        [] if quick => vec![6],
        [] => vec![20, 60, 100],
        given => given.to_vec(),
    };
    let variants = match &arguments.variant[..] {
        [] => VARIANTS.to_vec(),
        given => given.to_vec(),
    };
    let model = if quick {
        Model::flat("small", 1_000_000)
    } else {
        Model::resnet18()
    };
    let bench = Ablation {
        output: Output::new("autoscale"),
        updates: Updates::of(model),
        // Every round takes seconds.
        runs: arguments.options.runs().min(3),
        knows_autoscaler: node_knows(AUTOSCALER)?,
    };
    for clients in clients {
        let case = Case {
            clients,
            trace: Trace::of(clients),
            mean: bench.updates.mean(clients),
        };
        let mut broker = None;
        for variant in &variants {
            let (name, _) = variant.presented();
            let costs = bench.variant(*variant, &case);
            let costs = costs.with_context(|| format!("{name}, {clients} clients"))?;
            bench.report(*variant, clients, &costs, broker.as_deref())?;
            if *variant == Variant::Broker {
                broker = Some(costs);
            }
        }
    }
    Ok(())
}

fn play(role: Role) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match role {
        Role::Agent {
            nats,
            host,
            started,
        } => runtime.block_on(serve(&nats, host, &started)),
        Role::Aggregator { nats, subject } => {
            runtime.block_on(aggregate(Aggregation { nats, subject }))
        }
    }
}

/// So many clients.
struct Case {
    clients: usize,
    trace: Trace,
    mean: Vec<f64>,
}

struct Ablation {
    output: Output,
    updates: Updates,
    runs: usize,
    knows_autoscaler: bool,
}

impl Ablation {
    fn variant(&self, variant: Variant, case: &Case) -> Result<Vec<Cost>> {
        match variant {
            Variant::Flat => self.broker(case, Shape::Flat, false),
            Variant::Broker => self.broker(case, Shape::Spread, false),
            Variant::BrokerEager => self.broker(case, Shape::Spread, true),
            _ => self.platform(case, variant),
        }
    }

    fn broker(&self, case: &Case, shape: Shape, eager: bool) -> Result<Vec<Cost>> {
        let mut broker = Broker::start(HOSTS)?;
        // The larger rounds take minutes through a broker.
        let runs = if case.clients > FEW { 1 } else { self.runs };
        let rounds =
            (0..runs).map(|_| broker.round(&case.trace, &self.updates, &case.mean, shape, eager));
        rounds.map(|round| self.seen(round)).collect()
    }

    /// The first round teaches what there is to be learnt, and is not counted.
    fn platform(&self, case: &Case, variant: Variant) -> Result<Vec<Cost>> {
        if let Some(why) = variant.missing(self.knows_autoscaler) {
            let (name, _) = variant.presented();
            self.output.say(format_args!("{name} is left out: {why}"));
            return Ok(Vec::new());
        }
        let mut platform = Platform::start(HOSTS, &variant.setting(case.clients))?;
        platform.deploy(&self.updates, case.clients, |job| {
            variant.adjust(case.clients, job);
        })?;
        let mut costs = Vec::new();
        let runs = if case.clients > FEW {
            self.runs.min(2)
        } else {
            self.runs
        };
        for run in 0..=runs {
            let cost = self.seen(platform.round(&case.trace, &self.updates, &case.mean))?;
            if run > 0 {
                costs.push(cost);
            }
            if variant != Variant::Tributary && !platform.wait_for_no_workers()? {
                self.output
                    .say("some workers stay: the next round finds them");
            }
        }
        Ok(costs)
    }

    fn seen(&self, cost: Result<Cost>) -> Result<Cost> {
        if let Ok(cost) = &cost {
            self.output.say(format_args!("{cost:.3?}"));
        }
        cost
    }

    /// What a variant costs, compared with the hierarchy through a broker where that was measured before.
    fn report(
        &self,
        variant: Variant,
        clients: usize,
        costs: &[Cost],
        broker: Option<&[Cost]>,
    ) -> Result<()> {
        if costs.is_empty() {
            return Ok(());
        }
        let (variant, what) = variant.presented();
        let figures: [(&str, &str, &str, fn(&Cost) -> f64); 7] = [
            ("first_to_model", "first byte to model", "s", |cost| {
                cost.from_first
            }),
            ("last_to_model", "last byte to model", "s", |cost| {
                cost.from_last
            }),
            ("cpu", "CPU time", "CPU s", |cost| cost.cpu_seconds),
            ("started", "aggregators started", "processes", |cost| {
                cost.started as f64
            }),
            ("nodes", "nodes used", "nodes", |cost| cost.nodes as f64),
            ("sent", "sent by nodes", "MB", |cost| {
                cost.bytes_sent as f64 / 1e6
            }),
            (
                "turned_away",
                "updates told to come again",
                "times",
                |cost| cost.turned_away as f64,
            ),
        ];
        for (name, label, unit, of) in figures {
            let samples = Samples::new(costs.iter().map(of).collect())?;
            let mut figure = Figure::new(
                format!("autoscale.n{clients}.{variant}.{name}"),
                format!("{what}: {label}, {clients} clients"),
                unit,
                &samples,
            );
            if let Some(broker) = broker.filter(|_| COMPARED.contains(&name)) {
                let broker = Samples::new(broker.iter().map(of).collect())?;
                figure =
                    figure.against("the hierarchy by NATS", broker.median() / samples.median());
            }
            let plot = format!("autoscale-n{clients}-{name}");
            self.output.figure(&figure.plot(plot))?;
        }
        Ok(())
    }
}
