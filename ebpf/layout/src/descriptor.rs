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
