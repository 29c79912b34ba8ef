//! Everything in NATS JetStream, for several machines.
//!
//! Keys are key-value buckets, stored messages are streams, objects are object stores, all in NATS's own documented
//! formats: other NATS clients and its command line read them. Reads go to the leader of a stream, so who has been told
//! that something is written reads it.
//!
//! A call that finds the connection lost, or a stream without a leader, is tried again until
//! [`Options::call_timeout`], then it fails with [`Error::Unavailable`](crate::Error::Unavailable). Writes carry ids, by
//! which the server, or the writer itself, recognises a repeated one.

mod bus;
mod connection;
mod consume;
mod failure;
mod follow;
mod keys;
mod objects;
mod options;
mod read;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, kv, stream::StorageType};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::{Backend, Bus, Error, Keys, Objects, names};
use bus::NatsBus;
use connection::Connection;
use failure::Failure;
use keys::NatsKeys;
use objects::NatsObjects;
pub use options::{Credentials, Identity, Options};

/// How long a deletion stays visible to watches; one that sleeps longer lists again.
const MARKERS: Duration = Duration::from_secs(3600);

/// A connection to NATS.
#[derive(Debug, Clone)]
pub struct Nats {
    connection: Arc<Connection>,
}

/// Connects. The connection is kept up, or taken up again, for as long as anything of it is in use.
///
/// # Errors
/// [`Error::Malformed`] for options; it names the field and the file. [`Error::Unavailable`] if no server can be
/// reached, or none accepts the credentials.
pub async fn connect(options: Options) -> Result<Nats, Error> {
    let connection = Arc::new(Connection::open(options).await?);
    Ok(Nats { connection })
}

#[async_trait]
impl Backend for Nats {
    async fn keys(&self, name: &str, ttl: Option<Duration>) -> Result<Arc<dyn Keys>, Error> {
        names::word("bucket", name)?;
        let connection = &self.connection;
        let bucket = format!("{}_{name}", connection.options.prefix);
        let config = kv::Config {
            bucket: bucket.clone(),
            max_age: ttl.unwrap_or_default(),
            storage: StorageType::File,
            num_replicas: connection.options.replicas,
            limit_markers: Some(MARKERS),
            ..kv::Config::default()
        };
        let what = format!("bucket {bucket}");
        let open = || async {
            let opened = connection
                .context
                .create_or_update_key_value(config.clone());
            opened.await.map_err(|error| Failure::of(&what, &error))
        };
        let store = connection.call(&what, open).await?;
        Ok(Arc::new(NatsKeys::new(
            connection.clone(),
            bucket,
            store.stream,
        )))
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, Error> {
        let bus = NatsBus::open(self.connection.clone()).await?;
        Ok(Arc::new(bus))
    }

    async fn objects(&self, name: &str) -> Result<Arc<dyn Objects>, Error> {
        names::word("bucket", name)?;
        let connection = &self.connection;
        let bucket = format!("{}_{name}", connection.options.prefix);
        let config = jetstream::object_store::Config {
            bucket: bucket.clone(),
            storage: StorageType::File,
            num_replicas: connection.options.replicas,
            ..jetstream::object_store::Config::default()
        };
        let what = format!("object store {bucket}");
        let open = || async {
            let opened = connection.context.create_object_store(config.clone());
            opened.await.map_err(|error| Failure::of(&what, &error))
        };
        connection.call(&what, open).await?;
        let stream = connection.stream(&format!("OBJ_{bucket}")).await?;
        Ok(Arc::new(NatsObjects::new(
            connection.clone(),
            bucket,
            stream,
        )))
    }

    fn connection(&self) -> watch::Receiver<bool> {
        self.connection.connected()
    }
}
