//! Desired state: immutable revisions, and one key that says which of them are live.
//!
//! Bucket `desired`, in any [`Keys`]:
//! - `revisions/<kind>/<name>/<revision>.<term>`: a function's, tenant's or job's revision in JSON. Never changed: the
//!   term tells what two leaders wrote under the same number.
//! - `heads`: for each kind and name that exists its last revision, and whose records its newest ones are; and the highest
//!   revision of all that does not exist any more.
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
use tributary_store::{Entry, Error as StoreError, Keys};

use crate::Error;
pub(crate) use former::Former;

/// The key that is swapped.
pub(crate) const HEADS: &str = "heads";

/// The layout of `heads` that this program writes, and the newest that it can read.
const FORMAT: u32 = 2;

/// The records of a thing that are kept, and can be found by their number. Jobs that run at an older one are started anew.
const RECORDS_FOUND: usize = 8;

/// A function's revision and what its module says of itself without a configuration, if anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FunctionRecord {
    pub(crate) revision: FunctionRevision,
    pub(crate) description: Option<FunctionDescription>,
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
    /// The job's first revision; 0 of jobs that an earlier version of the program has made.
    #[serde(default)]
    pub(crate) life: u64,
    pub(crate) spec: JobSpec,
    pub(crate) function_revision: u64,
    /// The model's number of elements.
    pub(crate) elements: u64,
}

/// Everything that exists, at its live revision.
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
    /// The layout; the first version did not say it.
    #[serde(default)]
    format: u32,
    /// The term of the leader who wrote it.
    term: u64,
    functions: BTreeMap<Name, Head>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tenants: BTreeMap<Name, Head>,
    jobs: BTreeMap<Name, Head>,
    /// Nodes that are to be given no work.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    drained: BTreeSet<Name>,
    /// The highest revision of all that was deleted. What is new is numbered on from here, so that a revision's number
    /// never means two things, and nothing has to be kept of what is gone.
    #[serde(default)]
    spent: u64,
    /// What a later version of the program has added to this layout.
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

/// What can be read of any layout of `heads`.
#[derive(Debug, Default, Deserialize)]
struct Stamp {
    #[serde(default)]
    format: u32,
    #[serde(default)]
    term: u64,
}

/// The last revision of a thing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Head {
    last: u64,
    /// Always, but for what an earlier version of the program left; see [`Heads::bury`].
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
    /// Takes over what was read, if nothing newer is known: reads and changes overtake each other. Terms come first: the
    /// store's own numbers begin anew in one that was restored.
    pub(crate) fn renew(&mut self, read: Self) {
        if (read.term(), read.seen) >= (self.term(), self.seen) {
            *self = read;
        }
    }

    /// The number of the next revision.
    pub(crate) fn next_revision(&self, kind: Kind, name: &Name) -> u64 {
        let head = self.heads.of(kind).get(name);
        head.map_or(self.heads.spent, |head| head.last) + 1
    }

    /// Whether a record is the very one that these heads name: other leaders may have given its number as well.
    fn has(&self, kind: Kind, name: &Name, head: &Head, revision: u64) -> bool {
        let known = self.heads.of(kind).get(name);
        let known = known.and_then(|known| known.terms.get(&revision));
        known.is_some() && known == head.terms.get(&revision)
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

    /// Makes `revision`, written under this term, the live one; the key of the record that is not found any more.
    fn advance(&mut self, kind: Kind, name: &Name, revision: u64) -> Option<String> {
        let term = self.term;
        let head = self.of_mut(kind).entry(name.clone()).or_default();
        (head.last, head.live) = (revision, true);
        head.terms.insert(revision, term);
        let many = head.terms.len() > RECORDS_FOUND;
        let (revision, term) = many.then(|| head.terms.pop_first()).flatten()?;
        Some(key(kind, name, revision, term))
    }

    /// Forgets a thing, but not how many revisions there were.
    fn forget(&mut self, kind: Kind, name: &Name) {
        if let Some(head) = self.of_mut(kind).remove(name) {
            self.spent = self.spent.max(head.last);
        }
    }

    /// Forgets what an earlier version of the program kept of things that are deleted.
    fn bury(&mut self) {
        for kind in Kind::ALL {
            let heads = self.of(kind).iter();
            let dead = heads.filter(|(_, head)| !head.live);
            let dead: Vec<Name> = dead.map(|(name, _)| name.clone()).collect();
            for name in dead {
                self.forget(kind, &name);
            }
        }
    }

    /// The keys of all records that can be found.
    fn records(&self) -> BTreeSet<String> {
        let heads = Kind::ALL.into_iter().flat_map(|kind| {
            let heads = self.of(kind).iter();
            heads.map(move |(name, head)| (kind, name, head))
        });
        let records = heads.flat_map(|(kind, name, head)| {
            let terms = head.terms.iter();
            terms.map(move |(revision, term)| key(kind, name, *revision, *term))
        });
        records.collect()
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
        readable(&entry)?;
        let heads: Heads = serde_json::from_slice(&entry.value)?;
        if entry.revision == known.seen && heads == known.heads {
            return Ok(known.clone());
        }
        let mut desired = Desired::default();
        for (name, head) in heads.functions.iter().filter(|(_, head)| head.live) {
            let same = known.has(Kind::Function, name, head, head.last);
            let record = match known.functions.get(name).filter(|_| same) {
                Some(record) => record.clone(),
                None => self.record(Kind::Function, name, head, head.last).await?,
            };
            desired.functions.insert(name.clone(), record);
        }
        for (name, head) in heads.tenants.iter().filter(|(_, head)| head.live) {
            let same = known.has(Kind::Tenant, name, head, head.last);
            let record = match known.tenants.get(name).filter(|_| same) {
                Some(record) => record.clone(),
                None => self.record(Kind::Tenant, name, head, head.last).await?,
            };
            desired.tenants.insert(name.clone(), record);
        }
        for (name, head) in heads.jobs.iter().filter(|(_, head)| head.live) {
            for revision in head.terms.keys().copied() {
                let same = known.has(Kind::Job, name, head, revision);
                let record = match known.job_at(name, revision).filter(|_| same) {
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

    /// The term of the last leader that has written, in whatever layout.
    pub(crate) async fn term(&self) -> Result<u64, Error> {
        let entry = self.keys.get(HEADS).await?;
        let stamp = entry.map(|entry| serde_json::from_slice::<Stamp>(&entry.value));
        Ok(stamp.transpose()?.unwrap_or_default().term)
    }

    /// Whether nobody has written since `base` was read.
    pub(crate) async fn is_current(&self, base: &Desired) -> Result<bool, Error> {
        let entry = self.keys.get(HEADS).await?;
        Ok(entry.map_or(0, |entry| entry.revision) == base.seen)
    }

    /// Begins to lead: from now on nobody of an earlier term can write. The new term is `least`, or more if as much or more
    /// stands here. `holds` says whether the caller still has the lease.
    pub(crate) async fn fence<F>(&self, least: u64, holds: impl Fn() -> F) -> Result<Desired, Error>
    where
        F: Future<Output = Result<bool, StoreError>>,
    {
        let mut known = Desired::default();
        loop {
            known = self.load(&known).await?;
            // Asked after the load: if somebody else gets the lease from here on and writes, the swap fails.
            if !holds().await? {
                return Err(Error::NotLeading { leader: None });
            }
            let mut heads = known.heads.clone();
            heads.term = least.max(heads.term + 1);
            heads.bury();
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
        let (mut heads, mut old) = (base.heads_of(term)?, BTreeSet::new());
        for record in &commit.functions {
            let FunctionRevision { name, revision, .. } = &record.revision;
            self.write(Kind::Function, name, *revision, heads.term, record)
                .await?;
            old.extend(heads.advance(Kind::Function, name, *revision));
        }
        for (name, record) in &commit.tenants {
            self.write(Kind::Tenant, name, record.revision, heads.term, record)
                .await?;
            old.extend(heads.advance(Kind::Tenant, name, record.revision));
        }
        for (name, record) in &commit.jobs {
            self.write(Kind::Job, name, record.revision, heads.term, record)
                .await?;
            old.extend(heads.advance(Kind::Job, name, record.revision));
        }
        let desired = self.swap(base, heads).await?;
        self.clear(&old).await;
        Ok(desired)
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
        let before = heads.records();
        heads.forget(kind, name);
        let old: BTreeSet<_> = before.difference(&heads.records()).cloned().collect();
        let desired = self.swap(base, heads).await?;
        self.clear(&old).await;
        Ok(desired)
    }

    /// The keys of records that `desired` does not name: of applies that came to nothing, and what could not be removed.
    pub(crate) async fn unnamed(&self, desired: &Desired) -> Result<BTreeSet<String>, Error> {
        let named = desired.heads.records();
        let all = self.keys.list(RECORDS).await?;
        let keys = all.into_iter().map(|(key, _)| key);
        Ok(keys.filter(|key| !named.contains(key)).collect())
    }

    /// Removes a record that nothing names.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), Error> {
        Ok(self.keys.delete(key).await?)
    }

    /// Removes records that nothing names any more. What stays behind is found by [`Store::unnamed`].
    async fn clear(&self, keys: &BTreeSet<String>) {
        for key in keys {
            if let Err(error) = self.remove(key).await {
                return tracing::warn!(key, %error, "an old revision stays in the store for now");
            }
        }
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
    async fn swap(&self, base: &Desired, mut heads: Heads) -> Result<Desired, Error> {
        heads.format = FORMAT;
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
}

/// The beginning of all records' keys.
const RECORDS: &str = "revisions/";

fn key(kind: Kind, name: &Name, revision: u64, term: u64) -> String {
    format!("{RECORDS}{kind}/{name}/{revision}.{term}")
}

/// Refuses heads in a layout that this program does not know.
fn readable(entry: &Entry) -> Result<(), Error> {
    let Stamp { format, .. } = serde_json::from_slice(&entry.value)?;
    if format > FORMAT {
        let (found, known) = (format, FORMAT);
        return Err(Error::Format { found, known });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tributary_store::{Backend as _, Retention, embedded};

    use super::*;

    async fn store() -> Store {
        let backend = embedded::memory(Retention::default()).unwrap();
        Store::new(backend.keys("desired", None).await.unwrap())
    }

    async fn holds() -> Result<bool, StoreError> {
        Ok(true)
    }

    fn tenant(name: &str, revision: u64) -> Commit {
        let spec = TenantSpec::default();
        Commit {
            tenants: vec![(name.parse().unwrap(), TenantRecord { revision, spec })],
            ..Commit::default()
        }
    }

    #[tokio::test]
    async fn what_was_read_before_is_no_news() {
        let store = store().await;
        let before = store.load(&Desired::default()).await.unwrap();
        let mut known = store.fence(3, holds).await.unwrap();
        // A read that began before this controller led, and took its time.
        known.renew(before);
        assert_eq!(known.term(), 3);
        let after = store.fence(5, holds).await.unwrap();
        known.renew(after);
        assert_eq!(known.term(), 5);
    }

    #[tokio::test]
    async fn terms_grow_where_leases_begin_anew_and_only_for_who_has_the_lease() {
        let store = store().await;
        assert_eq!(store.fence(55, holds).await.unwrap().term(), 55);
        assert_eq!(store.fence(1, holds).await.unwrap().term(), 56);
        let fenced = store.fence(99, async || Ok(false)).await;
        assert!(
            matches!(fenced, Err(Error::NotLeading { .. })),
            "{fenced:?}"
        );
        assert_eq!(store.term().await.unwrap(), 56);
    }

    #[tokio::test]
    async fn what_is_gone_leaves_a_number_and_nothing_else() {
        let store = store().await;
        let mut known = store.fence(1, holds).await.unwrap();
        for round in 0..40 {
            let name: Name = format!("t{round}").parse().unwrap();
            for _ in 0..3 {
                let revision = known.next_revision(Kind::Tenant, &name);
                let commit = tenant(name.as_str(), revision);
                known = store.commit(1, &known, &commit).await.unwrap();
            }
            let deleted = store.delete(1, &known, Kind::Tenant, &name).await;
            known = deleted.unwrap();
        }
        let all = store.keys.list("").await.unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].1.value.len() < 200, "{all:?}");
        // A number never means two things.
        let next = known.next_revision(Kind::Tenant, &"t0".parse().unwrap());
        assert_eq!(next, 121);
    }

    #[tokio::test]
    async fn so_many_revisions_are_kept_and_others_are_found() {
        let store = store().await;
        let mut known = store.fence(1, holds).await.unwrap();
        for revision in 1..=20 {
            let commit = tenant("t", revision);
            known = store.commit(1, &known, &commit).await.unwrap();
        }
        let count = store.keys.list(RECORDS).await.unwrap().len();
        assert_eq!(count, RECORDS_FOUND);
        // An apply that came to nothing, and what an earlier version left of a deleted thing.
        let stray = "revisions/Tenant/gone/1.1";
        store.keys.put(stray, "{}".into()).await.unwrap();
        let unnamed = store.unnamed(&known).await.unwrap();
        assert_eq!(unnamed, BTreeSet::from([stray.to_owned()]));
    }

    #[tokio::test]
    async fn what_an_earlier_version_kept_of_deleted_things_goes() {
        let store = store().await;
        let former =
            r#"{"term":4,"functions":{},"jobs":{"gone":{"last":9,"live":false,"terms":{}}}}"#;
        store.keys.put(HEADS, former.into()).await.unwrap();
        let known = store.fence(5, holds).await.unwrap();
        assert!(known.heads.jobs.is_empty());
        assert_eq!(known.next_revision(Kind::Job, &"gone".parse().unwrap()), 10);
    }

    #[tokio::test]
    async fn heads_of_a_later_layout_are_refused_and_unknown_fields_stay() {
        let store = store().await;
        let later = r#"{"format":2,"term":4,"functions":{},"jobs":{},"new":{"a":[1]}}"#;
        store.keys.put(HEADS, later.into()).await.unwrap();
        store.fence(5, holds).await.unwrap();
        let entry = store.keys.get(HEADS).await.unwrap().unwrap();
        let heads: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!(heads["new"], serde_json::json!({"a": [1]}));

        let later = r#"{"format":3,"term":7,"jobs":"elsewhere"}"#;
        store.keys.put(HEADS, later.into()).await.unwrap();
        let error = store.fence(9, holds).await.unwrap_err();
        assert!(error.to_string().contains("layout 3"), "{error}");
        assert_eq!(store.term().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_restored_store_is_news() {
        let (first, restored) = (store().await, store().await);
        let mut known = first.fence(5, holds).await.unwrap();
        for revision in 1..=3 {
            let commit = tenant("t", revision);
            known = first.commit(5, &known, &commit).await.unwrap();
        }
        let base = restored.fence(6, holds).await.unwrap();
        let commit = tenant("t", 1);
        let read = restored.commit(6, &base, &commit).await.unwrap();
        known.renew(read.clone());
        assert_eq!(known, read);
    }
}
