//! Who leads: one of several, by a lease in [`Keys`] that has to be renewed.
//!
//! The lease is a key in a bucket whose entries live as long as the lease. Who creates the key leads; the revision of
//! its creation is the *term*, which grows with every change of leader and goes along with every command as a fencing
//! token: who has seen a greater one refuses. The leader renews at a third of the lease, each time at the revision that
//! it wrote last, so a deposed one cannot renew.
//!
//! A leader steps down by its own clock, before the lease can be over for others: it counts from the moment when the
//! last successful renewal was *sent*, and the store from when it was written, which is later.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use crate::{Backend, Change, Error, Keys};

/// The part of the lease after which it is renewed.
const RENEW_AFTER: f64 = 1.0 / 3.0;

/// The part of the lease after which an unrenewed leader steps down. The rest is for clocks that run at different
/// speeds.
const STEP_DOWN_AFTER: f64 = 0.9;

/// The part of the lease to wait after a failed call.
const PAUSE: f64 = 0.1;

/// How long a leader that resigns tries to give the lease back; else it runs out by itself.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// What a candidate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader {
        /// The fencing token: greater than that of any leader before.
        term: u64,
    },
    /// It does not.
    Follower {
        /// Who does, as far as is known.
        leader: Option<String>,
    },
}

/// An office that one candidate at a time holds.
#[derive(Debug, Clone)]
pub struct Leadership {
    keys: Arc<dyn Keys>,
    key: String,
    lease: Duration,
}

/// A running candidacy. Dropped without [`Campaign::resign`], it ends like a crash: the lease has to run out.
#[derive(Debug)]
pub struct Campaign {
    office: Leadership,
    lease: Lease,
    role: watch::Receiver<Role>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// What the key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    leader: String,
    /// One candidacy: the same name after a restart is somebody else.
    session: String,
}

impl Leadership {
    /// The office `name`. All candidates must give the same `lease`, at least a second.
    ///
    /// # Errors
    /// [`Error::Malformed`] for the name, [`Error::Unavailable`].
    pub async fn open(backend: &dyn Backend, name: &str, lease: Duration) -> Result<Self, Error> {
        let keys = backend.keys(name, Some(lease)).await?;
        let key = "leader".to_owned();
        Ok(Self { keys, key, lease })
    }

    /// Runs for the office, again and again, until the campaign is resigned or dropped.
    #[must_use]
    pub fn campaign(&self, me: &str) -> Campaign {
        let (role, receiver) = watch::channel(Role::Follower { leader: None });
        let (stop, stopped) = oneshot::channel();
        let lease = Lease {
            leader: me.to_owned(),
            session: nuid::next().to_string(),
        };
        let candidate = Candidate {
            office: self.clone(),
            lease: lease.clone(),
            role,
        };
        Campaign {
            office: self.clone(),
            lease,
            role: receiver,
            stop: Some(stop),
            task: tokio::spawn(candidate.run(stopped)),
        }
    }

    /// Who leads, as the store has it now.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn leader(&self) -> Result<Option<String>, Error> {
        let entry = self.keys.get(&self.key).await?;
        Ok(entry
            .and_then(|entry| Lease::read(&entry.value))
            .map(|lease| lease.leader))
    }

    /// The key's revision, if this candidacy wrote it.
    async fn revision_of(&self, lease: &Lease) -> Result<Option<u64>, Error> {
        let entry = self.keys.get(&self.key).await?;
        let own = entry.filter(|entry| Lease::read(&entry.value).as_ref() == Some(lease));
        Ok(own.map(|entry| entry.revision))
    }

    fn part(&self, part: f64) -> Duration {
        self.lease.mul_f64(part)
    }
}

impl Campaign {
    /// The role, now and as it changes.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Whether the store says that this candidacy has the lease. Who writes something only if nobody else has written it
    /// since before this was asked writes nothing after a successor.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn holds(&self) -> Result<bool, Error> {
        Ok(self.office.revision_of(&self.lease).await?.is_some())
    }

    /// Ends the candidacy. A leader gives the lease back, so that the next one leads at once.
    pub async fn resign(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        // It ends by itself, within RELEASE_PATIENCE; if it has panicked, the lease runs out.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lease {
    fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

struct Candidate {
    office: Leadership,
    lease: Lease,
    role: watch::Sender<Role>,
}

/// A lease that is held.
struct Held {
    revision: u64,
    /// When its last renewal, or its creation, was sent.
    sent: Instant,
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // However the task ends: who looks at the role must not take it for a leader's.
        self.role.send_replace(Role::Follower { leader: None });
    }
}

impl Candidate {
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        loop {
            // Cancelled at any point, both leave a key that runs out by itself.
            let created = tokio::select! {
                biased;
                _ = &mut stopped => return,
                created = self.create() => created,
            };
            if let Some(mut held) = created {
                let term = held.revision;
                tracing::info!(leader = self.lease.leader, term, "leads");
                self.role.send_replace(Role::Leader { term });
                let resigned = tokio::select! {
                    biased;
                    _ = &mut stopped => true,
                    () = self.renew(&mut held) => false,
                };
                self.role.send_replace(Role::Follower { leader: None });
                tracing::info!(leader = self.lease.leader, term, resigned, "leads no more");
                if resigned {
                    return self.release().await;
                }
            }
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = self.follow() => {}
            }
        }
    }

    /// Creates the key, if nobody has it.
    async fn create(&self) -> Option<Held> {
        let sent = Instant::now();
        let created = self.office.keys.create(&self.office.key, self.value());
        match created.await {
            // A creation that took longer than the lease may be over already.
            Ok(revision) if sent.elapsed() < self.office.part(STEP_DOWN_AFTER) => {
                Some(Held { revision, sent })
            }
            Ok(_) | Err(Error::Exists { .. }) => None,
            Err(error) => {
                tracing::debug!(%error, "no lease");
                sleep(self.office.part(PAUSE)).await;
                None
            }
        }
    }

    /// Renews the lease until it is lost.
    async fn renew(&self, held: &mut Held) {
        let mut due = held.sent + self.office.part(RENEW_AFTER);
        loop {
            let end = held.sent + self.office.part(STEP_DOWN_AFTER);
            sleep_until(due.min(end)).await;
            let sent = Instant::now();
            match timeout_at(end, self.renew_once(held.revision)).await {
                Ok(Ok(Some(revision))) => {
                    *held = Held { revision, sent };
                    due = sent + self.office.part(RENEW_AFTER);
                }
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the lease is not renewed yet");
                    due = Instant::now() + self.office.part(PAUSE);
                }
            }
            if Instant::now() >= held.sent + self.office.part(STEP_DOWN_AFTER) {
                return;
            }
        }
    }

    /// Renews the lease; `None` if it is somebody else's, or gone.
    async fn renew_once(&self, revision: u64) -> Result<Option<u64>, Error> {
        let (keys, key) = (&self.office.keys, &self.office.key);
        match keys.update(key, self.value(), revision).await {
            Ok(revision) => return Ok(Some(revision)),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        // Perhaps an earlier renewal, of which no answer came, has succeeded.
        let Some(own) = self.office.revision_of(&self.lease).await? else {
            return Ok(None);
        };
        keys.update(key, self.value(), own).await.map(Some)
    }

    /// Returns when it may be worth while to create the key.
    async fn follow(&self) {
        // What an earlier call, of which no answer came, has left behind would stand in everybody's way.
        self.release().await;
        let Ok(mut changes) = self.office.keys.watch(&self.office.key).await else {
            return sleep(self.office.part(PAUSE)).await;
        };
        let mut held = false;
        // A watch that is silent for as long as this may have missed the end: look again.
        while let Ok(Some(change)) = timeout(self.office.lease, changes.next()).await {
            match change {
                Ok(Change::Put(key, entry)) if key == self.office.key => {
                    held = true;
                    let leader = Lease::read(&entry.value).map(|lease| lease.leader);
                    // What it held itself, now or before a restart, and could not give back, leads nobody.
                    let leader = leader.filter(|leader| *leader != self.lease.leader);
                    self.say(Role::Follower { leader });
                }
                Ok(Change::Deleted(key)) if key == self.office.key => return,
                Ok(Change::UpToDate) if !held => return,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the lease cannot be watched"),
            }
        }
    }

    /// Deletes the key, if this candidacy wrote it.
    async fn release(&self) {
        let release = async {
            if let Some(revision) = self.office.revision_of(&self.lease).await? {
                let (keys, key) = (&self.office.keys, &self.office.key);
                keys.delete_if(key, revision).await?;
            }
            Ok::<(), Error>(())
        };
        let failed = |why: &dyn std::fmt::Display| tracing::debug!(%why, "the lease runs out");
        match timeout(RELEASE_PATIENCE, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed(&error),
            Err(late) => failed(&late),
        }
    }

    fn say(&self, role: Role) {
        self.role.send_if_modified(|now| {
            let changed = *now != role;
            *now = role;
            changed
        });
    }

    #[allow(clippy::expect_used, reason = "two strings are always JSON")]
    fn value(&self) -> Bytes {
        serde_json::to_vec(&self.lease)
            .expect("two strings are always JSON")
            .into()
    }
}
