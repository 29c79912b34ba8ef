//! The versions of models that rounds made.
//!
//! Objects `<job>/<version>.safetensors`, written whole or not at all. There is no record of a job's version
//! beside them, so no crash can make a record and the objects disagree: the newest whole one is the truth.
//! A job without objects is at version 1, the model of its manifest.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tributary_api::{
    Name,
    control::{CheckpointError, Checkpoints, ModelParts},
    model::ModelLayout,
};
use tributary_store::{Error as StoreError, Objects};

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
}

impl Models {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
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

    /// Removes everything of a job.
    pub(crate) async fn remove(&self, job: &Name) -> Result<(), Error> {
        for (name, _) in self.objects.list(&format!("{job}/")).await? {
            self.objects.delete(&name).await?;
        }
        Ok(())
    }

    /// Removes the models of jobs for which `exists` says no.
    pub(crate) async fn retain(&self, exists: impl Fn(&str) -> bool) -> Result<(), Error> {
        for (name, _) in self.objects.list("").await? {
            let job = name.split('/').next().unwrap_or_default();
            if !exists(job) {
                self.objects.delete(&name).await?;
            }
        }
        Ok(())
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
        let versions = self.versions(job).await?;
        let excess = versions.len().saturating_sub(VERSIONS_KEPT);
        for old in &versions[..excess] {
            self.objects.delete(&self::name(job, *old)).await?;
        }
        Ok(())
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
