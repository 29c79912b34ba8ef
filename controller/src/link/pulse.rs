//! A node's beats: one key of its name, which this process alone writes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tributary_store::{Error as StoreError, Keys};

use super::{NodeReport, Station};
use crate::Error;

/// Looks within the time that a beat is believed: whether another process beats shows in one of them.
const LOOKS: u32 = 12;

/// What a node's process has of its key.
pub(super) struct Pulse<'a> {
    keys: &'a dyn Keys,
    name: &'a str,
    station: &'a Station,
    /// The revision of what it wrote last. None: the key is not there.
    revision: Option<u64>,
}

impl<'a> Pulse<'a> {
    pub(super) const fn new(keys: &'a dyn Keys, name: &'a str, station: &'a Station) -> Self {
        Self {
            keys,
            name,
            station,
            revision: None,
        }
    }

    /// Waits until nobody else beats under the name.
    ///
    /// A beat of a process at the same address was this node's before: that one has ended, else this one could not listen
    /// there. Any other is believed as long as controllers believe it; if it is followed by another one meanwhile, two
    /// processes have one name.
    pub(super) async fn claim(&mut self, believed: Duration) -> Result<(), Error> {
        let another = |report: &NodeReport| !report.leaving && !self.station.is_at(&report.url);
        let Some(_) = self.look().await?.filter(another) else {
            return Ok(());
        };
        let (first, deadline) = (self.revision, Instant::now() + believed);
        while Instant::now() < deadline {
            sleep(believed / LOOKS).await;
            match self.look().await?.filter(another) {
                None => return Ok(()),
                Some(report) if self.revision != first => return Err(self.taken(report)),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Shows that the node lives, and how all its jobs are; so many times at most, and with the rest the next time.
    pub(super) async fn beats(&mut self, most: usize) -> Result<(), Error> {
        for _ in 0..most {
            self.beat().await?;
            if self.station.has_told_all() {
                break;
            }
        }
        Ok(())
    }

    /// Shows that the node lives.
    pub(super) async fn beat(&mut self) -> Result<(), Error> {
        let report = self.report().await?;
        if self.write(report.clone()).await? {
            return Ok(());
        }
        // An earlier beat, of which no answer came, was written after all; the entry's time is over; or somebody else
        // writes it.
        match self.look().await? {
            Some(other) if other.life != self.station.life() => Err(self.taken(other)),
            _ => self.write(report).await.map(drop),
        }
    }

    /// Lets everybody know at once that the node leaves.
    pub(super) async fn farewell(&mut self) {
        // Who hears neither learns it from the silence.
        let told = async {
            self.beat().await?;
            Ok::<_, Error>(self.keys.delete(self.name).await?)
        };
        if let Err(error) = told.await {
            tracing::warn!(%error, "nobody could be told that this node leaves");
        }
    }

    /// Writes the key, if it is as this process left it; whether it was.
    async fn write(&mut self, report: Bytes) -> Result<bool, Error> {
        let written = match self.revision {
            Some(revision) => self.keys.update(self.name, report, revision).await,
            None => self.keys.create(self.name, report).await,
        };
        match written {
            Ok(revision) => {
                self.revision = Some(revision);
                Ok(true)
            }
            Err(StoreError::Conflict { .. } | StoreError::Exists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What the key holds now. What cannot be read is of a version that is being replaced, and may be.
    async fn look(&mut self) -> Result<Option<NodeReport>, Error> {
        let entry = self.keys.get(self.name).await?;
        self.revision = entry.as_ref().map(|entry| entry.revision);
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
    }

    fn taken(&self, other: NodeReport) -> Error {
        Error::NameTaken {
            node: self.name.to_owned(),
            url: other.url.unwrap_or_default(),
        }
    }

    async fn report(&self) -> Result<Bytes, Error> {
        Ok(serde_json::to_vec(&self.station.report().await)?.into())
    }
}
