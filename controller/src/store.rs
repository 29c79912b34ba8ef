//! Desired state: immutable revisions, and one key that says which of them are live.
//!
//! Bucket `desired`, in any [`Keys`]:
//! - `revisions/<kind>/<name>/<revision>.<term>`: a function's, tenant's or job's revision in JSON. Never changed: the
//!   term tells what two leaders wrote under the same number.
//! - `heads`: for each kind and name the last revision ever given, whose record it is, and whether the thing exists.
//!
//! `heads` is changed by compare and swap, and that is the moment at which an apply happens, all or nothing; records
//! that it does not name were never applied. It is the fence as well: who begins to lead writes its term into it, and
//! whoever led before has seen another revision of the key and cannot write any more.

mod former;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tributary_api::{
    Name,
    control::{FunctionDescription, FunctionRevision, Sharing},
    manifest::{JobSpec, Kind, TenantSpec, default_tenant},
};
use tributary_store::{Error as StoreError, Keys};

use crate::Error;
pub(crate) use former::Former;

/// The key that is swapped.
pub(crate) const HEADS: &str = "heads";

/// The records of a thing that can be found by their number. Jobs that run at an older one are started anew.
const RECORDS_FOUND: usize = 8;

/// A function's revision and what its module says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FunctionRecord {
    pub(crate) revision: FunctionRevision,
    pub(crate) description: FunctionDescription,
}

/// A tenant's revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TenantRecord {
    pub(crate) revision: u64,
    pub(crate) spec: TenantSpec,
}

/// A job's revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub(crate) revision: u64,
    pub(crate) spec: JobSpec,
    pub(crate) function_revision: u64,
    /// The model's number of elements.
    pub(crate) elements: u64,
}

/// Everything that exists, at its live revision, and the last revisions of what does not.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Desired {
    pub(crate) functions: BTreeMap<Name, FunctionRecord>,
    pub(crate) tenants: BTreeMap<Name, TenantRecord>,
    pub(crate) jobs: BTreeMap<Name, JobRecord>,
    /// Older revisions of jobs that can still be found.
    older: BTreeMap<(Name, u64), JobRecord>,
    heads: Heads,
    /// The revision of the key `heads`; 0 if there is none.
    seen: u64,
}

/// The value of the key `heads`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Heads {
    /// The term of the leader who wrote it.
    term: u64,
    functions: BTreeMap<Name, Head>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tenants: BTreeMap<Name, Head>,
    jobs: BTreeMap<Name, Head>,
    /// Nodes that are to be given no work.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    drained: BTreeSet<Name>,
}

/// The last revision of a thing. It outlives the thing, so that a revision's number never means two things.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Head {
    last: u64,
    live: bool,
    /// The newest revisions, and under which term each was written.
    terms: BTreeMap<u64, u64>,
}

/// New revisions, committed together.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) functions: Vec<FunctionRecord>,
    pub(crate) tenants: Vec<(Name, TenantRecord)>,
    pub(crate) jobs: Vec<(Name, JobRecord)>,
}

impl Commit {
    pub(crate) fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.tenants.is_empty() && self.jobs.is_empty()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    keys: Arc<dyn Keys>,
}

impl Desired {
    /// Takes over what was read, if nothing newer is known: reads and changes overtake each other.
    pub(crate) fn renew(&mut self, read: Self) {
        if read.seen >= self.seen {
            *self = read;
        }
    }

    /// The number of the next revision.
    pub(crate) fn next_revision(&self, kind: Kind, name: &Name) -> u64 {
        self.heads.of(kind).get(name).map_or(0, |head| head.last) + 1
    }

    /// The jobs that use a function.
    pub(crate) fn jobs_of(&self, function: &Name) -> Vec<Name> {
        let uses = |(name, job): (&Name, &JobRecord)| {
            (job.spec.function.name == *function).then(|| name.clone())
        };
        self.jobs.iter().filter_map(uses).collect()
    }

    /// A tenant's jobs.
    pub(crate) fn jobs_in(&self, tenant: &Name) -> Vec<Name> {
        let belongs =
            |(name, job): (&Name, &JobRecord)| (job.spec.tenant == *tenant).then(|| name.clone());
        self.jobs.iter().filter_map(belongs).collect()
    }

    /// All tenants. `default` is one of them, whether a manifest has described it or not.
    pub(crate) fn all_tenants(&self) -> BTreeMap<Name, TenantRecord> {
        let mut all = self.tenants.clone();
        all.entry(default_tenant()).or_default();
        all
    }

    /// What a job may claim of its nodes.
    pub(crate) fn sharing(&self, job: &JobSpec) -> Sharing {
        let record = self.tenants.get(&job.tenant);
        Sharing {
            tenant: job.tenant.clone(),
            // Who has no record is `default`: a tenant that has jobs is not deleted.
            weight: record
                .map_or_else(|| TenantSpec::default().weight, |record| record.spec.weight),
            priority: job.priority,
        }
    }

    /// A job's revision, if it can still be found.
    pub(crate) fn job_at(&self, name: &Name, revision: u64) -> Option<&JobRecord> {
        let live = self
            .jobs
            .get(name)
            .filter(|record| record.revision == revision);
        live.or_else(|| self.older.get(&(name.clone(), revision)))
    }

    /// Adds a revision that can be found.
    #[cfg(test)]
    pub(crate) fn remember(&mut self, name: &Name, record: JobRecord) {
        self.older.insert((name.clone(), record.revision), record);
    }

    /// The nodes that are to be given no work.
    pub(crate) fn drained(&self) -> &BTreeSet<Name> {
        &self.heads.drained
    }

    /// The heads, for the leader of this term to change. What another leader wrote is not to be changed, however it
    /// became known.
    fn heads_of(&self, term: u64) -> Result<Heads, Error> {
        if self.heads.term == term {
            Ok(self.heads.clone())
        } else {
            Err(Error::NotLeading { leader: None })
        }
    }

    /// The term of the last leader that has written.
    pub(crate) fn term(&self) -> u64 {
        self.heads.term
    }
}

impl Heads {
    fn of(&self, kind: Kind) -> &BTreeMap<Name, Head> {
        match kind {
            Kind::Function => &self.functions,
            Kind::Tenant => &self.tenants,
            Kind::Job => &self.jobs,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut BTreeMap<Name, Head> {
        match kind {
            Kind::Function => &mut self.functions,
            Kind::Tenant => &mut self.tenants,
            Kind::Job => &mut self.jobs,
        }
    }

    /// Makes `revision`, written under this term, the live one.
    fn advance(&mut self, kind: Kind, name: &Name, revision: u64) {
        let term = self.term;
        let head = self.of_mut(kind).entry(name.clone()).or_default();
        (head.last, head.live) = (revision, true);
        head.terms.insert(revision, term);
        while head.terms.len() > RECORDS_FOUND {
            head.terms.pop_first();
        }
    }
}

impl Store {
    pub(crate) fn new(keys: Arc<dyn Keys>) -> Self {
        Self { keys }
    }

    pub(crate) fn keys(&self) -> &Arc<dyn Keys> {
        &self.keys
    }

    /// What is desired now. Records that `known` has are not read again.
    pub(crate) async fn load(&self, known: &Desired) -> Result<Desired, Error> {
        let Some(entry) = self.keys.get(HEADS).await? else {
            return Ok(Desired::default());
        };
        if entry.revision == known.seen {
            return Ok(known.clone());
        }
        let heads: Heads = serde_json::from_slice(&entry.value)?;
        let mut desired = Desired::default();
        for (name, head) in heads.functions.iter().filter(|(_, head)| head.live) {
            let found = known.functions.get(name);
            let record = match found.filter(|known| known.revision.revision == head.last) {
                Some(record) => record.clone(),
                None => self.record(Kind::Function, name, head, head.last).await?,
            };
            desired.functions.insert(name.clone(), record);
        }
        for (name, head) in heads.tenants.iter().filter(|(_, head)| head.live) {
            let found = known.tenants.get(name);
            let record = match found.filter(|known| known.revision == head.last) {
                Some(record) => record.clone(),
                None => self.record(Kind::Tenant, name, head, head.last).await?,
            };
            desired.tenants.insert(name.clone(), record);
        }
        for (name, head) in heads.jobs.iter().filter(|(_, head)| head.live) {
            for revision in head.terms.keys().copied() {
                let record = match known.job_at(name, revision) {
                    Some(record) => record.clone(),
                    None => self.record(Kind::Job, name, head, revision).await?,
                };
                if revision == head.last {
                    desired.jobs.insert(name.clone(), record);
                } else {
                    desired.older.insert((name.clone(), revision), record);
                }
            }
        }
        (desired.heads, desired.seen) = (heads, entry.revision);
        Ok(desired)
    }

    /// Begins to lead: from now on nobody of an earlier term can write.
    pub(crate) async fn fence(&self, term: u64) -> Result<Desired, Error> {
        let mut known = Desired::default();
        loop {
            known = self.load(&known).await?;
            if known.heads.term > term {
                return Err(Error::NotLeading { leader: None });
            }
            let mut heads = known.heads.clone();
            heads.term = term;
            match self.swap(&known, heads).await {
                // Somebody, perhaps the one who led before, was faster this time.
                Err(Error::Store(StoreError::Conflict { .. } | StoreError::Exists { .. })) => {}
                other => return other,
            }
        }
    }

    /// Makes new revisions live, all or none.
    pub(crate) async fn commit(
        &self,
        term: u64,
        base: &Desired,
        commit: &Commit,
    ) -> Result<Desired, Error> {
        let mut heads = base.heads_of(term)?;
        for record in &commit.functions {
            let FunctionRevision { name, revision, .. } = &record.revision;
            self.write(Kind::Function, name, *revision, heads.term, record)
                .await?;
            heads.advance(Kind::Function, name, *revision);
        }
        for (name, record) in &commit.tenants {
            self.write(Kind::Tenant, name, record.revision, heads.term, record)
                .await?;
            heads.advance(Kind::Tenant, name, record.revision);
        }
        for (name, record) in &commit.jobs {
            self.write(Kind::Job, name, record.revision, heads.term, record)
                .await?;
            heads.advance(Kind::Job, name, record.revision);
        }
        self.swap(base, heads).await
    }

    /// Forgets a thing and its revisions, but not how many there were.
    pub(crate) async fn delete(
        &self,
        term: u64,
        base: &Desired,
        kind: Kind,
        name: &Name,
    ) -> Result<Desired, Error> {
        let mut heads = base.heads_of(term)?;
        if let Some(head) = heads.of_mut(kind).get_mut(name) {
            head.live = false;
            head.terms.clear();
        }
        let desired = self.swap(base, heads).await?;
        // Nothing names these any more; what stays behind costs a few bytes.
        if let Err(error) = self.delete_records(kind, name).await {
            tracing::warn!(%kind, %name, %error, "old revisions stay in the store");
        }
        Ok(desired)
    }

    /// Says whether a node is to be given work.
    pub(crate) async fn drain(
        &self,
        term: u64,
        base: &Desired,
        node: &Name,
        drained: bool,
    ) -> Result<Desired, Error> {
        let mut heads = base.heads_of(term)?;
        let changed = if drained {
            heads.drained.insert(node.clone())
        } else {
            heads.drained.remove(node)
        };
        if changed {
            self.swap(base, heads).await
        } else {
            Ok(base.clone())
        }
    }

    /// Writes `heads` if nobody has since `base` was read.
    async fn swap(&self, base: &Desired, heads: Heads) -> Result<Desired, Error> {
        let value = serde_json::to_vec(&heads)?.into();
        if base.seen == 0 {
            self.keys.create(HEADS, value).await?;
        } else {
            self.keys.update(HEADS, value, base.seen).await?;
        }
        self.load(base).await
    }

    async fn record<T: DeserializeOwned>(
        &self,
        kind: Kind,
        name: &Name,
        head: &Head,
        revision: u64,
    ) -> Result<T, Error> {
        let missing = || {
            let what = format!("{kind} {name} has no revision {revision}");
            Error::Record(serde::de::Error::custom(what))
        };
        let term = head.terms.get(&revision).ok_or_else(missing)?;
        let entry = self.keys.get(&key(kind, name, revision, *term)).await?;
        Ok(serde_json::from_slice(&entry.ok_or_else(missing)?.value)?)
    }

    async fn write<T: Serialize>(
        &self,
        kind: Kind,
        name: &Name,
        revision: u64,
        term: u64,
        record: &T,
    ) -> Result<(), Error> {
        let (key, value) = (
            key(kind, name, revision, term),
            serde_json::to_vec(record)?.into(),
        );
        // One that is there was written by this very leader, for an apply that did not come to its end.
        self.keys.put(&key, value).await?;
        Ok(())
    }

    async fn delete_records(&self, kind: Kind, name: &Name) -> Result<(), StoreError> {
        for (key, _) in self.keys.list(&prefix(kind, name)).await? {
            self.keys.delete(&key).await?;
        }
        Ok(())
    }
}

fn prefix(kind: Kind, name: &Name) -> String {
    format!("revisions/{kind}/{name}/")
}

fn key(kind: Kind, name: &Name, revision: u64, term: u64) -> String {
    format!("{}{revision}.{term}", prefix(kind, name))
}

#[cfg(test)]
mod tests {
    use tributary_store::{Backend as _, Retention, embedded};

    use super::*;

    #[tokio::test]
    async fn what_was_read_before_is_no_news() {
        let backend = embedded::memory(Retention::default()).unwrap();
        let store = Store::new(backend.keys("desired", None).await.unwrap());
        let before = store.load(&Desired::default()).await.unwrap();
        let mut known = store.fence(3).await.unwrap();
        // A read that began before this controller led, and took its time.
        known.renew(before);
        assert_eq!(known.term(), 3);
        let after = store.fence(5).await.unwrap();
        known.renew(after);
        assert_eq!(known.term(), 5);
    }
}
