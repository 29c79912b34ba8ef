//! Nodes and clients.

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tributary_api::control::{
    CheckpointError, Checkpoints, FunctionRevision, JobDesired, ModelKey, ModelParts, NodeControl,
    Sharing,
};
use tributary_api::manifest::Checkpoint;
use tributary_api::model::ModelLayout;
use tributary_api::placement::{BUCKETS, Duty, Homes, Member, Placement};
use tributary_api::status::RoundStatus;
use tributary_api::{ClientName, Digest, Name};
use tributary_node::events::Events;
use tributary_node::identity::Identity;
use tributary_node::metrics::Metrics;
use tributary_node::{Autoscaler, FetchOptions, Hosts, Node, Options};
use tributary_router::Choice;
use tributary_tests::http::{Answer, Client};
use tributary_tests::tensors::{LARGE, Model};
use tributary_tests::wait::eventually;
use tributary_tests::{place, tensors::Shapes};

pub(crate) const JOB: &str = "job";
pub(crate) const SHAPES: Shapes = LARGE;
const SECRET: &str = "told to members only";

/// A node with its door.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) name: Name,
    pub(crate) address: SocketAddr,
    pub(crate) kept: Arc<Kept>,
    stop: watch::Sender<bool>,
    _directory: TempDir,
}

/// Models that a node has kept, by version.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<u64, Vec<u8>>>);

#[async_trait]
impl Checkpoints for Kept {
    async fn save(
        &self,
        model: &ModelKey,
        _: Checkpoint,
        parts: ModelParts<'_>,
    ) -> Result<(), CheckpointError> {
        let file: Vec<u8> = parts
            .flat_map(|part| part.expect("a part").to_vec())
            .collect();
        self.0.lock().unwrap().insert(model.version, file);
        Ok(())
    }
}

impl Kept {
    pub(crate) fn versions(&self) -> Vec<u64> {
        self.0.lock().unwrap().keys().copied().collect()
    }
}

/// Several nodes.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) hosts: Vec<Option<Host>>,
    /// The model's.
    pub(crate) shapes: Shapes,
    spec: serde_json::Value,
    generation: u64,
    earlier: Vec<Homes>,
    homes: Homes,
}

impl World {
    /// So many nodes, that run the job under a placement with the first as leader and homes spread evenly.
    pub(crate) fn of(nodes: usize, round: &str, more: &str) -> Self {
        Self::fetching(nodes, round, more, &FetchOptions::default())
    }

    /// The same, of nodes that may fetch so much.
    pub(crate) fn fetching(nodes: usize, round: &str, more: &str, fetch: &FetchOptions) -> Self {
        let mut world = Self::with_hosts(nodes, round, more, fetch);
        world.homes = world.spread(&(0..nodes).collect::<Vec<_>>());
        let members: Vec<usize> = (0..nodes).collect();
        let placement = world.placement(0, &members);
        members
            .iter()
            .for_each(|host| world.start_job(*host, 1, &placement));
        world
    }

    pub(crate) fn without_job(nodes: usize, round: &str, more: &str) -> Self {
        Self::with_hosts(nodes, round, more, &FetchOptions::default())
    }

    fn with_hosts(nodes: usize, round: &str, more: &str, fetch: &FetchOptions) -> Self {
        let runtime = Runtime::new().unwrap();
        let hosts: Vec<_> = (0..nodes)
            .map(|_| Some(runtime.block_on(host(fetch.clone()))))
            .collect();
        let text = format!(
            r#"{{ "function": {{ "name": "fedavg" }}, "model": {{ "path": "m" }}, "round": {round}, "keepAlive": "20s" {more} }}"#
        );
        let first = hosts[0].as_ref().unwrap().name.clone();
        Self {
            runtime,
            hosts,
            shapes: SHAPES,
            spec: serde_json::from_str(&text).unwrap(),
            generation: 0,
            earlier: Vec::new(),
            homes: Homes::one(first),
        }
    }

    pub(crate) fn host(&self, host: usize) -> &Host {
        self.hosts[host].as_ref().expect("a node that runs")
    }

    /// Homes spread evenly over some nodes.
    pub(crate) fn spread(&self, hosts: &[usize]) -> Homes {
        let nodes: Vec<Name> = hosts
            .iter()
            .map(|host| self.host(*host).name.clone())
            .collect();
        let buckets = (0..BUCKETS)
            .map(|bucket| (bucket % nodes.len()) as u16)
            .collect();
        Homes { nodes, buckets }
    }

    /// Changes homes; the ones before count as earlier ones of the round.
    pub(crate) fn move_homes(&mut self, homes: Homes) {
        self.earlier.push(std::mem::replace(&mut self.homes, homes));
    }

    /// The next placement.
    pub(crate) fn placement(&mut self, leader: usize, members: &[usize]) -> Placement {
        self.placement_with(leader, members, &[])
    }

    /// The next placement, with some members draining.
    pub(crate) fn placement_with(
        &mut self,
        leader: usize,
        members: &[usize],
        draining: &[usize],
    ) -> Placement {
        self.generation += 1;
        self.placement_now_with(leader, members, draining)
    }

    /// The next placement, whose earlier homes count for updates of rounds up to `since`.
    pub(crate) fn placement_since(
        &mut self,
        since: u64,
        leader: usize,
        members: &[usize],
    ) -> Placement {
        Placement {
            since,
            ..self.placement(leader, members)
        }
    }

    /// The placement once more.
    pub(crate) fn placement_now(&self, leader: usize, members: &[usize]) -> Placement {
        self.placement_now_with(leader, members, &[])
    }

    fn placement_now_with(
        &self,
        leader: usize,
        members: &[usize],
        draining: &[usize],
    ) -> Placement {
        let member = |host: &usize| {
            let Host { name, address, .. } = self.host(*host);
            let duty = if draining.contains(host) {
                Duty::Draining
            } else {
                Duty::Serving
            };
            Member {
                node: name.clone(),
                url: format!("http://{address}"),
                duty,
            }
        };
        Placement {
            generation: self.generation,
            leader: self.host(leader).name.clone(),
            members: members.iter().map(member).collect(),
            homes: self.homes.clone(),
            earlier: self.earlier.clone(),
            since: 1,
            secret: SECRET.into(),
        }
    }

    pub(crate) fn start_job(&self, host: usize, version: u64, placement: &Placement) {
        let model = Bytes::from(Model::filled(self.shapes, 0.0).file());
        let wasm = Bytes::from(std::fs::read(place::function("fedavg")).unwrap());
        let desired = self.desired(version, placement, &model, &wasm);
        self.runtime.block_on(async {
            let node = &self.host(host).node;
            node.deploy(&desired.function, wasm).await.unwrap();
            node.start_job(desired, model).await.unwrap();
        });
    }

    /// Changes the rule of closing under a node's running job.
    pub(crate) fn change_round(&mut self, host: usize, round: &str) {
        self.spec["round"] = serde_json::from_str(round).unwrap();
        let model = Bytes::from(Model::filled(self.shapes, 0.0).file());
        let placement = self.placement_now(host, &[host]);
        let desired = self.desired(1, &placement, &model, &[]);
        let node = &self.host(host).node;
        self.runtime.block_on(node.update_job(desired)).unwrap();
    }

    fn desired(
        &self,
        version: u64,
        placement: &Placement,
        model: &[u8],
        wasm: &[u8],
    ) -> JobDesired {
        let digest = Digest::new(Sha256::digest(wasm).into());
        let function = FunctionRevision {
            name: "fedavg".parse().unwrap(),
            revision: 1,
            digest,
            spec: serde_json::from_value(serde_json::json!({ "module": { "path": "m" } })).unwrap(),
        };
        let (layout, _) = ModelLayout::from_file(model).unwrap();
        JobDesired {
            name: JOB.parse().unwrap(),
            revision: 1,
            life: 1,
            spec: serde_json::from_value(self.spec.clone()).unwrap(),
            function,
            layout: Arc::new(layout),
            version,
            placement: Some(placement.clone()),
            sharing: Sharing::default(),
        }
    }

    /// Tells some nodes of a placement.
    pub(crate) fn place(&self, hosts: &[usize], placement: &Placement) {
        let job: Name = JOB.parse().unwrap();
        for host in hosts {
            let placed = self.host(*host).node.place_job(&job, placement.clone());
            self.runtime.block_on(placed).unwrap();
        }
    }

    /// Takes a node away with all it has.
    pub(crate) fn lose(&mut self, host: usize) {
        let host = self.hosts[host].take().expect("a node that runs");
        let _ = host.stop.send(true);
        self.runtime.block_on(host.node.shutdown());
    }

    // === as a client ===

    pub(crate) fn door(&self, host: usize) -> Client {
        Client::new(self.host(host).address)
    }

    /// The door of a client's home.
    pub(crate) fn home(&self, client: &str) -> Client {
        let home = self.homes.of(&client.parse::<ClientName>().unwrap());
        let hosts = self.hosts.iter().flatten();
        let host = hosts.into_iter().find(|host| Some(&host.name) == home);
        Client::new(host.expect("a node that runs").address)
    }

    /// Clients of names that no other call gives, whose home is that node: so many.
    pub(crate) fn clients_of(&self, host: usize, count: usize) -> Vec<String> {
        let name = &self.host(host).name;
        let names = (0..).map(|number| format!("client-{number}"));
        let at_home =
            |client: &String| self.homes.of(&client.parse::<ClientName>().unwrap()) == Some(name);
        names.filter(at_home).take(count).collect()
    }

    /// Sends an update to a node, and follows to where it belongs; it is new there.
    #[track_caller]
    pub(crate) fn push(&self, at: usize, client: &str, round: u64, update: &(Model, f64)) {
        let _ = self.send(at, client, round, update).expect(202);
    }

    /// Sends an update to a node, and follows to where it belongs; gives the last answer.
    #[track_caller]
    pub(crate) fn send(
        &self,
        at: usize,
        client: &str,
        round: u64,
        update: &(Model, f64),
    ) -> Answer {
        let path = format!(
            "/v1/jobs/{JOB}/updates/{client}?round={round}&weight={}",
            update.1
        );
        let mut door = self.door(at);
        eventually("the update is taken", || {
            let answer = door.try_send("PUT", &path, &[], &update.0.file()).ok()?;
            match answer.status {
                307 => {
                    door = Client::new(address_of(answer.header("location").unwrap()));
                    None
                }
                429 | 503 => None,
                _ => Some(answer),
            }
        })
    }

    /// The model of that version, as a node hands it out.
    pub(crate) fn model(&self, at: usize, version: u64) -> Model {
        let path = format!("/v1/jobs/{JOB}/model?after={}&wait=60s", version - 1);
        // One that is further behind answers with what it has.
        eventually("the model is there", || {
            let answer = self.door(at).get(&path);
            let found = answer.header("tributary-version")?.parse::<u64>().ok()?;
            (answer.status == 200 && found == version).then(|| Model::from_file(&answer.body))
        })
    }

    pub(crate) fn round(&self, at: usize, round: u64) -> RoundStatus {
        self.door(at)
            .get(&format!("/v1/jobs/{JOB}/rounds/{round}"))
            .json()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].is_some() {
                self.lose(host);
            }
        }
    }
}

/// The address in a URL.
pub(crate) fn address_of(url: &str) -> SocketAddr {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

/// A node alone, whose other processes run `program`.
pub(crate) fn started(state: &Path, program: PathBuf) -> Node {
    let identity = Identity::take(state).unwrap();
    let (checkpoints, metrics) = (Arc::new(Kept::default()), Arc::new(Metrics::new()));
    let options = options(program, FetchOptions::default());
    Node::start(
        identity,
        options,
        checkpoints,
        metrics,
        Events::new("alone"),
    )
    .unwrap()
}

fn options(worker_program: PathBuf, fetch: FetchOptions) -> Options {
    Options {
        sidecar: Choice::Userspace,
        workers: 2,
        worker_program,
        autoscaler: Autoscaler::default(),
        autoscaler_trace: None,
        fetch,
    }
}

async fn host(fetch: FetchOptions) -> Host {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::take(&directory.path().join("state")).unwrap();
    let name: Name = identity.name().parse().unwrap();
    let kept = Arc::new(Kept::default());
    let options = options(place::binary(), fetch);
    let events = Events::new(name.as_str());
    let node = Node::start(
        identity,
        options,
        kept.clone(),
        Arc::new(Metrics::new()),
        events,
    )
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let hosts = Hosts::new(address.ip(), []);
    node.serve(listener, hosts, axum::Router::new(), stopped);
    Host {
        node,
        name,
        address,
        kept,
        stop,
        _directory: directory,
    }
}
