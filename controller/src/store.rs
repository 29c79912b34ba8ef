//! Desired state in redb: immutable revisions and which of them are live.

use std::{collections::BTreeMap, path::Path};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tributary_api::{
    Name,
    control::{FunctionDescription, FunctionRevision},
    manifest::{JobSpec, Kind},
};

use crate::Error;

/// Kind, name and revision to the record in JSON. A record is never changed.
const REVISIONS: TableDefinition<(&str, &str, u64), &[u8]> = TableDefinition::new("revisions");

/// Kind and name to the last revision ever given, and whether the thing exists. The row outlives the thing, so
/// that a revision's number never means two things.
const HEADS: TableDefinition<(&str, &str), (u64, bool)> = TableDefinition::new("heads");

/// A function's revision and what its module says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FunctionRecord {
    pub(crate) revision: FunctionRevision,
    pub(crate) description: FunctionDescription,
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
    pub(crate) jobs: BTreeMap<Name, JobRecord>,
    last: BTreeMap<(Kind, Name), u64>,
}

/// New revisions, committed together.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) functions: Vec<FunctionRecord>,
    pub(crate) jobs: Vec<(Name, JobRecord)>,
}

pub(crate) struct Store {
    database: Database,
}

impl Desired {
    /// The number of the next revision.
    pub(crate) fn next_revision(&self, kind: Kind, name: &Name) -> u64 {
        self.last.get(&(kind, name.clone())).copied().unwrap_or(0) + 1
    }

    /// The jobs that use a function.
    pub(crate) fn jobs_of(&self, function: &Name) -> Vec<Name> {
        let uses = |(name, job): (&Name, &JobRecord)| {
            (job.spec.function.name == *function).then(|| name.clone())
        };
        self.jobs.iter().filter_map(uses).collect()
    }
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Error::Locked(path.display().to_string()),
            other => Error::Store(other.into()),
        })?;
        let transaction = database.begin_write()?;
        transaction.open_table(REVISIONS)?;
        transaction.open_table(HEADS)?;
        transaction.commit()?;
        Ok(Self { database })
    }

    pub(crate) fn load(&self) -> Result<Desired, Error> {
        let transaction = self.database.begin_read()?;
        let (heads, revisions) = (
            transaction.open_table(HEADS)?,
            transaction.open_table(REVISIONS)?,
        );
        let mut desired = Desired::default();
        for row in heads.iter()? {
            let (key, head) = row?;
            let ((kind, name), (last, live)) = (key.value(), head.value());
            let (kind, name) = (kind_of(kind)?, name_of(name)?);
            if live {
                match kind {
                    Kind::Function => {
                        desired
                            .functions
                            .insert(name.clone(), record(&revisions, kind, &name, last)?);
                    }
                    Kind::Job => {
                        desired
                            .jobs
                            .insert(name.clone(), record(&revisions, kind, &name, last)?);
                    }
                }
            }
            desired.last.insert((kind, name), last);
        }
        Ok(desired)
    }

    /// A job's revision, live or not.
    pub(crate) fn job(&self, name: &Name, revision: u64) -> Result<Option<JobRecord>, Error> {
        let transaction = self.database.begin_read()?;
        let revisions = transaction.open_table(REVISIONS)?;
        let row = revisions.get((Kind::Job.as_str(), name.as_str(), revision))?;
        row.map(|bytes| serde_json::from_slice(bytes.value()).map_err(Error::from))
            .transpose()
    }

    pub(crate) fn commit(&self, commit: &Commit) -> Result<(), Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut heads = transaction.open_table(HEADS)?;
            let mut revisions = transaction.open_table(REVISIONS)?;
            let functions = commit.functions.iter().map(|record| {
                let json = serde_json::to_vec(record)?;
                Ok::<_, Error>((
                    Kind::Function,
                    &record.revision.name,
                    record.revision.revision,
                    json,
                ))
            });
            let jobs = commit.jobs.iter().map(|(name, record)| {
                Ok((
                    Kind::Job,
                    name,
                    record.revision,
                    serde_json::to_vec(record)?,
                ))
            });
            for row in functions.chain(jobs) {
                let (kind, name, revision, json) = row?;
                revisions.insert((kind.as_str(), name.as_str(), revision), json.as_slice())?;
                heads.insert((kind.as_str(), name.as_str()), (revision, true))?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Forgets a thing and its revisions, but not how many there were.
    pub(crate) fn delete(&self, kind: Kind, name: &Name) -> Result<(), Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut heads = transaction.open_table(HEADS)?;
            let mut revisions = transaction.open_table(REVISIONS)?;
            let last = heads
                .get((kind.as_str(), name.as_str()))?
                .map_or(0, |head| head.value().0);
            heads.insert((kind.as_str(), name.as_str()), (last, false))?;
            let all = (kind.as_str(), name.as_str(), 0)..=(kind.as_str(), name.as_str(), last);
            revisions.retain_in(all, |_, _| false)?;
        }
        Ok(transaction.commit()?)
    }
}

fn record<T: DeserializeOwned>(
    revisions: &impl ReadableTable<(&'static str, &'static str, u64), &'static [u8]>,
    kind: Kind,
    name: &Name,
    revision: u64,
) -> Result<T, Error> {
    let missing = || damaged(&format!("{kind} {name} has no revision {revision}"));
    let row = revisions
        .get((kind.as_str(), name.as_str(), revision))?
        .ok_or_else(missing)?;
    Ok(serde_json::from_slice(row.value())?)
}

fn kind_of(text: &str) -> Result<Kind, Error> {
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    known.ok_or_else(|| {
        damaged(&format!(
            "unknown kind {text:?}; was it written by a newer version?"
        ))
    })
}

fn name_of(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|error| damaged(&format!("{error}")))
}

fn damaged(what: &str) -> Error {
    Error::Record(serde::de::Error::custom(what))
}
