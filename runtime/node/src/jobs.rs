//! The jobs of this node, by name and by number.

use crate::job::Job;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tributary_api::Name;

/// The register that gateway and agent share.
#[derive(Default)]
pub(crate) struct Jobs(RwLock<BTreeMap<Name, Arc<Job>>>);

impl Jobs {
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
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut BTreeMap<Name, Arc<Job>>) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}
