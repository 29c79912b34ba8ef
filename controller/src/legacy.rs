//! What the first version kept in a state directory: tables of a database, and files in two directories beside it.
//!
//! It is taken over once. The database is put aside under another name first, and removed when all of it is in the
//! store, so a process that dies in between leaves a directory from which the next one goes on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tributary_api::{Name, manifest::Kind};

use crate::{
    Error,
    store::{Former, Store},
};

/// Kind, name and revision to the record in JSON.
const REVISIONS: TableDefinition<(&str, &str, u64), &[u8]> = TableDefinition::new("revisions");

/// Kind and name to the last revision ever given, and whether the thing exists.
const HEADS: TableDefinition<(&str, &str), (u64, bool)> = TableDefinition::new("heads");

/// The directories of files, whose inner layout is the same as ever.
const DIRECTORIES: [&str; 2] = ["blobs", "models"];

/// A state of the first version that has been put aside.
pub(crate) struct Legacy {
    directory: PathBuf,
    file: PathBuf,
}

/// Puts a state of the first version aside, if `directory` holds one.
pub(crate) fn find(directory: &Path) -> Result<Option<Legacy>, Error> {
    let (now, aside) = (
        directory.join("store.redb"),
        directory.join("store-v1.redb"),
    );
    if !aside.exists() {
        if !now.exists() || !is_legacy(&now)? {
            return Ok(None);
        }
        fs::rename(&now, &aside).map_err(|error| failed(&now, error))?;
    }
    Ok(Some(Legacy {
        directory: directory.into(),
        file: aside,
    }))
}

impl Legacy {
    /// Brings everything into `store`, whose objects lie in the same directory.
    pub(crate) async fn take_over(self, store: &Store) -> Result<(), Error> {
        for directory in DIRECTORIES {
            let (from, to) = (
                self.directory.join(directory),
                self.directory.join("objects").join(directory),
            );
            adopt(&from, &to).map_err(|error| failed(&from, error))?;
        }
        store.take_over(self.read()?).await?;
        fs::remove_file(&self.file).map_err(|error| failed(&self.file, error))?;
        tracing::info!(
            directory = %self.directory.display(),
            "the state of an earlier version was taken over"
        );
        Ok(())
    }

    fn read(&self) -> Result<Vec<Former>, Error> {
        let read = || -> Result<Vec<Former>, redb::Error> {
            let transaction = Database::open(&self.file)?.begin_read()?;
            let (heads, revisions) = (
                transaction.open_table(HEADS)?,
                transaction.open_table(REVISIONS)?,
            );
            let mut all = Vec::new();
            for row in heads.iter()? {
                let (key, head) = row?;
                let ((kind, name), (last, live)) = (key.value(), head.value());
                let of = (kind, name, 0)..=(kind, name, last);
                let mut records = Vec::new();
                for row in revisions.range(of)? {
                    let (key, record) = row?;
                    records.push((key.value().2, record.value().to_vec()));
                }
                all.push((kind.to_owned(), name.to_owned(), last, live, records));
            }
            Ok(all
                .into_iter()
                .filter_map(|(kind, name, last, live, records)| {
                    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
                    let name: Name = name.parse().ok()?;
                    Some(Former {
                        kind,
                        name,
                        last,
                        live,
                        records,
                    })
                })
                .collect())
        };
        read().map_err(|error| failed(&self.file, error))
    }
}

fn is_legacy(file: &Path) -> Result<bool, Error> {
    let database = Database::open(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => Error::Locked(file.display().to_string()),
        other => failed(file, other),
    })?;
    let transaction = database.begin_read().map_err(|error| failed(file, error))?;
    match transaction.open_table(HEADS) {
        Ok(_) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(failed(file, error)),
    }
}

/// Moves a directory to its new place; what is there already was moved by a process that died.
fn adopt(from: &Path, to: &Path) -> io::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        fs::create_dir_all(to)?;
        if entry.file_type()?.is_dir() {
            adopt(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), target)?;
        }
    }
    fs::remove_dir(from)
}

fn failed(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Legacy {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        State,
        store::Desired,
        testing::{name, record},
    };
    use serde_json::json;

    const KEPT: &str = "models/j/00000000000000000004.safetensors";

    /// A directory as the first version left it: job `j` at revision 2, and `gone`, which was deleted.
    fn first_version(directory: &Path) {
        let database = Database::create(directory.join("store.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut heads = transaction.open_table(HEADS).unwrap();
            let mut revisions = transaction.open_table(REVISIONS).unwrap();
            heads.insert(("Job", "j"), (2, true)).unwrap();
            heads.insert(("Job", "gone"), (7, false)).unwrap();
            for revision in 1..=2 {
                let spec = json!({"round": {"expected": revision}});
                let record = serde_json::to_vec(&record(revision, 1, spec)).unwrap();
                revisions
                    .insert(("Job", "j", revision), record.as_slice())
                    .unwrap();
            }
        }
        transaction.commit().unwrap();
        let kept = directory.join(KEPT);
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::write(kept, "a model").unwrap();
    }

    async fn is_taken_over(directory: &Path) {
        let state = State::open(directory).await.unwrap();
        let desired = state.store.load(&Desired::default()).await.unwrap();
        assert_eq!(desired.jobs.len(), 1);
        assert_eq!(desired.jobs["j"].spec.round.expected, Some(2));
        let old = desired.job_at(&name("j"), 1).unwrap();
        assert_eq!(old.spec.round.expected, Some(1));
        // A revision's number never means two things.
        assert_eq!(desired.next_revision(Kind::Job, &name("gone")), 8);
        let newest = state.models.newest_version(&name("j"), 0).await;
        assert_eq!(newest.unwrap(), Some(4));
        assert!(!directory.join("models").exists() && !directory.join("store-v1.redb").exists());
    }

    #[tokio::test]
    async fn a_directory_of_the_first_version_is_taken_over_once() {
        let directory = tempfile::tempdir().unwrap();
        first_version(directory.path());
        is_taken_over(directory.path()).await;
        is_taken_over(directory.path()).await;
    }

    #[tokio::test]
    async fn a_process_that_died_over_it_is_gone_on_from() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        first_version(path);
        // It had put the database aside, and moved some of the files.
        drop(find(path).unwrap().unwrap());
        let moved = path.join("objects").join(KEPT);
        fs::create_dir_all(moved.parent().unwrap()).unwrap();
        fs::rename(path.join(KEPT), moved).unwrap();
        is_taken_over(path).await;
    }
}
