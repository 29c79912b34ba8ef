//! A job, as its clients see it.

use tributary_api::status::{JobStatus, RoundPhase, RoundStatus, UpdateReceipt};

use crate::http::{Answer, Client};
use crate::tensors::Model;
use crate::wait::{eventually, until};

/// A job on a server.
#[derive(Debug, Clone)]
pub struct Job {
    client: Client,
    name: String,
}

impl Job {
    /// The job of that name at that door.
    #[must_use]
    pub fn new(client: Client, name: &str) -> Self {
        Self {
            client,
            name: name.into(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The door it is behind.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Where a client's update goes.
    #[must_use]
    pub fn update_path(&self, client: &str, query: &str) -> String {
        format!("/v1/jobs/{}/updates/{client}{query}", self.name)
    }

    /// Sends a file.
    #[must_use]
    #[track_caller]
    pub fn put(&self, client: &str, query: &str, file: &[u8]) -> Answer {
        self.client.put(&self.update_path(client, query), file)
    }

    /// Sends a file again and again until there is a slot for it; gives the answer, 202.
    #[track_caller]
    pub fn put_until_taken(&self, client: &str, query: &str, file: &[u8]) -> Answer {
        eventually("the update is taken", || {
            let answer = self.put(client, query, file);
            (answer.status != 429).then_some(answer)
        })
        .expect(202)
    }

    /// Sends an update that must be taken, as soon as there is a slot for it.
    #[track_caller]
    pub fn push(&self, client: &str, round: u64, weight: f64, update: &Model) -> UpdateReceipt {
        let query = format!("?round={round}&weight={weight}");
        let receipt: UpdateReceipt = self.put_until_taken(client, &query, &update.file()).json();
        assert_eq!(
            (receipt.job.as_str(), receipt.client.as_str(), receipt.round),
            (self.name.as_str(), client, round)
        );
        assert_eq!(receipt.slot_state, "ready");
        receipt
    }

    /// Sends updates of `client-0`, `client-1` ... that must be taken.
    #[track_caller]
    pub fn push_all(&self, round: u64, updates: &[(Model, f64)]) {
        for (index, (update, weight)) in updates.iter().enumerate() {
            self.push(&format!("client-{index}"), round, *weight, update);
        }
    }

    /// The status.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> JobStatus {
        self.client.get(&format!("/v1/jobs/{}", self.name)).json()
    }

    /// A round's status.
    #[must_use]
    #[track_caller]
    pub fn round(&self, round: u64) -> RoundStatus {
        self.client
            .get(&format!("/v1/jobs/{}/rounds/{round}", self.name))
            .json()
    }

    /// The newest model and its version.
    ///
    /// # Panics
    /// If the headers disagree.
    #[must_use]
    #[track_caller]
    pub fn model(&self) -> (u64, Model) {
        read(
            &self
                .client
                .get(&format!("/v1/jobs/{}/model", self.name))
                .expect(200),
        )
    }

    /// The model that a round makes; waits for it.
    ///
    /// # Panics
    /// If it does not come, or a later one does.
    #[must_use]
    #[track_caller]
    pub fn result(&self, round: u64) -> Model {
        let path = format!("/v1/jobs/{}/model?after={round}&wait=60s", self.name);
        let (version, model) = read(&self.client.get(&path).expect(200));
        assert_eq!(version, round + 1);
        model
    }

    /// The status of a round that has its model.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    #[track_caller]
    pub fn completed(&self, round: u64) -> RoundStatus {
        let status = self.round(round);
        assert_eq!(status.phase, RoundPhase::Completed, "{status:?}");
        status
    }

    /// The free slots of its arena.
    ///
    /// # Panics
    /// If it has no arena.
    #[must_use]
    #[track_caller]
    pub fn free_slots(&self) -> u32 {
        self.status()
            .arena
            .expect("a job that runs has an arena")
            .free
    }

    /// Waits until so many slots are free.
    ///
    /// # Panics
    /// If that never comes about.
    pub fn until_free(&self, slots: u32) {
        until(&format!("{slots} free slots in job {}", self.name), || {
            self.free_slots() == slots
        });
    }

    /// Waits for the last error to be told.
    ///
    /// # Panics
    /// If none is.
    #[must_use]
    pub fn last_error(&self) -> String {
        eventually("the job's last error", || self.status().last_error)
    }
}

/// The model in an answer, and its version.
///
/// # Panics
/// If the answer's headers disagree.
#[must_use]
#[track_caller]
pub fn read(answer: &Answer) -> (u64, Model) {
    let version = answer
        .header("tributary-version")
        .expect("a version")
        .to_owned();
    assert_eq!(
        answer.header("etag"),
        Some(format!("\"{version}\"").as_str())
    );
    (
        version.parse().expect("a number"),
        Model::from_file(&answer.body),
    )
}

/// `clients` random updates with whole weights from 1, different for every `seed`.
#[must_use]
pub fn updates(shapes: crate::tensors::Shapes, clients: u64, seed: u64) -> Vec<(Model, f64)> {
    let update = |client| {
        (
            Model::random(shapes, seed * 1_000 + client),
            (client % 7 + 1) as f64,
        )
    };
    (0..clients).map(update).collect()
}

/// The updates with their weights, as [`crate::reference::Mean::of`] takes them.
pub fn weighed(updates: &[(Model, f64)]) -> impl Iterator<Item = (&Model, f64)> {
    updates.iter().map(|(update, weight)| (update, *weight))
}
