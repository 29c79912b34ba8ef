//! What the control plane keeps.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tributary_api::reference::UpdateObjects;
use tributary_store::{Backend, Keys, embedded};

use crate::{
    Error,
    files::{
        blobs::Blobs,
        models::{Models, VERSIONS_KEPT},
        spool::{OWN_KEPT, Spool},
        updates::UpdateBuckets,
    },
    legacy,
    store::Store,
};

/// The state of the control plane: in a directory of one process, or where several processes share it.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) store: Store,
    /// Each job's placement.
    pub(crate) placements: Arc<dyn Keys>,
    pub(crate) blobs: Blobs,
    pub(crate) models: Models,
}

impl State {
    /// Opens the state in `directory`, which is made (mode 0700) if it does not exist. What an earlier version of the
    /// program kept there is taken over.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open; otherwise as the file system fails.
    pub async fn open(directory: &Path) -> Result<Self, Error> {
        make(directory)?;
        let legacy = legacy::find(directory)?;
        let backend = embedded::open(directory, embedded::Options::default())?;
        let state = Self::on(Arc::new(backend)).await?;
        if let Some(legacy) = legacy {
            legacy.take_over(&state.store).await?;
        }
        Ok(state)
    }

    /// The state that `backend` holds.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn on(backend: Arc<dyn Backend>) -> Result<Self, Error> {
        Ok(Self {
            store: Store::new(backend.keys("desired", None).await?),
            placements: backend.keys("placements", None).await?,
            blobs: Blobs::new(backend.objects("blobs").await?),
            models: Models::new(backend.objects("models").await?, VERSIONS_KEPT),
            backend,
        })
    }

    /// Where a node of this process keeps the models that its rounds make.
    #[must_use]
    pub fn checkpoints(&self) -> Arc<Spool> {
        Arc::new(Spool::new(self.models.clone(), None))
    }

    /// The buckets from which a node may fetch updates that clients put there.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn updates(&self, buckets: &[String]) -> Result<Arc<dyn UpdateObjects>, Error> {
        let buckets = UpdateBuckets::open(&*self.backend, buckets).await?;
        Ok(Arc::new(buckets))
    }

    /// Where a node that is one of several keeps the models that its rounds make: in `directory`, and behind that in the
    /// shared store.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has the directory open; otherwise as the file system fails.
    pub async fn spool(&self, directory: PathBuf) -> Result<Arc<Spool>, Error> {
        make(&directory)?;
        let own = embedded::open(&directory, embedded::Options::default())?;
        let own = Models::new(own.objects("models").await?, OWN_KEPT);
        let store = (self.models.clone(), Arc::clone(&self.backend));
        let spool = Spool::new(own, Some(store));
        spool.resume().await?;
        Ok(Arc::new(spool))
    }
}

fn make(directory: &Path) -> Result<(), Error> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    made.map_err(|error| Error::Directory {
        path: directory.display().to_string(),
        error,
    })
}
