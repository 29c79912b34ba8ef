//! The message that travels: 32 bytes that name a slot and a destination.

use crate::Destination;

/// What a descriptor tells its destination.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The slot holds a client's update.
    Update = 1,
    /// The slot holds a partial aggregate.
    Partial = 2,
    /// The round closes. `slot` is not a slot but the number of contributors that the aggregator must hold
    /// before it sends its partial on.
    Close = 3,
    /// Something happened that the receiver should look at; the slot says what, if anything.
    Doorbell = 4,
    /// A client's update will not come. `slot` is not a slot but the client's number in the round.
    Skip = 5,
}

impl Kind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Update),
            2 => Some(Self::Partial),
            3 => Some(Self::Close),
            4 => Some(Self::Doorbell),
            5 => Some(Self::Skip),
            _ => None,
        }
    }
}

/// A fixed-size message naming a slot and a destination. Little-endian on the wire, no padding.
///
/// ```text
///  0            8           16        20           24       28      32
///  | destination | sent_ns   | slot    | generation | round  | kind |
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// [`Destination::raw`].
    pub destination: u64,
    /// When it was sent, in nanoseconds of `CLOCK_MONOTONIC`; 0 = not stamped, and then not measured.
    pub sent_ns: u64,
    /// The slot's index in the job's arena, or what [`Kind`] says instead.
    pub slot: u32,
    /// The slot's generation when the descriptor was made: a stale one names a slot that was reused since.
    pub generation: u32,
    /// The round.
    pub round: u32,
    /// [`Kind`].
    pub kind: u32,
}

impl Descriptor {
    /// The size of a descriptor, in bytes.
    pub const BYTES: usize = 32;

    /// The descriptor as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.destination.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sent_ns.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.slot.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.round.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.kind.to_le_bytes());
        bytes
    }

    /// The descriptor in these bytes. Any bytes are accepted; see [`Self::is_well_formed`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            destination: long(0),
            sent_ns: long(8),
            slot: word(16),
            generation: word(20),
            round: word(24),
            kind: word(28),
        }
    }

    /// The destination, as a [`Destination`].
    #[must_use]
    pub const fn to(&self) -> Destination {
        Destination::from_raw(self.destination)
    }

    /// Whether level and kind are ones that exist. The sidecar and the agent count and refuse all others.
    #[must_use]
    pub const fn is_well_formed(&self) -> bool {
        self.to().level().is_some() && Kind::from_raw(self.kind).is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Level;

    /// The kernel program reads the bytes as the struct.
    #[test]
    fn the_bytes_are_the_struct() {
        assert_eq!(size_of::<Descriptor>(), Descriptor::BYTES);
        let bytes: [u8; Descriptor::BYTES] = core::array::from_fn(|at| at as u8);
        let descriptor = Descriptor::from_bytes(&bytes);
        assert_eq!(descriptor.destination, 0x0706_0504_0302_0100);
        assert_eq!(descriptor.sent_ns, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(
            (descriptor.slot, descriptor.generation),
            (0x1312_1110, 0x1716_1514)
        );
        assert_eq!(
            (descriptor.round, descriptor.kind),
            (0x1b1a_1918, 0x1f1e_1d1c)
        );
        assert_eq!(core::mem::offset_of!(Descriptor, sent_ns), 8);
        assert_eq!(core::mem::offset_of!(Descriptor, slot), 16);
        assert_eq!(core::mem::offset_of!(Descriptor, generation), 20);
        assert_eq!(core::mem::offset_of!(Descriptor, round), 24);
        assert_eq!(core::mem::offset_of!(Descriptor, kind), 28);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_descriptor_and_back(bytes: [u8; Descriptor::BYTES]) {
            let descriptor = Descriptor::from_bytes(&bytes);
            prop_assert_eq!(descriptor.to_bytes(), bytes);
            let level = (descriptor.destination >> 24) & 0xff;
            let well_formed = level <= 3 && (1..=5).contains(&descriptor.kind);
            prop_assert_eq!(descriptor.is_well_formed(), well_formed);
        }

        #[test]
        fn a_destination_keeps_its_parts(job: u32, level in 0_u8..4, index in 0..=Destination::INDEX_MAX) {
            let level = Level::from_raw(level);
            let destination = Destination::new(job, level.unwrap(), index);
            prop_assert_eq!(Destination::from_raw(destination.raw()), destination);
            prop_assert_eq!((destination.job(), destination.level(), destination.index()), (job, level, index));
        }
    }

    #[test]
    #[should_panic(expected = "24 bits")]
    fn an_index_does_not_run_into_the_level() {
        let _ = Destination::new(1, Level::Leaf, Destination::INDEX_MAX + 1);
    }
}
