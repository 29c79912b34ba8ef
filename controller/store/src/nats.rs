//! Everything in NATS JetStream, for several machines.
//!
//! Keys are key-value buckets, stored messages are streams, objects are object stores, all in NATS's own documented
//! formats: other NATS clients and its command line read them. Reads go to the leader of a stream, so who has been told
//! that something is written reads it.
//!
//! A call that finds the connection lost, or a stream without a leader, is tried again until
//! [`Options::call_timeout`], then it fails with [`Error::Unavailable`](crate::Error::Unavailable). Writes carry ids, by
//! which the server, or the writer itself, recognises a repeated one.
//!
//! # What NATS and its client library do not do by themselves
//! Seen with nats-server 2.15 and async-nats 0.51.
//! - A write that expects a revision is compared with the revision first, and with known ids second: repeated after a
//!   lost answer it is refused because of itself. So a refused repetition looks whose message is the newest one.
//! - A cluster refuses such a write with an error of its own (10164) while another one is on its way; the library knows
//!   only the other error.
//! - What is sent while there is no connection is kept, and happens later. So nothing is sent before there is one.
//! - Keys that expire leave no trace for watches, unless the bucket has markers for them (server 2.11). Markers expire as
//!   well, so a watch that was interrupted lists again and compares.
//! - Direct reads, and consumers, may be served by a copy that is behind. So values, lists and descriptions of objects
//!   are read from the stream's leader, and consumers only tell what comes after.
//! - An ordered consumer that is taken up again before anything has arrived begins with the oldest message.
//! - User and password in a server's URL are parsed, and not used.

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
        let keys = NatsKeys::new(connection.clone(), &bucket, store.stream);
        Ok(Arc::new(keys))
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
            // Somebody else may have made it, with limits of their own.
            if connection.context.get_object_store(&bucket).await.is_ok() {
                return Ok(());
            }
            let made = connection.context.create_object_store(config.clone()).await;
            made.map(drop).map_err(|error| Failure::of(&what, &error))
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
