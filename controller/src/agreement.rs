//! What all processes of a cluster have to do alike: one record, which the first controller writes and all others follow.
//!
//! It is the key `cluster` of the bucket `desired`. A process that was told otherwise says so in a line, and follows: what
//! is shared does not change because somebody starts.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tributary_store::{Backend, Error as StoreError, nats::Nats};

use crate::{Beat, Error, link::NODES};

const KEY: &str = "cluster";

/// The layout of the record that this program writes, and the newest that it can read.
const FORMAT: u32 = 1;

/// The bucket of who leads.
const LEADER: &str = "leader";

/// The bucket of desired state, which is made first.
const DESIRED: &str = "desired";

const LEASE: Duration = Duration::from_secs(3);

/// What all processes of a cluster do alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agreement {
    format: u32,
    /// Copies of what is stored.
    replicas: usize,
    /// The room for all of it that the NATS servers had when the first controller came, in bytes; limits are parts of it.
    room_bytes: i64,
    lease_milliseconds: u64,
    beat_milliseconds: u64,
    beat_believed_milliseconds: u64,
}

/// What a process was told; it follows the others in the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Copies of what is stored.
    pub replicas: Option<usize>,
    /// The time after which a leader that is not heard is succeeded.
    pub lease: Option<Duration>,
    /// The time between two beats of a node.
    pub beat: Option<Duration>,
    /// The time after a node's last beat after which it counts as lost.
    pub believed: Option<Duration>,
}

impl Agreement {
    /// What the cluster has agreed on; `None` if no controller has come yet. What is made from here on is made like that.
    ///
    /// # Errors
    /// [`Error::Format`] if a newer version of the program has written it; otherwise as the store fails.
    pub async fn found(nats: &Nats) -> Result<Option<Self>, Error> {
        // The bucket is not made here: how many copies it has is a controller's to say.
        if nats.made(DESIRED).await?.is_none() {
            return Ok(None);
        }
        let Some(entry) = nats.keys(DESIRED, None).await?.get(KEY).await? else {
            return Ok(None);
        };
        let agreement: Self = serde_json::from_slice(&entry.value)?;
        if agreement.format > FORMAT {
            let (found, known) = (agreement.format, FORMAT);
            return Err(Error::Format { found, known });
        }
        nats.agree(agreement.replicas, agreement.room_bytes);
        Ok(Some(agreement))
    }

    /// The same, for a controller: it writes what it was told if there is nothing yet.
    ///
    /// # Errors
    /// As [`Agreement::found`]; [`Error::Malformed`] if beats would be believed for no longer than they take to come.
    pub async fn reached(nats: &Nats, told: Told) -> Result<Self, Error> {
        loop {
            if let Some(found) = Self::found(nats).await? {
                return Ok(found);
            }
            let keys = nats.keys(DESIRED, None).await?;
            let value = serde_json::to_vec(&Self::first(nats, told).await?)?;
            match keys.create(KEY, value.into()).await {
                // Another one was first, perhaps.
                Ok(_) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the first controller writes: what it was told, but for what an earlier version of the program has made.
    async fn first(nats: &Nats, told: Told) -> Result<Self, Error> {
        let lives =
            async |bucket| Ok::<_, Error>(nats.made(bucket).await?.and_then(|made| made.ttl));
        let beat = Beat::default();
        let every = told.beat.unwrap_or(beat.every);
        let believed = lives(NODES).await?.or(told.believed);
        let believed = believed.unwrap_or(beat.believed);
        if every >= believed {
            return Err(Error::Malformed(format!(
                "--beat {every:?} has to be less than --beat-believed {believed:?}; a third of it is usual"
            )));
        }
        let lease = lives(LEADER).await?.or(told.lease).unwrap_or(LEASE);
        let made = nats.made(DESIRED).await?;
        Ok(Self {
            format: FORMAT,
            replicas: made.map_or(1, |made| made.replicas),
            room_bytes: nats.room(),
            lease_milliseconds: milliseconds(lease),
            beat_milliseconds: milliseconds(every),
            beat_believed_milliseconds: milliseconds(believed),
        })
    }

    /// The time after which a leader that is not heard is succeeded.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_milliseconds)
    }

    /// How often nodes show that they live, and how long that is believed.
    #[must_use]
    pub fn beat(&self) -> Beat {
        Beat {
            every: Duration::from_millis(self.beat_milliseconds),
            believed: Duration::from_millis(self.beat_believed_milliseconds),
        }
    }

    /// Where it is not what a process was told, in a line.
    #[must_use]
    pub fn contradicts(&self, told: Told) -> Option<String> {
        let Beat { every, believed } = self.beat();
        let lines = [
            differ("--nats-replicas", &self.replicas, told.replicas),
            differ("--lease", &Shown(self.lease()), told.lease.map(Shown)),
            differ("--beat", &Shown(every), told.beat.map(Shown)),
            differ(
                "--beat-believed",
                &Shown(believed),
                told.believed.map(Shown),
            ),
        ];
        let lines: Vec<_> = lines.into_iter().flatten().collect();
        (!lines.is_empty()).then(|| {
            format!(
                "this cluster was set up otherwise, and stays so: {}; docs/operations.md says how it is changed",
                lines.join(", ")
            )
        })
    }
}

fn differ<T: PartialEq + fmt::Display>(option: &str, is: &T, told: Option<T>) -> Option<String> {
    let told = told.filter(|told| told != is)?;
    Some(format!("{option} is {is}, not {told}"))
}

#[derive(PartialEq)]
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
