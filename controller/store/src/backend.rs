//! Opens buckets and the bus by name.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{Bus, Error, Keys, Objects};

/// A store with everything in it: embedded, or NATS. Opening the same name again gives the same thing.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// A bucket of small values, made if it is not there. With a `ttl`, entries vanish that long after their last write.
    async fn keys(&self, name: &str, ttl: Option<Duration>) -> Result<Arc<dyn Keys>, Error>;

    /// The bus.
    async fn bus(&self) -> Result<Arc<dyn Bus>, Error>;

    /// A bucket of large things, made if it is not there.
    async fn objects(&self, name: &str) -> Result<Arc<dyn Objects>, Error>;

    /// Whether the store can be reached, now and as it changes. An embedded one always can.
    fn connection(&self) -> watch::Receiver<bool>;

    /// Whether the store can be reached now.
    fn connected(&self) -> bool {
        *self.connection().borrow()
    }
}
