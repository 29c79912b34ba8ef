//! Small values with revisions.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, Stream};

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Grows with every write in the bucket, over deletions and re-creations too. Never used twice.
    pub revision: u64,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key holds this. Values that were overwritten in the meantime may be left out; the newest never is, and a
    /// key's revisions only grow.
    Put(String, Entry),
    /// The key is gone: deleted, or its lifetime is over.
    Deleted(String),
    /// Everything that was there has been told. Comes once at the beginning, and again after each interruption.
    UpToDate,
}

/// A bucket of small values with optimistic concurrency.
///
/// Writes that fail with [`Error::Unavailable`] may have happened.
#[async_trait]
pub trait Keys: Debug + Send + Sync + 'static {
    /// What a key holds.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// All keys that begin so, sorted. The empty prefix means all.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error>;

    /// Writes a key that must not be there; the new revision.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::TooLarge`].
    async fn create(&self, key: &str, value: Bytes) -> Result<u64, Error>;

    /// Writes a key that must be there, at the revision `expected`; the new revision.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is at another revision, or gone; [`Error::TooLarge`].
    async fn update(&self, key: &str, value: Bytes, expected: u64) -> Result<u64, Error>;

    /// Writes a key, whatever is there; the new revision.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error>;

    /// Deletes a key, if it is there.
    async fn delete(&self, key: &str) -> Result<(), Error>;

    /// Deletes a key that is at this revision.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is at another revision, or gone.
    async fn delete_if(&self, key: &str, revision: u64) -> Result<(), Error>;

    /// The keys that begin so: first what is there, then [`Change::UpToDate`], then every change.
    ///
    /// The stream ends only with the store itself. When the connection is lost it says so once, as an error, and goes
    /// on by itself: what has changed meanwhile, and [`Change::UpToDate`] again.
    async fn watch(&self, prefix: &str) -> Result<Stream<Result<Change, Error>>, Error>;
}
