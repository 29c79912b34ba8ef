//! Buckets to which clients put updates themselves, and refer to what they have put there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tributary_api::reference::{ObjectError, ObjectName, OpenObject, Pieces, UpdateObjects};
use tributary_store::{Backend, Error, Objects, Stream};

/// What a publisher has not deleted by then goes by itself, as the event that refers to it does.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The buckets from which updates may be fetched.
#[derive(Debug)]
pub(crate) struct UpdateBuckets(BTreeMap<String, Arc<dyn Objects>>);

impl UpdateBuckets {
    /// Opens these buckets; they are made if they are not there, so that clients find them. An empty name is none.
    pub(crate) async fn open(backend: &dyn Backend, names: &[String]) -> Result<Self, Error> {
        let mut buckets = BTreeMap::new();
        for name in names.iter().filter(|name| !name.is_empty()) {
            buckets.insert(name.clone(), backend.inbox(name, KEPT).await?);
        }
        Ok(Self(buckets))
    }
}

#[async_trait]
impl UpdateObjects for UpdateBuckets {
    async fn open(&self, object: &ObjectName) -> Result<OpenObject, ObjectError> {
        let Some(bucket) = self.0.get(&object.bucket) else {
            return Err(ObjectError::NotAllowed(format!(
                "{object}: this server fetches from no bucket of that name; its operator names those by --fetch-bucket"
            )));
        };
        let found = bucket.get(&object.name).await.map_err(|error| {
            if error.is_unavailable() {
                ObjectError::Unavailable(format!("{object}: {error}"))
            } else {
                ObjectError::NotFound(format!("{object}: {error}"))
            }
        })?;
        let found = found.ok_or_else(|| ObjectError::NotFound(format!("{object} is not there")))?;
        Ok(OpenObject {
            bytes: found.bytes,
            content: Box::new(Content(found.content)),
        })
    }
}

struct Content(Stream<Result<Bytes, Error>>);

#[async_trait]
impl Pieces for Content {
    async fn next(&mut self) -> Option<Result<Bytes, String>> {
        let piece = self.0.next().await?;
        Some(piece.map_err(|error| error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tributary_store::{Retention, embedded};

    #[tokio::test]
    async fn only_named_buckets_are_read() {
        let store = embedded::memory(Retention::default()).unwrap();
        let secret = store.objects("blobs").await.unwrap();
        let content = || stream::iter([Ok(Bytes::from_static(b"content"))]).boxed();
        secret.put("a", content()).await.unwrap();
        let buckets = UpdateBuckets::open(&store, &["updates".into(), String::new()]).await;
        let buckets = buckets.unwrap();
        let updates = store.objects("updates").await.unwrap();
        updates.put("c/1", content()).await.unwrap();
        let open = async |bucket: &str, name: &str| {
            let (bucket, name) = (bucket.to_owned(), name.to_owned());
            UpdateObjects::open(&buckets, &ObjectName { bucket, name }).await
        };
        let mut object = open("updates", "c/1").await.unwrap();
        assert_eq!(object.bytes, 7);
        let piece = object.content.next().await;
        assert_eq!(piece, Some(Ok(Bytes::from_static(b"content"))));
        assert_eq!(object.content.next().await, None);
        let error = open("blobs", "a").await.map(drop).unwrap_err();
        assert!(matches!(&error, ObjectError::NotAllowed(why) if why.contains("--fetch-bucket")));
        for name in ["b", "../blobs/a", ""] {
            let error = open("updates", name).await.map(drop).unwrap_err();
            assert!(matches!(error, ObjectError::NotFound(_)), "{name}: {error}");
        }
    }
}
