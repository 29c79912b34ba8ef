//! The versions of models that rounds made.
//!
//! `models/<job>/<version>.safetensors`, written whole or not at all. There is no record of a job's version
//! beside the files, so no crash can make a record and the files disagree: the newest whole file is the truth.
//! A job without files is at version 1, the model of its manifest.

use std::{path::Path as FilePath, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart, path::Path};
use tributary_api::{
    Name,
    control::{CheckpointError, Checkpoints, ModelParts},
    model::ModelLayout,
};

use crate::Error;

/// The versions of a job that are kept.
const VERSIONS_KEPT: usize = 5;

/// Pieces that may be on their way to the disk at a time.
const PARTS_AHEAD: usize = 4;

const EXTENSION: &str = ".safetensors";

/// The models of all jobs.
#[derive(Debug, Clone)]
pub struct Models {
    store: Arc<dyn ObjectStore>,
}

impl Models {
    pub(crate) fn open(directory: &FilePath) -> Result<Self, Error> {
        Ok(Self {
            store: super::local(directory)?,
        })
    }

    /// The newest version that is whole and has the job's layout, and its file.
    pub(crate) async fn newest(
        &self,
        job: &Name,
        layout: &ModelLayout,
    ) -> Result<Option<(u64, Bytes)>, Error> {
        for version in self.versions(job).await?.into_iter().rev() {
            let file = self.store.get(&path(job, version)).await?.bytes().await?;
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
    pub(crate) async fn versions(&self, job: &Name) -> Result<Vec<u64>, Error> {
        let files: Vec<_> = self
            .store
            .list(Some(&Path::from(job.as_str())))
            .try_collect()
            .await?;
        let mut versions: Vec<u64> = files
            .iter()
            .filter_map(|file| version(&file.location))
            .collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Removes everything of a job.
    pub(crate) async fn remove(&self, job: &Name) -> Result<(), Error> {
        self.remove_under(Path::from(job.as_str())).await
    }

    /// Removes the models of jobs for which `exists` says no.
    pub(crate) async fn retain(&self, exists: impl Fn(&str) -> bool) -> Result<(), Error> {
        for job in self.store.list_with_delimiter(None).await?.common_prefixes {
            if !exists(job.filename().unwrap_or_default()) {
                self.remove_under(job).await?;
            }
        }
        Ok(())
    }

    async fn remove_under(&self, prefix: Path) -> Result<(), Error> {
        let files: Vec<_> = self.store.list(Some(&prefix)).try_collect().await?;
        for file in files {
            self.store.delete(&file.location).await?;
        }
        Ok(())
    }

    async fn write(
        &self,
        job: &Name,
        version: u64,
        parts: ModelParts<'_>,
    ) -> Result<(), WriteError> {
        // Dropping the upload, at an error for instance, removes what was written.
        let mut upload = WriteMultipart::new(self.store.put_multipart(&path(job, version)).await?);
        for part in parts {
            upload.wait_for_capacity(PARTS_AHEAD).await?;
            upload.put(part.map_err(WriteError::Part)?);
        }
        upload.finish().await?;
        let versions = self.versions(job).await?;
        let excess = versions.len().saturating_sub(VERSIONS_KEPT);
        for old in &versions[..excess] {
            self.store.delete(&path(job, *old)).await?;
        }
        Ok(())
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
        self.write(job, version, parts)
            .await
            .map_err(|error| failed(job, version, &error))
    }

    async fn load(&self, job: &Name, version: u64) -> Result<Option<Bytes>, CheckpointError> {
        let failed = |error: object_store::Error| failed(job, version, &error);
        match self.store.get(&path(job, version)).await {
            Ok(file) => Ok(Some(file.bytes().await.map_err(failed)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Why a version was not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error(transparent)]
    Versions(#[from] Error),
    /// A piece could not be made.
    #[error("{0}")]
    Part(String),
}

fn failed(job: &Name, version: u64, error: &dyn std::fmt::Display) -> CheckpointError {
    CheckpointError {
        job: job.clone(),
        version,
        reason: error.to_string(),
    }
}

fn path(job: &Name, version: u64) -> Path {
    Path::from(format!("{job}/{version:020}{EXTENSION}"))
}

fn version(path: &Path) -> Option<u64> {
    path.filename()?.strip_suffix(EXTENSION)?.parse().ok()
}
