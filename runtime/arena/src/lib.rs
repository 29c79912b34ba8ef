//! A job's shared memory on one node: the arena.
//!
//! ```text
//!  +--------+--------------+-----------------+-----------------+--------------------------------------+
//!  | header | slot table   | contributors    | rings, journals | data: slots of updates and models,   |
//!  | 1 page | 128 B a slot | a bitmap a slot | one per worker  | slots of partials, journals' images  |
//!  +--------+--------------+-----------------+-----------------+--------------------------------------+
//! ```
//!
//! * A **slot** holds one update, partial or model: a page of scalars and a vector. Its whole life is one 64-bit word,
//!   `state | owner | generation` ([`State`]); every change of hands is one atomic operation on
//!   that word, so a process that dies at any instruction leaves the slot in one state or the
//!   next, never between. What belongs to a dead process is found by its owner number and taken
//!   back ([`Arena::recover`]).
//! * A **ring** ([`ring::Ring`]) carries completion records from one worker to the agent. It lies
//!   in the segment, so records of a worker that was killed are still read.
//! * A **journal** ([`Journal`]) makes it safe to change an accumulator in place, where a second one
//!   would be too large.
//! * **Offsets, never pointers**, and no lock anywhere: the segment can be mapped at any address
//!   by any number of processes.
//!
//! All metadata are atomics, so that no other process can cause undefined behaviour here by
//! writing to them; the bytes of a slot are reached only through guards whose state word proves
//! who may touch them.

mod contributors;
mod geometry;
mod journal;
mod large_pages;
#[cfg(not(loom))]
mod memory;
pub mod ring;
#[cfg(not(loom))]
mod segment;
mod slot;
mod sync;

#[cfg(not(loom))]
mod arena;
#[cfg(all(test, not(loom)))]
mod models;

#[cfg(not(loom))]
pub use arena::{Arena, Claim, Content, Described, Filling, SlotInfo};
pub use contributors::Contributors;
pub use geometry::{Geometry, GeometryError, JournalSize, Room, SCALARS_BYTES, Slots};
pub use journal::{Journal, Phase, Progress, SlotRef, Step};
pub use large_pages::{LARGE_PAGE_BYTES, take_large_pages};
#[cfg(not(loom))]
pub use memory::Memory;
#[cfg(not(loom))]
pub use segment::{Error, Proof, remove_stale};
pub use slot::{Generation, Kind, OWNER_AGENT, OWNER_MAX, Owner, SlotIndex, State, StateWord};
