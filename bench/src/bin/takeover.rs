//! How long a cluster needs to go on without its leader: the controller that leads, and a node of a job.
//!
//! Three controllers, three NATS servers and two nodes, each controller and node on a host of its own (a network
//! namespace), with everything as users start it: a lease of 3 s, beats that are believed for 3 s. In each trial a round is
//! half full when one of them is killed (`kill -9`). Every round's model is compared with its reference, bit for bit.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::{Figure, Options, Output, Samples};
use tributary_tests::cluster::{Cluster, Size};
use tributary_tests::job::updates;
use tributary_tests::tensors::{LARGE, Model};
use tributary_tests::wait::until;
use tributary_tests::{Manifest, Sidecar, reference};

const JOB: &str = "bench";
const CLIENTS: u64 = 12;
const SIZE: Size = Size {
    nodes: 2,
    controllers: 3,
    nats: 3,
};
/// Seconds in which somebody else must lead, with a lease of three.
const TARGET: f64 = 5.0;

#[derive(Parser)]
#[command(about = "Kills the controller that leads, and nodes, in the middle of rounds")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Kills of each kind [default: 10, or 3 with --quick]
    #[arg(long)]
    trials: Option<u32>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("takeover");
    let trials = arguments.trials.unwrap_or(arguments.options.pick(10, 3));
    let mut site = Site::start();
    let mut controllers = Kind::new("controller", "controller killed");
    let mut nodes = Kind::new("node", "node killed");
    for trial in 0..trials {
        let (noticed, complete) = site.kill_controller()?;
        output.say(format_args!(
            "controller {trial}: {noticed:.2} s, round {complete:.2} s"
        ));
        controllers.add(noticed, complete);
        let (noticed, complete) = site.kill_node(trial % 2 == 0)?;
        output.say(format_args!(
            "node {trial}: {noticed:.2} s, round {complete:.2} s"
        ));
        nodes.add(noticed, complete);
    }
    controllers.report(&output, "another one leads")?;
    nodes.report(&output, "its clients have other homes")
}

/// What is measured of a kind of kill, in seconds.
struct Kind {
    name: &'static str,
    label: &'static str,
    noticed: Vec<f64>,
    complete: Vec<f64>,
}

impl Kind {
    const fn new(name: &'static str, label: &'static str) -> Self {
        Self {
            name,
            label,
            noticed: Vec::new(),
            complete: Vec::new(),
        }
    }

    fn add(&mut self, noticed: f64, complete: f64) {
        self.noticed.push(noticed);
        self.complete.push(complete);
    }

    fn report(self, output: &Output, what: &str) -> Result<()> {
        let Self { name, label, .. } = self;
        let worst = self.noticed.iter().copied().fold(0.0, f64::max);
        let noticed = Figure::new(
            format!("takeover.{name}.p50"),
            format!("{label}: {what}"),
            "s",
            &Samples::new(self.noticed)?,
        );
        output.figure(&noticed.target(Target::AtMost(TARGET)).plot("takeover"))?;
        let slowest = Figure::single(
            format!("takeover.{name}.max"),
            format!("{label}: {what}, the slowest"),
            "s",
            worst,
        )?;
        output.figure(&slowest.target(Target::AtMost(TARGET)).plot("takeover"))?;
        let complete = Figure::new(
            format!("takeover.{name}.round"),
            format!("{label}: the round is complete"),
            "s",
            &Samples::new(self.complete)?,
        );
        output.figure(&complete.plot("takeover"))
    }
}

type Client = (String, (Model, f64));

/// A cluster with a job on both nodes.
struct Site {
    cluster: Cluster,
    round: u64,
}

impl Site {
    fn start() -> Self {
        let cluster = Cluster::start(Sidecar::Ebpf, SIZE);
        let manifest = Manifest::fedavg(JOB, &format!("{{ expected: {CLIENTS} }}"))
            .config("{ accumulate: exact }")
            .with("placement: { policy: spread }");
        cluster.deploy(&manifest, &Model::filled(LARGE, 0.0));
        cluster.until_members(JOB, SIZE.nodes);
        Self { cluster, round: 0 }
    }

    /// Seconds until another controller leads, and until the round is complete.
    fn kill_controller(&mut self) -> Result<(f64, f64)> {
        let clients = self.begin()?;
        let leader = self.cluster.leading();
        let killed = Instant::now();
        self.cluster.kill_controller(leader);
        until("another controller leads", || {
            self.cluster.leading_now().is_some()
        });
        let noticed = killed.elapsed().as_secs_f64();
        let complete = self.end(&clients, killed)?;
        self.cluster.start_controller(leader);
        until("the controller is back", || {
            let door = self.cluster.controller_door(leader);
            door.try_send("GET", "/live", &[], &[]).is_ok()
        });
        Ok((noticed, complete))
    }

    /// Seconds until all clients have a home that lives, and until they have sent again and the round is complete.
    fn kill_node(&mut self, that_leads: bool) -> Result<(f64, f64)> {
        let clients = self.begin()?;
        let leader = self.cluster.leader(JOB);
        let node = if that_leads { leader } else { 1 - leader };
        let killed = Instant::now();
        self.cluster.kill_node(node);
        self.cluster.until_members(JOB, SIZE.nodes - 1);
        let noticed = killed.elapsed().as_secs_f64();
        let complete = self.end(&clients, killed)?;
        self.cluster.start_node(node);
        self.cluster.until_members(JOB, SIZE.nodes);
        Ok((noticed, complete))
    }

    /// Fills half of the next round.
    fn begin(&mut self) -> Result<Vec<Client>> {
        self.round += 1;
        let updates = updates(LARGE, CLIENTS, self.round).into_iter();
        let named = updates
            .enumerate()
            .map(|(number, update)| (format!("client-{number}"), update));
        let clients: Vec<Client> = named.collect();
        self.send(&clients[..CLIENTS as usize / 2])?;
        Ok(clients)
    }

    /// Everybody sends, those again that have sent before; seconds from `killed` to the model, which is checked.
    fn end(&self, clients: &[Client], killed: Instant) -> Result<f64> {
        self.send(clients)?;
        let (version, model) = self.cluster.model(JOB, self.round + 1);
        let complete = killed.elapsed().as_secs_f64();
        let updates: Vec<(Model, f64)> = clients.iter().map(|(_, update)| update.clone()).collect();
        let right = version == self.round + 1 && model.bits() == reference::exact(&updates).bits();
        ensure!(right, "the model of round {} is another one", self.round);
        Ok(complete)
    }

    fn send(&self, clients: &[Client]) -> Result<()> {
        for (client, update) in clients {
            let answer = self.cluster.push(JOB, client, self.round, update);
            let taken = matches!(answer.status, 200 | 202);
            ensure!(taken, "{client}: {} {}", answer.status, answer.text());
        }
        Ok(())
    }
}
