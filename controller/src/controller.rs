//! The controller: the only writer of the desired state while it leads.

mod apply;
mod dispatch;
mod leading;
mod looking;
mod placing;
mod slow;
mod sweeping;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use serde_json::json;
use tokio::{sync::watch, time::timeout};
use tributary_api::{
    Digest, Name,
    control::NodeControl,
    event::EventKind,
    manifest::{Kind, default_tenant},
};
use tributary_store::Error as StoreError;

use crate::{
    Error, State,
    files::blobs::{self, Blobs},
    fleet::Fleet,
    link::{Beat, Command, Station},
    metrics::Metrics,
    placing::Placed,
    store::{Commit, Desired},
    stragglers::Stragglers,
    voice::{About, Publisher, Voice},
};
pub(crate) use leading::Lead;
pub use leading::Options;
pub use sweeping::Unused;
use work::Work;

/// The time after which what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often it is looked whether there is something to do that nobody has said.
const TICK: Duration = Duration::from_secs(1);

/// How long a change waits for the nodes to follow it before it is answered.
const SETTLE: Duration = Duration::from_secs(10);

/// Applies manifests and keeps nodes at what they say.
pub struct Controller {
    state: State,
    fleet: Fleet,
    voice: Voice,
    metrics: Metrics,
    lead: watch::Sender<Lead>,
    known: RwLock<Arc<Known>>,
    /// Whoever changes the desired state holds the turn.
    turn: tokio::sync::Mutex<()>,
    /// One look at everything at a time.
    passing: tokio::sync::Mutex<()>,
    work: Mutex<Work>,
    /// Blobs that were uploaded or looked for since the last sweep.
    asked_for: Mutex<BTreeSet<String>>,
    /// Nodes of which it was told that they have handed over all they had.
    drained: Mutex<BTreeSet<Name>>,
    /// What is known of slow nodes, while this controller leads.
    stragglers: Mutex<Stragglers>,
}

/// What the store holds, as far as is known here.
#[derive(Debug, Default, Clone)]
struct Known {
    desired: Desired,
    placed: BTreeMap<Name, Placed>,
    /// The revision of each placement's key.
    seen: BTreeMap<Name, u64>,
    /// Why jobs have no node.
    nowhere: BTreeMap<Name, String>,
}

impl Controller {
    /// Takes the state over, and starts the jobs on `node`, the only one.
    ///
    /// A job that cannot be started is no error: its status says why, and [`Controller::run`] tries again.
    ///
    /// # Errors
    /// As the store and the file system fail.
    pub async fn start(state: State, node: Arc<dyn NodeControl>) -> Result<Arc<Self>, Error> {
        let station = Station::new(
            Arc::clone(&node),
            state.clone(),
            None,
            BTreeMap::new(),
            None,
            None,
        )
        .await?;
        let fleet = Fleet::local();
        fleet.add(station.report().await, station);
        let voice = Voice::Node(node);
        let controller = Self::new(state, fleet, voice, Lead::Following { leader: None });
        // Only one process can have the directory open, so whoever starts leads.
        controller.take_over(0, async || Ok(true)).await?;
        controller.reconcile().await;
        Ok(controller)
    }

    /// One of several controllers of many nodes. It leads when its turn has come; see [`Controller::run_among`].
    ///
    /// # Errors
    /// As the store fails.
    pub async fn join(state: State, name: &str, beat: Beat) -> Result<Arc<Self>, Error> {
        let bus = state.backend.bus().await?;
        let publisher = Publisher::new(Arc::clone(&bus), format!("/controllers/{name}"));
        let fleet = Fleet::many(bus, beat);
        let lead = Lead::Following { leader: None };
        let controller = Self::new(state, fleet, Voice::Bus(publisher), lead);
        controller.look_up().await?;
        Ok(controller)
    }

    fn new(state: State, fleet: Fleet, voice: Voice, lead: Lead) -> Arc<Self> {
        Arc::new(Self {
            state,
            fleet,
            voice,
            metrics: Metrics::new(),
            lead: watch::Sender::new(lead),
            known: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
            passing: tokio::sync::Mutex::default(),
            work: Mutex::default(),
            asked_for: Mutex::default(),
            drained: Mutex::default(),
            stragglers: Mutex::default(),
        })
    }

    /// Keeps the only node at the desired state, and the store without what nothing refers to, for ever. Drop the future to
    /// end it.
    pub async fn run_alone(self: &Arc<Self>) {
        tokio::join!(self.run(), self.sweep());
    }

    /// Keeps the nodes at the desired state, for ever. Drop the future to end it.
    pub async fn run(self: &Arc<Self>) {
        let mut changes = self.fleet.changes();
        loop {
            // Changes that come during a pass are looked at by the next.
            changes.borrow_and_update();
            self.pass().await;
            let _ = timeout(TICK, changes.changed()).await;
        }
    }

    /// Brings the nodes as near to the desired state as they can be brought now.
    pub async fn reconcile(self: &Arc<Self>) {
        lock(&self.work).forgive();
        self.settle().await;
    }

    /// Looks at everything once: places jobs, and gives nodes what they are to do. Whether nothing is left to do.
    async fn pass(self: &Arc<Self>) -> bool {
        let _pass = self.passing.lock().await;
        let Some(term) = self.term() else { return true };
        self.fleet.refresh(term).await;
        let placed = if self.fleet.is_many() {
            self.place(term).await
        } else {
            true
        };
        let idle = self.dispatch(term);
        placed && idle
    }

    /// Waits until the nodes have followed, or will not for now. False if they take longer than is waited.
    async fn settle(self: &Arc<Self>) -> bool {
        let mut changes = self.fleet.changes();
        let settled = async {
            loop {
                changes.borrow_and_update();
                if self.pass().await {
                    return;
                }
                let _ = timeout(TICK, changes.changed()).await;
            }
        };
        let settled = timeout(SETTLE, settled).await.is_ok();
        if !settled {
            tracing::info!("nodes take their time; what is left is done as they get to it");
        }
        settled
    }

    /// Deletes a job, its models and its revisions.
    ///
    /// # Errors
    /// [`Error::Unknown`]; otherwise as the store fails.
    pub async fn delete_job(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let term = self.leading()?;
        let _turn = self.turn.lock().await;
        let Some((name, _)) = self.find_job(name) else {
            return Err(unknown(Kind::Job, name));
        };
        self.forget(Kind::Job, &name).await?;
        self.settle().await;
        // The models go last: should this process die or be succeeded before, whoever leads finds them unused.
        if self.still_leads(term, &self.known()).await.is_ok() {
            self.state.models.remove(&name).await?;
        }
        lock(&self.work).forget(&name);
        self.voice
            .tell(EventKind::JobDeleted, About::Job(&name), json!({}));
        Ok(())
    }

    /// Deletes a function that no job uses.
    ///
    /// # Errors
    /// [`Error::Unknown`] and [`Error::InUse`]; otherwise as the store fails.
    pub async fn delete_function(&self, name: &str) -> Result<(), Error> {
        self.leading()?;
        let _turn = self.turn.lock().await;
        let known = self.known();
        let Some((name, _)) = known.desired.functions.get_key_value(name) else {
            return Err(unknown(Kind::Function, name));
        };
        let jobs = known.desired.jobs_of(name);
        if !jobs.is_empty() {
            let (kind, name) = (Kind::Function, name.clone());
            return Err(Error::InUse { kind, name, jobs });
        }
        self.forget(Kind::Function, name).await
    }

    /// Deletes a tenant that has no job.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::InUse`] and [`Error::DefaultTenant`]; otherwise as the store fails.
    pub async fn delete_tenant(&self, name: &str) -> Result<(), Error> {
        self.leading()?;
        let _turn = self.turn.lock().await;
        let known = self.known();
        let tenants = known.desired.all_tenants();
        let Some((name, _)) = tenants.get_key_value(name) else {
            return Err(unknown(Kind::Tenant, name));
        };
        let jobs = known.desired.jobs_in(name);
        if !jobs.is_empty() {
            let (kind, name) = (Kind::Tenant, name.clone());
            return Err(Error::InUse { kind, name, jobs });
        }
        if *name == default_tenant() {
            return Err(Error::DefaultTenant(name.clone()));
        }
        self.forget(Kind::Tenant, name).await
    }

    /// Lets a node hand over what it has, and gives it no work any more; or gives it work again.
    ///
    /// # Errors
    /// [`Error::UnknownNode`]; otherwise as the store fails.
    pub async fn drain(self: &Arc<Self>, node: &str, drained: bool) -> Result<(), Error> {
        let term = self.leading()?;
        let _turn = self.turn.lock().await;
        let known = self.known();
        let unknown = || Error::UnknownNode(node.chars().take(Name::MAX).collect());
        let name: Name = node.parse().map_err(|_| unknown())?;
        // A node that is gone can be undrained, and one that comes back finds itself drained.
        let is_known = self.fleet.seen().contains_key(&name);
        if !self.fleet.is_many() || !(is_known || known.desired.drained().contains(&name)) {
            return Err(unknown());
        }
        let store = &self.state.store;
        let next = store.drain(term, &known.desired, &name, drained).await;
        self.adopt(next).await?;
        self.settle().await;
        Ok(())
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.state.blobs
    }

    /// Takes note that somebody has uploaded a blob, or relies on it being here: what is swept next is not this one.
    pub(crate) fn ask_for(&self, digest: Digest) {
        if self.term().is_some() {
            lock(&self.asked_for).insert(blobs::name(digest));
        }
    }

    /// The controller's metrics in the Prometheus text format.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where this process registers what else it measures.
    #[must_use]
    pub fn registry(&self) -> &prometheus::Registry {
        self.metrics.registry()
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_known(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut known));
    }

    async fn commit(&self, commit: Commit) -> Result<(), Error> {
        let term = self.leading()?;
        let known = self.known();
        // Models under the name of a new job are what a deleted one left, if nobody else has made one meanwhile.
        let jobs = commit.jobs.iter().map(|(name, _)| name);
        for name in jobs.filter(|name| !known.desired.jobs.contains_key(*name)) {
            if self.state.store.is_current(&known.desired).await? {
                self.state.models.remove(name).await?;
            }
        }
        let next = self.state.store.commit(term, &known.desired, &commit).await;
        self.adopt(next).await
    }

    async fn forget(&self, kind: Kind, name: &Name) -> Result<(), Error> {
        let (term, known) = (self.leading()?, self.known());
        let store = &self.state.store;
        let next = store.delete(term, &known.desired, kind, name).await;
        self.adopt(next).await
    }

    /// Takes over what a change of the store has come to.
    async fn adopt(&self, next: Result<Desired, Error>) -> Result<(), Error> {
        match next {
            Ok(desired) => {
                self.change_known(|known| known.desired.renew(desired));
                self.fleet.wake();
                Ok(())
            }
            // Somebody else has written, or an earlier change, of which no answer came, was made after all.
            Err(Error::Store(
                error @ (StoreError::Conflict { .. }
                | StoreError::Exists { .. }
                | StoreError::Unavailable { .. }),
            )) => {
                self.look_up().await?;
                self.leading()?;
                let what = "the change".into();
                let why = format!("{error}; look whether it was made, and repeat it if not");
                Err(Error::Store(StoreError::Unavailable { what, why }))
            }
            Err(error) => Err(error),
        }
    }

    async fn unused_blobs(&self) -> Result<BTreeSet<String>, Error> {
        let known = self.known();
        let functions = known.desired.functions.values();
        let modules = functions.map(|record| record.revision.digest);
        let jobs = known.desired.jobs.values();
        let models = jobs.filter_map(|record| record.spec.model.digest);
        self.state
            .blobs
            .unused(&modules.chain(models).collect())
            .await
    }

    /// Gives an order to a node that it is to carry out at once.
    async fn order(
        &self,
        link: &dyn crate::link::Link,
        command: Command,
    ) -> Result<crate::link::Answer, Error> {
        let term = self.leading()?;
        let answer = self.fleet.give(link, term, command).await;
        answer.map_err(|refusal| Error::NoNode(refusal.to_string()))
    }
}

fn unknown(kind: Kind, name: &str) -> Error {
    Error::Unknown {
        kind,
        name: name.chars().take(Name::MAX).collect(),
    }
}

/// A panic of another task while it held the lock leaves these maps whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
