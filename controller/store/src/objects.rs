//! Large things by name.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, Stream};

/// A stored object.
pub struct Object {
    /// Its size.
    pub bytes: u64,
    /// Its content, in pieces. An error in it means that the rest is missing.
    pub content: Stream<Result<Bytes, Error>>,
}

impl Debug for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Object")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Pieces of objects that a killed writer, or a killed deletion, has left: where they lie, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orphans(pub(crate) BTreeMap<String, usize>);

/// A bucket of large things. What is there is whole.
#[async_trait]
pub trait Objects: Debug + Send + Sync + 'static {
    /// Stores the content whole or not at all, and gives its size. If the name is in use, the new content takes the
    /// old one's place in one step; who reads the old one reads it to its end, or an error.
    ///
    /// # Errors
    /// The content's own, and then nothing is stored.
    async fn put(&self, name: &str, content: Stream<Result<Bytes, Error>>) -> Result<u64, Error>;

    /// As [`Objects::put`], but what is stored need not survive a crash of the machine before [`Objects::sync`].
    ///
    /// # Errors
    /// The content's own, and then nothing is stored.
    async fn put_unsynced(
        &self,
        name: &str,
        content: Stream<Result<Bytes, Error>>,
    ) -> Result<u64, Error> {
        self.put(name, content).await
    }

    /// Lets what [`Objects::put_unsynced`] has stored survive a crash of the machine. What is not there needs nothing.
    async fn sync(&self, _name: &str) -> Result<(), Error> {
        Ok(())
    }

    /// The object of that name.
    async fn get(&self, name: &str) -> Result<Option<Object>, Error>;

    /// The size of the object of that name.
    async fn size(&self, name: &str) -> Result<Option<u64>, Error>;

    /// Deletes an object, if it is there.
    async fn delete(&self, name: &str) -> Result<(), Error>;

    /// The objects whose names begin so, and their sizes; sorted by name. The empty prefix means all.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Error>;

    /// Removes what deletions by other programs have left, and those of the orphans `seen` by an earlier call to which
    /// nothing was added since; gives those that are left. Call it seldom: a writer that pauses for as long as the time
    /// between two calls loses its pieces.
    async fn tidy(&self, seen: Orphans) -> Result<Orphans, Error> {
        Ok(seen)
    }
}
