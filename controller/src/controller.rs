//! The controller: the only writer of the desired state.

mod apply;
mod drive;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use serde_json::json;
use tributary_api::{
    Name,
    control::NodeControl,
    event::EventKind,
    manifest::{ApiVersion, JobManifest, Kind, Metadata},
    status::{FunctionStatus, JobPhase, JobStatus, NodeStatus},
};

use crate::{
    Error, State,
    store::{Desired, FunctionRecord, JobRecord},
};

/// The time after which what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Applies manifests and keeps a node at what they say.
pub struct Controller {
    state: State,
    node: Arc<dyn NodeControl>,
    desired: RwLock<Arc<Desired>>,
    /// Whoever changes the desired state or drives the node holds the turn.
    turn: tokio::sync::Mutex<()>,
    /// The function revisions that this node has seen since the process began.
    deployed: Mutex<BTreeSet<(Name, u64)>>,
    failures: Mutex<BTreeMap<Name, Failure>>,
}

/// Why a job is not as desired.
#[derive(Debug, Clone)]
struct Failure {
    revision: u64,
    message: String,
    /// Trying again is of no use before the job changes.
    permanent: bool,
}

impl Controller {
    /// Takes the state over, removes files that nothing refers to, and starts the jobs on `node`.
    ///
    /// A job that cannot be started is no error: its status says why, and [`Controller::run`] tries again.
    ///
    /// # Errors
    /// As the store and the file system fail.
    pub async fn start(state: State, node: Arc<dyn NodeControl>) -> Result<Arc<Self>, Error> {
        let desired = state.store.load()?;
        let functions = desired
            .functions
            .values()
            .map(|record| record.revision.digest);
        let models = desired
            .jobs
            .values()
            .filter_map(|record| record.spec.model.digest);
        state
            .blobs
            .retain(&functions.chain(models).collect())
            .await?;
        state
            .models
            .retain(|job| desired.jobs.contains_key(job))
            .await?;
        let controller = Arc::new(Self {
            state,
            node,
            desired: RwLock::new(Arc::new(desired)),
            turn: tokio::sync::Mutex::default(),
            deployed: Mutex::default(),
            failures: Mutex::default(),
        });
        controller.reconcile().await;
        Ok(controller)
    }

    /// Tries again, for ever, what could not be done. Drop the future to end it.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(RETRY).await;
            self.reconcile().await;
        }
    }

    /// Brings the node as near to the desired state as it can be brought now.
    pub async fn reconcile(&self) {
        let _turn = self.turn.lock().await;
        self.drive().await;
    }

    /// Deletes a job, its models and its revisions.
    ///
    /// # Errors
    /// [`Error::Unknown`]; otherwise as the store fails.
    pub async fn delete_job(&self, name: &str) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let Some((name, _)) = self.find_job(name) else {
            return Err(unknown(Kind::Job, name));
        };
        self.forget(Kind::Job, &name).await?;
        self.drive().await;
        // The models go last: should this process die before, the next one removes them at its start.
        self.state.models.remove(&name).await?;
        lock(&self.failures).remove(&name);
        self.node.announce(EventKind::JobDeleted, &name, json!({}));
        Ok(())
    }

    /// Deletes a function that no job uses.
    ///
    /// # Errors
    /// [`Error::Unknown`] and [`Error::InUse`]; otherwise as the store fails.
    pub async fn delete_function(&self, name: &str) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let desired = self.desired();
        let Some((name, _)) = desired.functions.get_key_value(name) else {
            return Err(unknown(Kind::Function, name));
        };
        let jobs = desired.jobs_of(name);
        if !jobs.is_empty() {
            return Err(Error::InUse {
                function: name.clone(),
                jobs,
            });
        }
        self.forget(Kind::Function, name).await
    }

    /// The status of all jobs, running or not.
    ///
    /// # Errors
    /// As the file system fails.
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, Error> {
        let observed = self.node.jobs().await;
        let mut jobs = Vec::new();
        for (name, record) in &self.desired().jobs {
            jobs.push(match observed.iter().find(|job| job.name == *name) {
                Some(status) => self.with_failure(status.clone()),
                None => self.absent(name, record).await?,
            });
        }
        Ok(jobs)
    }

    /// The status of a job, running or not.
    ///
    /// # Errors
    /// [`Error::Unknown`]; otherwise as the file system fails.
    pub async fn job(&self, name: &str) -> Result<JobStatus, Error> {
        let (name, record) = self
            .find_job(name)
            .ok_or_else(|| unknown(Kind::Job, name))?;
        match self.node.job_status(&name).await {
            Some(status) => Ok(self.with_failure(status)),
            None => self.absent(&name, &record).await,
        }
    }

    /// The manifest of a job's newest revision.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn manifest(&self, name: &str) -> Result<JobManifest, Error> {
        let (name, record) = self
            .find_job(name)
            .ok_or_else(|| unknown(Kind::Job, name))?;
        let (api_version, kind) = (ApiVersion::V1, tributary_api::manifest::job::JobKind::Job);
        Ok(JobManifest {
            api_version,
            kind,
            metadata: Metadata { name },
            spec: record.spec,
        })
    }

    /// The newest revisions of all functions.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionStatus> {
        let desired = self.desired();
        desired
            .functions
            .values()
            .map(|record| function_status(&desired, record))
            .collect()
    }

    /// The newest revision of a function.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn function(&self, name: &str) -> Result<FunctionStatus, Error> {
        let desired = self.desired();
        let record = desired
            .functions
            .get(name)
            .ok_or_else(|| unknown(Kind::Function, name))?;
        Ok(function_status(&desired, record))
    }

    /// The nodes.
    pub async fn nodes(&self) -> Vec<NodeStatus> {
        vec![self.node.node_status().await]
    }

    pub(crate) fn blobs(&self) -> &crate::files::blobs::Blobs {
        &self.state.blobs
    }

    fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn find_job(&self, name: &str) -> Option<(Name, JobRecord)> {
        self.desired()
            .jobs
            .get_key_value(name)
            .map(|(name, record)| (name.clone(), record.clone()))
    }

    async fn forget(&self, kind: Kind, name: &Name) -> Result<(), Error> {
        let (store, owned) = (Arc::clone(&self.state.store), name.clone());
        tokio::task::spawn_blocking(move || store.delete(kind, &owned)).await??;
        self.reload().await
    }

    /// Takes over what the store holds after a transaction.
    async fn reload(&self) -> Result<(), Error> {
        let store = Arc::clone(&self.state.store);
        let desired = tokio::task::spawn_blocking(move || store.load()).await??;
        *self.desired.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(desired);
        Ok(())
    }

    fn with_failure(&self, mut status: JobStatus) -> JobStatus {
        if let Some(failure) = lock(&self.failures).get(&status.name) {
            status.last_error = Some(failure.message.clone());
        }
        status
    }

    /// The status of a job that the node does not run.
    async fn absent(&self, name: &Name, record: &JobRecord) -> Result<JobStatus, Error> {
        let failure = lock(&self.failures)
            .get(name)
            .map(|failure| failure.message.clone());
        let version = self
            .state
            .models
            .versions(name)
            .await?
            .last()
            .copied()
            .unwrap_or(1);
        Ok(JobStatus {
            name: name.clone(),
            phase: JobPhase::Failed,
            function: record.spec.function.name.clone(),
            function_revision: record.function_revision,
            revision: record.revision,
            version,
            rounds: record.spec.rounds,
            expected: record.spec.expected(),
            accepted: 0,
            parameters: record.elements,
            model_bytes: record.elements * 4,
            last_error: Some(failure.unwrap_or_else(|| "the job has not been started yet".into())),
            node: None,
            arena: None,
            workers: 0,
            placement: None,
        })
    }
}

fn function_status(desired: &Desired, record: &FunctionRecord) -> FunctionStatus {
    let revision = &record.revision;
    FunctionStatus {
        name: revision.name.clone(),
        revision: revision.revision,
        digest: revision.digest,
        algebra: revision.spec.algebra,
        limits: revision.spec.limits.clone(),
        description: record.description.clone(),
        jobs: desired.jobs_of(&revision.name),
    }
}

fn unknown(kind: Kind, name: &str) -> Error {
    Error::Unknown {
        kind,
        name: name.chars().take(Name::MAX).collect(),
    }
}

/// A panic of another task while it held the lock leaves these maps whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
