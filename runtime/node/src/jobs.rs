//! The jobs of this node, by name and by number.

use crate::job::Job;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;
use tributary_api::Name;

/// The register that gateway and agent share.
#[derive(Default)]
pub(crate) struct Jobs {
    here: RwLock<BTreeMap<Name, Arc<Job>>>,
    names: watch::Sender<BTreeSet<Name>>,
    /// Gateways where jobs are that do not run here.
    elsewhere: RwLock<BTreeMap<Name, String>>,
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

    /// Says where jobs are that do not run here.
    pub(crate) fn direct(&self, elsewhere: BTreeMap<Name, String>) {
        *self
            .elsewhere
            .write()
            .unwrap_or_else(PoisonError::into_inner) = elsewhere;
    }

    /// The names of the jobs that run here, now and as that changes.
    pub(crate) fn names(&self) -> watch::Receiver<BTreeSet<Name>> {
        self.names.subscribe()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Job>> {
        self.read(|jobs| jobs.get(name).cloned())
    }

    pub(crate) fn by_number(&self, number: u32) -> Option<Arc<Job>> {
        self.read(|jobs| jobs.values().find(|job| job.number == number).cloned())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        self.read(|jobs| jobs.values().cloned().collect())
    }

    pub(crate) fn insert(&self, job: Arc<Job>) {
        self.write(|jobs| jobs.insert(job.name.clone(), job));
    }

    pub(crate) fn remove(&self, name: &Name) -> Option<Arc<Job>> {
        self.write(|jobs| jobs.remove(name))
    }

    // A map of handles is whole after every operation: a poisoned lock guards nothing broken.

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<Name, Arc<Job>>) -> T) -> T {
        look(&self.here.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut BTreeMap<Name, Arc<Job>>) -> T) -> T {
        let mut jobs = self.here.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut jobs);
        self.names.send_replace(jobs.keys().cloned().collect());
        changed
    }
}
