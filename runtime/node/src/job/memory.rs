//! Models into and out of the arena, and the broom.

use super::{Job, ModelSlot};
use crate::round::Epoch;
use std::sync::Arc;
use tributary_arena::{Arena, Claim, Content, Contributors, Kind, OWNER_AGENT, Room, State};
use tributary_sidecar_layout::{Destination, Level};

/// A model cannot be put into the arena.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error(transparent)]
    Arena(#[from] tributary_arena::Error),
    #[error("the arena has no free slot for the model")]
    NoSlot,
}

/// The model's slot now belongs to another: the version is too old to be read any more.
#[derive(Debug, thiserror::Error)]
#[error("version {0} of the model is no longer in memory; fetch the newest one")]
pub(crate) struct Superseded(pub u64);

/// Puts a model into a slot of a new arena.
pub(super) fn place_model(
    arena: &Arc<Arena>,
    job: u32,
    version: u64,
    model: &[u8],
) -> Result<ModelSlot, ModelError> {
    let mut filling = arena
        .claim(OWNER_AGENT, Room::Update)?
        .ok_or(ModelError::NoSlot)?;
    let placed = ModelSlot {
        version,
        slot: filling.slot(),
        generation: filling.generation(),
    };
    filling.vector_mut()[..model.len()].copy_from_slice(model);
    if filling.publish(State::Model, &model_claim(job)) {
        Ok(placed)
    } else {
        Err(ModelError::NoSlot)
    }
}

/// What is written beside a model that was not made by the round that is open here.
pub(super) fn model_claim(job: u32) -> Claim {
    Claim {
        kind: Kind::Model,
        aggregator: Destination::new(job, Level::Top, 0),
        // No epoch: it is no round's result.
        round: 0,
        weight: 0.0,
        client: 0,
        sequence: 0,
        content: Content::default(),
        contributors: Contributors::default(),
    }
}

/// Frees everything that epochs up to `epoch` have left, but for the models that are kept.
///
/// Called between rounds. What is being filled stays: its owner is alive, or will be recovered.
pub(super) fn sweep(arena: &Arena, epoch: Epoch, kept: &[u32]) {
    for info in arena.in_use() {
        let over = match info.word.state {
            State::Ready | State::Live | State::Sent => info.round <= epoch.raw(),
            State::Model => info.round <= epoch.raw() && !kept.contains(&info.slot),
            State::Free | State::Filling => false,
        };
        if over {
            arena.release(info.slot, info.word.generation);
        }
    }
}

impl Job {
    /// Copies a piece of a model out of its slot, without a lock: the slot's generation tells
    /// afterwards whether the bytes are still that model's.
    pub(crate) fn read_model(
        &self,
        model: ModelSlot,
        offset: u64,
        bytes: usize,
    ) -> Result<Vec<u8>, Superseded> {
        let mut piece = vec![0; bytes];
        if self
            .arena
            .read(model.slot, model.generation, offset, &mut piece)
        {
            Ok(piece)
        } else {
            Err(Superseded(model.version))
        }
    }

    /// The beginning of the model's safetensors file.
    pub(crate) fn model_header(&self, version: u64) -> Vec<u8> {
        self.layout
            .header_bytes(&[("version", &version.to_string())])
    }
}
