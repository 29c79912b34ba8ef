//! What a case works on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tempfile::TempDir;
use tokio::time::timeout;
use tributary_store::{Backend, Bus, Change, Delivery, Error, Keys, Retention, Stream, embedded};
use tributary_tests::nats::{self, NatsServer};

/// Nothing that works takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Short, so that what is forgotten comes again soon.
const RETENTION: Retention = Retention {
    age: Duration::from_secs(3600),
    duplicates: Duration::from_secs(120),
    acknowledge: Duration::from_secs(1),
};

/// A store, and other ways into the same one.
pub(crate) struct Bench {
    pub(crate) backend: Arc<dyn Backend>,
    place: Place,
}

enum Place {
    Here(#[allow(dead_code, reason = "removed when it is dropped")] Option<TempDir>),
    Nats(NatsServer),
}

pub(crate) fn embedded<F: Future<Output = ()>>(case: fn(Bench) -> F) {
    run(|| async move {
        let folder = tempfile::tempdir().unwrap();
        let options = embedded::Options {
            retention: RETENTION,
            ..embedded::Options::default()
        };
        let backend = Arc::new(embedded::open(folder.path(), options).unwrap());
        let place = Place::Here(Some(folder));
        case(Bench { backend, place }).await;
    });
}

pub(crate) fn memory<F: Future<Output = ()>>(case: fn(Bench) -> F) {
    run(|| async move {
        let backend = Arc::new(embedded::memory(RETENTION).unwrap());
        let place = Place::Here(None);
        case(Bench { backend, place }).await;
    });
}

pub(crate) fn nats<F: Future<Output = ()>>(case: fn(Bench) -> F) {
    if !nats::available() {
        return;
    }
    run(|| async move {
        let server = NatsServer::start();
        let backend = Arc::new(connect(&server).await);
        let place = Place::Nats(server);
        case(Bench { backend, place }).await;
    });
}

fn run<F: Future<Output = ()>>(case: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(case());
}

async fn connect(server: &NatsServer) -> tributary_store::nats::Nats {
    let options = tributary_store::nats::Options {
        servers: vec![server.url()],
        retention: RETENTION,
        ..tributary_store::nats::Options::default()
    };
    tributary_store::nats::connect(options).await.unwrap()
}

impl Bench {
    /// The same store as somebody else has it: over a connection of its own, where there are connections.
    pub(crate) async fn another(&self) -> Arc<dyn Backend> {
        match &self.place {
            Place::Here(_) => self.backend.clone(),
            Place::Nats(server) => Arc::new(connect(server).await),
        }
    }

    pub(crate) async fn keys(&self) -> Arc<dyn Keys> {
        self.backend.keys("things", None).await.unwrap()
    }

    pub(crate) async fn bus(&self) -> Arc<dyn Bus> {
        self.backend.bus().await.unwrap()
    }
}

/// Something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("waited in vain")
}

/// The next of a stream, which must come.
pub(crate) async fn next<T>(stream: &mut Stream<Result<T, Error>>) -> T {
    soon(stream.next()).await.expect("it ended").unwrap()
}

/// What a watch tells until it is up to date, or tells this.
pub(crate) async fn until(watch: &mut Stream<Result<Change, Error>>, last: &Change) -> Vec<Change> {
    let mut told = Vec::new();
    while told.last() != Some(last) {
        told.push(next(watch).await);
    }
    told
}

/// Takes that many deliveries and acknowledges them; their payloads.
pub(crate) async fn take(
    deliveries: &mut Stream<Result<Delivery, Error>>,
    count: usize,
) -> Vec<String> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let delivery = next(deliveries).await;
        taken.push(text(&delivery.message.payload));
        delivery.ack().await.unwrap();
    }
    taken
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Content in pieces.
pub(crate) fn pieces(pieces: Vec<Result<Bytes, Error>>) -> Stream<Result<Bytes, Error>> {
    stream::iter(pieces).boxed()
}
