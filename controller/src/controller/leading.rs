//! Who leads, and what beginning and ceasing to lead take.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    select,
    time::{sleep, timeout},
};
use tributary_api::{Name, event::EventKind};
use tributary_store::{Campaign, Change, Error as StoreError, Keys, Leadership, Role};

use super::{Controller, Known, RETRY, lock};
use crate::{
    Error,
    fleet::Passage,
    link::Command,
    placing::Placed,
    store::{self, Desired},
    stragglers::Stragglers,
    voice::About,
};

/// The time after which a step of taking over is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a new leader waits for nodes to say how they are.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// The longest pause before it is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often a leader looks whether a node has heard of a higher term.
const LOOK: Duration = Duration::from_secs(1);

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
    /// This controller is about to: it has the lease, and does not have the state yet; why not, if it has failed.
    TakingOver { why: Option<String> },
    /// Another one, or none.
    Following { leader: Option<String> },
}

impl Controller {
    /// The term, if this controller leads.
    pub(super) fn term(&self) -> Option<u64> {
        match *self.lead.borrow() {
            Lead::Leading { term } => Some(term),
            Lead::TakingOver { .. } | Lead::Following { .. } => None,
        }
    }

    /// The term; else who leads.
    pub(crate) fn leading(&self) -> Result<u64, Error> {
        let leader = match &*self.lead.borrow() {
            Lead::Leading { term } => return Ok(*term),
            Lead::TakingOver { why: Some(why) } => return Err(Error::CannotLead(why.clone())),
            Lead::TakingOver { why: None } => None,
            Lead::Following { leader } => leader.clone(),
        };
        Err(Error::NotLeading { leader })
    }

    /// Why it cannot do now what it is asked.
    pub(crate) fn hindrance(&self) -> Option<String> {
        if !self.state.backend.connected() {
            return Some("it has no connection to NATS, and answers from what it knew last".into());
        }
        match self.leading() {
            Ok(_) | Err(Error::NotLeading { leader: Some(_) }) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// Runs for leader and does what a controller does, until `stop` is over; then lets the next one lead.
    ///
    /// # Errors
    /// As the store fails at the beginning; later failures are waited out. [`Error::Format`] if it is to lead, and a newer
    /// version of the program has led before.
    pub async fn run_among(
        self: &Arc<Self>,
        options: &Options,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let backend = Arc::clone(&self.state.backend);
        let office = Leadership::open(&*backend, "leader", options.lease).await?;
        let campaign = office.campaign(&options.url);
        let ended = select! {
            () = stop => Ok(()),
            error = self.follow_role(&campaign) => Err(error),
            () = self.follow_store() => Ok(()),
            () = self.fleet.run(&*backend, |passage| self.tell(&passage)) => Ok(()),
            () = self.run() => Ok(()),
            () = self.sweep() => Ok(()),
            () = self.weigh() => Ok(()),
        };
        self.cease(None);
        campaign.resign().await;
        ended
    }

    /// Leads whenever it is this controller's turn, until it must not.
    async fn follow_role(self: &Arc<Self>, campaign: &Campaign) -> Error {
        let mut role = campaign.role();
        loop {
            let now = role.borrow_and_update().clone();
            match now {
                Role::Leader { term } => {
                    select! {
                        error = self.lead_on(term, campaign) => return error,
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
        std::future::pending().await
    }

    /// Takes over, and leads until dropped; takes over again if its term is not the highest any more although it has the
    /// lease: a store that was lost or restored knows less than its nodes do. Ends if it must not lead.
    async fn lead_on(self: &Arc<Self>, lease: u64, campaign: &Campaign) -> Error {
        let (mut pause, mut told) = (PAUSE, None);
        loop {
            let why = told.clone();
            self.lead.send_replace(Lead::TakingOver { why });
            match self.take_over(lease, || campaign.holds()).await {
                Ok(term) => {
                    tracing::info!(term, "this controller leads");
                    self.lead_while_highest(term).await;
                    (pause, told) = (PAUSE, None);
                }
                Err(error @ Error::Format { .. }) => return error,
                Err(error) => {
                    let why = Some(error.to_string());
                    if told != why {
                        tracing::warn!(lease, %error, "this controller cannot lead yet");
                    }
                    told = why;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits until another term is known than this one.
    async fn lead_while_highest(&self, term: u64) {
        let mut lead = self.lead.subscribe();
        while self.term() == Some(term) {
            if self.fleet.term() > term {
                return self.cease(None);
            }
            let _ = timeout(LOOK, lead.wait_for(|lead| *lead != Lead::Leading { term })).await;
        }
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

    /// Begins to lead: nobody of an earlier term can write from here on. `lease` is the lease's own term, and `holds` says
    /// whether this controller still has it. Gives the term, which is above every other that is known.
    pub(super) async fn take_over<F>(&self, lease: u64, holds: impl Fn() -> F) -> Result<u64, Error>
    where
        F: Future<Output = Result<bool, StoreError>>,
    {
        let heard = self.fleet.term().max(self.known().desired.term());
        self.expect_heads().await?;
        let desired = self.state.store.fence(lease.max(heard + 1), holds).await?;
        let term = desired.term();
        let (placed, seen) = self.claim_placements().await?;
        self.change_known(|known| {
            *known = Known {
                desired,
                placed,
                seen,
                nowhere: BTreeMap::new(),
            };
        });
        // Who has handed over all by now has been told of.
        *lock(&self.drained) = self.known().drained().cloned().collect();
        // Beats are a little old: what the leader before has just done is not done again.
        self.introduce(term).await;
        self.lead.send_replace(Lead::Leading { term });
        self.fleet.wake();
        Ok(term)
    }

    /// Refuses to begin with nothing where something was: every node would be told to stop its jobs.
    async fn expect_heads(&self) -> Result<(), Error> {
        if !self.state.store.is_current(&Desired::default()).await? {
            return Ok(());
        }
        match self.state.placements.list("").await?.len() {
            0 => Ok(()),
            placements => Err(Error::Headless { placements }),
        }
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

    /// Reads what the store holds. If another term stands there, this controller does not lead any more.
    pub(super) async fn look_up(&self) -> Result<(), Error> {
        let led = self.term();
        // Placements first: where a successor has claimed one in between, its term stands in what is read next. The other
        // way about, this controller would believe to lead, and have the revisions that let it write.
        let listed = self.state.placements.list("").await?;
        let desired = self.state.store.load(&self.known().desired).await?;
        // A lower one is of a store that was restored; unless it was read before this controller led.
        let other = |term| desired.term() > term || (led == Some(term) && desired.term() < term);
        if self.term().is_some_and(other) {
            self.cease(None);
        }
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

    /// Keeps what is known near to what the store holds, whoever leads.
    async fn follow_store(&self) {
        tokio::join!(self.follow_desired(), self.follow_placements());
    }

    async fn follow_desired(&self) {
        let keys = Arc::clone(self.state.store.keys());
        self.watch(&*keys, store::HEADS, |_| {}, || self.reload())
            .await;
    }

    /// Reads the desired state as often as it takes: the change that called for it may be the last one for long.
    async fn reload(&self) {
        let mut pause = PAUSE;
        while let Err(error) = self.read_desired().await {
            tracing::debug!(%error, "a change cannot be followed yet");
            sleep(pause).await;
            pause = (pause * 2).min(RETRY);
        }
    }

    async fn read_desired(&self) -> Result<(), Error> {
        let loaded = self.state.store.load(&self.known().desired).await?;
        // Another leader's; or this one leads, and the store was restored.
        if self.term().is_some_and(|term| term != loaded.term()) {
            return self.look_up().await;
        }
        self.change_known(|known| known.desired.renew(loaded));
        Ok(())
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
        self.watch(&*keys, "", take, || async {}).await;
    }

    /// Watches keys for ever: each change goes to `take`, and then `after` is done.
    async fn watch<F>(
        &self,
        keys: &dyn Keys,
        prefix: &str,
        take: impl Fn(&Change),
        after: impl Fn() -> F,
    ) where
        F: Future<Output = ()>,
    {
        loop {
            if let Ok(mut changes) = keys.watch(prefix).await {
                while let Some(change) = changes.next().await {
                    let Ok(change) = change else { continue };
                    take(&change);
                    after().await;
                }
            }
            sleep(PAUSE).await;
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
    /// The nodes that have handed over all they had.
    pub(super) fn drained(&self) -> impl Iterator<Item = &Name> {
        let placed = || self.placed.values().map(|placed| &placed.placement);
        let drained = self.desired.drained().iter();
        drained.filter(move |node| placed().all(|now| now.member(node.as_str()).is_none()))
    }

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
