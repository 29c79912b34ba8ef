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
mod streams;

use std::sync::{Arc, atomic::Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{Backend, Bus, Error, Keys, Objects, Room, names};
use bus::NatsBus;
use connection::Connection;
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

/// How a bucket of keys was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The copies of what it holds.
    pub replicas: usize,
    /// How long its entries live; `None` if for ever.
    pub ttl: Option<Duration>,
}

impl Nats {
    /// How a bucket of keys was made, if it was.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn made(&self, name: &str) -> Result<Option<Made>, Error> {
        let stream = format!("KV_{}_{name}", self.connection.options.prefix);
        let find = || self.connection.find(&stream);
        let found = self.connection.call(&stream, find).await?;
        Ok(found.map(|stream| {
            let config = &stream.cached_info().config;
            Made {
                replicas: config.num_replicas,
                ttl: Some(config.max_age).filter(|age| !age.is_zero()),
            }
        }))
    }

    /// The room that the servers have for everything, in bytes, as it was found when something was made; 0 before.
    #[must_use]
    pub fn room(&self) -> i64 {
        self.connection.room.load(Ordering::Relaxed)
    }

    /// From here on, what is not there is made with so many copies, and parts of so much room; 0 lets the servers say.
    pub fn agree(&self, replicas: usize, room: i64) {
        self.connection.replicas.store(replicas, Ordering::Relaxed);
        self.connection.room.store(room, Ordering::Relaxed);
    }

    async fn open_objects(
        &self,
        name: &str,
        age: Option<Duration>,
    ) -> Result<Arc<dyn Objects>, Error> {
        names::word("bucket", name)?;
        let connection = &self.connection;
        let plan = streams::objects(&connection.options.prefix, name, age);
        let stream = connection.shared(&plan).await?;
        let bucket = format!("{}_{name}", connection.options.prefix);
        Ok(Arc::new(NatsObjects::new(
            connection.clone(),
            bucket,
            stream,
        )))
    }
}

#[async_trait]
impl Backend for Nats {
    async fn keys(&self, name: &str, ttl: Option<Duration>) -> Result<Arc<dyn Keys>, Error> {
        names::word("bucket", name)?;
        let connection = &self.connection;
        let plan = streams::bucket(&connection.options.prefix, name, ttl);
        let (stream, config) = (connection.shared(&plan).await?, &plan.config);
        let lives = stream.cached_info().config.max_age;
        if lives != config.max_age {
            let why = format!(
                "its entries live for {lives:?}, and this process was told {:?}; tell all the same, or delete the stream {}",
                config.max_age, config.name
            );
            return Err(Error::malformed(format!("bucket {name}"), why));
        }
        let bucket = format!("{}_{name}", connection.options.prefix);
        // What vanishes by itself in a moment may be made anew: nobody keeps anything there.
        let anew = ttl.map(|_| plan);
        let keys = NatsKeys::new(connection.clone(), &bucket, stream, anew);
        Ok(Arc::new(keys))
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, Error> {
        let bus = NatsBus::open(self.connection.clone()).await?;
        Ok(Arc::new(bus))
    }

    async fn objects(&self, name: &str) -> Result<Arc<dyn Objects>, Error> {
        self.open_objects(name, None).await
    }

    async fn inbox(&self, name: &str, age: Duration) -> Result<Arc<dyn Objects>, Error> {
        self.open_objects(name, Some(age)).await
    }

    async fn rooms(&self) -> Result<Vec<Room>, Error> {
        self.connection.rooms().await
    }

    fn connection(&self) -> watch::Receiver<bool> {
        self.connection.connected()
    }
}
