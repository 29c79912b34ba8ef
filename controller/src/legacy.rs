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
