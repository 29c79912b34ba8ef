//! Objects in an object store: pieces on a subject of their own, then one message that makes them the object.
//!
//! The format is NATS's own (ADR-20). The library's reader and writer are not used: they leave the pieces of a broken
//! write behind, read names from copies that may be behind, and wait for ever for pieces that are gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::header;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::connection::Connection;
use super::failure::Failure;
use super::follow::Follower;
use super::read;
use crate::{Error, Object, Objects, Orphans, Stream as Boxed, names};

/// The size of a piece.
const PIECE_BYTES: usize = 512 << 10;

/// So few pieces are asked for one by one, and so is the first of many. A consumer outlives its use by half a minute, and a
/// stream has only so many of them.
const FEW: usize = 8;

/// A reader that has waited for a piece for so long looks whether the object is still there.
const STALLED: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(super) struct NatsObjects {
    connection: Arc<Connection>,
    bucket: Arc<str>,
    stream: Stream,
}

/// Pieces that have been written.
#[derive(Default)]
struct Pieces {
    count: usize,
    bytes: usize,
    digest: Sha256,
}

impl NatsObjects {
    pub(super) fn new(connection: Arc<Connection>, bucket: String, stream: Stream) -> Self {
        let bucket = bucket.into();
        Self {
            connection,
            bucket,
            stream,
        }
    }

    fn name_subject(&self, name: &str) -> Result<String, Error> {
        names::key(name)?;
        Ok(format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(name)))
    }

    fn piece_subject(&self, object: &str) -> String {
        format!("$O.{}.C.{object}", self.bucket)
    }

    /// What the store says of a name.
    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        let subject = self.name_subject(name)?;
        let message = read::last(&self.connection, &self.stream, &subject).await?;
        let info = message.map(|message| parse(name, &message.payload));
        Ok(info.transpose()?.filter(|info| !info.deleted))
    }

    async fn store(&self, subject: &str, message: PublishMessage) -> Result<(), Error> {
        // Repeated, it counts once.
        let message = message.message_id(nuid::next().as_str());
        self.connection.publish(subject, &message).await?;
        Ok(())
    }

    async fn write(
        &self,
        subject: &str,
        mut content: Boxed<Result<Bytes, Error>>,
    ) -> Result<Pieces, Error> {
        let size = PIECE_BYTES.min(self.connection.payload_bytes_max());
        let mut pieces = Pieces::default();
        let mut piece = BytesMut::with_capacity(size);
        while let Some(mut part) = content.try_next().await? {
            while !part.is_empty() {
                let room = (size - piece.len()).min(part.len());
                piece.extend_from_slice(&part.split_to(room));
                if piece.len() == size {
                    let full = std::mem::replace(&mut piece, BytesMut::with_capacity(size));
                    self.write_piece(subject, full.freeze(), &mut pieces)
                        .await?;
                }
            }
        }
        if !piece.is_empty() {
            self.write_piece(subject, piece.freeze(), &mut pieces)
                .await?;
        }
        Ok(pieces)
    }

    async fn write_piece(
        &self,
        subject: &str,
        piece: Bytes,
        pieces: &mut Pieces,
    ) -> Result<(), Error> {
        pieces.count += 1;
        pieces.bytes += piece.len();
        pieces.digest.update(&piece);
        self.store(subject, PublishMessage::build().payload(piece))
            .await
    }

    /// Makes `info` what the store says of its name.
    async fn publish(&self, info: &ObjectInfo) -> Result<(), Error> {
        let subject = self.name_subject(&info.name)?;
        let json = serde_json::to_vec(info)
            .map_err(|error| Error::malformed(format!("object {}", info.name), error))?;
        let message = PublishMessage::build()
            .header(header::NATS_ROLLUP, "sub")
            .payload(json.into());
        self.store(&subject, message).await
    }

    /// Removes what lies on a subject, up to the message `last`. No trace stays.
    async fn purge(&self, subject: &str, last: u64) -> Result<(), Error> {
        let purge = || async {
            let purged = self.stream.purge().sequence(last.saturating_add(1));
            let purged = purged.filter(subject).await;
            purged.map_err(|error| Failure::of(subject, &error))
        };
        self.connection.call(subject, purge).await.map(drop)
    }

    /// Frees the room of pieces that no name leads to. If that fails they stay until they are found as orphans.
    async fn free(&self, object: &str) {
        let subject = self.piece_subject(object);
        if let Err(error) = self.purge(&subject, u64::MAX).await {
            tracing::warn!(%error, subject, "pieces of an object could not be removed");
        }
    }

    /// Removes what says that an object is deleted, as other programs leave it; where the others' pieces lie.
    async fn tidy_names(&self) -> Result<BTreeSet<String>, Error> {
        let (connection, stream) = (&self.connection, &self.stream);
        let filter = format!("$O.{}.M.>", self.bucket);
        let (_, names) = read::subjects(connection, stream, &filter).await?;
        let mut pieces = BTreeSet::new();
        for subject in names.into_keys() {
            let Some(message) = read::last(connection, stream, &subject).await? else {
                continue;
            };
            match parse(&subject, &message.payload)? {
                info if info.deleted => self.purge(&subject, message.sequence).await?,
                info => drop(pieces.insert(self.piece_subject(&info.nuid))),
            }
        }
        Ok(pieces)
    }

    async fn read(&self, info: ObjectInfo) -> Result<Boxed<Result<Bytes, Error>>, Error> {
        let reader = Reader {
            objects: self.clone(),
            subject: self.piece_subject(&info.nuid),
            info,
            after: 0,
            pieces: Pieces::default(),
            follower: None,
        };
        let content = stream::try_unfold(reader, |mut reader| async move {
            let piece = reader.next().await?;
            Ok(piece.map(|piece| (piece, reader)))
        });
        Ok(content.boxed())
    }
}

#[async_trait]
impl Objects for NatsObjects {
    async fn put(&self, name: &str, content: Boxed<Result<Bytes, Error>>) -> Result<u64, Error> {
        let old = self.info(name).await?;
        let object = nuid::next().to_string();
        let written = self.write(&self.piece_subject(&object), content).await;
        let pieces = match written {
            Ok(pieces) => pieces,
            Err(error) => {
                self.free(&object).await;
                return Err(error);
            }
        };
        let bytes = pieces.bytes as u64;
        // From here on a failure says that it is not known whether the object is there: its pieces stay.
        self.publish(&self.described(name, object, pieces)).await?;
        if let Some(old) = old {
            self.free(&old.nuid).await;
        }
        Ok(bytes)
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let Some(info) = self.info(name).await? else {
            return Ok(None);
        };
        let bytes = info.size as u64;
        let content = self.read(info).await?;
        Ok(Some(Object { bytes, content }))
    }

    async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        let info = self.info(name).await?;
        Ok(info.map(|info| info.size as u64))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        let subject = self.name_subject(name)?;
        let Some(message) = read::last(&self.connection, &self.stream, &subject).await? else {
            return Ok(());
        };
        // What has taken the name since it was looked at stays.
        self.purge(&subject, message.sequence).await?;
        self.free(&parse(name, &message.payload)?.nuid).await;
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Error> {
        names::prefix(prefix)?;
        let subjects = format!("$O.{}.M.", self.bucket);
        let wanted = |subject: &str| {
            let name = URL_SAFE.decode(subject.strip_prefix(&subjects).unwrap_or_default());
            name.is_ok_and(|name| name.starts_with(prefix.as_bytes()))
        };
        let (connection, filter) = (&self.connection, format!("{subjects}>"));
        let snapshot = read::snapshot(connection, &self.stream, &filter, wanted).await?;
        let mut list = Vec::new();
        for message in snapshot.messages {
            let info = parse(&message.subject, &message.payload)?;
            if !info.deleted {
                list.push((info.name, info.size as u64));
            }
        }
        list.sort_unstable();
        Ok(list)
    }

    async fn tidy(&self, seen: Orphans) -> Result<Orphans, Error> {
        let filter = format!("$O.{}.C.>", self.bucket);
        // Pieces first: what is described in the meantime is no orphan.
        let (_, mut pieces) = read::subjects(&self.connection, &self.stream, &filter).await?;
        let described = self.tidy_names().await?;
        pieces.retain(|subject, _| !described.contains(subject));
        for (subject, count) in &pieces {
            if seen.0.get(subject) == Some(count) {
                self.purge(subject, u64::MAX).await?;
            }
        }
        pieces.retain(|subject, count| seen.0.get(subject) != Some(count));
        Ok(Orphans(pieces))
    }
}

impl NatsObjects {
    fn described(&self, name: &str, object: String, pieces: Pieces) -> ObjectInfo {
        ObjectInfo {
            name: name.to_owned(),
            description: None,
            metadata: std::collections::HashMap::new(),
            headers: None,
            options: Some(ObjectOptions {
                link: None,
                max_chunk_size: Some(PIECE_BYTES),
            }),
            bucket: self.bucket.to_string(),
            nuid: object,
            size: pieces.bytes,
            chunks: pieces.count,
            modified: None,
            digest: Some(digest(pieces.digest)),
            deleted: false,
        }
    }
}

/// Reads an object's pieces, over lost connections.
struct Reader {
    objects: NatsObjects,
    info: ObjectInfo,
    subject: String,
    after: u64,
    pieces: Pieces,
    follower: Option<Follower>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.pieces.count == self.info.chunks {
            self.verify()?;
            return Ok(None);
        }
        let objects = &self.objects;
        let beginning = self.pieces.count == 0 || self.info.chunks <= FEW;
        let options = self.info.options.as_ref();
        let fits = options.is_none_or(|has| has.max_chunk_size.unwrap_or(0) <= PIECE_BYTES);
        if beginning && fits {
            let (connection, stream) = (&objects.connection, &objects.stream);
            let next = read::next(connection, stream, &self.subject, self.after + 1).await?;
            if let Some(next) = next {
                return Ok(Some(self.take(next.sequence, next.payload)));
            }
        }
        loop {
            let objects = &self.objects;
            let follower = match &mut self.follower {
                Some(follower) => follower,
                empty => empty.insert(
                    Follower::begin(
                        &objects.connection,
                        &objects.stream,
                        &self.subject,
                        self.after,
                    )
                    .await?,
                ),
            };
            match timeout(STALLED, follower.next()).await {
                Ok(Ok((number, message))) => {
                    return Ok(Some(self.take(number, message.message.payload)));
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "an object is read on");
                    self.follower = None;
                }
                Err(_) => still_there(objects, &self.info).await?,
            }
        }
    }

    fn take(&mut self, number: u64, piece: Bytes) -> Bytes {
        self.after = number;
        self.pieces.count += 1;
        self.pieces.bytes += piece.len();
        self.pieces.digest.update(&piece);
        piece
    }

    fn verify(&mut self) -> Result<(), Error> {
        let found = digest(std::mem::take(&mut self.pieces.digest));
        let whole = self.pieces.bytes == self.info.size;
        let same = self.info.digest.as_ref().is_none_or(|told| *told == found);
        if whole && same {
            return Ok(());
        }
        let what = format!("object {}", self.info.name);
        Err(Error::malformed(
            what,
            "its content is damaged; store it again",
        ))
    }
}

/// Whether what is read is still the object of its name.
async fn still_there(objects: &NatsObjects, info: &ObjectInfo) -> Result<(), Error> {
    let now = objects.info(&info.name).await?;
    if now.is_some_and(|now| now.nuid == info.nuid) {
        return Ok(());
    }
    let what = format!("object {}", info.name);
    let why = "it was replaced or deleted while it was read; read it again";
    Err(Error::unavailable(what, why))
}

fn digest(digest: Sha256) -> String {
    format!("SHA-256={}", URL_SAFE.encode(digest.finalize()))
}

fn parse(name: &str, json: &[u8]) -> Result<ObjectInfo, Error> {
    serde_json::from_slice(json).map_err(|error| {
        let why = format!("its description cannot be read: {error}");
        Error::malformed(format!("object {name}"), why)
    })
}
