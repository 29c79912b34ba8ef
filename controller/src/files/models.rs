//! The versions of models that rounds made.
//!
//! Objects `<job>/<version>.safetensors`, written whole or not at all. There is no record of a job's version
//! beside them, so no crash can make a record and the objects disagree: the newest whole one is the truth.
//! A job without objects is at version 1, the model of its manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tributary_api::{
    Name,
    control::{CheckpointError, Checkpoints, ModelParts},
    model::ModelLayout,
};
use tributary_store::{Error as StoreError, Objects, Orphans};

use crate::Error;

/// The versions of a job that are kept.
const VERSIONS_KEPT: usize = 5;

/// Pieces that may be on their way to the store at a time.
const PARTS_AHEAD: usize = 4;

const EXTENSION: &str = ".safetensors";

/// The models of all jobs.
#[derive(Debug, Clone)]
pub struct Models {
    objects: Arc<dyn Objects>,
    /// The kept versions of the jobs that this process saves, so that a save lists nothing.
    saved: Arc<Mutex<BTreeMap<Name, BTreeSet<u64>>>>,
}

impl Models {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self {
            objects,
            saved: Arc::default(),
        }
    }

    /// The newest version that is whole and has the job's layout, and its file.
    pub(crate) async fn newest(
        &self,
        job: &Name,
        layout: &ModelLayout,
    ) -> Result<Option<(u64, Bytes)>, Error> {
        for version in self.versions(job).await?.into_iter().rev() {
            // Another node may have made a newer version meanwhile, and this one is forgotten.
            let Some(file) = super::whole(&*self.objects, &name(job, version)).await? else {
                continue;
            };
            match ModelLayout::from_file(&file) {
                Ok((found, _)) if found == *layout => return Ok(Some((version, file))),
                Ok(_) => {
                    tracing::warn!(%job, version, "a kept model has another layout and is passed over");
                }
                Err(error) => {
                    tracing::warn!(%job, version, %error, "a kept model is damaged and is passed over");
                }
            }
        }
        Ok(None)
    }

    /// The kept versions of a job, the oldest first.
    pub(crate) async fn versions(&self, job: &Name) -> Result<Vec<u64>, StoreError> {
        let all = self.objects.list(&format!("{job}/")).await?;
        let mut versions: Vec<u64> = all.iter().filter_map(|(name, _)| version(name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The newest kept version of each job.
    pub(crate) async fn newest_versions(&self) -> Result<BTreeMap<Name, u64>, StoreError> {
        let mut newest = BTreeMap::new();
        for (job, version) in self.all().await? {
            let known: &mut u64 = newest.entry(job).or_default();
            *known = version.max(*known);
        }
        Ok(newest)
    }

    /// Removes everything of a job.
    pub(crate) async fn remove(&self, job: &Name) -> Result<(), Error> {
        for (name, _) in self.objects.list(&format!("{job}/")).await? {
            self.objects.delete(&name).await?;
        }
        Ok(())
    }

    /// The models of jobs for which `exists` says no.
    pub(crate) async fn unused(
        &self,
        exists: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>, Error> {
        let all = self.objects.list("").await?;
        let unused = |name: &String| !exists(name.split('/').next().unwrap_or_default());
        Ok(all
            .into_iter()
            .map(|(name, _)| name)
            .filter(unused)
            .collect())
    }

    /// Removes a model that [`Models::unused`] named.
    pub(crate) async fn remove_one(&self, name: &str) -> Result<(), Error> {
        Ok(self.objects.delete(name).await?)
    }

    /// Removes pieces of models that were never whole; see [`Objects::tidy`].
    pub(crate) async fn tidy(&self, seen: Orphans) -> Result<Orphans, Error> {
        Ok(self.objects.tidy(seen).await?)
    }

    /// Keeps a version, and forgets the oldest beyond those that are kept.
    pub(crate) async fn write(
        &self,
        job: &Name,
        version: u64,
        parts: ModelParts<'_>,
    ) -> Result<(), StoreError> {
        let (pieces, taken) = mpsc::channel(PARTS_AHEAD);
        let content = stream::unfold(taken, |mut taken| async {
            taken.recv().await.map(|piece| (piece, taken))
        });
        let name = name(job, version);
        let feed = async {
            for part in parts {
                let part = part.map_err(|why| {
                    let what = format!("model {job} version {version}");
                    StoreError::Malformed { what, why }
                });
                let last = part.is_err();
                // Nobody takes pieces any more if the store has failed, and it says why.
                if pieces.send(part).await.is_err() || last {
                    break;
                }
            }
            drop(pieces);
        };
        let (stored, ()) = tokio::join!(self.objects.put(&name, content.boxed()), feed);
        stored?;
        if let Err(error) = self.prune(job, version).await {
            tracing::debug!(%job, version, %error, "old versions stay until the next one is kept");
        }
        Ok(())
    }

    /// Forgets the oldest versions beyond those that are kept, now that `newest` is one of them.
    async fn prune(&self, job: &Name, newest: u64) -> Result<(), StoreError> {
        // Taken out: after a failure it is looked what is there.
        let known = self.saved().remove(job).unwrap_or_default();
        let follows = known.last().is_some_and(|last| last + 1 == newest);
        // Where versions are missing, somebody else may have kept some.
        let mut versions = if follows {
            known
        } else {
            self.versions(job).await?.into_iter().collect()
        };
        versions.insert(newest);
        while versions.len() > VERSIONS_KEPT
            && let Some(oldest) = versions.first().copied()
        {
            self.objects.delete(&name(job, oldest)).await?;
            versions.remove(&oldest);
        }
        self.saved().insert(job.clone(), versions);
        Ok(())
    }

    /// Forgets what is known of a job that does not run here any more.
    pub(crate) fn forget(&self, job: &Name) {
        self.saved().remove(job);
    }

    fn saved(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, BTreeSet<u64>>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version's file, if it is kept.
    pub(crate) async fn read(&self, job: &Name, version: u64) -> Result<Option<Bytes>, StoreError> {
        super::whole(&*self.objects, &name(job, version)).await
    }

    /// All that is kept: jobs and their versions.
    pub(crate) async fn all(&self) -> Result<Vec<(Name, u64)>, StoreError> {
        let all = self.objects.list("").await?;
        let parse = |name: &str| {
            let job = name.split('/').next()?.parse().ok()?;
            Some((job, version(name)?))
        };
        Ok(all.iter().filter_map(|(name, _)| parse(name)).collect())
    }
}

#[async_trait]
impl Checkpoints for Models {
    async fn save(
        &self,
        job: &Name,
        version: u64,
        parts: ModelParts<'_>,
    ) -> Result<(), CheckpointError> {
        let written = self.write(job, version, parts).await;
        written.map_err(|error| failed(job, version, &error))
    }

    async fn load(&self, job: &Name, version: u64) -> Result<Option<Bytes>, CheckpointError> {
        let read = self.read(job, version).await;
        read.map_err(|error| failed(job, version, &error))
    }
}

pub(super) fn failed(job: &Name, version: u64, error: &dyn std::fmt::Display) -> CheckpointError {
    CheckpointError {
        job: job.clone(),
        version,
        reason: error.to_string(),
    }
}

fn name(job: &Name, version: u64) -> String {
    format!("{job}/{version:020}{EXTENSION}")
}

fn version(name: &str) -> Option<u64> {
    let file = name.split('/').nth(1)?;
    file.strip_suffix(EXTENSION)?.parse().ok()
}
