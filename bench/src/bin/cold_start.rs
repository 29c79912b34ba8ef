//! How long it takes from an event to the first instruction of a fold.
//!
//! *Warm*: a worker hosts the job and sleeps; each round has one update, so each update is a leaf's first. *Cold*: no
//! worker runs; each update comes after the last worker has gone. The times are the server's own, from the
//! descriptor's time stamp to the call.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::{
    Connection, Figure, Histogram, Model, Options, Output, Samples, Server, Update,
};

/// Elements of the model.
const ELEMENTS: usize = 1000;
/// The server's histogram.
const METRIC: &str = "tributary_activation_seconds";
/// Longer than an event should ever take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Enough for a worker to fall asleep.
const PAUSE: Duration = Duration::from_millis(5);
/// Clients of a round that stays open.
const MANY: u32 = 100_000;

#[derive(Parser)]
#[command(about = "From an event to the first instruction: worker asleep, and no worker")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Warm activations of a run [default: 200, or 50 with --quick]
    #[arg(long)]
    warm: Option<u32>,
    /// Cold starts of a run [default: 20, or 5 with --quick]
    #[arg(long)]
    cold: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Warm,
    Cold,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = arguments.options;
    let output = Output::new("cold_start");
    let warm = arguments.warm.unwrap_or(options.pick(200, 50));
    let cold = arguments.cold.unwrap_or(options.pick(20, 5));
    for (kind, activations) in [(Kind::Warm, warm), (Kind::Cold, cold)] {
        let measured = measure(options.runs(), kind, activations).context(kind.name())?;
        measured.report(&output, kind)?;
    }
    Ok(())
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }

    /// What stands before the figures, their unit, units in a second, and what the median is to be at most.
    const fn presented(self) -> (&'static str, &'static str, f64, f64) {
        match self {
            Self::Warm => ("worker asleep", "µs", 1e6, 100.0),
            Self::Cold => ("no worker", "ms", 1e3, 5.0),
        }
    }
}

/// What a kind has shown.
struct Measured {
    /// The median of each run, in seconds.
    medians: Samples,
    /// All runs together.
    all: Histogram,
}

impl Measured {
    fn report(&self, output: &Output, kind: Kind) -> Result<()> {
        let (state, unit, scale, target) = kind.presented();
        let name = |what: &str| format!("cold_start.{}.{what}", kind.name());
        let medians = self.medians.map(|seconds| seconds * scale)?;
        let median = Figure::new(name("p50"), format!("{state}: the median"), unit, &medians)
            .target(Target::AtMost(target))
            .plot(format!("cold-start-{}", kind.name()));
        output.figure(&median)?;
        let label = format!("{state}: 99 of 100, of {} in all runs", self.all.count());
        let slow = self.all.quantile(0.99) * scale;
        let slow = Figure::single(name("p99"), label, unit, slow)?;
        output.figure(&slow.plot(format!("cold-start-{}", kind.name())))
    }
}

fn measure(runs: usize, kind: Kind, activations: u32) -> Result<Measured> {
    let mut site = Site::start(kind)?;
    // The first start reads files from the disk, and is cold for both kinds.
    site.activate()?;
    site.wait_for_count(Kind::Cold, 1.0)?;
    let first = site.histogram(kind)?;
    let (mut before, mut medians) = (first.clone(), Vec::new());
    for _ in 0..runs {
        for _ in 0..activations {
            site.activate()?;
        }
        let wanted = before.count() + f64::from(activations);
        let after = site.wait_for_count(kind, wanted)?;
        medians.push(after.since(&before).quantile(0.5));
        before = after;
    }
    site.server.stop()?;
    Ok(Measured {
        medians: Samples::new(medians)?,
        all: before.since(&first),
    })
}

/// A server whose job is given one update at a time.
struct Site {
    kind: Kind,
    server: Server,
    connection: Connection,
    update: Update,
    sent: u32,
}

impl Site {
    fn start(kind: Kind) -> Result<Self> {
        let server = Server::start_with(&["--workers", "1"])?;
        let model = Model::flat("small", ELEMENTS);
        let (expected, keep_alive) = match kind {
            Kind::Warm => (1, "10m"),
            Kind::Cold => (MANY, "300ms"),
        };
        server.deploy(&model, expected, |job| {
            job["spec"]["keepAlive"] = keep_alive.into();
        })?;
        Ok(Self {
            kind,
            connection: server.connect()?,
            server,
            update: Update::f32(&model, 1),
            sent: 0,
        })
    }

    /// Sends an update when the worker sleeps (warm), or has gone (cold).
    fn activate(&mut self) -> Result<()> {
        thread::sleep(PAUSE);
        if self.kind == Kind::Cold {
            self.wait_for_no_worker()?;
        }
        let (client, rounds) = (self.sent, self.sent + 1);
        self.sent += 1;
        let round = match self.kind {
            Kind::Warm => rounds,
            Kind::Cold => 1,
        };
        let path = format!("/v1/jobs/bench/updates/client-{client}?round={round}");
        let update = &self.update.pieces();
        self.connection.send("PUT", &path, update)?.success()?;
        match self.kind {
            Kind::Warm => self.wait_for_model(round),
            Kind::Cold => self
                .wait_for_count(Kind::Cold, f64::from(self.sent))
                .map(drop),
        }
    }

    fn wait_for_no_worker(&self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.server.scrape()?.sum("tributary_workers", "") == 0.0 {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        bail!("the workers do not go");
    }

    fn wait_for_model(&mut self, round: u32) -> Result<()> {
        let path = format!("/v1/jobs/bench/model?after={round}&wait=20s");
        let status = self.connection.get(&path)?.success()?.status;
        if status != 200 {
            bail!("round {round} made no model: {status}");
        }
        Ok(())
    }

    /// Waits until so many activations of a kind have been counted.
    fn wait_for_count(&self, kind: Kind, count: f64) -> Result<Histogram> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let histogram = self.histogram(kind)?;
            if histogram.count() >= count {
                return Ok(histogram);
            }
            thread::sleep(PAUSE);
        }
        bail!("not every activation was counted as {}", kind.name());
    }

    fn histogram(&self, kind: Kind) -> Result<Histogram> {
        let labels = format!("kind=\"{}\"", kind.name());
        Ok(Histogram::read(&self.server.scrape()?, METRIC, &labels))
    }
}
