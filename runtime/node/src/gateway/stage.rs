//! Where the beginning of a body waits for a slot.
//!
//! A slot is claimed when a body has shown that it comes: its beginning is read here first, a small one whole. There
//! are few such places; where all are taken, a body is read into its slot from its first byte.

use super::fill::PIECE_BYTES;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies whose beginning waits at a time: 32 MiB of memory.
const STAGES_MAX: usize = 128;

/// All of a node's.
pub(crate) struct Stages {
    room: Arc<Semaphore>,
    unused: Mutex<Vec<Vec<u8>>>,
}

/// One of them, until it is dropped.
pub(super) struct Stage {
    pub(super) bytes: Vec<u8>,
    stages: Arc<Stages>,
    _room: OwnedSemaphorePermit,
}

impl Stages {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            room: Arc::new(Semaphore::new(STAGES_MAX)),
            unused: Mutex::default(),
        })
    }

    /// Room for [`PIECE_BYTES`], if there is any.
    pub(super) fn take(self: &Arc<Self>) -> Option<Stage> {
        let room = self.room.clone().try_acquire_owned().ok()?;
        let unused = self.unused.lock();
        let unused = unused.unwrap_or_else(PoisonError::into_inner).pop();
        Some(Stage {
            bytes: unused.unwrap_or_else(|| vec![0; PIECE_BYTES]),
            stages: self.clone(),
            _room: room,
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let unused = self.stages.unused.lock();
        let mut unused = unused.unwrap_or_else(PoisonError::into_inner);
        unused.push(std::mem::take(&mut self.bytes));
    }
}
