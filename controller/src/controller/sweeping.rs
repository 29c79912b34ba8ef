//! What nothing refers to is removed: seldom, and only what is found twice.
//!
//! Nothing here decides by a clock that others set: the time between two looks is that of the process that leads. A
//! controller that does not lead any more removes nothing: before each removal it looks whether somebody else has written.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{sleep, timeout};
use tributary_store::Orphans;

use super::{Controller, Known, Lead, lock};
use crate::Error;

/// The time between two looks.
const SWEEP: Duration = Duration::from_secs(3600);

/// How often it is looked how full the store is.
const WEIGH: Duration = Duration::from_secs(30);

/// What one look has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unused {
    /// Blobs that no function or job names. One that was uploaded for an apply to come is not named either.
    blobs: BTreeSet<String>,
    /// Models of jobs that do not exist: deleted, or unknown to a store that was restored.
    models: BTreeSet<String>,
    /// Revisions that were never applied, or could not be removed.
    records: BTreeSet<String>,
    /// Pieces of blobs and of models.
    pieces: [Orphans; 2],
}

impl Controller {
    /// Sweeps as long as this controller leads.
    pub(super) async fn sweep(&self) {
        let mut lead = self.lead.subscribe();
        loop {
            let leads = |lead: &Lead| matches!(lead, Lead::Leading { .. });
            // The sender is this controller's own.
            let now = lead.wait_for(leads).await.map(|lead| lead.clone());
            let mut seen = Unused::default();
            while now.as_ref().is_ok_and(|now| *lead.borrow() == *now) {
                match self.sweep_once(&seen).await {
                    Ok(found) => seen = found,
                    Err(error) => tracing::debug!(%error, "what is not used stays for now"),
                }
                let over = lead.wait_for(|lead| now.as_ref().is_ok_and(|now| lead != now));
                let _ = timeout(SWEEP, over).await;
            }
        }
    }

    /// Keeps the metrics of how full the store is up to date, for ever.
    pub(super) async fn weigh(&self) {
        loop {
            match self.state.backend.rooms().await {
                Ok(rooms) => self.metrics.rooms(&rooms),
                Err(error) => tracing::debug!(%error, "it is not known how full the store is"),
            }
            sleep(WEIGH).await;
        }
    }

    /// Looks for what nothing refers to, and removes what a look before has `seen` as well; what is left.
    ///
    /// # Errors
    /// [`Error::NotLeading`], also when somebody else has written meanwhile; otherwise as the store fails.
    pub async fn sweep_once(&self, seen: &Unused) -> Result<Unused, Error> {
        let term = self.leading()?;
        // An apply may refer to what was not used a moment ago.
        let _turn = self.turn.lock().await;
        let (known, state) = (self.known(), &self.state);
        let asked_for = std::mem::take(&mut *lock(&self.asked_for));
        let mut found = Unused {
            blobs: self.unused_blobs().await?,
            models: state
                .models
                .unused(|job| known.desired.jobs.contains_key(job))
                .await?,
            records: state.store.unnamed(&known.desired).await?,
            pieces: Default::default(),
        };
        found.blobs.retain(|name| !asked_for.contains(name));
        for name in found.blobs.intersection(&seen.blobs) {
            self.still_leads(term, &known).await?;
            state.blobs.remove(name).await?;
        }
        for name in found.models.intersection(&seen.models) {
            self.still_leads(term, &known).await?;
            state.models.remove_one(name).await?;
        }
        for key in found.records.intersection(&seen.records) {
            self.still_leads(term, &known).await?;
            state.store.remove(key).await?;
        }
        self.still_leads(term, &known).await?;
        let [blobs, models] = seen.pieces.clone();
        found.pieces = [
            state.blobs.tidy(blobs).await?,
            state.models.tidy(models).await?,
        ];
        Ok(found)
    }

    /// Fails if anybody has written to desired state since it was read, or this controller does not lead any more.
    pub(super) async fn still_leads(&self, term: u64, known: &Known) -> Result<(), Error> {
        let current = self.state.store.is_current(&known.desired).await?;
        if current && self.term() == Some(term) {
            return Ok(());
        }
        Err(Error::NotLeading { leader: None })
    }
}
