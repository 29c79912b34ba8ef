//! Opens buckets and the bus by name.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{Bus, Error, Keys, Objects};

/// A part of the store, and how full it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The part's name.
    pub name: String,
    /// What lies in it, in one copy.
    pub bytes: u64,
    /// The most that fits, if what does not fit is refused.
    pub bytes_max: Option<u64>,
}

/// A store with everything in it: embedded, or NATS. Opening the same name again gives the same thing.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// A bucket of small values, made if it is not there. With a `ttl`, entries vanish that long after their last write.
    async fn keys(&self, name: &str, ttl: Option<Duration>) -> Result<Arc<dyn Keys>, Error>;

    /// The bus.
    async fn bus(&self) -> Result<Arc<dyn Bus>, Error>;

    /// A bucket of large things, made if it is not there.
    async fn objects(&self, name: &str) -> Result<Arc<dyn Objects>, Error>;

    /// The same, for things that others put there to be fetched: each goes so long after it was put, if the store can see
    /// to that.
    async fn inbox(&self, name: &str, age: Duration) -> Result<Arc<dyn Objects>, Error> {
        let _ = age;
        self.objects(name).await
    }

    /// How full the parts of the store are that have limits of their own.
    async fn rooms(&self) -> Result<Vec<Room>, Error> {
        Ok(Vec::new())
    }

    /// Whether the store can be reached, now and as it changes. An embedded one always can.
    fn connection(&self) -> watch::Receiver<bool>;

    /// Whether the store can be reached now.
    fn connected(&self) -> bool {
        *self.connection().borrow()
    }
}
