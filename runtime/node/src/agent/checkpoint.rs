//! A finished model on its way out of its slot: looked at, and handed to the store.

use crate::job::{Job, ModelSlot};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::timeout;
use tracing::warn;
use tributary_api::control::Checkpoints;
use tributary_api::manifest::NonFinite;
use tributary_api::model::first_beyond;

/// Bytes of a model that are copied out of the arena at a time, for its checkpoint: a fraction of a millisecond.
const CHECKPOINT_PIECE_BYTES: u64 = 1 << 20;

/// The pause before a model that could not be kept is written again; it doubles up to the greatest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Keeps a model, however often that has to be tried: what clients have seen must not be lost. Gives the first value that
/// must not be in it, and then nothing is kept. Ends also with the job or the attempt at the round.
pub(super) async fn keep(
    job: &Job,
    model: ModelSlot,
    checkpoints: &dyn Checkpoints,
) -> Option<String> {
    let (mut pause, mut versions) = (PAUSE, job.versions());
    loop {
        let (kept, fault) = checkpoint(job, model, checkpoints).await;
        let Err(error) = kept else { return fault };
        if fault.is_some() || !job.not_kept(model, error.clone()) {
            return fault;
        }
        warn!(job = %job.name, %error, "the model is not published before it is kept");
        // A job that stops says so there.
        let _ = timeout(pause, versions.changed()).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Writes a model to the object store, piece by piece out of its slot, and looks at each; also tells the first value
/// that must not be there, and then nothing is kept.
async fn checkpoint(
    job: &Job,
    model: ModelSlot,
    checkpoints: &dyn Checkpoints,
) -> (Result<(), String>, Option<String>) {
    let mut pieces = ModelPieces::new(job, model);
    let header = Bytes::from(job.model_header(model.version));
    let parts = std::iter::once(Ok(header)).chain(pieces.by_ref());
    let saved = checkpoints
        .save(
            &job.model_key(model.version),
            job.spec().checkpoint,
            Box::new(parts),
        )
        .await
        .map_err(|error| error.to_string());
    // What the store did not ask for is looked at nevertheless.
    pieces.by_ref().for_each(drop);
    (saved, pieces.fault)
}

/// A model's data, in pieces that are looked at as they are read.
struct ModelPieces<'a> {
    job: &'a Job,
    model: ModelSlot,
    offset: u64,
    check_finite: bool,
    fault: Option<String>,
}

impl<'a> ModelPieces<'a> {
    fn new(job: &'a Job, model: ModelSlot) -> Self {
        Self {
            job,
            model,
            offset: 0,
            check_finite: job.ingest().non_finite == NonFinite::Reject,
            fault: None,
        }
    }

    fn check(&self, piece: &[u8]) -> Option<String> {
        let (at, value) = first_beyond(piece, f32::MAX).filter(|_| self.check_finite)?;
        let coordinate = self.job.layout.coordinate(self.offset / 4 + at as u64)?;
        Some(format!(
            "the model would have {coordinate} = {value}, and must be finite (spec.ingest.nonFinite: reject)"
        ))
    }
}

impl Iterator for ModelPieces<'_> {
    type Item = Result<Bytes, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.job.layout.data_bytes() - self.offset;
        if left == 0 || self.fault.is_some() {
            return None;
        }
        let bytes = CHECKPOINT_PIECE_BYTES.min(left);
        let piece = self.job.read_model(self.model, self.offset, bytes as usize);
        let piece = piece.map_err(|error| error.to_string()).and_then(|piece| {
            self.fault = self.check(&piece);
            self.fault.clone().map_or(Ok(piece), Err)
        });
        self.offset += bytes;
        Some(piece.map(Bytes::from))
    }
}
