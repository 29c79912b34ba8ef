//! Everything in this process: redb for keys and messages, a directory for objects.
//!
//! One process at a time has the directory. What is answered is on the disk, except leases (see `leased_keys`).

mod bus;
mod durable_keys;
mod engine;
mod expected;
mod leased_keys;
mod messages;
mod objects;
mod requests;
mod state;
mod streams;
mod tables;
mod watchers;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use async_trait::async_trait;
use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory};
use redb::{Builder, Database, DatabaseError, ReadableDatabase, backends::InMemoryBackend};
use tokio::sync::{Mutex, watch};

use crate::{Backend, Bus, Error, Keys, Objects, Retention, names};
use bus::EmbeddedBus;
use durable_keys::DurableKeys;
use engine::{Engine, Refusal};
use leased_keys::LeasedKeys;
use objects::Folder;
use requests::Requests;
use state::State;
use streams::Streams;

/// What can be chosen.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How long messages are kept.
    pub retention: Retention,
    /// Where objects go; a folder in the store's directory if not said.
    pub objects: Option<Arc<dyn ObjectStore>>,
}

/// A store in this process.
#[derive(Debug)]
pub struct Embedded {
    engine: Arc<Engine>,
    requests: Arc<Requests>,
    retention: Retention,
    objects: Arc<dyn ObjectStore>,
    unsynced: Option<Arc<LocalFileSystem>>,
    leased: Mutex<HashMap<String, Arc<LeasedKeys>>>,
    connection: watch::Sender<bool>,
}

/// Opens, or makes, a store in `directory`. It is free for the next one when everything that came from it is dropped.
///
/// # Errors
/// [`Error::Storage`] if the directory cannot be used, or another process has it.
pub fn open(directory: &Path, options: Options) -> Result<Embedded, Error> {
    let failed = |error: io::Error| Error::storage(directory.display().to_string(), error);
    fs::create_dir_all(directory).map_err(failed)?;
    let file = directory.join("store.redb");
    let path = file.display().to_string();
    let database = Database::create(&file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            Error::storage(&path, "another process has opened it")
        }
        other => Error::storage(&path, other),
    })?;
    let (objects, unsynced) = match options.objects {
        Some(objects) => (objects, None),
        None => local(&directory.join("objects"))?,
    };
    start(database, path, options.retention, objects, unsynced)
}

/// A store that is gone when it is dropped.
///
/// # Errors
/// [`Error::Storage`] if the system has no thread left.
pub fn memory(retention: Retention) -> Result<Embedded, Error> {
    let path = "memory".to_owned();
    let database = Builder::new()
        .create_with_backend(InMemoryBackend::new())
        .map_err(|error| Error::storage(&path, error))?;
    start(database, path, retention, Arc::new(InMemory::new()), None)
}

fn start(
    database: Database,
    path: String,
    retention: Retention,
    objects: Arc<dyn ObjectStore>,
    unsynced: Option<Arc<LocalFileSystem>>,
) -> Result<Embedded, Error> {
    let streams = load(&database, retention).map_err(|refusal| match refusal {
        Refusal::Refused(error) => error,
        Refusal::Broken(error) => Error::storage(&path, error),
    })?;
    let engine = Engine::start(database, State::new(streams), path)?;
    Ok(Embedded {
        engine: Arc::new(engine),
        requests: Arc::default(),
        retention,
        objects,
        unsynced,
        leased: Mutex::default(),
        connection: watch::Sender::new(true),
    })
}

fn load(database: &Database, retention: Retention) -> Result<Streams, Refusal> {
    let broken = |error: redb::Error| Refusal::Broken(error);
    let transaction = database
        .begin_write()
        .map_err(|error| broken(error.into()))?;
    tables::create(&transaction)?;
    transaction.commit().map_err(|error| broken(error.into()))?;
    let transaction = database
        .begin_read()
        .map_err(|error| broken(error.into()))?;
    Streams::load(&transaction, retention)
}

#[async_trait]
impl Backend for Embedded {
    async fn keys(&self, name: &str, ttl: Option<Duration>) -> Result<Arc<dyn Keys>, Error> {
        names::word("bucket", name)?;
        let Some(ttl) = ttl else {
            return Ok(Arc::new(DurableKeys::new(self.engine.clone(), name)));
        };
        let mut leased = self.leased.lock().await;
        let bucket = leased
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(LeasedKeys::new(self.engine.clone(), name, ttl)));
        if bucket.ttl() != ttl {
            let why = format!(
                "it is open with a lifetime of {:?}, not {ttl:?}",
                bucket.ttl()
            );
            return Err(Error::malformed(format!("bucket {name:?}"), why));
        }
        Ok(bucket.clone())
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, Error> {
        let (engine, requests) = (self.engine.clone(), self.requests.clone());
        Ok(Arc::new(EmbeddedBus::new(engine, requests, self.retention)))
    }

    async fn objects(&self, name: &str) -> Result<Arc<dyn Objects>, Error> {
        names::word("bucket", name)?;
        Ok(Arc::new(Folder::new(
            self.objects.clone(),
            self.unsynced.clone(),
            name,
        )))
    }

    fn connection(&self) -> watch::Receiver<bool> {
        self.connection.subscribe()
    }
}

/// The counter of a bucket's revisions.
fn keys_counter(bucket: &str) -> String {
    format!("keys/{bucket}")
}

/// Where objects lie: a store that syncs what it takes, and the same one without syncs if there is one.
type Shelves = (Arc<dyn ObjectStore>, Option<Arc<LocalFileSystem>>);

/// An object store in a directory: durable, and without what a killed process has left half-written.
fn local(directory: &Path) -> Result<Shelves, Error> {
    let path = || directory.display().to_string();
    fs::create_dir_all(directory).map_err(|error| Error::storage(path(), error))?;
    remove_staged(directory).map_err(|error| Error::storage(path(), error))?;
    let store = || {
        let store = LocalFileSystem::new_with_prefix(directory);
        store.map_err(|error| Error::storage(path(), error))
    };
    let synced = store()?.with_fsync(true).with_automatic_cleanup(true);
    Ok((Arc::new(synced), Some(Arc::new(store()?))))
}

/// `object_store` writes to `<name>#<number>` and renames when all is written. No name here has a '#' in it.
fn remove_staged(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if entry.file_name().to_string_lossy().contains('#') {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
