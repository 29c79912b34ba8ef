//! Models of a node whose store is elsewhere: kept on the node's own disk while the store cannot be reached.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;
use tributary_api::{
    Name,
    control::{CheckpointError, Checkpoints, ModelParts},
};
use tributary_store::{Backend, Error as StoreError};

use super::models::{Models, failed};

/// The time after which what could not be brought to the store is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Checkpoints that wait on the node's disk until they can go where all nodes find them.
///
/// A round does not wait for a store that is away: the model is written here, and [`Spool::deliver`] brings the newest
/// of each job to the store once it is back.
#[derive(Debug)]
pub struct Spool {
    store: Models,
    backend: Arc<dyn Backend>,
    own: Models,
    /// Saving and delivering do not overtake each other.
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<bool>,
}

impl Spool {
    pub(crate) fn new(store: Models, backend: Arc<dyn Backend>, own: Models) -> Self {
        Self {
            store,
            backend,
            own,
            turn: tokio::sync::Mutex::default(),
            // An earlier life may have left some.
            waiting: Mutex::new(true),
        }
    }

    /// Brings what waits to the store whenever it can be reached, for ever. Drop the future to end it.
    pub async fn run(&self) {
        let mut connection = self.backend.connection();
        loop {
            if *connection.borrow_and_update() {
                self.deliver().await;
            }
            // What failed although the store is there is tried again by itself.
            if let Ok(Err(_)) = timeout(RETRY, connection.changed()).await {
                return std::future::pending().await;
            }
        }
    }

    /// Brings the newest version of each job to the store, and forgets what waited.
    async fn deliver(&self) {
        let _turn = self.turn.lock().await;
        if !std::mem::replace(&mut *self.waiting(), false) {
            return;
        }
        if let Err(error) = self.try_deliver().await {
            tracing::warn!(%error, "models wait on this node's disk for the store");
            *self.waiting() = true;
        }
    }

    async fn try_deliver(&self) -> Result<(), StoreError> {
        let mut waiting = self.own.all().await?;
        // The newest of a job comes last, and the others are of no use.
        waiting.sort();
        for (at, (job, version)) in waiting.iter().enumerate() {
            let newest = waiting.get(at + 1).is_none_or(|(next, _)| next != job);
            let stored = self.store.versions(job).await?.last().copied();
            if !newest || stored.is_some_and(|stored| stored >= *version) {
                continue;
            }
            if let Some(file) = self.own.read(job, *version).await? {
                let parts = Box::new(std::iter::once(Ok(file)));
                self.store.write(job, *version, parts).await?;
                tracing::info!(%job, version, "a model that waited on this node's disk is stored");
            }
        }
        for (job, _) in waiting {
            if let Err(error) = self.own.remove(&job).await {
                tracing::warn!(%error, %job, "a model that waited cannot be removed");
            }
        }
        Ok(())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, bool> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Checkpoints for Spool {
    async fn save(
        &self,
        job: &Name,
        version: u64,
        parts: ModelParts<'_>,
    ) -> Result<(), CheckpointError> {
        let _turn = self.turn.lock().await;
        if self.backend.connected() {
            return self.store.save(job, version, parts).await;
        }
        tracing::warn!(%job, version, "the store is away: the model waits on this node's disk");
        let written = self.own.write(job, version, parts).await;
        *self.waiting() = true;
        written.map_err(|error| failed(job, version, &error))
    }

    async fn load(&self, job: &Name, version: u64) -> Result<Option<Bytes>, CheckpointError> {
        if let Ok(Some(file)) = self.own.read(job, version).await {
            return Ok(Some(file));
        }
        self.store.load(job, version).await
    }
}
