//! Controllers and nodes on hosts of their own, with NATS beside them.
//!
//! NATS servers listen on the bridge, controllers and nodes each in a network namespace. However a test ends, nothing
//! of it stays: every process is killed, and segments of killed nodes are removed.

mod breaking;

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tributary_api::fleet::{MemberDescription, NodeEntry, NodeState, PlacementDescription};
use tributary_api::placement::Duty;
use tributary_api::status::{RoundStatus, Share};
use tributary_hosts::Network;

use crate::http::{Answer, Client};
use crate::manifest::Manifest;
use crate::nats::NatsCluster;
use crate::server::Ran;
use crate::tensors::Model;
use crate::wait::{eventually, until};
use crate::{Sidecar, place, process};

const NODE_PORT: u16 = 8470;
const CONTROLLER_PORT: u16 = 8480;
/// The bandwidth of a host's link.
const RATE: &str = "2gbit";

/// How long a controller may take to say whether it leads.
const LOOK: Duration = Duration::from_secs(10);

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Controllers.
    pub controllers: usize,
    /// NATS servers.
    pub nats: usize,
}

/// One process on its own host.
#[derive(Debug)]
struct Member {
    host: usize,
    child: Option<Child>,
    /// It is stopped: its port takes connections and nobody answers.
    frozen: bool,
    log: PathBuf,
    address: SocketAddr,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Member>,
    controllers: Vec<Member>,
    sidecar: Sidecar,
    /// The NATS servers.
    pub nats: NatsCluster,
    /// The hosts: nodes first, then controllers.
    pub network: Network,
    home: TempDir,
}

impl Cluster {
    /// Starts everything, and waits until all nodes have joined.
    ///
    /// # Panics
    /// If they do not.
    #[must_use]
    pub fn start(sidecar: Sidecar, size: Size) -> Self {
        let Size {
            nodes,
            controllers,
            nats,
        } = size;
        let mut cluster = Self {
            nodes: Vec::new(),
            controllers: Vec::new(),
            sidecar,
            nats: NatsCluster::start(nats),
            network: Network::new(nodes + controllers, RATE).expect("hosts of their own"),
            home: TempDir::with_prefix("tributary-cluster-").expect("a temporary folder"),
        };
        cluster.controllers = (0..controllers)
            .map(|number| cluster.controller(number, nodes + number))
            .collect();
        cluster.nodes = (0..nodes).map(|number| cluster.node(number)).collect();
        until("all nodes have joined", || cluster.ready_nodes() == nodes);
        cluster
    }

    fn member(&self, host: usize, name: &str, port: u16, command: &mut Command) -> Member {
        let address = SocketAddr::new(IpAddr::V4(self.network.address(host)), port);
        let log = self.home.path().join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let urls: Vec<String> = self
            .nats
            .servers
            .iter()
            .map(|server| server.url_at(self.network.gateway()))
            .collect();
        let child = command
            .args(["--nats", &urls.join(","), "--name", name])
            .args([
                "--listen",
                &format!("0.0.0.0:{port}"),
                "--advertise",
                &format!("http://{address}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the binary runs");
        Member {
            host,
            child: Some(child),
            frozen: false,
            log,
            address,
        }
    }

    fn controller(&self, number: usize, host: usize) -> Member {
        let mut command = self.network.command(host, place::binary());
        let name = self.name("controller", number);
        self.member(host, &name, CONTROLLER_PORT, command.arg("controller"))
    }

    fn node(&self, number: usize) -> Member {
        let name = self.name("node", number);
        let state = self.home.path().join(&name);
        let mut command = self.network.command(number, place::binary());
        command.arg("node").arg("--state-dir").arg(state);
        command.args(["--workers", "2", "--sidecar", self.sidecar.name()]);
        self.member(number, &name, NODE_PORT, &mut command)
    }

    /// A name that no other cluster's process has: all share /dev/shm.
    fn name(&self, kind: &str, number: usize) -> String {
        format!("{kind}-{number}-{}", self.network.id())
    }

    // === what is there ===

    /// A node's door.
    #[must_use]
    pub fn door(&self, node: usize) -> Client {
        Client::new(self.nodes[node].address)
    }

    /// The leading controller's door.
    #[must_use]
    pub fn control(&self) -> Client {
        eventually("a controller leads", || self.try_control())
    }

    fn try_control(&self) -> Option<Client> {
        let doors = self
            .controllers
            .iter()
            .filter(|member| member.child.is_some() && !member.frozen)
            .map(|member| Client::patient(member.address, LOOK));
        doors.into_iter().find(|door| {
            // One that follows sends writers to the leader.
            let leads = |metrics: &Answer| {
                metrics
                    .text()
                    .lines()
                    .any(|line| line == "tributary_leader 1")
            };
            door.try_send("GET", "/metrics", &[], &[])
                .is_ok_and(|metrics| leads(&metrics))
        })
    }

    /// The number of the leading controller.
    #[must_use]
    pub fn leading(&self) -> usize {
        let leader = self.control().address();
        self.controllers
            .iter()
            .position(|member| member.address == leader)
            .expect("one of them")
    }

    /// A controller's door, whether it leads or not.
    #[must_use]
    pub fn controller_door(&self, controller: usize) -> Client {
        Client::new(self.controllers[controller].address)
    }

    /// A node's name.
    #[must_use]
    pub fn node_name(&self, node: usize) -> String {
        self.name("node", node)
    }

    fn known_nodes(&self) -> Vec<NodeEntry> {
        let answer = self
            .try_control()
            .and_then(|door| door.try_send("GET", "/v1/nodes", &[], &[]).ok());
        answer
            .filter(|answer| answer.status == 200)
            .map_or_else(Vec::new, |answer| answer.json())
    }

    /// Nodes that are heard and take work.
    #[must_use]
    pub fn ready_nodes(&self) -> usize {
        self.known_nodes()
            .iter()
            .filter(|node| node.state == NodeState::Ready)
            .count()
    }

    /// Whether a node is given work; `None` if it is not known.
    #[must_use]
    pub fn node_state(&self, node: usize) -> Option<NodeState> {
        let name = self.node_name(node);
        self.known_nodes()
            .into_iter()
            .find(|known| known.status.name == name)
            .map(|known| known.state)
    }

    fn placement(&self, job: &str) -> Option<PlacementDescription> {
        let path = format!("/v1/jobs/{job}/placement");
        let answer = self.try_control()?.try_send("GET", &path, &[], &[]).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Waits until so many nodes take part in a job, none of them about to leave, and all follow its newest placement.
    ///
    /// # Panics
    /// If that does not come.
    pub fn until_members(&self, job: &str, members: usize) {
        until(&format!("{members} nodes take part in job {job}"), || {
            self.placement(job).is_some_and(|placement| {
                let settled = |member: &MemberDescription| {
                    let follows = member.generation == Some(placement.generation);
                    follows && member.duty == Duty::Serving
                };
                placement.members.len() == members && placement.members.iter().all(settled)
            })
        });
    }

    /// Whether a job does without a node because it is slow.
    #[must_use]
    pub fn is_bypassed(&self, job: &str, node: usize) -> bool {
        let name = self.node_name(node);
        self.placement(job).is_some_and(|placement| {
            let mut bypassed = placement.bypassed.iter();
            bypassed.any(|bypassed| bypassed.node.as_str() == name)
        })
    }

    /// The generation of a job's placement.
    #[must_use]
    pub fn generation(&self, job: &str) -> u64 {
        eventually("the job has a placement", || self.placement(job)).generation
    }

    /// The node that leads a job.
    ///
    /// # Panics
    /// If it is none of this cluster's.
    #[must_use]
    pub fn leader(&self, job: &str) -> usize {
        let leader = eventually("the job has a leader", || self.placement(job)?.leader);
        (0..self.nodes.len())
            .find(|node| self.node_name(*node) == leader.as_str())
            .expect("one of them")
    }

    /// A node's part in a round.
    ///
    /// # Panics
    /// If it had none.
    #[must_use]
    pub fn share(&self, round: &RoundStatus, node: usize) -> Share {
        let name = self.node_name(node);
        let share = round
            .shares
            .iter()
            .find(|share| share.node.as_str() == name);
        share
            .cloned()
            .unwrap_or_else(|| panic!("no {name} in {:?}", round.shares))
    }

    /// What all have said on stderr.
    #[must_use]
    pub fn logs(&self) -> String {
        let all = self.controllers.iter().chain(&self.nodes);
        all.map(|member| {
            let name = member
                .log
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            format!(
                "== {name}\n{}",
                fs::read_to_string(&member.log).unwrap_or_default()
            )
        })
        .collect()
    }

    // === what an operator does ===

    /// Runs the command line against the leading controller.
    ///
    /// # Panics
    /// If the binary cannot be run.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        let server = self.control().url("");
        let output = Command::new(place::binary())
            .args(arguments)
            .env("TRIBUTARY_SERVER", server)
            .output();
        Ran::of(&output.expect("the binary runs"))
    }

    /// Applies a manifest whose first model is `initial`, and waits until some node runs the job.
    pub fn deploy(&self, manifest: &Manifest, initial: &Model) {
        let file = |name: &str, bytes: &[u8]| {
            let path = self.home.path().join(name);
            fs::write(&path, bytes).expect("a file in the test's own folder");
            path
        };
        let model = file(&format!("{}.safetensors", manifest.name()), &initial.file());
        let yaml = file(
            &format!("{}.yaml", manifest.name()),
            manifest.text(&model).as_bytes(),
        );
        let _ = self
            .cli(&["apply", "-f", &yaml.to_string_lossy()])
            .expect(0);
        let path = format!("/v1/jobs/{}/model", manifest.name());
        until("a node runs the job", || {
            self.any_door(|door| {
                door.try_send("GET", &path, &[], &[])
                    .ok()
                    .filter(|answer| answer.status == 200)
            })
            .is_some()
        });
    }

    fn any_door<T>(&self, look: impl Fn(&Client) -> Option<T>) -> Option<T> {
        self.nodes
            .iter()
            .filter(|node| node.child.is_some())
            .find_map(|node| look(&Client::new(node.address)))
    }

    // === what goes wrong ===

    /// kill -9 of a node with its workers.
    pub fn kill_node(&mut self, node: usize) {
        end(&mut self.nodes[node]);
    }

    /// Starts a node again that was killed, with its old name and state directory.
    pub fn start_node(&mut self, node: usize) {
        self.nodes[node] = self.node(node);
    }

    /// kill -9 of a controller.
    pub fn kill_controller(&mut self, controller: usize) {
        end(&mut self.controllers[controller]);
    }

    /// Starts a controller again that was killed.
    pub fn start_controller(&mut self, controller: usize) {
        let host = self.controllers[controller].host;
        self.controllers[controller] = self.controller(controller, host);
    }

    /// Stops a controller's process as if the machine had fallen asleep, or wakes it.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze_controller(&mut self, controller: usize, frozen: bool) {
        self.controllers[controller].frozen = frozen;
        let child = self.controllers[controller]
            .child
            .as_ref()
            .expect("it runs");
        process::signal(child.id(), if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// Stops the processes that fold on a node, or wakes them: the node is heard, and nothing gets done.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze_workers(&self, node: usize, frozen: bool) {
        let child = self.nodes[node].child.as_ref().expect("it runs");
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        for worker in process::workers_of(child.id()) {
            process::signal(worker, signal);
        }
    }

    // === what clients do ===

    /// Sends an update, to any node first, and follows to where it belongs.
    ///
    /// # Panics
    /// If it is refused.
    #[track_caller]
    pub fn push(&self, job: &str, client: &str, round: u64, update: &(Model, f64)) -> Answer {
        self.push_around(job, client, round, update, None)
    }

    /// As [`Self::push`], for clients that cannot reach one of the nodes.
    ///
    /// # Panics
    /// If it is refused.
    #[track_caller]
    pub fn push_around(
        &self,
        job: &str,
        client: &str,
        round: u64,
        update: &(Model, f64),
        cut: Option<usize>,
    ) -> Answer {
        let cut = cut.map(|node| self.nodes[node].address);
        let path = format!(
            "/v1/jobs/{job}/updates/{client}?round={round}&weight={}",
            update.1
        );
        let file = update.0.file();
        let mut next = self.first_node(client);
        eventually("the update is taken", || {
            if cut == Some(next) {
                next = self.another_node(next);
                return None;
            }
            let Ok(answer) = Client::new(next).try_send("PUT", &path, &[], &file) else {
                next = self.another_node(next);
                return None;
            };
            match answer.status {
                307 => next = address_of(answer.header("location")?),
                404 => next = self.another_node(next),
                429 | 503 => {}
                _ => return Some(answer),
            }
            None
        })
    }

    fn first_node(&self, client: &str) -> SocketAddr {
        let number = client.bytes().map(usize::from).sum::<usize>();
        self.nodes[number % self.nodes.len()].address
    }

    fn another_node(&self, than: SocketAddr) -> SocketAddr {
        let at = self
            .nodes
            .iter()
            .position(|node| node.address == than)
            .unwrap_or(0);
        self.nodes[(at + 1) % self.nodes.len()].address
    }

    /// The newest model of a job of at least that version, from any node that has it.
    #[must_use]
    pub fn model(&self, job: &str, version: u64) -> (u64, Model) {
        let path = format!("/v1/jobs/{job}/model?after={}&wait=1s", version - 1);
        eventually("the model is there", || {
            self.any_door(|door| {
                let answer = door
                    .try_send("GET", &path, &[], &[])
                    .ok()
                    .filter(|answer| answer.status == 200)?;
                let found = answer.header("tributary-version")?.parse().ok()?;
                (found >= version).then(|| (found, Model::from_file(&answer.body)))
            })
        })
    }

    /// A round's status, as its leader tells it.
    #[must_use]
    pub fn round(&self, job: &str, round: u64) -> RoundStatus {
        let path = format!("/v1/jobs/{job}/rounds/{round}");
        eventually("the round's leader answers", || {
            self.any_door(|door| {
                let mut answer = door.try_send("GET", &path, &[], &[]).ok()?;
                if answer.status == 307 {
                    answer = Client::new(address_of(answer.header("location")?))
                        .try_send("GET", &path, &[], &[])
                        .ok()?;
                }
                (answer.status == 200).then(|| answer.json())
            })
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(
                clippy::print_stderr,
                reason = "who looks at a failure wants to see it"
            )]
            {
                eprintln!("{}", self.logs());
            }
        }
        self.controllers
            .iter_mut()
            .chain(&mut self.nodes)
            .for_each(end);
        for number in 0..self.nodes.len() {
            // Segments carry what a node calls itself in its state directory, whatever its name is.
            let file = self
                .home
                .path()
                .join(self.name("node", number))
                .join("node");
            if let Ok(id) = fs::read_to_string(file) {
                process::remove_segments(&format!("tributary-{id}-"));
            }
        }
    }
}

/// kill -9 of a process and its workers.
fn end(member: &mut Member) {
    let Some(mut child) = member.child.take() else {
        return;
    };
    process::signal(child.id(), Signal::STOP);
    for worker in process::workers_of(child.id()) {
        process::kill(worker);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The address in a URL.
///
/// # Panics
/// If it is none of this cluster's.
#[must_use]
pub fn address_of(url: &str) -> SocketAddr {
    let rest = url.strip_prefix("http://").expect("a URL");
    rest.split('/')
        .next()
        .and_then(|address| address.parse().ok())
        .expect("an address in it")
}
