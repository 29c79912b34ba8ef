//! Tributary on hosts: a node on each, a controller beside them.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tributary_planning::placement;

use super::hosts::{Hosts, free_port};
use super::replay::{Sent, Trace, Updates, check, elements_of};
use super::{Cost, Times};
use crate::client::write_all;
use crate::{Connection, Scrape, Update, manifest, place, process};

/// The port of every node's gateway.
const PORT: u16 = 8470;
/// From a round's opening to the time from which clients' offsets count: enough for what the round before has left
/// running to end, and the same in every round, so that it can be foreseen.
const LEAD: Duration = Duration::from_secs(3);
/// What the job's nodes are told by.
const LABEL: &str = "bench=chosen";
/// How long a round may take, an update to be taken, and a worker to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// In so much time workers without work should have ended.
const WORKERS_GO: Duration = Duration::from_secs(6);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// How nodes are started.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// The most workers of a node; as many as the machine has cores without it.
    pub workers: Option<u32>,
    /// The autoscaler's parameters, JSON.
    pub autoscaler: Option<Value>,
    /// The first so many have the label that the job asks for.
    pub chosen: usize,
}

/// As many nodes as placement takes for a new job of so many clients, of so many that it knows nothing of yet.
///
/// That plan is kept for the job's life. Hosts that share a machine's cores are measured as slower whenever another one
/// works, and would be placed by that.
#[must_use]
pub fn planned_nodes(nodes: usize, clients: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from) as u32;
    let known: Vec<_> = (0..nodes)
        .map(|node| placement::Node::new(format!("node-{node}"), cores))
        .collect();
    let expected = u32::try_from(clients).ok().and_then(NonZeroU32::new);
    let job = placement::Job::new("bench", "", expected.unwrap_or(NonZeroU32::MIN));
    let plan = placement::plan(&known, &[job], None, &placement::Settings::default());
    plan.nodes().len()
}

/// A cluster with one job.
#[derive(Debug)]
pub struct Platform {
    hosts: Hosts,
    count: usize,
    controller: SocketAddr,
    names: Vec<String>,
    job: Option<Job>,
}

/// The job, and the round that it is in.
#[derive(Debug)]
struct Job {
    round: u64,
    opened: Instant,
    clients: usize,
}

/// Where the job is.
struct Placed {
    members: usize,
    leader: SocketAddr,
    /// Each client's home.
    homes: Vec<SocketAddr>,
}

impl Platform {
    /// So many hosts with a node each.
    ///
    /// # Errors
    /// As for [`Hosts::start`], or if not all nodes join.
    pub fn start(count: usize, setting: &Setting) -> Result<Self> {
        let hosts = Hosts::start(count)?;
        let controller = SocketAddr::from((hosts.beside(), free_port()?));
        let mut platform = Self {
            hosts,
            count,
            controller,
            names: Vec::new(),
            job: None,
        };
        let mut command = Command::new(place::binary()?);
        command.args(["controller", "--nats", &platform.hosts.nats()]);
        command.args(["--listen", &controller.to_string()]);
        platform.hosts.run("controller", command)?;
        (0..count).try_for_each(|host| platform.start_node(host, setting))?;
        let nodes = format!("{count} nodes have joined");
        platform.hosts.wait(&nodes, |_| {
            document(controller, "/v1/nodes").is_ok_and(|nodes| ready(&nodes) == count)
        })?;
        Ok(platform)
    }

    fn start_node(&mut self, host: usize, setting: &Setting) -> Result<()> {
        let network = self.hosts.network();
        let name = format!("node-{host}-{}", network.id());
        let listen = self.node(host).to_string();
        let mut command = network.command(host, place::binary()?);
        command.args(["node", "--nats", &self.hosts.nats(), "--name", &name]);
        command.args(["--listen", &listen]);
        command
            .arg("--state-dir")
            .arg(self.hosts.home().join(&name));
        if host < setting.chosen {
            command.args(["--label", LABEL]);
        }
        if let Some(workers) = setting.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if let Some(parameters) = &setting.autoscaler {
            let file = self.hosts.home().join("autoscaler.json");
            fs::write(&file, parameters.to_string())?;
            command.arg("--autoscaler").arg(file);
        }
        self.hosts.run(name.clone(), command)?;
        self.names.push(name);
        Ok(())
    }

    /// A node's gateway.
    fn node(&self, host: usize) -> SocketAddr {
        SocketAddr::from((self.hosts.network().address(host), PORT))
    }

    /// Applies the job for so many clients, and waits until its nodes run it; `adjust` may change its manifest.
    ///
    /// # Errors
    /// If it is refused, or does not run.
    pub fn deploy(
        &mut self,
        updates: &Updates,
        clients: usize,
        adjust: impl FnOnce(&mut Value),
    ) -> Result<()> {
        let initial = self.hosts.home().join("initial.safetensors");
        fs::write(&initial, Update::f32(updates.model(), 0).pieces().concat())?;
        let mut job = manifest::job("bench", &initial, u32::try_from(clients)?);
        let (key, value) = LABEL.split_once('=').context("a label")?;
        job["spec"]["placement"] = json!({ "selector": { key: value } });
        adjust(&mut job);
        self.apply(&[manifest::function("fedavg")?, job])?;
        let (round, opened) = (1, Instant::now());
        self.job = Some(Job {
            round,
            opened,
            clients,
        });
        self.placed(round, clients).map(drop)
    }

    /// Where the job is, once all of its nodes follow its newest placement.
    fn placed(&mut self, round: u64, clients: usize) -> Result<Placed> {
        let controller = self.controller;
        self.hosts
            .wait("the job's nodes run it", |_| members(controller).is_some())?;
        let (members, leader) = members(controller).context("the job moves")?;
        let leader = self.names.iter().position(|name| *name == leader);
        let homes = (0..clients).map(|client| self.home(client, round));
        Ok(Placed {
            members,
            leader: self.node(leader.context("a leader of this cluster")?),
            homes: homes.collect::<Result<_>>()?,
        })
    }

    fn apply(&self, manifests: &[Value]) -> Result<()> {
        let file = self.hosts.home().join("manifests.yaml");
        // JSON is YAML.
        let documents: Vec<String> = manifests.iter().map(Value::to_string).collect();
        fs::write(&file, documents.join("\n---\n"))?;
        let output = Command::new(place::binary()?)
            .args(["apply", "-f"])
            .arg(&file)
            .env("TRIBUTARY_SERVER", format!("http://{}", self.controller))
            .output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("not applied: {}", String::from_utf8_lossy(&said));
        }
        Ok(())
    }

    /// Where a client's updates belong: who asks any node is told, before a byte of the update is sent.
    fn home(&self, client: usize, round: u64) -> Result<SocketAddr> {
        let mut node = self.node(0);
        let started = Instant::now();
        loop {
            // An update without a byte: its home refuses it for that, and all others say where the home is.
            let answer = Connection::open(node)?.send("PUT", &path(client, round), &[])?;
            match (answer.status, answer.location) {
                (307, Some(location)) => node = address_of(&location)?,
                (400 | 411 | 413 | 422, _) => return Ok(node),
                (404 | 503, _) if started.elapsed() < PATIENCE => thread::sleep(PAUSE),
                (status, _) => bail!("client {client} asked for its home: {status}"),
            }
        }
    }

    /// One round.
    ///
    /// # Errors
    /// If something breaks, or the model is not the mean.
    pub fn round(&mut self, trace: &Trace, updates: &Updates, mean: &[f64]) -> Result<Cost> {
        let job = self.job.as_ref().context("no job")?;
        let (round, begin, clients) = (job.round, job.opened + LEAD, job.clients);
        ensure!(clients == trace.clients(), "the job has {clients} clients");
        let placed = self.placed(round, clients)?;
        let started = self.worker_starts()?;
        thread::sleep(begin.saturating_duration_since(Instant::now()));
        let (cpu, bytes) = (self.hosts.usage()?, self.hosts.bytes_sent(self.count)?);
        let count = self.count;
        let hosts = &self.hosts;
        let failed = AtomicBool::new(false);
        let (model, replayed) = thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut connection = Connection::open(placed.leader)?;
                wait_for_model(&mut connection, round, &failed)
            });
            let replayed = trace.replay(begin, |client| {
                send(placed.homes[client], client, round, updates)
            });
            failed.store(replayed.is_err(), Ordering::Relaxed);
            (waiter.join(), replayed)
        });
        let (first, last, turned_away) =
            replayed.with_context(|| self.told_of(placed.leader, round))?;
        let Ok(model) = model else {
            bail!("who waited for the model has panicked");
        };
        let (model, file) = model?;
        let cost = hosts.usage()? - cpu;
        let sent = hosts.bytes_sent(count)? - bytes;
        check(mean, elements_of(&file)?)?;
        let all = self.worker_starts()? - started;
        let nodes = members(self.controller).map_or(0, |(members, _)| members);
        self.hosts.check_alive()?;
        if let Some(job) = &mut self.job {
            (job.round, job.opened) = (round + 1, model);
        }
        let (from_first, from_last) = Times { first, last, model }.seconds();
        Ok(Cost {
            from_first,
            from_last,
            cpu_seconds: cost,
            started: all as u64,
            nodes: nodes.max(placed.members),
            bytes_sent: sent,
            turned_away,
        })
    }

    /// What the leader tells of a round, and what all have said, for errors.
    fn told_of(&self, leader: SocketAddr, round: u64) -> String {
        let status = document(leader, &format!("/v1/jobs/bench/rounds/{round}"));
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("{status}\n{}", self.hosts.last_words())
    }

    /// Waits until no node has a worker; whether that has come within seconds.
    ///
    /// # Errors
    /// If a process has ended.
    pub fn wait_for_no_workers(&mut self) -> Result<bool> {
        let nodes: Vec<_> = (0..self.count).map(|host| self.node(host)).collect();
        self.hosts.wait_for(WORKERS_GO, |_| {
            let workers = nodes.iter().map(|node| metric(*node, "tributary_workers"));
            workers
                .sum::<Result<f64>>()
                .is_ok_and(|workers| workers == 0.0)
        })
    }

    /// Workers that all nodes have started so far.
    fn worker_starts(&self) -> Result<f64> {
        let nodes = (0..self.count).map(|host| self.node(host));
        nodes
            .map(|node| metric(node, "tributary_worker_starts_total"))
            .sum()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Segments carry what a node calls itself in its state directory. The processes end after this, and a segment
        // that is removed while it is mapped goes with its last mapping.
        for name in &self.names {
            if let Ok(id) = fs::read_to_string(self.hosts.home().join(name).join("node")) {
                remove_segments(&format!("tributary-{id}-"));
            }
        }
    }
}

fn remove_segments(prefix: &str) {
    for segment in process::segments(prefix) {
        // Best effort: there is nobody left to tell.
        let _ = fs::remove_file(segment);
    }
}

/// Whether the binary knows an option of `tributary node`.
///
/// # Errors
/// If it cannot be run.
pub fn node_knows(option: &str) -> Result<bool> {
    let help = Command::new(place::binary()?)
        .args(["node", "--help"])
        .output()?;
    Ok(String::from_utf8_lossy(&help.stdout).contains(option))
}

fn document(address: SocketAddr, path: &str) -> Result<Value> {
    let answer = Connection::open(address)?.get(path)?.success()?;
    Ok(serde_json::from_slice(&answer.body)?)
}

fn ready(nodes: &Value) -> usize {
    let nodes = nodes.as_array().map_or(&[][..], Vec::as_slice);
    nodes.iter().filter(|node| node["state"] == "ready").count()
}

/// How many nodes the job has and who leads it, once all of them follow its newest placement.
fn members(controller: SocketAddr) -> Option<(usize, String)> {
    let placement = document(controller, "/v1/jobs/bench/placement").ok()?;
    let members = placement["members"].as_array()?;
    let follow = |member: &Value| member["generation"] == placement["generation"];
    let settled = !members.is_empty() && members.iter().all(follow);
    settled.then_some((members.len(), placement["leader"].as_str()?.to_owned()))
}

fn metric(node: SocketAddr, name: &str) -> Result<f64> {
    let answer = Connection::open(node)?.get("/metrics")?.success()?;
    Ok(Scrape::of(String::from_utf8(answer.body)?).sum(name, ""))
}

fn path(client: usize, round: u64) -> String {
    let weight = Updates::weight(client);
    format!("/v1/jobs/bench/updates/client-{client}?round={round}&weight={weight}")
}

/// Sends an update to its home; again when it is told to, and to where it is told.
fn send(mut home: SocketAddr, client: usize, round: u64, updates: &Updates) -> Result<Sent> {
    let update = updates.update(client);
    let started = Instant::now();
    let mut turned_away = 0;
    loop {
        let mut connection = Connection::open(home)?;
        let mut at = Instant::now();
        let answer = connection.send_made("PUT", &path(client, round), update.len(), |stream| {
            write_all(stream, &update.pieces())?;
            at = Instant::now();
            Ok(())
        })?;
        match (answer.status, &answer.location) {
            (429 | 503, _) if started.elapsed() < PATIENCE => {
                turned_away += 1;
                // As long as the server says.
                thread::sleep(Duration::from_secs(1));
            }
            (307, Some(location)) => {
                // Its home has moved.
                turned_away += 1;
                home = address_of(location)?;
            }
            _ => {
                answer.success()?;
                return Ok(Sent { at, turned_away });
            }
        }
    }
}

/// Waits for the model that a round makes, unless that has failed; when its first byte came, and the file.
fn wait_for_model(
    connection: &mut Connection,
    round: u64,
    failed: &AtomicBool,
) -> Result<(Instant, Vec<u8>)> {
    let started = Instant::now();
    let path = format!("/v1/jobs/bench/model?after={round}&wait=5s");
    loop {
        let model = connection.get_begun(&path)?;
        match model.status {
            200 => {
                let first_byte = model.first_byte;
                return Ok((first_byte, model.finish()?.body));
            }
            204 if started.elapsed() < PATIENCE && !failed.load(Ordering::Relaxed) => {
                model.discard()?;
            }
            status => bail!("no model after round {round}: {status}"),
        }
    }
}

fn address_of(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("http://").context("a URL")?;
    let end = rest.find('/').unwrap_or(rest.len());
    Ok(rest[..end].parse()?)
}
