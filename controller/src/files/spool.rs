//! A node's own disk, where every model goes first, and from there to where all nodes find it.
//!
//! A round waits for the own disk alone, whatever state the store is in. Everything else happens behind, for each job by
//! itself: the file is synced, older ones are forgotten, and the newest goes to the store; what a newer one has
//! overtaken does not. So a job has at most two models here that wait, and one that is slow or fails holds up nobody.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::watch, time::timeout};
use tributary_api::{
    Name,
    control::{CheckpointError, Checkpoints, ModelKey, ModelParts, Undelivered},
    manifest::Checkpoint,
    model::ModelLayout,
};
use tributary_store::{Backend, Error as StoreError};

use super::models::{self, Beginning, Models};
use crate::Error;

/// The pause after a first failure. It doubles with each further one, up to the greatest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The models of a job that a node keeps whose store is elsewhere: the newest may not be synced yet.
pub(crate) const OWN_KEPT: usize = 2;

/// Where a node keeps the models that its rounds make.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    own: Models,
    /// Where all nodes find them; `None` if this is it.
    store: Option<(Models, Arc<dyn Backend>)>,
    /// What is to be done behind. While there is an entry, a task does it.
    waiting: Mutex<BTreeMap<(Stage, Name), Waiting>>,
    /// Counts what has been done.
    done: watch::Sender<u64>,
}

/// What happens to a model that is written, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Sync,
    Deliver,
}

#[derive(Debug)]
struct Waiting {
    /// The newest one; those before it are of no use any more.
    model: ModelKey,
    since: Instant,
}

impl Spool {
    pub(crate) fn new(own: Models, store: Option<(Models, Arc<dyn Backend>)>) -> Self {
        Self(Arc::new(Shared {
            own,
            store,
            waiting: Mutex::default(),
            done: watch::Sender::new(0),
        }))
    }

    /// Goes on with what an earlier life of the process has left.
    pub(crate) async fn resume(&self) -> Result<(), Error> {
        if self.0.store.is_none() {
            return Ok(());
        }
        let mut all = self.0.own.all().await?;
        all.sort_unstable();
        let mut left: BTreeMap<Name, Vec<ModelKey>> = BTreeMap::new();
        for model in all {
            let file = self.0.own.read(&model).await?;
            if file.is_some_and(|file| ModelLayout::from_file(&file).is_err()) {
                // The number counts: it was given.
                tracing::warn!(%model, "a model on this node's disk is damaged, and stays here");
                continue;
            }
            left.entry(model.job.clone()).or_default().push(model);
        }
        for (job, models) in left {
            models
                .last()
                .into_iter()
                .for_each(|newest| self.add(Stage::Sync, newest.clone()));
            tokio::spawn(self.clone().clear(job, models));
        }
        Ok(())
    }

    /// Forgets models of an earlier life of the process once the newest is where all nodes find it.
    async fn clear(self, job: Name, models: Vec<ModelKey>) {
        self.flush(Some(&job), Duration::MAX).await;
        for model in models {
            if let Err(error) = self.0.own.delete(&model).await {
                tracing::warn!(%model, %error, "a model that is stored stays on this node's disk as well");
            }
        }
    }

    /// The newest model of that life on the own disk or in the store.
    pub(crate) async fn newest(
        &self,
        job: &Name,
        life: u64,
        layout: &ModelLayout,
    ) -> Result<Option<Beginning>, Error> {
        match &self.0.store {
            None => self.0.own.newest(job, life, layout).await,
            Some((store, _)) => models::newest(&[&self.0.own, store], job, life, layout).await,
        }
    }

    /// A model on the own disk by its version.
    ///
    /// # Errors
    /// As the disk fails.
    pub async fn load(&self, job: &Name, version: u64) -> Result<Option<Bytes>, Error> {
        let keys = self.0.own.keys(job).await?;
        match keys.iter().rfind(|key| key.version == version) {
            Some(key) => Ok(self.0.own.read(key).await?),
            None => Ok(None),
        }
    }

    /// Waits until nothing of a job waits any more, for so long at most; whether that is so.
    pub async fn flush(&self, job: Option<&Name>, limit: Duration) -> bool {
        let mut done = self.0.done.subscribe();
        let idle = |_: &u64| {
            let waiting = self.0.waiting();
            !waiting
                .keys()
                .any(|(_, name)| job.is_none_or(|job| job == name))
        };
        timeout(limit, done.wait_for(idle)).await.is_ok()
    }

    /// Forgets a job that does not run here any more, once all nodes can find its newest model.
    pub(crate) async fn release(&self, job: &Name, limit: Duration) -> Result<bool, Error> {
        if self.0.store.is_none() {
            return Ok(true);
        }
        if !self.flush(Some(job), limit).await {
            return Ok(false);
        }
        self.0.own.forget(job);
        self.0.own.remove(job).await?;
        Ok(true)
    }

    fn add(&self, stage: Stage, model: ModelKey) {
        let job = model.job.clone();
        if self.0.add(stage, model) {
            tokio::spawn(work(self.clone(), stage, job));
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<(Stage, Name), Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing of the job waited for that.
    fn add(&self, stage: Stage, model: ModelKey) -> bool {
        let mut waiting = self.waiting();
        let place = (stage, model.job.clone());
        if let Some(waits) = waiting.get_mut(&place) {
            waits.model = model.max(waits.model.clone());
            return false;
        }
        let since = Instant::now();
        waiting.insert(place, Waiting { model, since });
        true
    }

    /// Whether nothing newer waits.
    fn finish(&self, stage: Stage, model: &ModelKey) -> bool {
        let mut waiting = self.waiting();
        let place = (stage, model.job.clone());
        match waiting.get_mut(&place) {
            Some(waits) if waits.model != *model => {
                waits.since = Instant::now();
                false
            }
            _ => {
                waiting.remove(&place);
                true
            }
        }
    }

    async fn sync(&self, model: &ModelKey) -> Result<(), StoreError> {
        let synced = self.own.sync(model).await;
        // What is old goes also if the disk has trouble.
        self.own.prune(model).await?;
        synced
    }

    async fn deliver(&self, model: &ModelKey) -> Result<(), StoreError> {
        if let Some((store, _)) = &self.store {
            store.bring(&self.own, model).await?;
            if let Err(error) = store.prune(model).await {
                tracing::debug!(%model, %error, "old versions stay until the next one is kept");
            }
        }
        Ok(())
    }

    /// So long, or until the store is there again.
    async fn pause(&self, pause: Duration) {
        match &self.store {
            Some((_, backend)) => {
                let mut connection = backend.connection();
                connection.mark_unchanged();
                let _ = timeout(pause, connection.changed()).await;
            }
            None => tokio::time::sleep(pause).await,
        }
    }
}

/// Does what waits of a job, the newest model only, until nothing waits.
async fn work(spool: Spool, stage: Stage, job: Name) {
    let shared = &spool.0;
    let mut pause = PAUSE;
    loop {
        let waits = shared
            .waiting()
            .get(&(stage, job.clone()))
            .map(|waits| waits.model.clone());
        let Some(model) = waits else { return };
        let done = match stage {
            Stage::Sync => shared.sync(&model).await,
            Stage::Deliver => shared.deliver(&model).await,
        };
        if let Err(error) = done {
            tracing::warn!(%model, %error, "the model waits on this node's disk");
            shared.pause(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            continue;
        }
        pause = PAUSE;
        if stage == Stage::Sync && shared.store.is_some() {
            spool.add(Stage::Deliver, model.clone());
        }
        let last = shared.finish(stage, &model);
        shared.done.send_modify(|done| *done += 1);
        if last {
            return;
        }
    }
}

#[async_trait]
impl Checkpoints for Spool {
    async fn save(
        &self,
        model: &ModelKey,
        checkpoint: Checkpoint,
        parts: ModelParts<'_>,
    ) -> Result<(), CheckpointError> {
        let written = self.0.own.write(model, checkpoint, parts).await;
        written.map_err(|error| CheckpointError {
            model: model.clone(),
            reason: error.to_string(),
        })?;
        self.add(Stage::Sync, model.clone());
        Ok(())
    }

    fn undelivered(&self) -> Undelivered {
        let waiting = self.0.waiting();
        let of_jobs = waiting
            .iter()
            .filter(|((stage, _), _)| *stage == Stage::Deliver);
        let ages: Vec<_> = of_jobs.map(|(_, waits)| waits.since.elapsed()).collect();
        Undelivered {
            jobs: ages.len(),
            longest: ages.into_iter().max().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
