//! Many small updates: how many a second a server takes, and how long each waits for its answer.
//!
//! ```text
//! cargo xtask build && cargo build --release && (cd bench/load && cargo run --release --bin small_updates)
//! ```
//!
//! Starts a server of its own. For each number of clients it drives whole rounds over kept connections, one
//! request in flight on each: first as fast as the server answers (`"pace":"closed"`), then at a fixed rate
//! (`"pace":"open"`; half of what was reached, unless `--rate` says otherwise). There an update's time counts
//! from the moment when it was due, whether or not the generator could send it then: what a stall delays
//! is measured as delayed. Prints a JSON document a line.
#![allow(clippy::print_stdout, reason = "the figures are its output")]

mod load;

use anyhow::Result;
use load::{Load, Pace, Run};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::time::Duration;
use tributary_load::job;
use tributary_load::options::Options;
use tributary_load::sample::micros;
use tributary_load::server::{CpuTime, Server, Setup};

const OPTIONS: [&str; 11] = [
    "binary",
    "module",
    "sidecar",
    "workers",
    "clients",
    "connections",
    "elements",
    "fan-in",
    "slots",
    "seconds",
    "rate",
];

fn main() -> Result<()> {
    let options = Options::from_command_line(&OPTIONS)?;
    raise_open_files();
    for clients in options.list("clients", &[1_000, 10_000])? {
        measure(&options, clients)?;
    }
    Ok(())
}

/// Every connection is a descriptor.
fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // With fewer it may still be enough; if not, connecting says so.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// One server, one job, both paces.
fn measure(options: &Options, clients: u32) -> Result<()> {
    let connections = options.get("connections", 64)?;
    let elements = options.get("elements", 1_000)?;
    let duration = Duration::from_secs_f64(options.get("seconds", 10.0)?);
    let directory = format!("tributary-small-updates-{}", std::process::id());
    let server = Server::start(Setup {
        binary: options.get("binary", "../../target/release/tributary".into())?,
        directory: std::env::temp_dir().join(directory),
        sidecar: options.get("sidecar", "auto".into())?,
        workers: options.get("workers", 1)?,
    })?;
    let mut spec = json!({
        "clients": { "max": clients },
        "round": { "expected": clients },
        "tree": { "fanIn": options.get("fan-in", 64)? },
    });
    let slots = options.get("slots", 0_u32)?;
    if slots > 0 {
        spec["arena"] = json!({ "slots": slots });
    }
    let module = options.get("module", "../../target/functions/fedavg.wasm".to_owned())?;
    job::apply(&server, module.as_ref(), elements, spec)?;

    let mut load = Load::connect(server.address(), connections, clients, elements)?;
    // Pages, page tables and routes come into being.
    load.drive(Pace::Closed, Duration::from_secs(1))?;
    let closed = timed(&server, || load.drive(Pace::Closed, duration))?;
    let reached = rate(&closed.0);
    report(clients, connections, "closed", closed);
    let rate = options.get("rate", reached / 2.0)?;
    let open = timed(&server, || load.drive(Pace::Open { rate }, duration))?;
    report(clients, connections, "open", open);
    Ok(())
}

/// What a run used: the server's processor time, and the generator's.
type Used = (CpuTime, Duration);

fn timed(server: &Server, run: impl FnOnce() -> Result<Run>) -> Result<(Run, Used)> {
    let (before, own) = (server.cpu_time()?, rustix::time::clock_gettime(CPU));
    let run = run()?;
    let own = elapsed(own, rustix::time::clock_gettime(CPU));
    Ok((run, (server.cpu_time()?.since(before), own)))
}

/// The generator's own processor time.
const CPU: rustix::time::ClockId = rustix::time::ClockId::ProcessCPUTime;

fn elapsed(from: rustix::time::Timespec, to: rustix::time::Timespec) -> Duration {
    let nanoseconds = |time: rustix::time::Timespec| {
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    Duration::from_nanos(u64::try_from(nanoseconds(to) - nanoseconds(from)).unwrap_or_default())
}

fn rate(run: &Run) -> f64 {
    run.updates as f64 / run.elapsed.as_secs_f64()
}

fn report(clients: u32, connections: usize, pace: &str, (mut run, (server, own)): (Run, Used)) {
    let each = |time: Duration| micros(time.div_f64(run.updates.max(1) as f64));
    let figures: Value = json!({
        "benchmark": "small_updates",
        "pace": pace,
        "clients": clients,
        "connections": connections,
        "updates": run.updates,
        "seconds": run.elapsed.as_secs_f64(),
        "updates_per_second": rate(&run).round(),
        "server_cpu_us_per_update": each(server.server),
        "workers_cpu_us_per_update": each(server.workers),
        "generator_cpu_us_per_update": each(own),
        "latency": run.latency.summary(),
        "rounds": run.rounds,
        "round_turnover": run.turnover.summary(),
        "no_slot": run.no_slot,
    });
    println!("{figures}");
}
