//! Driving the node to the desired state.

use std::sync::Arc;

use bytes::Bytes;
use tributary_api::{
    Name,
    control::{JobDesired, NodeError},
};

use super::{Controller, Failure, lock};
use crate::{
    Error,
    reconcile::{Step, steps},
    store::{FunctionRecord, JobRecord},
};

/// Why a step did not succeed.
enum StepError {
    Node(NodeError),
    Controller(Error),
}

impl Controller {
    /// Takes every step that is open. The caller has the turn.
    pub(super) async fn drive(&self) {
        let (desired, observed) = (self.desired(), self.node.jobs().await);
        let record = |name: &Name, revision| self.state.store.job(name, revision).ok().flatten();
        for step in steps(&desired, &observed, record) {
            let (Step::Stop(name) | Step::Start(name) | Step::Restart(name) | Step::Update(name)) =
                &step;
            let revision = desired.jobs.get(name).map_or(0, |record| record.revision);
            if self.is_hopeless(name, revision) {
                continue;
            }
            let outcome = match &step {
                Step::Stop(name) => self.node.stop_job(name).await.map_err(StepError::Node),
                Step::Start(name) => self.start_job(name, &desired.jobs[name]).await,
                Step::Restart(name) => self.restart_job(name, &desired.jobs[name]).await,
                Step::Update(name) => self.update_job(name, &desired.jobs[name]).await,
            };
            self.record(name, revision, outcome);
        }
    }

    /// Whether trying again is of no use: the same revision was refused for good.
    fn is_hopeless(&self, name: &Name, revision: u64) -> bool {
        let failures = lock(&self.failures);
        failures
            .get(name)
            .is_some_and(|failure| failure.permanent && failure.revision == revision)
    }

    fn record(&self, name: &Name, revision: u64, outcome: Result<(), StepError>) {
        let (message, permanent) = match outcome {
            Ok(()) => {
                lock(&self.failures).remove(name);
                return;
            }
            Err(StepError::Node(NodeError::Refused(message))) => (message, true),
            Err(StepError::Node(error)) => (error.to_string(), false),
            Err(StepError::Controller(error)) => (error.to_string(), false),
        };
        tracing::warn!(job = %name, revision, permanent, "{message}");
        lock(&self.failures).insert(
            name.clone(),
            Failure {
                revision,
                message,
                permanent,
            },
        );
    }

    async fn start_job(&self, name: &Name, record: &JobRecord) -> Result<(), StepError> {
        let mut job = self.desired_job(name, record).await?;
        let model = self.model(record, &mut job).await?;
        Ok(self.node.start_job(job, model).await?)
    }

    async fn restart_job(&self, name: &Name, record: &JobRecord) -> Result<(), StepError> {
        self.node.stop_job(name).await?;
        self.start_job(name, record).await
    }

    async fn update_job(&self, name: &Name, record: &JobRecord) -> Result<(), StepError> {
        let job = self.desired_job(name, record).await?;
        Ok(self.node.update_job(job).await?)
    }

    /// What the node is told of a job; the version is 1 until [`Controller::model`] says more.
    async fn desired_job(&self, name: &Name, record: &JobRecord) -> Result<JobDesired, StepError> {
        let desired = self.desired();
        let function = desired
            .functions
            .get(&record.spec.function.name)
            .ok_or_else(|| {
                NodeError::Refused(format!(
                    "there is no function {}",
                    record.spec.function.name
                ))
            })?;
        self.deploy(function).await?;
        let layout = match record.spec.model.digest {
            Some(digest) => self.state.blobs.layout(digest).await?,
            None => return Err(NodeError::Refused("the job's record names no model".into()).into()),
        };
        let layout = layout.map_err(|error| NodeError::Refused(error.to_string()))?;
        Ok(JobDesired {
            name: name.clone(),
            revision: record.revision,
            spec: record.spec.for_node(),
            function: function.revision.clone(),
            layout: Arc::new(layout),
            version: 1,
            placement: None,
        })
    }

    /// The newest kept model, else the one of the manifest; sets the version accordingly.
    async fn model(&self, record: &JobRecord, job: &mut JobDesired) -> Result<Bytes, StepError> {
        if let Some((version, file)) = self.state.models.newest(&job.name, &job.layout).await? {
            job.version = version;
            return Ok(file);
        }
        let digest = record.spec.model.digest;
        let digest =
            digest.ok_or_else(|| NodeError::Refused("the job's record names no model".into()))?;
        Ok(self.state.blobs.get(digest).await?)
    }

    /// Makes sure that the node has compiled a function.
    async fn deploy(&self, function: &FunctionRecord) -> Result<(), StepError> {
        let key = (function.revision.name.clone(), function.revision.revision);
        if lock(&self.deployed).contains(&key) {
            return Ok(());
        }
        let wasm = self.state.blobs.get(function.revision.digest).await?;
        self.node.deploy(&function.revision, wasm).await?;
        lock(&self.deployed).insert(key);
        Ok(())
    }
}

impl From<NodeError> for StepError {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::Controller(error)
    }
}
