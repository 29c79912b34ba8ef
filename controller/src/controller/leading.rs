//! Who leads, and what beginning and ceasing to lead take.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    select,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tributary_api::{Name, event::EventKind};
use tributary_store::{Campaign, Change, Error as StoreError, Keys, Leadership, Role};

use super::{Controller, Known, lock};
use crate::{
    Error, fleet::Passage, link::Command, placing::Placed, store, stragglers::Stragglers,
    voice::About,
};

/// The time after which a step of taking over is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a new leader waits for nodes to say how they are.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// How often blobs that nothing refers to are looked for; one has to be found twice.
const SWEEP: Duration = Duration::from_secs(3600);

/// How a controller that is one of several is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the others send writes while this one leads.
    pub url: String,
    /// The time after which a leader that is not heard is succeeded. The same for all controllers.
    pub lease: Duration,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lead {
    /// This controller.
    Leading { term: u64 },
    /// This controller is about to: it has the lease, and does not have the state yet.
    TakingOver,
    /// Another one, or none.
    Following { leader: Option<String> },
}

impl Controller {
    /// The term, if this controller leads.
    pub(super) fn term(&self) -> Option<u64> {
        match *self.lead.borrow() {
            Lead::Leading { term } => Some(term),
            Lead::TakingOver | Lead::Following { .. } => None,
        }
    }

    /// The term; else who leads.
    pub(crate) fn leading(&self) -> Result<u64, Error> {
        let leader = match &*self.lead.borrow() {
            Lead::Leading { term } => return Ok(*term),
            Lead::TakingOver => None,
            Lead::Following { leader } => leader.clone(),
        };
        Err(Error::NotLeading { leader })
    }

    /// Runs for leader and does what a controller does, until `stop` is over; then lets the next one lead.
    ///
    /// # Errors
    /// As the store fails at the beginning; later failures are waited out.
    pub async fn run_among(
        self: &Arc<Self>,
        options: &Options,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let backend = Arc::clone(&self.state.backend);
        let office = Leadership::open(&*backend, "leader", options.lease).await?;
        let campaign = office.campaign(&options.url);
        select! {
            () = stop => {}
            () = self.follow_role(&campaign) => {}
            () = self.follow_store() => {}
            () = self.fleet.run(&*backend, |passage| self.tell(&passage)) => {}
            () = self.run() => {}
            () = self.sweep() => {}
        }
        self.cease(None);
        campaign.resign().await;
        Ok(())
    }

    async fn follow_role(self: &Arc<Self>, campaign: &Campaign) {
        let mut role = campaign.role();
        loop {
            let now = role.borrow_and_update().clone();
            match now {
                Role::Leader { term } => {
                    select! {
                        () = self.lead_on(term) => {}
                        changed = role.changed() => if changed.is_err() { break },
                    }
                    continue;
                }
                Role::Follower { leader } => self.cease(leader),
            }
            // What another leader has written may have been passed over while this one still believed to lead.
            let caught_up = async {
                if let Err(error) = self.look_up().await {
                    tracing::debug!(%error, "what the store holds is not known yet");
                }
                std::future::pending::<()>().await;
            };
            select! {
                () = caught_up => {}
                changed = role.changed() => if changed.is_err() { break },
            }
        }
        // The campaign has ended, which it does with the process only.
        std::future::pending::<()>().await;
    }

    /// Takes over, and stays until dropped.
    async fn lead_on(self: &Arc<Self>, term: u64) {
        self.lead.send_replace(Lead::TakingOver);
        loop {
            match self.take_over(term).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(term, %error, "this controller cannot lead yet"),
            }
            sleep(PAUSE).await;
        }
        tracing::info!(term, "this controller leads");
        std::future::pending::<()>().await;
    }

    /// Lets every node know the term, so that it listens to no earlier leader any more, and says how it is.
    async fn introduce(&self, term: u64) {
        let nodes = self.fleet.seen().into_iter().filter(|(_, seen)| !seen.lost);
        let asked = nodes.map(|(node, seen)| async move {
            let answer = self.fleet.give(&*seen.link, term, Command::Report).await;
            if let Err(refusal) = answer {
                tracing::debug!(%node, "{refusal}");
            }
        });
        // Who does not answer now is told with the first order that it gets.
        let _ = timeout(INTRODUCTION, futures_util::future::join_all(asked)).await;
    }

    /// Begins to lead: nobody of an earlier term can write from here on.
    pub(super) async fn take_over(&self, term: u64) -> Result<(), Error> {
        let desired = self.state.store.fence(term).await?;
        let (placed, seen) = self.claim_placements().await?;
        self.state
            .models
            .retain(|job| desired.jobs.contains_key(job))
            .await?;
        self.change_known(|known| {
            *known = Known {
                desired,
                placed,
                seen,
                nowhere: BTreeMap::new(),
            };
        });
        // Beats are a little old: what the leader before has just done is not done again.
        self.introduce(term).await;
        self.lead.send_replace(Lead::Leading { term });
        self.fleet.wake();
        Ok(())
    }

    fn cease(&self, leader: Option<String>) {
        let next = Lead::Following { leader };
        let before = self.lead.send_replace(next);
        if matches!(before, Lead::Leading { .. }) {
            tracing::warn!("this controller does not lead any more");
        }
        // What is under way carries the old term: nodes refuse it once they know a newer one.
        lock(&self.work).abort();
        // Who leads now judges anew.
        *lock(&self.stragglers) = Stragglers::default();
        self.fleet.wake();
    }

    /// Reads all placements, and writes each anew: who wrote it before has seen another revision and cannot change it.
    async fn claim_placements(
        &self,
    ) -> Result<(BTreeMap<Name, Placed>, BTreeMap<Name, u64>), Error> {
        let keys = &self.state.placements;
        let (mut placed, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for (key, entry) in keys.list("").await? {
            let Some((name, record)) = read_placed(&key, &entry.value) else {
                continue;
            };
            let revision = match keys.update(&key, entry.value, entry.revision).await {
                Ok(revision) => revision,
                // Somebody was faster, and the caller tries again.
                Err(error) => return Err(error.into()),
            };
            placed.insert(name.clone(), record);
            seen.insert(name, revision);
        }
        Ok((placed, seen))
    }

    /// Reads what the store holds. If a higher term stands there, this controller does not lead any more.
    pub(super) async fn look_up(&self) -> Result<(), Error> {
        let desired = self.state.store.load(&self.known().desired).await?;
        if self.term().is_some_and(|term| desired.term() > term) {
            self.cease(None);
        }
        let listed = self.state.placements.list("").await?;
        self.change_known(|known| {
            known.desired.renew(desired);
            known.placed.clear();
            known.seen.clear();
            for (key, entry) in listed {
                known.put_placed(&key, &entry.value, entry.revision);
            }
        });
        Ok(())
    }

    /// Keeps what is known near to what the store holds while another controller leads.
    async fn follow_store(&self) {
        tokio::join!(self.follow_desired(), self.follow_placements());
    }

    async fn follow_desired(&self) {
        let keys = Arc::clone(self.state.store.keys());
        self.watch(
            &*keys,
            store::HEADS,
            |_| {},
            || async {
                let loaded = self.state.store.load(&self.known().desired).await?;
                if self.term().is_none() {
                    self.change_known(|known| known.desired.renew(loaded));
                }
                Ok(())
            },
        )
        .await;
    }

    async fn follow_placements(&self) {
        let keys = Arc::clone(&self.state.placements);
        let take = |change: &Change| {
            if self.term().is_some() {
                return;
            }
            self.change_known(|known| match change {
                Change::Put(key, entry) => known.put_placed(key, &entry.value, entry.revision),
                Change::Deleted(key) => {
                    known.placed.remove(key.as_str());
                    known.seen.remove(key.as_str());
                }
                Change::UpToDate => {}
            });
        };
        self.watch(&*keys, "", take, || async { Ok(()) }).await;
    }

    /// Watches keys for ever: each change goes to `take`, and then `after` is done.
    async fn watch<F>(
        &self,
        keys: &dyn Keys,
        prefix: &str,
        take: impl Fn(&Change),
        after: impl Fn() -> F,
    ) where
        F: Future<Output = Result<(), Error>>,
    {
        loop {
            if let Ok(mut changes) = keys.watch(prefix).await {
                while let Some(change) = changes.next().await {
                    let Ok(change) = change else { continue };
                    take(&change);
                    if let Err(error) = after().await {
                        tracing::debug!(%error, "a change cannot be followed yet");
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Removes blobs that nothing refers to, as long as this controller leads. A blob that was uploaded for an apply to
    /// come is not referred to either, so it has an hour.
    async fn sweep(&self) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = std::collections::BTreeSet::new();
        loop {
            ticks.tick().await;
            if self.term().is_none() {
                before.clear();
                continue;
            }
            let swept = async {
                let unused = self.unused_blobs().await?;
                let twice = unused.intersection(&before).cloned().collect();
                self.state.blobs.remove(&twice).await?;
                Ok::<_, Error>(unused)
            };
            match swept.await {
                Ok(unused) => before = unused,
                Err(error) => tracing::debug!(%error, "unused blobs stay"),
            }
        }
    }

    fn tell(&self, passage: &Passage) {
        let (kind, node) = match passage {
            Passage::Joined(node) => (EventKind::NodeJoined, node),
            Passage::Lost(node) => (EventKind::NodeLost, node),
        };
        tracing::info!(%node, "{}", kind.as_str());
        // All controllers see it, and one says it.
        if self.term().is_some() {
            self.voice.tell(kind, About::Node(node), json!({}));
        }
    }
}

impl Known {
    fn put_placed(&mut self, key: &str, value: &[u8], revision: u64) {
        if let Some((name, record)) = read_placed(key, value) {
            self.seen.insert(name.clone(), revision);
            self.placed.insert(name, record);
        }
    }
}

fn read_placed(key: &str, value: &[u8]) -> Option<(Name, Placed)> {
    let name: Name = key.parse().ok()?;
    match serde_json::from_slice(value) {
        Ok(record) => Some((name, record)),
        Err(error) => {
            tracing::error!(job = key, %error, "a placement cannot be read");
            None
        }
    }
}

/// Whether somebody else has written.
pub(super) fn is_conflict(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Conflict { .. } | StoreError::Exists { .. }
    )
}
