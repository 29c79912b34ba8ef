//! Content-addressed objects: modules and initial models.

use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use sha2::{Digest as _, Sha256};
use tributary_api::{
    Digest,
    model::{HEADER_BYTES_MAX, Header, HeaderError, ModelLayout, PREFIX_BYTES, header_length},
};
use tributary_store::{Objects, Orphans};

use crate::Error;

/// The largest blob that is taken.
pub(crate) const BLOB_BYTES_MAX: u64 = 64 << 30;

/// Objects by the digest of their bytes.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    objects: Arc<dyn Objects>,
}

impl Blobs {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// Stores a body under its digest. What is not whole or not `promised` leaves no trace.
    pub(crate) async fn put<E: Display>(
        &self,
        promised: Digest,
        body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    ) -> Result<(), Error> {
        let refusal = Arc::new(Mutex::new(None));
        let content = Checked {
            body,
            promised,
            hash: Sha256::new(),
            bytes: 0,
            refusal: Arc::clone(&refusal),
        };
        let pieces = stream::unfold(Some(content), |content| async {
            let mut content = content?;
            match content.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(content))),
                Ok(None) => None,
                Err(error) => Some((Err(content.refuse(error)), None)),
            }
        });
        let stored = self.objects.put(&name(promised), pieces.boxed()).await;
        match refusal.lock().ok().and_then(|mut refusal| refusal.take()) {
            Some(error) => Err(error),
            None => Ok(stored.map(drop)?),
        }
    }

    /// A blob's bytes.
    pub(crate) async fn get(&self, digest: Digest) -> Result<Bytes, Error> {
        let found = super::whole(&*self.objects, &name(digest)).await?;
        found.ok_or(Error::UnknownBlob(digest))
    }

    /// A blob's number of bytes.
    pub(crate) async fn size(&self, digest: Digest) -> Result<u64, Error> {
        let found = self.objects.size(&name(digest)).await?;
        found.ok_or(Error::UnknownBlob(digest))
    }

    /// The layout of a model; reads the header only. The inner error is the model's own.
    pub(crate) async fn layout(
        &self,
        digest: Digest,
    ) -> Result<Result<ModelLayout, HeaderError>, Error> {
        let prefix = self.beginning(digest, PREFIX_BYTES).await?;
        let size = self.size(digest).await?;
        let truncated = |needed| {
            let actual = size;
            Ok(Err(HeaderError::Truncated { actual, needed }))
        };
        let Some(length) = prefix.first_chunk::<PREFIX_BYTES>() else {
            return truncated(PREFIX_BYTES as u64);
        };
        let length = match header_length(*length, HEADER_BYTES_MAX) {
            Ok(length) => length,
            Err(error) => return Ok(Err(error)),
        };
        let header_end = PREFIX_BYTES + length;
        let header = self.beginning(digest, header_end).await?;
        let Some(json) = header.get(PREFIX_BYTES..header_end) else {
            return truncated(header_end as u64);
        };
        Ok(Header::parse(json).and_then(|header| {
            header.check_data_bytes(size - header_end as u64)?;
            ModelLayout::from_header(&header)
        }))
    }

    /// The blobs that are not in `used`.
    pub(crate) async fn unused(&self, used: &BTreeSet<Digest>) -> Result<BTreeSet<String>, Error> {
        let kept: BTreeSet<String> = used.iter().map(|digest| name(*digest)).collect();
        let all = self.objects.list("").await?;
        let names = all.into_iter().map(|(name, _)| name);
        Ok(names.filter(|name| !kept.contains(name)).collect())
    }

    /// Removes a blob that [`Blobs::unused`] named.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), Error> {
        Ok(self.objects.delete(name).await?)
    }

    /// Removes pieces of blobs that were never whole; see [`Objects::tidy`].
    pub(crate) async fn tidy(&self, seen: Orphans) -> Result<Orphans, Error> {
        Ok(self.objects.tidy(seen).await?)
    }

    async fn beginning(&self, digest: Digest, length: usize) -> Result<Bytes, Error> {
        let found = self.objects.get(&name(digest)).await?;
        let object = found.ok_or(Error::UnknownBlob(digest))?;
        Ok(super::beginning(object, length).await?)
    }
}

/// A body whose digest is compared at its end.
struct Checked<S> {
    body: S,
    promised: Digest,
    hash: Sha256,
    bytes: u64,
    /// Why it is not stored. Objects take the store's errors only.
    refusal: Arc<Mutex<Option<Error>>>,
}

impl<S, E> Checked<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(piece) = self.body.next().await else {
            return self.end().map(|()| None);
        };
        let piece =
            piece.map_err(|error| Error::Malformed(format!("the body broke off: {error}")))?;
        self.bytes += piece.len() as u64;
        if self.bytes > BLOB_BYTES_MAX {
            return Err(Error::TooLarge {
                max: BLOB_BYTES_MAX,
            });
        }
        self.hash.update(&piece);
        Ok(Some(piece))
    }

    fn end(&mut self) -> Result<(), Error> {
        let promised = self.promised;
        let actual = Digest::new(std::mem::take(&mut self.hash).finalize().into());
        if actual == promised {
            Ok(())
        } else {
            Err(Error::DigestMismatch { promised, actual })
        }
    }

    fn refuse(&self, error: Error) -> tributary_store::Error {
        let refused = tributary_store::Error::Malformed {
            what: format!("blob {}", self.promised),
            why: error.to_string(),
        };
        if let Ok(mut refusal) = self.refusal.lock() {
            *refusal = Some(error);
        }
        refused
    }
}

/// The object that holds a blob.
pub(crate) fn name(digest: Digest) -> String {
    let hex = digest.hex();
    format!("sha256/{}/{hex}", &hex[..2])
}
