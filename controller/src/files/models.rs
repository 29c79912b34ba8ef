//! The versions of models that rounds made.
//!
//! Objects `<job>/<life>.<generation>.<version>.safetensors`, written whole or not at all. There is no record of a job's
//! version beside them, so no crash can make a record and the objects disagree: the newest whole one is the truth. A job
//! without objects is at version 1, the model of its manifest.
//!
//! A name has everything that tells models apart ([`ModelKey`]): one that is written late, by a leader that was given up
//! or for a job that was deleted, takes no other's place, and is older than what came meanwhile. Names of an earlier
//! version of the program, `<job>/<version>.safetensors`, are of life and generation 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tributary_api::{
    Name,
    control::{ModelKey, ModelParts},
    manifest::Checkpoint,
    model::ModelLayout,
};
use tributary_store::{Error as StoreError, Objects, Orphans};

use crate::Error;

/// The versions of a job that are kept where all find them.
pub(crate) const VERSIONS_KEPT: usize = 5;

/// Pieces that may be on their way to the store at a time.
const PARTS_AHEAD: usize = 4;

const EXTENSION: &str = ".safetensors";

/// The models of all jobs.
#[derive(Debug, Clone)]
pub struct Models {
    objects: Arc<dyn Objects>,
    /// The versions of a job that are kept.
    kept: usize,
    /// The kept versions of the jobs that this process saves, so that a save lists nothing.
    saved: Arc<Mutex<BTreeMap<Name, BTreeSet<ModelKey>>>>,
}

/// A model to begin with: the version under which it goes on, and its file.
pub(crate) type Beginning = (u64, Bytes);

impl Models {
    pub(crate) fn new(objects: Arc<dyn Objects>, kept: usize) -> Self {
        Self {
            objects,
            kept,
            saved: Arc::default(),
        }
    }

    /// The newest model of that life that is whole and has the job's layout.
    pub(crate) async fn newest(
        &self,
        job: &Name,
        life: u64,
        layout: &ModelLayout,
    ) -> Result<Option<Beginning>, Error> {
        newest(&[self], job, life, layout).await
    }

    /// The kept models of a job, the oldest first.
    pub(crate) async fn keys(&self, job: &Name) -> Result<Vec<ModelKey>, StoreError> {
        let all = self.objects.list(&format!("{job}/")).await?;
        let mut keys: Vec<_> = all.iter().filter_map(|(name, _)| key(name)).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// The version at which a job would begin, by its name and life.
    pub(crate) async fn newest_versions(&self) -> Result<BTreeMap<(Name, u64), u64>, StoreError> {
        let mut newest = BTreeMap::new();
        for key in self.all().await? {
            let known: &mut u64 = newest.entry((key.job, key.life)).or_default();
            *known = key.version.max(*known);
        }
        Ok(newest)
    }

    /// The version at which the job would begin.
    pub(crate) async fn newest_version(
        &self,
        job: &Name,
        life: u64,
    ) -> Result<Option<u64>, StoreError> {
        let keys = self.keys(job).await?;
        let versions = keys.iter().filter(|key| key.life == life);
        Ok(versions.map(|key| key.version).max())
    }

    /// Removes everything of a job.
    pub(crate) async fn remove(&self, job: &Name) -> Result<(), Error> {
        for (name, _) in self.objects.list(&format!("{job}/")).await? {
            self.objects.delete(&name).await?;
        }
        Ok(())
    }

    /// The models of jobs for which `exists` says no.
    pub(crate) async fn unused(
        &self,
        exists: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>, Error> {
        let all = self.objects.list("").await?;
        let unused = |name: &String| !exists(name.split('/').next().unwrap_or_default());
        Ok(all
            .into_iter()
            .map(|(name, _)| name)
            .filter(unused)
            .collect())
    }

    /// Removes a model that [`Models::unused`] named.
    pub(crate) async fn remove_one(&self, name: &str) -> Result<(), Error> {
        Ok(self.objects.delete(name).await?)
    }

    /// Removes pieces of models that were never whole; see [`Objects::tidy`].
    pub(crate) async fn tidy(&self, seen: Orphans) -> Result<Orphans, Error> {
        Ok(self.objects.tidy(seen).await?)
    }

    /// Keeps a model, and forgets none.
    pub(crate) async fn write(
        &self,
        model: &ModelKey,
        checkpoint: Checkpoint,
        parts: ModelParts<'_>,
    ) -> Result<(), StoreError> {
        let (pieces, taken) = mpsc::channel(PARTS_AHEAD);
        let content = stream::unfold(taken, |mut taken| async {
            taken.recv().await.map(|piece| (piece, taken))
        });
        let feed = async {
            for part in parts {
                let part = part.map_err(|why| {
                    let what = model.to_string();
                    StoreError::Malformed { what, why }
                });
                let last = part.is_err();
                // Nobody takes pieces any more if the store has failed, and it says why.
                if pieces.send(part).await.is_err() || last {
                    break;
                }
            }
            drop(pieces);
        };
        let (name, content) = (name(model), content.boxed());
        let put = match checkpoint {
            Checkpoint::Written => self.objects.put_unsynced(&name, content),
            Checkpoint::Synced => self.objects.put(&name, content),
        };
        let (stored, ()) = tokio::join!(put, feed);
        stored.map(drop)
    }

    /// Lets a model survive a crash of the machine.
    pub(crate) async fn sync(&self, model: &ModelKey) -> Result<(), StoreError> {
        self.objects.sync(&name(model)).await
    }

    /// Brings a model here from where it is kept, unless it is here. It may have been forgotten there.
    pub(crate) async fn bring(&self, from: &Self, model: &ModelKey) -> Result<(), StoreError> {
        let name = name(model);
        let Some(object) = from.objects.get(&name).await? else {
            return Ok(());
        };
        if self.objects.size(&name).await? != Some(object.bytes) {
            self.objects.put(&name, object.content).await?;
        }
        Ok(())
    }

    /// Forgets the oldest versions beyond those that are kept, now that `newest` is one of them.
    pub(crate) async fn prune(&self, newest: &ModelKey) -> Result<(), StoreError> {
        let job = &newest.job;
        // Taken out: after a failure it is looked what is there.
        let known = self.saved().remove(job).unwrap_or_default();
        let follows = |last: &ModelKey| {
            let next = ModelKey {
                version: last.version + 1,
                ..last.clone()
            };
            next == *newest
        };
        // Where versions are missing, somebody else may have kept some.
        let mut keys = if known.last().is_some_and(follows) {
            known
        } else {
            self.keys(job).await?.into_iter().collect()
        };
        keys.insert(newest.clone());
        while keys.len() > self.kept
            && let Some(oldest) = keys.first().cloned()
        {
            self.objects.delete(&name(&oldest)).await?;
            keys.remove(&oldest);
        }
        self.saved().insert(job.clone(), keys);
        Ok(())
    }

    /// Forgets what is known of a job that does not run here any more.
    pub(crate) fn forget(&self, job: &Name) {
        self.saved().remove(job);
    }

    fn saved(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, BTreeSet<ModelKey>>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A model's file, if it is kept.
    pub(crate) async fn read(&self, model: &ModelKey) -> Result<Option<Bytes>, StoreError> {
        super::whole(&*self.objects, &name(model)).await
    }

    /// Forgets one model.
    pub(crate) async fn delete(&self, model: &ModelKey) -> Result<(), StoreError> {
        self.objects.delete(&name(model)).await
    }

    /// All that is kept.
    pub(crate) async fn all(&self) -> Result<Vec<ModelKey>, StoreError> {
        let all = self.objects.list("").await?;
        Ok(all.iter().filter_map(|(name, _)| key(name)).collect())
    }
}

/// The newest model of a life in any of these places that is whole and has the job's layout.
///
/// It goes on under its own version, unless a greater number was given already: to a model that is damaged, or that a
/// leader made which was given up. Clients may have seen that, and no number stands for two models.
pub(super) async fn newest(
    places: &[&Models],
    job: &Name,
    life: u64,
    layout: &ModelLayout,
) -> Result<Option<Beginning>, Error> {
    let mut keys = BTreeSet::new();
    for place in places {
        keys.extend(place.keys(job).await?);
    }
    keys.retain(|key| key.life == life);
    let greatest = keys.iter().map(|key| key.version).max();
    for key in keys.iter().rev() {
        for place in places {
            // Another node may have made a newer version meanwhile, and this one is forgotten.
            let Some(file) = place.read(key).await? else {
                continue;
            };
            match ModelLayout::from_file(&file) {
                Ok((found, _)) if found == *layout => {
                    let beyond = greatest.filter(|greatest| *greatest > key.version);
                    let version = beyond.map_or(key.version, |greatest| greatest + 1);
                    return Ok(Some((version, file)));
                }
                Ok(_) => tracing::warn!(%key, "a kept model has another layout and is passed over"),
                Err(error) => {
                    tracing::warn!(%key, %error, "a kept model is damaged and is passed over");
                }
            }
        }
    }
    Ok(None)
}

fn name(model: &ModelKey) -> String {
    let ModelKey {
        job,
        life,
        generation,
        version,
    } = model;
    match (life, generation) {
        (0, 0) => format!("{job}/{version:020}{EXTENSION}"),
        _ => format!("{job}/{life}.{generation}.{version:020}{EXTENSION}"),
    }
}

fn key(name: &str) -> Option<ModelKey> {
    let (job, file) = name.split_once('/')?;
    let job = job.parse().ok()?;
    let mut numbers = file.strip_suffix(EXTENSION)?.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let (first, second, third) = (next()?, next(), next());
    let (life, generation, version) = match (second, third) {
        (None, None) => (0, 0, first),
        (Some(generation), Some(version)) => (first, generation, version),
        _ => return None,
    };
    Some(ModelKey {
        job,
        life,
        generation,
        version,
    })
}
