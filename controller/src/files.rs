//! Large things, kept through `object_store`: a local directory now, a bucket by URL later.

pub(crate) mod blobs;
pub(crate) mod models;

use std::{fs, io, path::Path, sync::Arc};

use object_store::{ObjectStore, local::LocalFileSystem};

use crate::Error;

/// An object store in `directory`, durable and without what a killed process left half-written.
fn local(directory: &Path) -> Result<Arc<dyn ObjectStore>, Error> {
    let failed = |error| Error::Directory {
        path: directory.display().to_string(),
        error,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    remove_staged(directory).map_err(failed)?;
    let store = LocalFileSystem::new_with_prefix(directory)?;
    Ok(Arc::new(
        store.with_fsync(true).with_automatic_cleanup(true),
    ))
}

/// `object_store` writes to `<name>#<number>` and renames when all is written. Nothing here has a '#' in its name.
fn remove_staged(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if entry.file_name().to_string_lossy().contains('#') {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
