//! Which nodes there are, how they are, and how they are reached.

mod gauge;
mod probe;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tributary_api::Name;
use tributary_store::{Backend, Bus, Change, Error as StoreError, Keys};

use crate::link::{Answer, Beat, Command, Link, NODES, NodeReport, Order, Refusal, RemoteNode};
pub(crate) use gauge::Gauge;

/// How long a lost node is shown.
const LOST_SHOWN: Duration = Duration::from_secs(600);

/// A node that is not heard, and answers when it is asked, is given up all the same after so many times the time that a
/// beat is believed: no order reaches it.
const UNHEARD_MAX: u32 = 5;

/// The time after which a watch that ended is begun again.
const RETRY: Duration = Duration::from_secs(1);

/// All nodes.
pub(crate) struct Fleet {
    nodes: Mutex<BTreeMap<Name, Entry>>,
    /// Grows with everything that may give the controller something to do.
    changes: watch::Sender<u64>,
    kind: Kind,
}

enum Kind {
    /// The one node of this process.
    Local,
    /// Nodes that come and go.
    Many {
        bus: Arc<dyn Bus>,
        beat: Beat,
        /// What is known of the store's own state.
        view: Mutex<View>,
    },
}

/// Since when silence counts.
#[derive(Debug, Clone, Copy)]
struct View {
    /// Silence of a node counts from here: the store was away before, or this process was not there.
    since: Instant,
    /// Everything that was in the store has been told.
    complete: bool,
}

/// A node that was heard of.
struct Entry {
    report: Arc<NodeReport>,
    /// The revision of its newest beat.
    revision: u64,
    /// That one's length.
    bytes: usize,
    heard: Instant,
    lost: bool,
    link: Arc<dyn Link>,
    gauge: Gauge,
}

/// A node as it was last seen.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) report: Arc<NodeReport>,
    pub(crate) heard: Instant,
    pub(crate) lost: bool,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) gauge: Gauge,
}

/// A node has come or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Passage {
    Joined(Name),
    Lost(Name),
}

impl Fleet {
    /// The fleet of a process that is its own only node.
    pub(crate) fn local() -> Self {
        Self::new(Kind::Local)
    }

    /// A fleet of nodes that show themselves in the store.
    pub(crate) fn many(bus: Arc<dyn Bus>, beat: Beat) -> Self {
        let view = View {
            since: Instant::now(),
            complete: false,
        };
        Self::new(Kind::Many {
            bus,
            beat,
            view: Mutex::new(view),
        })
    }

    fn new(kind: Kind) -> Self {
        Self {
            nodes: Mutex::default(),
            changes: watch::Sender::new(0),
            kind,
        }
    }

    /// Whether nodes are placed; else the one node has all jobs.
    pub(crate) fn is_many(&self) -> bool {
        matches!(self.kind, Kind::Many { .. })
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn wake(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// All nodes, lost ones among them.
    pub(crate) fn seen(&self) -> BTreeMap<Name, Seen> {
        let nodes = lock(&self.nodes);
        let seen = nodes.iter().map(|(name, entry)| {
            let seen = Seen {
                report: Arc::clone(&entry.report),
                heard: entry.heard,
                lost: entry.lost,
                link: Arc::clone(&entry.link),
                gauge: entry.gauge.clone(),
            };
            (name.clone(), seen)
        });
        seen.collect()
    }

    /// The highest term that any node has heard of.
    pub(crate) fn term(&self) -> u64 {
        let nodes = lock(&self.nodes);
        nodes
            .values()
            .map(|entry| entry.report.term)
            .max()
            .unwrap_or(0)
    }

    /// Whether it is known of all these nodes whether they live.
    pub(crate) fn knows(&self, names: &BTreeSet<&Name>) -> bool {
        let Kind::Many { beat, view, .. } = &self.kind else {
            return true;
        };
        let View { since, complete } = *lock(view);
        let waited = since.elapsed() > beat.believed;
        let nodes = lock(&self.nodes);
        waited || (complete && names.iter().all(|name| nodes.contains_key(*name)))
    }

    /// Adds the node of this process.
    pub(crate) fn add(&self, report: NodeReport, link: Arc<dyn Link>) {
        self.note_from(report, None, || link);
    }

    /// Takes a report over, if it is newer than what is known. A beat has the revision under which it is stored.
    pub(crate) fn note(&self, report: NodeReport, beat: Option<u64>) -> Option<Passage> {
        let name = report.status.name.clone();
        self.note_from(report, beat, || match &self.kind {
            Kind::Many { bus, .. } => Arc::new(RemoteNode::new(&name, Arc::clone(bus))),
            Kind::Local => Arc::new(Nobody),
        })
    }

    fn note_from(
        &self,
        mut report: NodeReport,
        beat: Option<u64>,
        link: impl FnOnce() -> Arc<dyn Link>,
    ) -> Option<Passage> {
        let name: Name = report.status.name.parse().ok()?;
        let now = Instant::now();
        let mut nodes = lock(&self.nodes);
        let Some(entry) = nodes.get_mut(&name) else {
            if report.leaving {
                return None;
            }
            report.join(None);
            let entry = Entry {
                gauge: Gauge::new(&report, now),
                report: Arc::new(report),
                revision: beat.unwrap_or(0),
                bytes: 0,
                heard: now,
                lost: false,
                link: link(),
            };
            nodes.insert(name.clone(), entry);
            drop(nodes);
            self.wake();
            return Some(Passage::Joined(name));
        };
        if !entry.is_before(&report, beat, self.believed()) {
            return None;
        }
        report.join(Some(&entry.report));
        let tells = tells_more(&entry.report, &report);
        let (was, is) = (entry.lost, report.leaving);
        entry.gauge.observe(&entry.report, &report, now);
        (entry.heard, entry.lost) = (now, is);
        entry.report = Arc::new(report);
        entry.revision = beat.unwrap_or(entry.revision);
        drop(nodes);
        if tells || was != is {
            self.wake();
        }
        match (was, is) {
            (true, false) => Some(Passage::Joined(name)),
            (false, true) => Some(Passage::Lost(name)),
            _ => None,
        }
    }

    /// Gives an order to a node, and takes over what it answers of itself.
    pub(crate) async fn give(
        &self,
        link: &dyn Link,
        term: u64,
        command: Command,
    ) -> Result<Answer, Refusal> {
        let answer = link.give(Order::new(term, command)).await?;
        self.note(answer.report.clone(), None);
        Ok(answer)
    }

    /// Asks the node of this process how it is: it does not beat.
    pub(crate) async fn refresh(&self, term: u64) {
        if self.is_many() {
            return;
        }
        for seen in self.seen().into_values() {
            // It is in this process, and nobody else leads.
            let _ = self.give(&*seen.link, term, Command::Report).await;
        }
    }

    /// Listens to beats and notices silence, for ever; `tell` hears who comes and goes.
    pub(crate) async fn run(&self, backend: &dyn Backend, tell: impl Fn(Passage)) {
        let Kind::Many { beat, view, .. } = &self.kind else {
            return std::future::pending().await;
        };
        let keys = loop {
            match backend.keys(NODES, Some(beat.believed)).await {
                Ok(keys) => break keys,
                Err(error) => tracing::warn!(%error, "nodes cannot be seen"),
            }
            sleep(RETRY).await;
        };
        tokio::join!(
            self.listen(&*keys, view, &tell),
            self.sweep(backend, &*keys, *beat, view, &tell),
        );
    }

    async fn listen(&self, keys: &dyn Keys, view: &Mutex<View>, tell: &impl Fn(Passage)) {
        loop {
            let mut changes = match keys.watch("").await {
                Ok(changes) => changes,
                Err(error) => {
                    tracing::debug!(%error, "nodes cannot be watched");
                    sleep(RETRY).await;
                    continue;
                }
            };
            while let Some(change) = changes.next().await {
                match change {
                    Ok(Change::Put(node, entry)) => {
                        let report = read(&entry.value);
                        let passage =
                            report.and_then(|report| self.note(report, Some(entry.revision)));
                        passage.into_iter().for_each(tell);
                        if let Some(known) = lock(&self.nodes).get_mut(node.as_str()) {
                            known.bytes = entry.value.len();
                        }
                    }
                    Ok(Change::UpToDate) => {
                        lock(view).complete = true;
                        self.wake();
                    }
                    // Silence is counted here, and who leaves says so.
                    Ok(Change::Deleted(_)) => {}
                    Err(error) => tracing::debug!(%error, "beats are interrupted"),
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Notices who is silent. A node is lost only if the store says so as well, and the node says nothing when it is asked;
    /// silence while the store was away does not count.
    async fn sweep(
        &self,
        backend: &dyn Backend,
        keys: &dyn Keys,
        beat: Beat,
        view: &Mutex<View>,
        tell: &impl Fn(Passage),
    ) {
        let mut connection = backend.connection();
        let mut ticks = interval(beat.believed / 12);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut away = false;
        loop {
            ticks.tick().await;
            let connected = *connection.borrow_and_update();
            if !connected || away {
                lock(view).since = Instant::now();
            }
            away = !connected;
            if connected {
                let since = lock(view).since;
                let silent = self.silent(since, beat.believed);
                let judged = silent.iter().map(|name| self.is_lost(keys, name, beat));
                let judged = futures_util::future::join_all(judged).await;
                for (name, judged) in silent.into_iter().zip(judged) {
                    match judged {
                        Ok(true) => {
                            self.lose(&name);
                            tell(Passage::Lost(name));
                        }
                        Ok(false) => {}
                        // The store is away, whatever its connection says.
                        Err(error) => {
                            tracing::debug!(%error, "silence cannot be confirmed");
                            lock(view).since = Instant::now();
                        }
                    }
                }
            }
            self.forget();
        }
    }

    fn silent(&self, since: Instant, believed: Duration) -> Vec<Name> {
        let nodes = lock(&self.nodes);
        // Nodes take up their connections later than this process, one after the other.
        let quiet =
            |entry: &Entry| entry.heard.elapsed() > believed && since.elapsed() > believed * 2;
        let silent = nodes
            .iter()
            .filter(|(_, entry)| !entry.lost && quiet(entry));
        silent.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a node that is silent is lost: neither it nor the store knows of its life.
    async fn is_lost(&self, keys: &dyn Keys, name: &Name, beat: Beat) -> Result<bool, StoreError> {
        let (url, unheard) = match lock(&self.nodes).get(name) {
            Some(entry) => (entry.report.url.clone(), entry.heard.elapsed()),
            None => return Ok(false),
        };
        let lives = match url {
            Some(url) if unheard < beat.believed * UNHEARD_MAX => probe::answers(&url).await,
            _ => false,
        };
        // The store last: a beat may come while the node is asked.
        Ok(!lives && self.confirm(keys, name).await?)
    }

    /// Whether the store has not heard of the node either.
    async fn confirm(&self, keys: &dyn Keys, name: &Name) -> Result<bool, StoreError> {
        let Some(entry) = keys.get(name.as_str()).await? else {
            return Ok(true);
        };
        // The watch has missed it, or will bring it in a moment.
        if let Some(report) = read(&entry.value) {
            self.note(report, Some(entry.revision));
        }
        Ok(false)
    }

    /// The length of the largest beat of a node that is heard.
    pub(crate) fn beat_bytes(&self) -> usize {
        let nodes = lock(&self.nodes);
        let heard = nodes.values().filter(|entry| !entry.lost);
        heard.map(|entry| entry.bytes).max().unwrap_or(0)
    }

    fn believed(&self) -> Duration {
        match &self.kind {
            Kind::Local => Duration::MAX,
            Kind::Many { beat, .. } => beat.believed,
        }
    }

    fn lose(&self, name: &Name) {
        if let Some(entry) = lock(&self.nodes).get_mut(name) {
            entry.lost = true;
        }
        self.wake();
    }

    fn forget(&self) {
        lock(&self.nodes).retain(|_, entry| !entry.lost || entry.heard.elapsed() < LOST_SHOWN);
    }
}

impl Entry {
    /// Whether a report is newer than what is known. Those of one life are numbered. Of two lives the newer one is that
    /// whose beat the store wrote later, whatever the node's clock says; an answer does not tell. Who beats while the
    /// life that is known is silent is the newer one too: the bucket may have been made anew, and counts from 1.
    fn is_before(&self, report: &NodeReport, beat: Option<u64>, believed: Duration) -> bool {
        if report.life == self.report.life {
            return report.number > self.report.number;
        }
        let silent = self.lost || self.heard.elapsed() > believed;
        beat.is_some_and(|revision| revision > self.revision || silent)
    }
}

/// Whether a report says something that the controller may have to act on.
fn tells_more(before: &NodeReport, now: &NodeReport) -> bool {
    let core = |report: &NodeReport| {
        let jobs = report.jobs.iter().map(|job| {
            let generation = job.placement.as_ref().map(|placement| placement.generation);
            let idle = job.accepted == 0;
            (
                job.name.clone(),
                job.revision,
                job.phase,
                job.version,
                generation,
                idle,
            )
        });
        jobs.collect::<Vec<_>>()
    };
    before.life != now.life
        || before.url != now.url
        || before.labels != now.labels
        || before.elsewhere != now.elsewhere
        || core(before) != core(now)
}

fn read(value: &[u8]) -> Option<NodeReport> {
    match serde_json::from_slice(value) {
        Ok(report) => Some(report),
        Err(error) => {
            tracing::warn!(%error, "a node's beat cannot be read; is it of another version?");
            None
        }
    }
}

/// A link to a node that nobody added.
struct Nobody;

#[async_trait::async_trait]
impl Link for Nobody {
    async fn give(&self, order: Order) -> Result<Answer, Refusal> {
        Err(Refusal::Unreachable {
            node: "unknown".into(),
            why: format!("{}: it is not of this process", order.command.as_str()),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
