//! Controllers and nodes on one store, each with a connection of its own.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request, routing::get};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower::ServiceExt as _;
use tributary_api::{
    Digest,
    apply::ApplyResult,
    fleet::{NodeEntry, NodeState},
};
use tributary_controller::{
    Beat, Controller, Error, Options, State, Station, controller_routes, serve_node,
};
use tributary_store::{
    Backend,
    embedded::{self, Embedded},
    nats::{self, Nats},
};
use tributary_tests::nats::NatsServer;

use crate::{
    fake_node::FakeNode,
    lossy::Lossy,
    world::{WASM, function, job, model, sha256, with},
};

/// Fast enough for tests.
pub(crate) const BEAT: Beat = Beat {
    every: Duration::from_millis(100),
    believed: Duration::from_secs(1),
};

const LEASE: Duration = Duration::from_secs(2);

/// No test depends on this time: it ends tests that would never end.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) enum Store {
    Embedded(Arc<Embedded>),
    Nats(NatsServer),
}

impl Store {
    pub(crate) fn embedded() -> Self {
        let memory = embedded::memory(tributary_store::Retention::default());
        Self::Embedded(Arc::new(memory.unwrap()))
    }

    pub(crate) fn nats() -> Option<Self> {
        tributary_tests::nats::available().then(|| Self::Nats(NatsServer::start()))
    }

    pub(crate) async fn connect(&self) -> Arc<dyn Backend> {
        match self {
            Self::Embedded(memory) => Arc::clone(memory) as Arc<dyn Backend>,
            Self::Nats(_) => self.nats_connection().await.unwrap(),
        }
    }

    pub(crate) async fn nats_connection(&self) -> Option<Arc<Nats>> {
        let Self::Nats(server) = self else {
            return None;
        };
        let options = nats::Options {
            servers: vec![server.url()],
            ..nats::Options::default()
        };
        Some(Arc::new(nats::connect(options).await.unwrap()))
    }
}

/// A controller's process.
pub(crate) struct Leader {
    pub(crate) controller: Arc<Controller>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// A node's process.
pub(crate) struct NodeProcess {
    pub(crate) node: Arc<FakeNode>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

pub(crate) struct Cluster {
    pub(crate) store: Store,
    beat: Beat,
    pub(crate) nodes: BTreeMap<&'static str, NodeProcess>,
}

impl Cluster {
    pub(crate) fn new(store: Store) -> Self {
        Self::with_beat(store, BEAT)
    }

    pub(crate) fn with_beat(store: Store, beat: Beat) -> Self {
        let nodes = BTreeMap::new();
        Self { store, beat, nodes }
    }

    pub(crate) async fn controller(&self, name: &'static str) -> Leader {
        let state = State::on(self.store.connect().await).await.unwrap();
        let controller = Controller::join(state, name, self.beat).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = Arc::clone(&controller);
        let task = tokio::spawn(async move {
            let options = Options {
                url: format!("http://{name}"),
                lease: LEASE,
            };
            let stopped = async {
                let _ = stopped.await;
            };
            running.run_among(&options, stopped).await.unwrap();
        });
        Leader {
            controller,
            stop: Some(stop),
            task,
        }
    }

    /// A controller that leads, and sees so many nodes.
    pub(crate) async fn leader(&self, name: &'static str, nodes: usize) -> Leader {
        let leader = self.controller(name).await;
        let controller = &leader.controller;
        until("a leader that sees all nodes", || async {
            let ready = controller.nodes().await;
            let ready = ready.iter().filter(|node| node.state == NodeState::Ready);
            let leads = controller.apply(&[], true).await.is_ok();
            (leads && ready.count() == nodes).then_some(())
        })
        .await;
        leader
    }

    pub(crate) async fn add(&mut self, name: &'static str) -> Arc<FakeNode> {
        self.add_labelled(name, &[]).await
    }

    pub(crate) async fn add_labelled(
        &mut self,
        name: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<FakeNode> {
        let node = Arc::new(FakeNode::named(name));
        self.start(name, Arc::clone(&node), labels).await;
        node
    }

    /// A node that hears each order only when it comes again, and is heard when it comes a third time.
    pub(crate) async fn add_lossy(&mut self, name: &'static str) -> Arc<FakeNode> {
        let node = Arc::new(FakeNode::named(name));
        let backend = Arc::new(Lossy(self.store.connect().await));
        let url = format!("http://{name}");
        self.start_on(backend, name, url, Arc::clone(&node), &[])
            .await;
        node
    }

    /// A node whose gateway says that it lives, whatever happens to the node.
    pub(crate) async fn add_answering(&mut self, name: &'static str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let gateway = Router::new().route("/live", get(async || "live\n"));
        tokio::spawn(async move { axum::serve(listener, gateway).await.unwrap() });
        let node = Arc::new(FakeNode::named(name));
        let backend = self.store.connect().await;
        self.start_on(backend, name, url, node, &[]).await;
    }

    async fn start(&mut self, name: &'static str, node: Arc<FakeNode>, labels: &[(&str, &str)]) {
        let backend = self.store.connect().await;
        let url = format!("http://{name}");
        self.start_on(backend, name, url, node, labels).await;
    }

    async fn start_on(
        &mut self,
        backend: Arc<dyn Backend>,
        name: &'static str,
        url: String,
        node: Arc<FakeNode>,
        labels: &[(&str, &str)],
    ) {
        let state = State::on(Arc::clone(&backend)).await.unwrap();
        let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let labels = labels.iter().map(label).collect();
        let station = Station::new(node.clone(), state, Some(url), labels, None, None)
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel();
        let beat = self.beat;
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve_node(&*backend, station, beat, stopped).await.unwrap();
        });
        let stop = Some(stop);
        self.nodes.insert(name, NodeProcess { node, stop, task });
    }

    /// Another process that is started under a node's name; ends with it.
    pub(crate) async fn serve(
        &self,
        name: &'static str,
        url: &str,
    ) -> JoinHandle<Result<(), Error>> {
        let backend = self.store.connect().await;
        let state = State::on(Arc::clone(&backend)).await.unwrap();
        let node = Arc::new(FakeNode::named(name));
        let station = Station::new(node, state, Some(url.into()), BTreeMap::new(), None, None);
        let (station, beat) = (station.await.unwrap(), self.beat);
        tokio::spawn(async move { serve_node(&*backend, station, beat, pending()).await })
    }

    /// The node's process dies with all it has.
    pub(crate) fn kill(&mut self, name: &str) {
        self.nodes.remove(name).unwrap().task.abort();
    }

    /// The node cannot be heard any more, but lives.
    pub(crate) fn cut(&mut self, name: &'static str) -> Arc<FakeNode> {
        let process = self.nodes.remove(name).unwrap();
        process.task.abort();
        process.node
    }

    /// A node that was cut off is heard again, with all it has.
    pub(crate) async fn mend(&mut self, name: &'static str, node: Arc<FakeNode>) {
        self.start(name, node, &[]).await;
    }

    /// The node's process ends as it should.
    pub(crate) async fn stop(&mut self, name: &str) {
        let mut process = self.nodes.remove(name).unwrap();
        let _ = process.stop.take().unwrap().send(());
        process.task.await.unwrap();
    }

    pub(crate) fn node(&self, name: &str) -> &FakeNode {
        &self.nodes[name].node
    }

    /// What all nodes were told since this was asked last.
    pub(crate) fn take_logs(&self) -> Vec<String> {
        let logs = self.nodes.iter().map(|(name, process)| {
            let log = process.node.take_log();
            log.into_iter().map(move |line| format!("{name}: {line}"))
        });
        logs.flatten().collect()
    }
}

impl Leader {
    /// The process is killed: it gives nothing back.
    pub(crate) fn kill(self) {
        self.task.abort();
    }

    /// The process stands still, and does not know it: whoever holds its controller believes that it leads.
    pub(crate) fn freeze(self) -> Arc<Controller> {
        self.task.abort();
        self.controller
    }

    /// The process ends as it should.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.task.await.unwrap();
    }

    pub(crate) async fn upload(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = sha256(&bytes);
        let request = Request::put(format!("/v1/blobs/{digest}")).body(Body::from(bytes));
        let response = self.send(request.unwrap()).await;
        assert_eq!(response.status(), 201);
        digest
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> axum::response::Response {
        let routes = controller_routes(Arc::clone(&self.controller));
        routes.oneshot(request).await.unwrap()
    }

    /// Function `f`, and job `j` on all nodes.
    pub(crate) async fn example(&self) -> [Value; 2] {
        let (module, model) = (
            self.upload(WASM).await,
            self.upload(model(&[("w", 4), ("b", 2)])).await,
        );
        let job = with(
            job("j", "f", model),
            "/spec/placement",
            serde_json::json!({"policy": "spread"}),
        );
        [function("f", module), with(job, "/spec/round/expected", 60)]
    }

    pub(crate) async fn apply(&self, manifests: &[Value]) -> Vec<ApplyResult> {
        // A machine that has much to do may let the lease run out; it is taken again.
        until("a leader that applies", || async {
            match self.controller.apply(manifests, false).await {
                Err(Error::NotLeading { .. }) => None,
                other => Some(other.unwrap()),
            }
        })
        .await
    }

    pub(crate) async fn is_refused(&self) -> Option<Error> {
        self.controller.apply(&[], true).await.err()
    }

    /// Waits until the job has these members, all of which follow the same placement, and names its leader.
    pub(crate) async fn members(&self, job: &str, expected: &[&str]) -> String {
        let placement = until(&format!("members {expected:?}"), || async {
            let placement = self.controller.placement(job).await.ok()?;
            let members = placement.members.iter();
            let names: Vec<_> = members.clone().map(|member| member.node.as_str()).collect();
            let mut follow = members.map(|member| member.generation == Some(placement.generation));
            (names == expected && follow.all(|follows| follows)).then_some(placement)
        })
        .await;
        placement.leader.unwrap().to_string()
    }

    pub(crate) async fn state(&self, node: &str) -> Option<NodeState> {
        Some(self.entry(node).await?.state)
    }

    /// Waits for two beats of the node: the second one tells how the node is now.
    pub(crate) async fn hears(&self, node: &str) {
        for _ in 0..2 {
            let since = Instant::now();
            until(&format!("a beat of {node}"), || async {
                let now = Instant::now();
                let ago = self.entry(node).await?.heard_milliseconds_ago?;
                // Rounded down.
                let unheard = Duration::from_millis(ago + 1);
                (now > since + unheard).then_some(())
            })
            .await;
        }
    }

    pub(crate) async fn entry(&self, node: &str) -> Option<NodeEntry> {
        let nodes = self.controller.nodes().await;
        nodes.into_iter().find(|entry| entry.status.name == node)
    }
}

/// Waits for something to become true.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    match timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_) => panic!("there was never {what}"),
    }
}
