//! What the control plane keeps on disk.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tributary_api::control::Checkpoints;

use crate::{
    Error,
    files::{blobs::Blobs, models::Models},
    store::Store,
};

/// The state directory, opened. Only one process can have it open.
pub struct State {
    pub(crate) store: Arc<Store>,
    pub(crate) blobs: Blobs,
    pub(crate) models: Models,
    directory: PathBuf,
}

impl State {
    /// Opens the state in `directory`, which is made (mode 0700) if it does not exist.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open; otherwise as the file system fails.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |error| Error::Directory {
            path: directory.display().to_string(),
            error,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        // The store first: its lock keeps a second process from the files.
        let store = Arc::new(Store::open(&directory.join("store.redb"))?);
        let blobs = Blobs::open(&directory.join("blobs"))?;
        let models = Models::open(&directory.join("models"))?;
        Ok(Self {
            store,
            blobs,
            models,
            directory: directory.into(),
        })
    }

    /// Where a node keeps the models that its rounds make.
    #[must_use]
    pub fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        Arc::new(self.models.clone())
    }

    /// A directory beside the state for a part of the node, such as `modules`. It is not made.
    #[must_use]
    pub fn directory_of(&self, part: &str) -> PathBuf {
        self.directory.join(part)
    }
}
