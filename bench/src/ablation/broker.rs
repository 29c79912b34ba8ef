//! The platform that others build: aggregators are functions, each in a process of its own that the first message for it
//! starts, and every hop is a message of the broker that refers to an object in the broker's object store.
//!
//! ```text
//! client ──object──▶ store ──▶ leaf ──object──▶ store ──▶ middle ──object──▶ store ──▶ top ──object──▶ store
//!    └────message──▶ stream ──▶ └────message──▶ stream ──▶  └────message──▶ stream ──▶ └────message──▶ driver
//! ```
//!
//! It is made as well as it can be: messages are read from a stream without polling, objects are read straight from the
//! connection into the shared memory that the function sees, the function is compiled beforehand, and it is the same
//! module in the same host as Tributary's. It waits for nothing but its inputs.

mod agent;
mod aggregator;
mod combiner;
mod message;

pub use agent::serve;
pub use aggregator::{Aggregation, aggregate};

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::jetstream::{self, object_store::ObjectStore, stream};
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tributary_wasm::{Engine, ModuleCache};

use super::hosts::Hosts;
use super::replay::{Sent, Trace, Updates, check};
use super::{Cost, Times};
use crate::place;
use message::{Message, Place, Work};

/// Bytes of an object's chunk: the server's makers advise against messages above 8 MiB, and smaller ones cost more.
const CHUNK_BYTES: usize = 1 << 20;
/// Inputs of a leaf.
pub const LEAF_INPUTS: usize = 2;
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How aggregators are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One aggregator for all updates.
    Flat,
    /// A leaf for every two updates, spread over all hosts in turns; a middle on each host; and the top.
    Spread,
}

/// Hosts with an agent on each.
#[derive(Debug)]
pub struct Broker {
    hosts: Hosts,
    count: usize,
    runtime: Runtime,
    rounds: usize,
}

impl Broker {
    /// So many hosts.
    ///
    /// # Errors
    /// As for [`Hosts::start`].
    pub fn start(count: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            hosts: Hosts::start(count)?,
            count,
            runtime,
            rounds: 0,
        })
    }

    /// One round; `eager` aggregators combine what is there as soon as it is, others when all is.
    ///
    /// # Errors
    /// If something breaks, or the model is not the mean.
    pub fn round(
        &mut self,
        trace: &Trace,
        updates: &Updates,
        mean: &[f64],
        shape: Shape,
        eager: bool,
    ) -> Result<Cost> {
        self.rounds += 1;
        let run = format!("run{}", self.rounds);
        let elements = updates.model().elements();
        let digest = self.deploy()?;
        let stage = self
            .runtime
            .block_on(Stage::set(&self.hosts.nats(), &run, trace.clients()))?;
        let work = Work {
            run: run.clone(),
            elements,
            digest,
            cache: self.hosts.home().join("cache"),
            eager,
        };
        if self.rounds == 1 {
            self.start_agents()?;
        }
        let started = self.started();
        let (cpu, bytes) = (self.hosts.usage()?, self.hosts.bytes_sent(self.count)?);
        let places = places(shape, trace.clients(), self.count);
        let stage = Arc::new(stage);
        let mut waiting = self.runtime.spawn(wait_for_model(Arc::clone(&stage)));
        let begin = Instant::now();
        let (first, last, _) = trace.replay(begin, |client| {
            let to = places[client].clone();
            let update = updates.update(client);
            let pieces = update.pieces();
            let message = |object: &str| Message {
                work: work.clone(),
                to,
                object: object.to_owned(),
                weight: Updates::weight(client),
                contributors: 1,
            };
            self.runtime.block_on(stage.send(client, pieces, message))
        })?;
        let (model, elements) = loop {
            let look = async { tokio::time::timeout(Duration::from_secs(1), &mut waiting).await };
            match self.runtime.block_on(look) {
                Ok(came) => break came??,
                Err(_) if begin.elapsed() < PATIENCE => self.hosts.check_alive()?,
                Err(_) => bail!("no model after {PATIENCE:?}"),
            }
        };
        let cost = self.hosts.usage()? - cpu;
        let sent = self.hosts.bytes_sent(self.count)? - bytes;
        self.hosts.check_alive()?;
        check(mean, &elements)?;
        let (from_first, from_last) = Times { first, last, model }.seconds();
        let aggregating = places.iter().flat_map(Place::hosts);
        let nodes = aggregating.collect::<std::collections::BTreeSet<_>>().len();
        let all = self.started() - started;
        self.runtime.block_on(stage.clear(&run))?;
        Ok(Cost {
            from_first,
            from_last,
            cpu_seconds: cost,
            started: all,
            nodes,
            bytes_sent: sent,
            turned_away: 0,
        })
    }

    /// Compiles the function; its digest.
    fn deploy(&self) -> Result<String> {
        let wasm = std::fs::read(place::function("fedavg")?)?;
        let cache = ModuleCache::open(&self.hosts.home().join("cache"))?;
        Ok(cache.deploy(&Engine::new()?, &wasm)?)
    }

    fn start_agents(&mut self) -> Result<()> {
        let program = env::current_exe()?;
        for host in 0..self.count {
            let mut command: Command = self.hosts.network().command(host, &program);
            command.args(["agent", "--nats", &self.hosts.nats()]);
            command.args(["--host", &host.to_string()]);
            command.arg("--started").arg(self.started_file(host));
            self.hosts.run(format!("agent-{host}"), command)?;
        }
        let files: Vec<_> = (0..self.count)
            .map(|host| self.started_file(host))
            .collect();
        self.hosts
            .wait("agents listen", |_| files.iter().all(|file| file.exists()))
    }

    fn started_file(&self, host: usize) -> std::path::PathBuf {
        self.hosts.home().join(format!("started-{host}"))
    }

    /// Aggregators that agents have started: each has a line in its agent's file.
    fn started(&self) -> u64 {
        let lines = (0..self.count).map(|host| {
            let text = std::fs::read_to_string(self.started_file(host)).unwrap_or_default();
            text.lines().count() as u64
        });
        lines.sum()
    }
}

/// What a round has in the broker.
struct Stage {
    clients: Vec<Client>,
    model: Client,
}

/// One connection.
#[derive(Clone)]
struct Client {
    client: async_nats::Client,
    context: jetstream::Context,
    store: ObjectStore,
    run: String,
}

impl Client {
    async fn connect(url: &str, run: &str) -> Result<Self> {
        let options = async_nats::ConnectOptions::new().request_timeout(Some(PATIENCE));
        let client = options.connect(url).await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(PATIENCE);
        let store = context.get_object_store(run).await?;
        Ok(Self {
            client,
            context,
            store,
            run: run.to_owned(),
        })
    }

    async fn put(&self, name: &str, bytes: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<()> {
        let meta = jetstream::object_store::ObjectMetadata {
            name: name.to_owned(),
            chunk_size: Some(CHUNK_BYTES),
            ..Default::default()
        };
        self.store.put(meta, bytes).await?;
        Ok(())
    }

    async fn tell(&self, message: &Message) -> Result<()> {
        let payload = serde_json::to_vec(message)?.into();
        let subject = message.subject();
        self.context.publish(subject, payload).await?.await?;
        Ok(())
    }
}

impl Stage {
    /// Makes the round's bucket and stream, and connects everybody.
    async fn set(url: &str, run: &str, clients: usize) -> Result<Self> {
        let context = jetstream::new(async_nats::connect(url).await?);
        context
            .get_or_create_stream(stream::Config {
                name: message::STREAM.to_owned(),
                subjects: vec![format!("{}.>", message::STREAM)],
                storage: stream::StorageType::Memory,
                ..Default::default()
            })
            .await?;
        context
            .create_object_store(jetstream::object_store::Config {
                bucket: run.to_owned(),
                ..Default::default()
            })
            .await?;
        let mut connected = Vec::new();
        for _ in 0..clients {
            connected.push(Client::connect(url, run).await?);
        }
        Ok(Self {
            clients: connected,
            model: Client::connect(url, run).await?,
        })
    }

    /// A client's part: the object, then the message that refers to it.
    async fn send(
        &self,
        client: usize,
        [header, elements]: [&[u8]; 2],
        message: impl FnOnce(&str) -> Message,
    ) -> Result<Sent> {
        let connection = &self.clients[client];
        let object = format!("update-{client}");
        connection.put(&object, &mut header.chain(elements)).await?;
        let at = Instant::now();
        connection.tell(&message(&object)).await?;
        Ok(Sent { at, turned_away: 0 })
    }

    async fn clear(&self, run: &str) -> Result<()> {
        self.model.context.delete_object_store(run).await?;
        let stream = self.model.context.get_stream(message::STREAM).await?;
        stream.purge().await?;
        Ok(())
    }
}

/// Waits for the new model; when its first byte was there, and its elements.
async fn wait_for_model(stage: Arc<Stage>) -> Result<(Instant, Vec<u8>)> {
    let connection = &stage.model;
    let subject = message::model_subject(&connection.run);
    let mut news = connection.client.subscribe(subject).await?;
    connection.client.flush().await?;
    let Some(message) = news.next().await else {
        bail!("the connection ended before the model came");
    };
    let object = std::str::from_utf8(&message.payload)?;
    let mut object = connection.store.get(object).await?;
    let mut model = vec![0];
    object.read_exact(&mut model).await?;
    let first_byte = Instant::now();
    object.read_to_end(&mut model).await?;
    Ok((first_byte, model))
}

/// Each client's aggregator, with all that are above it.
fn places(shape: Shape, clients: usize, hosts: usize) -> Vec<Place> {
    let leaves = clients.div_ceil(LEAF_INPUTS);
    let top = |expected: usize, merges: bool| Place {
        name: "top".into(),
        host: 0,
        expected,
        merges,
        parent: None,
    };
    if shape == Shape::Flat {
        return vec![top(clients, false); clients];
    }
    let top = top(leaves.min(hosts), true);
    let middle = |host: usize| Place {
        name: "middle".into(),
        host,
        expected: (host..leaves).step_by(hosts).count(),
        merges: true,
        parent: Some(Box::new(top.clone())),
    };
    let leaf = |client: usize| {
        let leaf = client / LEAF_INPUTS;
        let host = leaf % hosts;
        let middle = middle(host);
        // A lone leaf has nobody to be merged with.
        let parent = if middle.expected > 1 {
            middle
        } else {
            top.clone()
        };
        Place {
            name: format!("leaf-{leaf}"),
            host,
            expected: LEAF_INPUTS.min(clients - leaf * LEAF_INPUTS),
            merges: false,
            parent: Some(Box::new(parent)),
        }
    };
    (0..clients).map(leaf).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_aggregator_gets_what_it_expects() {
        for (clients, hosts) in [(1, 5), (7, 5), (20, 5), (100, 5), (9, 1)] {
            let mut inputs = BTreeMap::<(usize, String), BTreeSet<String>>::new();
            let mut expected = BTreeMap::new();
            for (client, leaf) in places(Shape::Spread, clients, hosts).iter().enumerate() {
                let (mut child, mut next) = (format!("client-{client}"), Some(leaf));
                while let Some(place) = next {
                    let key = (place.host, place.name.clone());
                    expected.insert(key.clone(), place.expected);
                    inputs.entry(key).or_default().insert(child);
                    child = format!("{}-{}", place.host, place.name);
                    next = place.parent.as_deref();
                }
            }
            let got: BTreeMap<_, _> = inputs
                .iter()
                .map(|(key, all)| (key.clone(), all.len()))
                .collect();
            assert_eq!(got, expected, "{clients} clients, {hosts} hosts");
            assert!(got.contains_key(&(0, "top".to_owned())));
        }
    }

    #[test]
    fn without_a_hierarchy_there_is_one() {
        let places = places(Shape::Flat, 9, 5);
        assert!(
            places
                .iter()
                .all(|place| place.expected == 9 && place.parent.is_none())
        );
    }
}
