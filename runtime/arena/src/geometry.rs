//! Where everything lies in a segment: pure arithmetic over the job's sizes.

use crate::journal::{JOURNAL_HEADER_BYTES, LANES_MAX};
use crate::ring::{RECORD_BYTES, RING_HEADER_BYTES};
use std::ops::Range;

/// Bytes before the vector of every slot: one page for a function's scalars.
pub const SCALARS_BYTES: u64 = 4096;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const HEADER_BYTES: u64 = PAGE;
pub(crate) const SLOT_HEADER_BYTES: u64 = 128;
/// Half the address space of x86-64 user processes: room for several arenas.
const ADDRESSES: u64 = 1 << 46;

/// What a slot has room for. Rooms of one kind lie together, so each kind has exactly the pages it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// An update or a model.
    Update,
    /// A partial, which may be wider: sums in f64 take twice an update's bytes.
    Partial,
}

/// Slots of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// How many.
    pub count: u32,
    /// Bytes of the longest vector that each must hold.
    pub vector_bytes: u64,
}

impl Slots {
    /// Bytes from one slot's start to the next: scalars page and vector, in whole pages.
    #[must_use]
    pub fn stride(&self) -> u64 {
        SCALARS_BYTES + self.vector_bytes.next_multiple_of(PAGE)
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.count) * self.stride()
    }
}

/// The undo journal of each worker: images of parts of an accumulator that is changed in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalSize {
    /// Threads that change parts side by side; 0 for no journal.
    pub lanes: u32,
    /// Bytes of the image that each lane holds.
    pub image_bytes: u64,
}

impl JournalSize {
    fn image_stride(&self) -> u64 {
        self.image_bytes.next_multiple_of(PAGE)
    }

    /// Bytes of one worker's images: the scalars, then one part of the vector a lane.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.lanes {
            0 => 0,
            lanes => SCALARS_BYTES + u64::from(lanes) * self.image_stride(),
        }
    }
}

/// The sizes that fix an arena's layout. Both sides of a segment compute the same offsets from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Slots for updates and models; they have the lowest numbers.
    pub updates: Slots,
    /// Slots for partials; their numbers follow.
    pub partials: Slots,
    /// Most distinct clients in one round; one bit each in every slot's contributors.
    pub clients: u32,
    /// Number of completion rings and journals, one per worker.
    pub rings: u32,
    /// Records a ring holds; a power of two.
    pub ring_records: u32,
    /// What each worker's journal holds.
    pub journal: JournalSize,
}

/// A geometry that cannot be laid out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GeometryError {
    /// A count is zero where at least one is needed.
    #[error("an arena needs at least one {0}")]
    Zero(&'static str),
    /// The ring size is not a power of two.
    #[error("ring_records is {0}: it must be a power of two")]
    RingSize(u32),
    /// The segment would not fit into the address space.
    #[error(
        "{} slots of {} bytes and {} of {} bytes exceed the address space",
        updates.count, updates.vector_bytes, partials.count, partials.vector_bytes
    )]
    TooLarge {
        /// Slots asked for, for updates and models.
        updates: Slots,
        /// And for partials.
        partials: Slots,
    },
    /// More lanes than a journal's header has room for.
    #[error("a journal of {0} lanes: at most {LANES_MAX}")]
    Lanes(u32),
}

impl Geometry {
    /// Checks that the segment can be laid out.
    ///
    /// # Errors
    /// [`GeometryError`] names the size that cannot work.
    pub fn check(&self) -> Result<(), GeometryError> {
        for (count, what) in [
            (u64::from(self.updates.count), "slot for updates"),
            (self.updates.vector_bytes, "byte of vector"),
            (u64::from(self.partials.count), "slot for partials"),
            (self.partials.vector_bytes, "byte of vector"),
            (u64::from(self.clients), "client"),
            (u64::from(self.rings), "ring"),
        ] {
            if count == 0 {
                return Err(GeometryError::Zero(what));
            }
        }
        if !self.ring_records.is_power_of_two() {
            return Err(GeometryError::RingSize(self.ring_records));
        }
        if self.journal.lanes > LANES_MAX {
            return Err(GeometryError::Lanes(self.journal.lanes));
        }
        let journal = (self.journal.image_bytes < ADDRESSES).then(|| self.journal.bytes());
        let parts = [
            checked_bytes(self.updates),
            checked_bytes(self.partials),
            journal.and_then(|bytes| bytes.checked_mul(u64::from(self.rings))),
        ];
        let data = parts
            .into_iter()
            .try_fold(0u64, |sum, bytes| sum.checked_add(bytes?));
        if data.is_some_and(|data| data < ADDRESSES) {
            Ok(())
        } else {
            Err(GeometryError::TooLarge {
                updates: self.updates,
                partials: self.partials,
            })
        }
    }

    /// All slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.updates.count + self.partials.count
    }

    /// What a slot has room for.
    #[must_use]
    pub fn room(&self, slot: u32) -> Room {
        if slot < self.updates.count {
            Room::Update
        } else {
            Room::Partial
        }
    }

    /// The slots of a room.
    #[must_use]
    pub fn of(&self, room: Room) -> Slots {
        match room {
            Room::Update => self.updates,
            Room::Partial => self.partials,
        }
    }

    /// The numbers of the slots of a room.
    pub(crate) fn numbers(&self, room: Room) -> Range<u32> {
        match room {
            Room::Update => 0..self.updates.count,
            Room::Partial => self.updates.count..self.slots(),
        }
    }

    /// 64-bit words of one slot's contributors.
    #[must_use]
    pub fn contributor_words(&self) -> u64 {
        u64::from(self.clients).div_ceil(64)
    }

    pub(crate) fn slot_header_offset(&self, slot: u32) -> u64 {
        HEADER_BYTES + u64::from(slot) * SLOT_HEADER_BYTES
    }

    fn contributors_base(&self) -> u64 {
        HEADER_BYTES + u64::from(self.slots()) * SLOT_HEADER_BYTES
    }

    pub(crate) fn contributors_offset(&self, slot: u32) -> u64 {
        self.contributors_base() + u64::from(slot) * self.contributor_words() * 8
    }

    fn ring_stride(&self) -> u64 {
        RING_HEADER_BYTES + u64::from(self.ring_records) * RECORD_BYTES
    }

    pub(crate) fn ring_offset(&self, ring: u32) -> u64 {
        let base =
            self.contributors_base() + u64::from(self.slots()) * self.contributor_words() * 8;
        base.next_multiple_of(128) + u64::from(ring) * self.ring_stride()
    }

    /// Offset of a worker's journal header in the segment.
    pub(crate) fn journal_offset(&self, journal: u32) -> u64 {
        self.ring_offset(self.rings).next_multiple_of(128)
            + u64::from(journal) * JOURNAL_HEADER_BYTES
    }

    /// Offset of the data in the segment; page aligned, so that it can be mapped into a guest.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        let journals = if self.journal.lanes == 0 {
            0
        } else {
            self.rings
        };
        self.journal_offset(journals).next_multiple_of(PAGE)
    }

    /// Bytes of all slots and journals together.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.updates.bytes() + self.partials.bytes() + u64::from(self.rings) * self.journal.bytes()
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.data_offset() + self.data_bytes()
    }

    /// Offset of a slot's start (its scalars page) in the data.
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> u64 {
        match slot.checked_sub(self.updates.count) {
            None => u64::from(slot) * self.updates.stride(),
            Some(partial) => self.updates.bytes() + u64::from(partial) * self.partials.stride(),
        }
    }

    /// Offset of a worker's images in the data: the scalars' first.
    #[must_use]
    pub fn scalars_image_offset(&self, journal: u32) -> u64 {
        self.updates.bytes() + self.partials.bytes() + u64::from(journal) * self.journal.bytes()
    }

    /// Offset of a lane's image in the data.
    #[must_use]
    pub fn image_offset(&self, journal: u32, lane: u32) -> u64 {
        self.scalars_image_offset(journal)
            + SCALARS_BYTES
            + u64::from(lane) * self.journal.image_stride()
    }
}

fn checked_bytes(slots: Slots) -> Option<u64> {
    slots
        .vector_bytes
        .checked_next_multiple_of(PAGE)?
        .checked_add(SCALARS_BYTES)?
        .checked_mul(u64::from(slots.count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots(count: u32, vector_bytes: u64) -> Slots {
        Slots {
            count,
            vector_bytes,
        }
    }

    proptest! {
        /// No two parts of a segment overlap, whatever the sizes.
        #[test]
        fn parts_follow_each_other(updates in 1u32..500, partials in 1u32..50, vector in 1u64..1_000_000,
                                   wide in 1u64..1_000_000, clients in 1u32..5000, rings in 1u32..65,
                                   shift in 0u32..10, lanes in 0u32..9, image in 1u64..100_000) {
            let g = Geometry {
                updates: slots(updates, vector),
                partials: slots(partials, wide),
                clients,
                rings,
                ring_records: 1 << shift,
                journal: JournalSize { lanes, image_bytes: image },
            };
            prop_assert_eq!(g.check(), Ok(()));
            let last = g.slots() - 1;
            prop_assert!(g.slot_header_offset(last) + SLOT_HEADER_BYTES <= g.contributors_offset(0));
            prop_assert!(g.contributors_offset(last) + g.contributor_words() * 8 <= g.ring_offset(0));
            prop_assert!(g.ring_offset(rings - 1) + g.ring_stride() <= g.journal_offset(0));
            let journals = if lanes == 0 { 0 } else { rings };
            prop_assert!(g.journal_offset(journals) <= g.data_offset());
            prop_assert_eq!(g.data_offset() % PAGE, 0);
            for slot in 0..last {
                let end = g.slot_offset(slot) + SCALARS_BYTES + g.of(g.room(slot)).vector_bytes;
                prop_assert!(end <= g.slot_offset(slot + 1));
                prop_assert_eq!(g.slot_offset(slot) % PAGE, 0);
            }
            prop_assert!(g.slot_offset(last) + g.partials.stride() <= g.scalars_image_offset(0));
            if lanes > 0 {
                let end = g.image_offset(rings - 1, lanes - 1) + image;
                prop_assert!(end <= g.data_bytes());
                prop_assert_eq!(g.image_offset(rings - 1, lanes - 1) % PAGE, 0);
                prop_assert!(g.image_offset(0, lanes - 1) + image <= g.image_offset(0, lanes));
            }
        }
    }

    #[test]
    fn impossible_sizes_are_named() {
        let good = Geometry {
            updates: slots(1, 4),
            partials: slots(1, 8),
            clients: 1,
            rings: 1,
            ring_records: 8,
            journal: JournalSize::default(),
        };
        assert_eq!(good.check(), Ok(()));
        let bad = Geometry {
            updates: slots(0, 4),
            ..good
        };
        assert_eq!(bad.check(), Err(GeometryError::Zero("slot for updates")));
        let bad = Geometry {
            ring_records: 6,
            ..good
        };
        assert_eq!(bad.check(), Err(GeometryError::RingSize(6)));
        let journal = |lanes, image_bytes| Geometry {
            journal: JournalSize { lanes, image_bytes },
            ..good
        };
        assert_eq!(journal(65, 1).check(), Err(GeometryError::Lanes(65)));
        let too_large = [
            Geometry {
                partials: slots(1, u64::MAX),
                ..good
            },
            journal(2, u64::MAX),
        ];
        for bad in too_large {
            assert!(matches!(bad.check(), Err(GeometryError::TooLarge { .. })));
        }
    }
}
