//! Every model that anybody has seen, and who is in it.
//!
//! A version may have more than one model: a leader that is cut off, or dies, when it has just published one may leave
//! it with its own clients only, and the others make the version again without it (docs/architecture.md, "Several
//! nodes"). Each of them has to equal its reference. Such versions are counted, and told in the report.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::jobs::{JOBS, Job, Update};
use crate::tensors::Model;

/// A version's models, by a hash of their values, and the updates in each.
type Models = BTreeMap<u64, BTreeSet<Update>>;

/// What is known of a job.
#[derive(Debug, Default)]
struct Page {
    versions: BTreeMap<u64, Models>,
    newest: u64,
    newest_at: Option<Instant>,
    longest: Duration,
}

/// What is known of all jobs.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<&'static str, Page>>);

impl Ledger {
    /// One without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Page>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a model that was handed out; gives the number of updates in it if nobody has seen it before.
    ///
    /// # Errors
    /// If it is not what the updates in it make.
    pub fn see(
        &self,
        job: &'static Job,
        version: u64,
        file: &[u8],
    ) -> Result<Option<usize>, String> {
        let model = Model::from_file(file);
        let mut hasher = DefaultHasher::new();
        model.bits().hash(&mut hasher);
        let hash = hasher.finish();
        let is_known = |ledger: &Self| {
            let pages = ledger.lock();
            let models = pages
                .get(job.name)
                .and_then(|page| page.versions.get(&version));
            models.is_some_and(|models| models.contains_key(&hash))
        };
        if version <= 1 || is_known(self) {
            return Ok(None);
        }
        let inside = job
            .contributors(version - 1, &model)
            .map_err(|wrong| format!("version {version} of job {}: {wrong}", job.name))?;
        let count = inside.len();
        let mut pages = self.lock();
        let page = pages.entry(job.name).or_default();
        let models = page.versions.entry(version).or_default();
        if models.insert(hash, inside).is_some() {
            return Ok(None);
        }
        page.arrive(version);
        Ok(Some(count))
    }

    /// The newest version of a job that was seen.
    #[must_use]
    pub fn newest(&self, job: &Job) -> u64 {
        self.lock()
            .get(job.name)
            .map_or(1, |page| page.newest.max(1))
    }

    /// How many models of a version were seen.
    #[must_use]
    pub fn variants(&self, job: &Job, version: u64) -> usize {
        let pages = self.lock();
        let models = pages
            .get(job.name)
            .and_then(|page| page.versions.get(&version));
        models.map_or(0, BTreeMap::len)
    }

    /// Whether after a version every client of a job was counted: in one round, where a round waits for all.
    #[must_use]
    pub fn all_since(&self, job: &Job, version: u64) -> bool {
        let pages = self.lock();
        let Some(page) = pages.get(job.name) else {
            return false;
        };
        let later = page.versions.range(version + 1..);
        let models = later.flat_map(|(_, models)| models.values());
        let clients = |inside: &BTreeSet<Update>| -> BTreeSet<usize> {
            inside.iter().map(|(client, _)| *client).collect()
        };
        if job.staleness_max == 0 {
            return models
                .into_iter()
                .any(|inside| clients(inside).len() == job.clients);
        }
        let all: BTreeSet<usize> = models.into_iter().flat_map(clients).collect();
        all.len() == job.clients
    }

    /// Checks that no update is in the models of two versions.
    ///
    /// # Errors
    /// If one is: with which.
    pub fn check(&self) -> Result<(), String> {
        for (job, page) in &*self.lock() {
            if let Some(((client, trained), first, second)) = page.counted_twice() {
                return Err(format!(
                    "job {job}: the update of client {client} for round {trained} is in versions {first} and {second}"
                ));
            }
        }
        Ok(())
    }

    /// For each job: its versions that were seen, those with more than one model, and the longest time between two.
    #[must_use]
    pub fn summary(&self) -> Vec<(&'static str, usize, usize, Duration)> {
        let pages = self.lock();
        let empty = Page::default();
        let of = |job: &Job| {
            let page = pages.get(job.name).unwrap_or(&empty);
            let several = page.versions.values().filter(|models| models.len() > 1);
            (page.versions.len(), several.count(), page.longest)
        };
        JOBS.iter()
            .map(|job| {
                let (versions, several, longest) = of(job);
                (job.name, versions, several, longest)
            })
            .collect()
    }
}

impl Page {
    fn arrive(&mut self, version: u64) {
        if version <= self.newest {
            return;
        }
        let now = Instant::now();
        if let Some(before) = self.newest_at.replace(now) {
            self.longest = self.longest.max(now - before);
        }
        self.newest = version;
    }

    /// An update that two versions have. Of a version with several models only what all of them have is certain.
    fn counted_twice(&self) -> Option<(Update, u64, u64)> {
        let mut counted: BTreeMap<Update, u64> = BTreeMap::new();
        for (version, models) in &self.versions {
            let mut models = models.values();
            let mut certain = models.next().cloned().unwrap_or_default();
            models.for_each(|other| certain.retain(|update| other.contains(update)));
            for update in certain {
                if let Some(before) = counted.insert(update, *version) {
                    return Some((update, before, *version));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    fn file(job: &Job, updates: &[Update]) -> Vec<u8> {
        let weighed = updates
            .iter()
            .map(|update| (job.update(*update), job.weight(update.0)));
        reference::exact(&weighed.collect::<Vec<_>>()).file()
    }

    #[test]
    fn a_model_is_checked_once_and_known_from_then_on() {
        let (ledger, job) = (Ledger::new(), &JOBS[0]);
        let model = file(job, &[(0, 1), (1, 1)]);
        assert_eq!(ledger.see(job, 2, &model), Ok(Some(2)));
        assert_eq!(ledger.see(job, 2, &model), Ok(None));
        assert_eq!((ledger.newest(job), ledger.variants(job, 2)), (2, 1));
        // The same model as that of another round has updates of the wrong one.
        assert!(ledger.see(job, 3, &model).is_err());
    }

    #[test]
    fn an_update_in_two_versions_is_found() {
        let (ledger, job) = (Ledger::new(), &JOBS[1]);
        for (version, updates) in [(5, [(0, 4), (1, 4)]), (6, [(1, 5), (2, 5)])] {
            let _ = ledger.see(job, version, &file(job, &updates)).unwrap();
        }
        assert_eq!(ledger.check(), Ok(()));
        let _ = ledger.see(job, 7, &file(job, &[(3, 6), (2, 5)])).unwrap();
        assert!(ledger.check().unwrap_err().contains("client 2"));
    }

    #[test]
    fn what_only_one_of_two_models_has_is_not_certain() {
        let (ledger, job) = (Ledger::new(), &JOBS[1]);
        let seen = [
            (5, [(0, 4), (1, 4)]),
            (5, [(0, 4), (2, 4)]),
            (6, [(2, 4), (3, 5)]),
        ];
        for (version, updates) in seen {
            let _ = ledger.see(job, version, &file(job, &updates)).unwrap();
        }
        assert_eq!((ledger.variants(job, 5), ledger.check()), (2, Ok(())));
    }

    #[test]
    fn all_clients_are_counted_when_each_is() {
        let (ledger, job) = (Ledger::new(), &JOBS[1]);
        let halves = [(0..6, 2), (6..12, 3)];
        for (clients, version) in halves {
            let updates: Vec<Update> = clients.map(|client| (client, version - 1)).collect();
            let _ = ledger.see(job, version, &file(job, &updates)).unwrap();
        }
        assert!(ledger.all_since(job, 1));
        assert!(!ledger.all_since(job, 2));
    }
}
