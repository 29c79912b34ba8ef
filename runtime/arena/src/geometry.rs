//! Where everything lies in a segment: pure arithmetic over the job's sizes.

use crate::ring::{RECORD_BYTES, RING_HEADER_BYTES};

/// Bytes before the vector of every slot: one page for a function's scalars.
pub const SCALARS_BYTES: u64 = 4096;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const HEADER_BYTES: u64 = PAGE;
pub(crate) const SLOT_HEADER_BYTES: u64 = 128;

/// The sizes that fix an arena's layout. Both sides of a segment compute the same offsets from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of slots.
    pub slots: u32,
    /// Bytes of the longest vector a slot must hold (update, partial or model).
    pub vector_bytes: u64,
    /// Most distinct clients in one round; one bit each in every slot's contributors.
    pub clients: u32,
    /// Number of completion rings, one per worker.
    pub rings: u32,
    /// Records a ring holds; a power of two.
    pub ring_records: u32,
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
    #[error("{slots} slots of {vector_bytes} bytes exceed the address space")]
    TooLarge {
        /// Slots asked for.
        slots: u32,
        /// Bytes of each slot's vector.
        vector_bytes: u64,
    },
}

impl Geometry {
    /// Checks that the segment can be laid out.
    ///
    /// # Errors
    /// [`GeometryError`] names the size that cannot work.
    pub fn check(&self) -> Result<(), GeometryError> {
        for (count, what) in [
            (u64::from(self.slots), "slot"),
            (self.vector_bytes, "byte of vector"),
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
        let fits = self
            .vector_bytes
            .checked_next_multiple_of(PAGE)
            .and_then(|vector| vector.checked_add(SCALARS_BYTES))
            .and_then(|stride| stride.checked_mul(u64::from(self.slots)))
            // Half the address space of x86-64 user processes: room for several arenas.
            .is_some_and(|data| data < 1 << 46);
        if fits {
            Ok(())
        } else {
            Err(GeometryError::TooLarge {
                slots: self.slots,
                vector_bytes: self.vector_bytes,
            })
        }
    }

    /// Bytes from one slot's start to the next: scalars page and vector, in whole pages.
    #[must_use]
    pub fn slot_stride(&self) -> u64 {
        SCALARS_BYTES + self.vector_bytes.next_multiple_of(PAGE)
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
        HEADER_BYTES + u64::from(self.slots) * SLOT_HEADER_BYTES
    }

    pub(crate) fn contributors_offset(&self, slot: u32) -> u64 {
        self.contributors_base() + u64::from(slot) * self.contributor_words() * 8
    }

    fn ring_stride(&self) -> u64 {
        RING_HEADER_BYTES + u64::from(self.ring_records) * RECORD_BYTES
    }

    pub(crate) fn ring_offset(&self, ring: u32) -> u64 {
        let base = self.contributors_base() + u64::from(self.slots) * self.contributor_words() * 8;
        base.next_multiple_of(128) + u64::from(ring) * self.ring_stride()
    }

    /// Offset of slot 0 in the segment; page aligned, so that it can be mapped into a guest.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.ring_offset(self.rings).next_multiple_of(PAGE)
    }

    /// Bytes of all slots together.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        u64::from(self.slots) * self.slot_stride()
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.data_offset() + self.data_bytes()
    }

    /// Offset of a slot's start (its scalars page) in the segment.
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> u64 {
        self.data_offset() + u64::from(slot) * self.slot_stride()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No two parts of a segment overlap, whatever the sizes.
        #[test]
        fn parts_follow_each_other(slots in 1u32..500, vector in 1u64..1_000_000, clients in 1u32..5000,
                                   rings in 1u32..65, shift in 0u32..10) {
            let g = Geometry { slots, vector_bytes: vector, clients, rings, ring_records: 1 << shift };
            prop_assert_eq!(g.check(), Ok(()));
            let last = slots - 1;
            prop_assert!(g.slot_header_offset(last) + SLOT_HEADER_BYTES <= g.contributors_offset(0));
            prop_assert!(g.contributors_offset(last) + g.contributor_words() * 8 <= g.ring_offset(0));
            prop_assert!(g.ring_offset(rings - 1) + g.ring_stride() <= g.data_offset());
            prop_assert_eq!(g.data_offset() % PAGE, 0);
            prop_assert_eq!(g.slot_stride() % PAGE, 0);
            prop_assert!(g.slot_stride() >= SCALARS_BYTES + vector);
            prop_assert_eq!(g.slot_offset(last) + g.slot_stride(), g.segment_bytes());
        }
    }

    #[test]
    fn impossible_sizes_are_named() {
        let good = Geometry {
            slots: 1,
            vector_bytes: 4,
            clients: 1,
            rings: 1,
            ring_records: 8,
        };
        assert_eq!(
            Geometry { slots: 0, ..good }.check(),
            Err(GeometryError::Zero("slot"))
        );
        assert_eq!(
            Geometry {
                ring_records: 6,
                ..good
            }
            .check(),
            Err(GeometryError::RingSize(6))
        );
        assert!(matches!(
            Geometry {
                vector_bytes: u64::MAX,
                ..good
            }
            .check(),
            Err(GeometryError::TooLarge { .. })
        ));
    }
}
