//! How long it takes from an event to the first instruction of a fold.
//!
//! ```text
//! cargo xtask build && cargo build --release && (cd bench/load && cargo run --release --bin activation)
//! ```
//!
//! *Warm*: a worker hosts the job and sleeps; each round has one update, so each update is a leaf's first.
//! *Cold*: no worker runs; each update comes after the last worker has gone. The times are the server's own
//! (`tributary_activation_seconds`), from the descriptor's time stamp to the call; quantiles are interpolated
//! within the histogram's buckets. Prints a JSON document a line.
#![allow(clippy::print_stdout, reason = "the figures are its output")]

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tributary_load::http::Connection;
use tributary_load::job;
use tributary_load::options::Options;
use tributary_load::server::{Server, Setup};

const OPTIONS: [&str; 6] = ["binary", "module", "sidecar", "elements", "warm", "cold"];
/// Longer than an event should ever take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Enough for the worker to fall asleep.
const PAUSE: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let options = Options::from_command_line(&OPTIONS)?;
    let warm = json!({ "round": { "expected": 1 }, "keepAlive": "10m" });
    measure(&options, "warm", options.get("warm", 500)?, warm)?;
    // A round that stays open, with a new client for each start.
    let cold = json!({
        "clients": { "max": 100_000 }, "round": { "expected": 100_000 }, "keepAlive": "300ms"
    });
    measure(&options, "cold", options.get("cold", 100)?, cold)
}

fn measure(options: &Options, kind: &str, activations: u32, spec: Value) -> Result<()> {
    let elements = options.get("elements", 1_000)?;
    let directory = format!("tributary-activation-{}", std::process::id());
    let server = Server::start(Setup {
        binary: options.get("binary", "../../target/release/tributary".into())?,
        directory: std::env::temp_dir().join(directory),
        sidecar: options.get("sidecar", "auto".into())?,
        workers: 1,
    })?;
    let module = options.get("module", "../../target/functions/fedavg.wasm".to_owned())?;
    job::apply(&server, module.as_ref(), elements, spec)?;
    let mut connection = Connection::open(server.address())?;
    let update = job::file(elements, |element| element as f32);
    let mut round = 1;
    for activation in 0..=activations {
        wait_for_rest(&mut connection, kind)?;
        let path = format!(
            "/v1/jobs/{}/updates/client-{activation}?round={round}",
            job::NAME
        );
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}",
            update.len()
        );
        connection.send(format_args!("{head}"), &update)?;
        let answer = connection.wait()?;
        if answer.status != 202 {
            bail!("the update was answered {}", answer.status);
        }
        match kind {
            "warm" => round = next_round(&mut connection, round)?,
            _ => drop(wait_for_count(&mut connection, kind, activation + 1)?),
        }
    }
    let histogram = wait_for_count(&mut connection, kind, activations)?;
    let figures = json!({
        "benchmark": "activation",
        "kind": kind,
        "activations": histogram.count,
        "p50_us": (histogram.quantile(0.5) * 1e7).round() / 10.0,
        "p99_us": (histogram.quantile(0.99) * 1e7).round() / 10.0,
        "mean_us": (histogram.sum / histogram.count * 1e7).round() / 10.0,
    });
    println!("{figures}");
    Ok(())
}

/// Waits until the worker sleeps (warm), or has gone (cold).
fn wait_for_rest(connection: &mut Connection, kind: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        std::thread::sleep(PAUSE);
        let workers = scrape(connection)?
            .lines()
            .find_map(|line| line.strip_prefix("tributary_workers ")?.parse::<u32>().ok());
        if kind == "warm" || workers == Some(0) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the workers do not go");
        }
    }
}

fn next_round(connection: &mut Connection, round: u64) -> Result<u64> {
    let path = format!("/v1/jobs/{}/model?after={round}&wait=20s", job::NAME);
    connection.send(format_args!("GET {path} HTTP/1.1\r\nhost: bench"), &[])?;
    connection
        .wait()?
        .version
        .context("the round made no model")
}

/// Waits until all activations have been counted.
fn wait_for_count(connection: &mut Connection, kind: &str, count: u32) -> Result<Histogram> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let histogram = Histogram::read(&scrape(connection)?, kind);
        if histogram.count >= f64::from(count) {
            return Ok(histogram);
        }
        std::thread::sleep(PAUSE);
    }
    bail!("not every activation was counted as {kind}")
}

fn scrape(connection: &mut Connection) -> Result<String> {
    connection.send(format_args!("GET /metrics HTTP/1.1\r\nhost: bench"), &[])?;
    connection.wait()?;
    Ok(String::from_utf8_lossy(connection.body()).into_owned())
}

/// A histogram of the server's metrics.
#[derive(Debug, Default)]
struct Histogram {
    /// Upper bound in seconds, and how many are below it.
    buckets: Vec<(f64, f64)>,
    count: f64,
    sum: f64,
}

impl Histogram {
    fn read(metrics: &str, kind: &str) -> Self {
        let mut histogram = Self::default();
        let label = format!("kind=\"{kind}\"");
        let lines = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("tributary_activation_seconds_"));
        for line in lines.filter(|line| line.contains(&label)) {
            let value = line.rsplit(' ').next().and_then(|value| value.parse().ok());
            let (Some(value), Some((name, _))) = (value, line.split_once('{')) else {
                continue;
            };
            let bound = line
                .split("le=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next()?.parse().ok());
            match (name, bound) {
                ("count", _) => histogram.count = value,
                ("sum", _) => histogram.sum = value,
                (_, Some(bound)) => histogram.buckets.push((bound, value)),
                _ => {}
            }
        }
        histogram
    }

    /// The time that `fraction` does not exceed, in seconds.
    fn quantile(&self, fraction: f64) -> f64 {
        let wanted = self.count * fraction;
        let (mut bound_before, mut below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= wanted {
                let share = (wanted - below) / (count - below).max(1.0);
                return bound_before + (bound - bound_before) * share;
            }
            (bound_before, below) = (*bound, *count);
        }
        bound_before
    }
}
