//! Large things, kept in buckets of objects: files of a directory, or in NATS.

pub(crate) mod blobs;
pub(crate) mod models;
pub(crate) mod spool;
pub(crate) mod updates;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tributary_store::{Error, Object, Objects};

/// An object, whole.
async fn whole(objects: &dyn Objects, name: &str) -> Result<Option<Bytes>, Error> {
    match objects.get(name).await? {
        Some(object) => beginning(object, usize::MAX).await.map(Some),
        None => Ok(None),
    }
}

/// The first `length` bytes of an object, or as many as it has; a little more may be read.
async fn beginning(mut object: Object, length: usize) -> Result<Bytes, Error> {
    let capacity = usize::try_from(object.bytes).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(capacity.min(length));
    while bytes.len() < length {
        match object.content.next().await {
            Some(piece) => bytes.extend_from_slice(&piece?),
            None => break,
        }
    }
    bytes.truncate(length);
    Ok(bytes.freeze())
}
