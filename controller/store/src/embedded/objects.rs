//! Objects through the `object_store` crate: a directory, or any store that it knows.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    ObjectStore, ObjectStoreExt, WriteMultipart, local::LocalFileSystem, path::Path,
};

use crate::{Error, Object, Objects, Stream, names};

/// Pieces that may be on their way to the disk at a time.
const PARTS_AHEAD: usize = 4;

/// A folder of an object store.
#[derive(Debug)]
pub(super) struct Folder {
    store: Arc<dyn ObjectStore>,
    /// The same files, written without a sync; only a directory has them.
    unsynced: Option<Arc<LocalFileSystem>>,
    bucket: String,
}

impl Folder {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        unsynced: Option<Arc<LocalFileSystem>>,
        bucket: &str,
    ) -> Self {
        let bucket = bucket.to_owned();
        Self {
            store,
            unsynced,
            bucket,
        }
    }

    async fn write(
        &self,
        store: &dyn ObjectStore,
        name: &str,
        mut content: Stream<Result<Bytes, Error>>,
    ) -> Result<u64, Error> {
        let path = self.path(name)?;
        let failed = |error| self.failed(name, &error);
        // Dropping the upload, at an error for instance, removes what was written.
        let upload = store.put_multipart(&path).await.map_err(failed)?;
        let mut upload = WriteMultipart::new(upload);
        let mut bytes = 0;
        while let Some(part) = content.try_next().await? {
            bytes += part.len() as u64;
            upload
                .wait_for_capacity(PARTS_AHEAD)
                .await
                .map_err(failed)?;
            upload.put(part);
        }
        upload.finish().await.map_err(failed)?;
        Ok(bytes)
    }

    fn path(&self, name: &str) -> Result<Path, Error> {
        names::key(name)?;
        Ok(Path::from(format!("{}/{name}", self.bucket)))
    }

    fn failed(&self, name: &str, error: &object_store::Error) -> Error {
        Error::storage(format!("object {}/{name}", self.bucket), error)
    }
}

#[async_trait]
impl Objects for Folder {
    async fn put(&self, name: &str, content: Stream<Result<Bytes, Error>>) -> Result<u64, Error> {
        self.write(&*self.store, name, content).await
    }

    async fn put_unsynced(
        &self,
        name: &str,
        content: Stream<Result<Bytes, Error>>,
    ) -> Result<u64, Error> {
        match &self.unsynced {
            Some(store) => self.write(&**store, name, content).await,
            None => self.put(name, content).await,
        }
    }

    async fn sync(&self, name: &str) -> Result<(), Error> {
        let Some(store) = &self.unsynced else {
            return Ok(());
        };
        let file = store.path_to_filesystem(&self.path(name)?);
        let file = file.map_err(|error| self.failed(name, &error))?;
        let what = file.display().to_string();
        let synced = tokio::task::spawn_blocking(move || sync(&file)).await;
        match synced {
            Ok(Err(error)) if error.kind() != ErrorKind::NotFound => {
                Err(Error::storage(what, error))
            }
            Ok(_) => Ok(()),
            Err(panic) => Err(Error::storage(what, panic)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let path = self.path(name)?;
        let found = match self.store.get(&path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed(name, &error)),
        };
        let bytes = found.meta.size;
        let what = format!("object {}/{name}", self.bucket);
        let content = found
            .into_stream()
            .map_err(move |error| Error::storage(what.clone(), error))
            .boxed();
        Ok(Some(Object { bytes, content }))
    }

    async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        match self.store.head(&self.path(name)?).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(&self.path(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Error> {
        names::prefix(prefix)?;
        // The store's own prefixes are whole folders.
        let within = prefix.rfind('/').map_or("", |end| &prefix[..end]);
        let found: Vec<_> = self
            .store
            .list(Some(&Path::from(format!("{}/{within}", self.bucket))))
            .try_collect()
            .await
            .map_err(|error| self.failed(prefix, &error))?;
        let folder = format!("{}/", self.bucket);
        let mut list: Vec<_> = found
            .iter()
            .filter_map(|found| Some((found.location.as_ref().strip_prefix(&folder)?, found.size)))
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect();
        list.sort_unstable();
        Ok(list)
    }
}

/// The file's content, then its name.
fn sync(file: &std::path::Path) -> io::Result<()> {
    File::open(file)?.sync_all()?;
    file.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
