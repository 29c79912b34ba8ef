//! The demonstration: real federated learning through a server of its own, checked at the end.
//!
//! Twenty threads play the clients. Each holds its shard of the digits, fetches the global model over HTTP,
//! trains on it and sends the result back, for twenty rounds. Then the same training is done in one process
//! with an average in f64, and once more centrally; the federated result must equal the first and come close
//! to the second.

mod checks;
mod clients;
mod cluster;
mod server;
mod table;
mod traces;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use digits::data_plane::Published;
use digits::{CLIENTS, CONCENTRATION, Dataset, JOB, ROUNDS, SEED, shards};

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{artefacts, output};
use checks::Checks;
use clients::Event;
use server::Server;
use table::{Row, Table};

/// Longest silence of the clients before the demonstration gives up.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// The manifests that the demonstration applies, in the workspace.
const FUNCTIONS: &str = "manifests/functions.yaml";
const ON_ONE_NODE: &str = "manifests/digits.yaml";
const ON_SEVERAL: &str = "manifests/digits-nodes.yaml";

/// How often an interruption is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Options of `cargo xtask demo`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Keep the server running after the last round, until Ctrl-C
    #[arg(long)]
    keep: bool,

    /// Where descriptors are routed: in the kernel, or in the agent
    #[arg(long, value_enum, default_value_t = Sidecar::Auto)]
    sidecar: Sidecar,

    /// Run it on so many nodes, each on a host of its own: a network namespace, which takes root
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: Option<u8>,
}

/// What `tributary up --sidecar` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sidecar {
    /// In the kernel where that works
    #[default]
    Auto,
    /// In the kernel, or not at all
    Ebpf,
    /// In the agent
    Userspace,
}

/// What the rounds left behind.
struct Outcome {
    /// The model of every round, the first round's first.
    models: Vec<Published>,
    /// The smallest number of clients in a round.
    contributors_min: u64,
}

/// Runs the demonstration; false when a check failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let scope = options.nodes.map_or(Scope::Build, |_| Scope::Hosts);
    let recipe = setup::run(workspace, scope)?;
    artefacts::build(workspace, &recipe)?;
    run_built(workspace, options)
}

/// Runs the demonstration on what has been built.
pub(crate) fn run_built(workspace: &Workspace, options: &Options) -> Result<bool> {
    let interrupted = watch_for_interruption()?;
    let data = Dataset::load(SEED)?;
    let shards = Arc::new(shards::deal(&data.train, CLIENTS, CONCENTRATION, SEED)?);

    let (mut server, job) = match options.nodes {
        None => (
            Server::start(workspace, options.sidecar, &interrupted)?,
            ON_ONE_NODE,
        ),
        Some(nodes) => {
            let nodes = usize::from(nodes);
            (
                cluster::start(workspace, options.sidecar, nodes, &interrupted)?,
                ON_SEVERAL,
            )
        }
    };
    for node in server.nodes()? {
        let (name, what) = (&node.name, node.describe());
        output::progress("node", format_args!("{name} ({what})"));
    }
    output::progress("server", server.url());
    for line in server.apply(workspace, &[FUNCTIONS, job])? {
        output::progress("apply", line);
    }
    let sizes = shards.iter().map(Vec::len);
    output::progress(
        "clients",
        format_args!(
            "{CLIENTS} with {} to {} of {} images each, labels skewed by Dirichlet({CONCENTRATION}); {} images to test with",
            sizes.clone().min().unwrap_or_default(),
            sizes.max().unwrap_or_default(),
            data.train.len(),
            data.test.len()
        ),
    );

    if let Some(nodes) = options.nodes {
        cluster::wait_for_members(&mut server, usize::from(nodes), &interrupted)?;
    }
    let outcome = rounds(&mut server, &shards, &data, &interrupted)?;
    let mut checks = checks::learning(&data, &shards, &outcome)?;
    checks.metrics(&server);
    if options.keep {
        keep(&server, &interrupted);
    }
    stop(server, &mut checks)?;
    let passed = checks.conclude();
    if passed && !options.keep {
        println!("     `cargo xtask demo --keep` leaves the server running, to look around");
    }
    Ok(passed)
}

/// Follows the clients through all rounds.
fn rounds(
    server: &mut Server,
    shards: &Arc<Vec<Vec<digits::Image>>>,
    data: &Dataset,
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let events = clients::start(server.door(), shards);
    let table = Table::new(ROUNDS, CLIENTS, server.network.is_some());
    let mut outcome = Outcome {
        models: Vec::new(),
        contributors_min: u64::MAX,
    };
    let mut heard = Instant::now();
    while outcome.models.len() < ROUNDS as usize {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let event = match events.recv_timeout(TICK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) if heard.elapsed() < SILENCE_MAX => {
                server.check_alive()?;
                continue;
            }
            Err(_) => bail!(
                "no client has got any further for {} s",
                SILENCE_MAX.as_secs()
            ),
        };
        heard = Instant::now();
        match event {
            Event::Sent => table.update_sent(),
            Event::Failed { client, error } => {
                bail!("{}: {error:#}", digits::client_name(client))
            }
            Event::Model(published) => {
                let round = published.version - 1;
                let status = server.round(JOB, round)?;
                outcome.contributors_min = outcome.contributors_min.min(status.contributors);
                table.row(&Row {
                    round,
                    accuracy: published.model.accuracy(&data.test),
                    status,
                });
                outcome.models.push(published);
            }
        }
    }
    table.finish();
    Ok(outcome)
}

fn keep(server: &Server, interrupted: &AtomicBool) {
    let url = server.url();
    println!();
    output::progress("server", format_args!("{url} stays until you press Ctrl-C"));
    output::progress("metrics", format_args!("{url}/metrics"));
    output::progress("events", format_args!("curl -N {url}/v1/events"));
    output::progress("jobs", server.command("get jobs"));
    while !interrupted.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
    }
    println!();
}

fn stop(server: Server, checks: &mut Checks) -> Result<()> {
    let started = Instant::now();
    let leftovers = server.stop().context("stopping the server")?;
    checks.stopped(started.elapsed(), &leftovers);
    Ok(())
}

/// A flag that Ctrl-C and a polite kill set.
fn watch_for_interruption() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}
