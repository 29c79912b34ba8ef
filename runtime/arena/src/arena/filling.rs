//! A slot from its claim to its publication.

use super::{Arena, Claim};
use crate::geometry::SCALARS_BYTES;
use crate::slot::{Generation, Owner, SlotIndex, State};
use std::sync::Arc;

/// A slot that this process fills. Dropped without [`Filling::publish`], it is free again.
#[derive(Debug)]
pub struct Filling {
    pub(super) arena: Arc<Arena>,
    pub(super) slot: SlotIndex,
    pub(super) generation: Generation,
    pub(super) owner: Owner,
    pub(super) done: bool,
}

impl Filling {
    /// The slot's number.
    #[must_use]
    pub fn slot(&self) -> SlotIndex {
        self.slot
    }

    /// The slot's generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The slot's vector, to be written: in whole pages, so it may be longer than the geometry asked for. Not for a
    /// slot that another process was asked to write.
    pub fn vector_mut(&mut self) -> &mut [u8] {
        let geometry = self.arena.geometry();
        let slots = geometry.of(geometry.room(self.slot));
        let len = (slots.stride() - SCALARS_BYTES) as usize;
        // SAFETY: the state word says Filling with this process as owner, and this guard is the only
        // one made by that claim: no other process reads or writes the range until `publish`. The
        // range is the slot's stride without its scalars page: inside the mapping, with pages that
        // are allocated, and any bytes are valid u8.
        unsafe { std::slice::from_raw_parts_mut(self.arena.vector_pointer(self.slot), len) }
    }

    /// The whole slot, to be written: the page of scalars, then the vector. For what another node's slot held.
    pub fn content_mut(&mut self) -> &mut [u8] {
        let geometry = self.arena.geometry();
        let len = geometry.of(geometry.room(self.slot)).stride() as usize;
        // SAFETY: as in `vector_mut`; the page of scalars lies right before the vector and is the slot's too.
        unsafe { std::slice::from_raw_parts_mut(self.arena.slot_pointer(self.slot), len) }
    }

    /// Offset of the slot's vector in the segment: where another process that attaches it by name finds it.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let geometry = self.arena.geometry();
        geometry.data_offset() + geometry.slot_offset(self.slot) + SCALARS_BYTES
    }

    /// Copies bytes of the vector out. For a slot that another process was asked to write: should it still
    /// write, the bytes are what it wrote at some moment, each by itself.
    ///
    /// # Panics
    /// If the range lies outside the vector.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        self.arena.copy_out(self.slot, offset, out);
    }

    /// Writes what the content is; nobody looks at it before it is published.
    #[must_use]
    pub fn describe(self, claim: &Claim) -> Described {
        self.arena.write_claim(self.slot, claim);
        Described(self)
    }

    /// Publishes the content: one atomic store makes it visible together with everything in
    /// `claim`. False if the slot was recovered from this process in the meantime.
    #[must_use]
    pub fn publish(self, to: State, claim: &Claim) -> bool {
        self.describe(claim).publish(to)
    }
}

/// A filled slot of which everything is written. Dropped without [`Described::publish`], it is free
/// again.
#[derive(Debug)]
pub struct Described(Filling);

impl Described {
    /// Publishes the slot by one atomic store. False if it was recovered from this process in the
    /// meantime.
    #[must_use]
    pub fn publish(mut self, to: State) -> bool {
        let filling = &mut self.0;
        filling.done = true;
        filling
            .arena
            .header(filling.slot)
            .state
            .publish(filling.owner, filling.generation, to)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.done {
            self.arena.release(self.slot, self.generation);
        }
    }
}
