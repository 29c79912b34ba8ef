//! Content-addressed files: modules and initial models.

use std::{collections::BTreeSet, path::Path as FilePath, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart, path::Path};
use sha2::{Digest as _, Sha256};
use tributary_api::{
    Digest,
    model::{HEADER_BYTES_MAX, Header, HeaderError, ModelLayout, PREFIX_BYTES, header_length},
};

use crate::Error;

/// The largest blob that is taken.
pub(crate) const BLOB_BYTES_MAX: u64 = 64 << 30;

/// Files by the digest of their bytes.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    store: Arc<dyn ObjectStore>,
}

impl Blobs {
    pub(crate) fn open(directory: &FilePath) -> Result<Self, Error> {
        Ok(Self {
            store: super::local(directory)?,
        })
    }

    /// Stores a body under its digest. What is not whole or not `promised` leaves no trace.
    pub(crate) async fn put<E: std::fmt::Display>(
        &self,
        promised: Digest,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), Error> {
        let mut hash = Sha256::new();
        let mut bytes = 0;
        // Dropping the upload, for instance because the client went away, removes what was written.
        let mut upload = WriteMultipart::new(self.store.put_multipart(&path(promised)).await?);
        while let Some(chunk) = body.next().await {
            let chunk =
                chunk.map_err(|error| Error::Malformed(format!("the body broke off: {error}")))?;
            bytes += chunk.len() as u64;
            if bytes > BLOB_BYTES_MAX {
                upload.abort().await?;
                return Err(Error::TooLarge {
                    max: BLOB_BYTES_MAX,
                });
            }
            hash.update(&chunk);
            upload.wait_for_capacity(4).await?;
            upload.put(chunk);
        }
        let actual = Digest::new(hash.finalize().into());
        if actual != promised {
            upload.abort().await?;
            return Err(Error::DigestMismatch { promised, actual });
        }
        upload.finish().await?;
        Ok(())
    }

    /// A blob's bytes.
    pub(crate) async fn get(&self, digest: Digest) -> Result<Bytes, Error> {
        let found = self
            .store
            .get(&path(digest))
            .await
            .map_err(|error| named(digest, error))?;
        Ok(found.bytes().await?)
    }

    /// A blob's number of bytes.
    pub(crate) async fn size(&self, digest: Digest) -> Result<u64, Error> {
        let found = self
            .store
            .head(&path(digest))
            .await
            .map_err(|error| named(digest, error))?;
        Ok(found.size)
    }

    /// The layout of a model; reads the header only. The inner error is the model's own.
    pub(crate) async fn layout(
        &self,
        digest: Digest,
    ) -> Result<Result<ModelLayout, HeaderError>, Error> {
        let size = self.size(digest).await?;
        let prefix_end = PREFIX_BYTES as u64;
        let truncated = |needed| {
            Ok(Err(HeaderError::Truncated {
                actual: size,
                needed,
            }))
        };
        if size < prefix_end {
            return truncated(prefix_end);
        }
        let prefix = self.store.get_range(&path(digest), 0..prefix_end).await?;
        let mut length = [0; PREFIX_BYTES];
        length.copy_from_slice(&prefix);
        let length = match header_length(length, HEADER_BYTES_MAX) {
            Ok(length) => length as u64,
            Err(error) => return Ok(Err(error)),
        };
        let header_end = prefix_end + length;
        if size < header_end {
            return truncated(header_end);
        }
        let json = self
            .store
            .get_range(&path(digest), prefix_end..header_end)
            .await?;
        Ok(Header::parse(&json).and_then(|header| {
            header.check_data_bytes(size - header_end)?;
            ModelLayout::from_header(&header)
        }))
    }

    /// Removes every blob that is not in `used`.
    pub(crate) async fn retain(&self, used: &BTreeSet<Digest>) -> Result<(), Error> {
        let kept: BTreeSet<Path> = used.iter().map(|digest| path(*digest)).collect();
        let all: Vec<_> = self.store.list(None).try_collect().await?;
        for blob in all
            .into_iter()
            .filter(|blob| !kept.contains(&blob.location))
        {
            self.store.delete(&blob.location).await?;
        }
        Ok(())
    }
}

fn path(digest: Digest) -> Path {
    let hex = digest.hex();
    Path::from_iter(["sha256", &hex[..2], &hex])
}

fn named(digest: Digest, error: object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::UnknownBlob(digest),
        other => other.into(),
    }
}
