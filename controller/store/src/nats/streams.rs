//! Streams are made where they are missing, and never changed: what all share is nobody's to change by starting.
//!
//! Each has a limit, which the server keeps free for it: what fills one leaves room in the others, so that a lease can be
//! renewed and beats arrive when no model fits any more. Servers do not say how much room they have; who makes the first
//! stream finds out by asking for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, ErrorCode};
use futures_util::TryStreamExt;

use super::MARKERS;
use super::connection::Connection;
use super::failure::Failure;
use crate::names::Family;
use crate::{Error, Retention, Room};

/// Copies in a cluster of servers, if nobody says otherwise.
const REPLICAS: usize = 3;

/// The most room that is asked for.
const ROOM_MAX: i64 = 1 << 40;

/// A server that has not so much room for a stream cannot be used.
const ROOM_MIN: i64 = 256 << 10;

/// The longest time within which a message's id is known.
const DUPLICATES: Duration = Duration::from_secs(120);

/// The most messages of a job that wait to be worked on.
const WAITING_MAX: i64 = 100_000;

/// How a stream is made.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// All but the limit.
    pub(super) config: Config,
    /// The most room that it is of use to have.
    most: i64,
    /// The part of the server's room that it may have.
    part: i64,
}

impl Plan {
    /// Small things: together they have a fifth of the room, and never need more than a little.
    fn small(name: &str, config: Config) -> Self {
        let most = match name {
            "leader" => 1 << 20,
            "nodes" => 64 << 20,
            "desired" => 256 << 20,
            "events" => 1 << 30,
            "placements" | "updates" => 128 << 20,
            _ => 8 << 20,
        };
        let part = 32;
        Self { config, most, part }
    }

    /// Models have half of the room, what they begin with a quarter.
    fn large(name: &str, config: Config) -> Self {
        let part = match name {
            "models" => 2,
            "blobs" => 4,
            _ => 16,
        };
        let most = ROOM_MAX;
        Self { config, most, part }
    }

    fn limit(&self, room: i64) -> i64 {
        self.most.min(room / self.part).max(ROOM_MIN)
    }
}

/// A bucket of keys; `Some` lifetime of its entries.
pub(super) fn bucket(prefix: &str, name: &str, ttl: Option<Duration>) -> Plan {
    let max_age = ttl.unwrap_or_default();
    let config = Config {
        name: format!("KV_{prefix}_{name}"),
        subjects: vec![format!("$KV.{prefix}_{name}.>")],
        max_messages_per_subject: 1,
        max_age,
        duplicate_window: ttl.unwrap_or(DUPLICATES).min(DUPLICATES),
        deny_delete: true,
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(MARKERS),
        ..kept()
    };
    Plan::small(name, config)
}

/// A bucket of objects.
pub(super) fn objects(prefix: &str, name: &str, age: Option<Duration>) -> Plan {
    let config = Config {
        name: format!("OBJ_{prefix}_{name}"),
        subjects: ["C", "M"]
            .map(|kind| format!("$O.{prefix}_{name}.{kind}.>"))
            .into(),
        max_age: age.unwrap_or_default(),
        ..kept()
    };
    Plan::large(name, config)
}

/// What both have in common: what is full refuses.
fn kept() -> Config {
    Config {
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// Messages. Of events the oldest go when there is no room; work that does not fit is refused.
pub(super) fn messages(prefix: &str, family: Family, retention: Retention) -> Plan {
    let name = family.as_str();
    let common = Config {
        name: format!("{prefix}_{name}").to_uppercase(),
        subjects: vec![format!("{prefix}.{name}.>")],
        max_age: retention.age,
        duplicate_window: retention.duplicates,
        storage: StorageType::File,
        ..Config::default()
    };
    let config = match family {
        Family::Events => Config {
            discard: DiscardPolicy::Old,
            ..common
        },
        Family::Updates => Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages_per_subject: WAITING_MAX,
            discard_new_per_subject: true,
            ..common
        },
    };
    Plan::small(name, config)
}

impl Connection {
    /// The stream of that name as it is; made like this if it is not there.
    pub(super) async fn shared(&self, plan: &Plan) -> Result<Stream, Error> {
        let name = &plan.config.name;
        let what = format!("stream {name}");
        let open = || async {
            match self.find(name).await? {
                Some(stream) => Ok(stream),
                None => self.make(&what, plan).await,
            }
        };
        self.call(&what, open).await
    }

    /// The stream of that name, if it is there.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Stream>, Failure> {
        match self.context.get_stream(name).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(refusal)
                    if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(None)
                }
                GetStreamErrorKind::JetStream(refusal) => Err(Failure::refused(name, &refusal)),
                _ => Err(Failure::of(name, &error)),
            },
        }
    }

    /// Makes a stream, with less room than is due to it if the server has not as much any more.
    async fn make(&self, what: &str, plan: &Plan) -> Result<Stream, Failure> {
        let mut config = plan.config.clone();
        config.max_bytes = plan.limit(self.room().await?);
        loop {
            let refusal = match self.create(what, &config).await? {
                Ok(stream) => return Ok(stream),
                Err(refusal) => refusal,
            };
            // Servers that have not found each other yet do not know of each other's room either.
            if refusal.error_code() == ErrorCode::CLUSTER_NO_PEERS {
                return Err(Failure::Again(refusal.to_string()));
            }
            config.max_bytes /= 2;
            if config.max_bytes < ROOM_MIN {
                let what = what.to_owned();
                return Err(Failure::Final(Error::Full { what }));
            }
        }
    }

    /// What the server has room for, nearly.
    async fn room(&self) -> Result<i64, Failure> {
        let mut room = self.room.load(Ordering::Relaxed);
        if room > 0 {
            return Ok(room);
        }
        // Servers that are just finding each other tell too little at first.
        loop {
            let before = room;
            room = self.probe().await?;
            if room == before {
                self.room.store(room, Ordering::Relaxed);
                return Ok(room);
            }
        }
    }

    /// Asks for less and less room, in steps of a half and three quarters, until there is so much.
    async fn probe(&self) -> Result<i64, Failure> {
        let prefix = &self.options.prefix;
        let mut probe = Config {
            name: format!("{prefix}_probe").to_uppercase(),
            subjects: vec![format!("{prefix}.probe")],
            ..kept()
        };
        let halves = std::iter::successors(Some(ROOM_MAX), |size| Some(size / 2));
        let sizes = halves.flat_map(|size| [size, size / 4 * 3]);
        for size in sizes.take_while(|size| *size >= ROOM_MIN) {
            // One that was killed in the middle of this may have left its probe.
            let _ = self.context.delete_stream(&probe.name).await;
            probe.max_bytes = size;
            if self.create(&probe.name, &probe).await?.is_ok() {
                let _ = self.context.delete_stream(&probe.name).await;
                return Ok(size);
            }
        }
        Err(Failure::Again(format!("no room for {ROOM_MIN} bytes")))
    }

    /// Makes a stream as it is, with one copy where servers are no cluster and nobody says how many; the refusal if there is
    /// not so much room.
    async fn create(
        &self,
        what: &str,
        config: &Config,
    ) -> Result<Result<Stream, jetstream::Error>, Failure> {
        loop {
            let replicas = self.replicas.load(Ordering::Relaxed);
            let copies = if replicas == 0 { REPLICAS } else { replicas };
            let config = Config {
                num_replicas: copies,
                ..config.clone()
            };
            let error = match self.context.create_stream(config).await {
                Ok(stream) => return Ok(Ok(stream)),
                Err(error) => error,
            };
            let CreateStreamErrorKind::JetStream(refusal) = error.kind() else {
                return Err(Failure::of(what, &error));
            };
            if lacks_room(&refusal) {
                return Ok(Err(refusal));
            }
            match refusal.error_code() {
                ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED if replicas == 0 => {
                    self.replicas.store(1, Ordering::Relaxed);
                }
                ErrorCode::CLUSTER_NO_PEERS => {
                    let why = format!(
                        "{refusal}: {copies} copies need as many servers; start them, or give --nats-replicas"
                    );
                    return Err(Failure::Again(why));
                }
                // Somebody else has made it in the meantime.
                ErrorCode::STREAM_NAME_EXIST => return Err(Failure::Again(refusal.to_string())),
                _ => return Err(Failure::refused(what, &refusal)),
            }
        }
    }

    /// How full the streams of this cluster are.
    pub(super) async fn rooms(&self) -> Result<Vec<Room>, Error> {
        let prefix = &self.options.prefix;
        let ours = [
            format!("KV_{prefix}_"),
            format!("OBJ_{prefix}_"),
            format!("{prefix}_").to_uppercase(),
        ];
        let list = || async {
            let listed = self.context.streams().try_collect::<Vec<_>>().await;
            listed.map_err(|error| Failure::of("streams", &error))
        };
        let streams = self.call("streams", list).await?.into_iter();
        let ours = streams.filter(|info| {
            let name = &info.config.name;
            ours.iter().any(|prefix| name.starts_with(prefix))
        });
        let room = |info: jetstream::stream::Info| Room {
            bytes: info.state.bytes,
            bytes_max: u64::try_from(info.config.max_bytes)
                .ok()
                .filter(|_| info.config.discard == DiscardPolicy::New),
            name: info.config.name,
        };
        Ok(ours.map(room).collect())
    }
}

/// Whether a stream is refused because of its limit: the server, or too few of the cluster's, have not as much room left.
fn lacks_room(refusal: &jetstream::Error) -> bool {
    let code = refusal.error_code();
    code == ErrorCode::STORAGE_RESOURCES_EXCEEDED
        || (code == ErrorCode::CLUSTER_NO_PEERS && refusal.to_string().contains("storage"))
}
