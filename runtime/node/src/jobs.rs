//! The jobs of this node, by name and by number.

use crate::job::Job;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;
use tributary_api::Name;

/// The register that gateway and agent share.
#[derive(Default)]
pub(crate) struct Jobs {
    here: RwLock<Here>,
    names: watch::Sender<BTreeSet<Name>>,
    /// Gateways where jobs are that do not run here.
    elsewhere: RwLock<BTreeMap<Name, String>>,
    /// Jobs that are being started, by how many at a time: one may be asked for anew before the last start is over.
    starting: Mutex<BTreeMap<Name, u32>>,
}

/// A job is being started as long as this lives.
pub(crate) struct Starting {
    jobs: Arc<Jobs>,
    name: Name,
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut starting = self.jobs.lock_starting();
        if let Some(starts) = starting.get_mut(&self.name) {
            *starts -= 1;
        }
        starting.retain(|_, starts| *starts > 0);
    }
}

#[derive(Default)]
struct Here {
    by_name: BTreeMap<Name, Arc<Job>>,
    by_number: BTreeMap<u32, Arc<Job>>,
}

impl Jobs {
    /// The URL of a gateway where the job runs that does not run here.
    pub(crate) fn elsewhere(&self, name: &str) -> Option<String> {
        let elsewhere = self
            .elsewhere
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        elsewhere.get(name).cloned()
    }

    /// Says that a job is being started here, until that is dropped.
    pub(crate) fn starting(self: &Arc<Self>, name: &Name) -> Starting {
        *self.lock_starting().entry(name.clone()).or_default() += 1;
        Starting {
            jobs: self.clone(),
            name: name.clone(),
        }
    }

    /// Whether a job is not here yet.
    pub(crate) fn is_starting(&self, name: &str) -> bool {
        self.lock_starting().contains_key(name)
    }

    fn lock_starting(&self) -> MutexGuard<'_, BTreeMap<Name, u32>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where a job is that does not run here.
    pub(crate) fn direct(&self, job: &Name, gateway: Option<String>) {
        let mut elsewhere = self
            .elsewhere
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match gateway {
            Some(gateway) => elsewhere.insert(job.clone(), gateway),
            None => elsewhere.remove(job),
        };
    }

    /// The names of the jobs that run here, now and as that changes.
    pub(crate) fn names(&self) -> watch::Receiver<BTreeSet<Name>> {
        self.names.subscribe()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Job>> {
        self.read(|jobs| jobs.by_name.get(name).cloned())
    }

    pub(crate) fn by_number(&self, number: u32) -> Option<Arc<Job>> {
        self.read(|jobs| jobs.by_number.get(&number).cloned())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        self.read(|jobs| jobs.by_name.values().cloned().collect())
    }

    pub(crate) fn insert(&self, job: Arc<Job>) {
        self.write(|jobs| {
            let before = jobs.by_name.insert(job.name.clone(), job.clone());
            before.and_then(|before| jobs.by_number.remove(&before.number));
            jobs.by_number.insert(job.number, job);
        });
    }

    pub(crate) fn remove(&self, name: &Name) -> Option<Arc<Job>> {
        self.write(|jobs| {
            let job = jobs.by_name.remove(name)?;
            jobs.by_number.remove(&job.number)
        })
    }

    // A map of handles is whole after every operation: a poisoned lock guards nothing broken.

    fn read<T>(&self, look: impl FnOnce(&Here) -> T) -> T {
        look(&self.here.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Here) -> T) -> T {
        let mut jobs = self.here.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut jobs);
        self.names
            .send_replace(jobs.by_name.keys().cloned().collect());
        changed
    }
}
