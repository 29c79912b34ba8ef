//! Slots over a segment: claim, fill, publish, release, recover.

mod filling;

use crate::contributors::Contributors;
use crate::geometry::{Geometry, Room, SCALARS_BYTES};
use crate::journal::{Journal, JournalHeader, SlotRef, Step};
use crate::ring::{Entry, Ring, RingHeader};
use crate::segment::{Error, Proof, Segment};
use crate::slot::{AtomicState, Generation, Kind, Owner, SlotIndex, State, StateWord};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tributary_sidecar_layout::Destination;

pub use filling::{Described, Filling};

/// One entry of the slot table. The state word publishes the other fields: they are written while
/// the slot is Filling, and read only after a state that follows has been seen.
#[repr(C, align(128))]
struct SlotHeader {
    state: AtomicState,
    aggregator: AtomicU64,
    weight_bits: AtomicU64,
    round: AtomicU32,
    kind: AtomicU32,
    client: AtomicU32,
    sequence: AtomicU32,
    encoding: AtomicU32,
    count: AtomicU32,
    /// The words of the slot's contributors that are kept: the first one's number, and how many (upper half).
    /// One word, so that they change together.
    contributors: AtomicU64,
    /// 1 once the slot's pages are allocated.
    reserved: AtomicU32,
}

const _: () = assert!(size_of::<SlotHeader>() as u64 == crate::geometry::SLOT_HEADER_BYTES);

/// How a slot's vector is to be read. The arena keeps it and gives it no meaning; the default says
/// dense f32 numbers, as partials and models have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The code of the elements' encoding.
    pub encoding: u32,
    /// What the encoding counts: scale runs, or the pairs of a sparse vector; else 0.
    pub count: u32,
}

/// What a slot is published with.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// What it holds.
    pub kind: Kind,
    /// Update: the aggregator that folds it. Partial: the aggregator that made it. Model: the top.
    pub aggregator: Destination,
    /// The round it belongs to.
    pub round: u32,
    /// An update's weight; 0 otherwise (a partial keeps its weight among its scalars).
    pub weight: f64,
    /// An update's client number in the round; 0 otherwise.
    pub client: u32,
    /// A partial's version: grows with each commit of its aggregator in this round.
    pub sequence: u32,
    /// How the vector is to be read.
    pub content: Content,
    /// The clients inside.
    pub contributors: Contributors,
}

/// A slot as it was when it was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotInfo {
    /// Its number.
    pub slot: SlotIndex,
    /// State, owner and generation.
    pub word: StateWord,
    /// The aggregator it belongs to (see [`Claim::aggregator`]).
    pub aggregator: Destination,
    /// The round it belongs to.
    pub round: u32,
    /// An update's weight.
    pub weight: f64,
    /// An update's client number.
    pub client: u32,
    /// A partial's version.
    pub sequence: u32,
    /// How the vector is to be read.
    pub content: Content,
}

/// A job's arena on this node.
pub struct Arena {
    segment: Segment,
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena")
            .field("name", &self.name())
            .field("geometry", self.geometry())
            .finish()
    }
}

impl Arena {
    /// Creates the segment `/dev/shm/{name}`, mode 0600. When the value is dropped it is unlinked, and its data go, whoever
    /// has it mapped.
    ///
    /// # Errors
    /// A geometry that cannot be laid out, a name in use, no room in /dev/shm.
    pub fn create(name: &str, geometry: Geometry) -> Result<Self, Error> {
        Ok(Self {
            segment: Segment::create(name, geometry)?,
        })
    }

    /// Attaches to a segment that another process created.
    ///
    /// # Errors
    /// No such segment, or one that is not an arena of this version.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self {
            segment: Segment::open(name)?,
        })
    }

    /// The segment's name under /dev/shm.
    #[must_use]
    pub fn name(&self) -> &str {
        self.segment.name()
    }

    /// What only those know who can open the segment.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.segment.proof()
    }

    /// Takes the segment's name away: nobody attaches it any more. The memory goes when the last who has it lets go.
    pub fn unlink(&self) {
        self.segment.unlink();
    }

    /// The sizes it was created with.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.segment.geometry()
    }

    /// A descriptor of the segment, for mapping the data region into a guest.
    ///
    /// # Errors
    /// The system's, when no descriptor is left.
    pub fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.segment.descriptor()
    }

    fn header(&self, slot: SlotIndex) -> &SlotHeader {
        assert!(
            slot < self.geometry().slots(),
            "slot {slot} is beyond the arena"
        );
        // SAFETY: the slot table starts 128-aligned and holds `slots` headers (geometry); a header
        // consists of atomics for which any bytes are valid.
        unsafe { self.segment.at(self.geometry().slot_header_offset(slot)) }
    }

    fn contributor_words(&self, slot: SlotIndex) -> &[AtomicU64] {
        assert!(
            slot < self.geometry().slots(),
            "slot {slot} is beyond the arena"
        );
        let words = self.geometry().contributor_words() as usize;
        // SAFETY: the geometry places `words` 8-aligned atomics for each slot inside the segment.
        unsafe {
            self.segment
                .slice_at(self.geometry().contributors_offset(slot), words)
        }
    }

    /// The completion ring of a worker.
    ///
    /// # Panics
    /// If `ring` is not below the geometry's number of rings.
    #[must_use]
    pub fn ring(&self, ring: u32) -> Ring<'_> {
        let geometry = self.geometry();
        assert!(ring < geometry.rings, "ring {ring} is beyond the arena");
        let offset = geometry.ring_offset(ring);
        // SAFETY: ring offsets are 128-aligned and inside the segment; all fields are atomics.
        let header: &RingHeader = unsafe { self.segment.at(offset) };
        let entries = offset + crate::ring::RING_HEADER_BYTES;
        // SAFETY: the geometry places `ring_records` entries of atomics right behind the header.
        let entries: &[Entry] = unsafe {
            self.segment
                .slice_at(entries, geometry.ring_records as usize)
        };
        Ring::new(header, entries)
    }

    /// The journal of a worker.
    ///
    /// # Panics
    /// If the arena has no journals, or not this one.
    #[must_use]
    pub fn journal(&self, journal: u32) -> Journal<'_> {
        let geometry = self.geometry();
        assert!(
            journal < geometry.rings && geometry.journal.lanes > 0,
            "journal {journal} is beyond the arena"
        );
        // SAFETY: journal offsets are 128-aligned and inside the segment; all fields are atomics.
        let header: &JournalHeader = unsafe { self.segment.at(geometry.journal_offset(journal)) };
        Journal::new(header)
    }

    /// Number of free slots of a room right now.
    #[must_use]
    pub fn free_slots(&self, room: Room) -> u32 {
        let free = |slot: &SlotIndex| self.header(*slot).state.load().state == State::Free;
        self.geometry().numbers(room).filter(free).count() as u32
    }

    /// Whether more than `slots` slots of a room are free right now. Looks at no more of them than it must:
    /// the lowest are taken first, so the last are the likeliest to be free.
    #[must_use]
    pub fn more_free_than(&self, room: Room, slots: u32) -> bool {
        let free = |slot: &SlotIndex| self.header(*slot).state.load().state == State::Free;
        let mut free = self.geometry().numbers(room).rev().filter(free);
        free.nth(slots as usize).is_some()
    }

    /// Number of slots whose pages have ever been used.
    #[must_use]
    pub fn reserved_slots(&self) -> u32 {
        (0..self.geometry().slots())
            .filter(|slot| self.is_reserved(*slot))
            .count() as u32
    }

    /// Bytes of the data whose pages have ever been used: the arena's high-water mark.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        let geometry = self.geometry();
        let stride = |slot| geometry.of(geometry.room(slot)).stride();
        let slots = (0..geometry.slots()).filter(|slot| self.is_reserved(*slot));
        let journals = u64::from(geometry.rings) * geometry.journal.bytes();
        slots.map(stride).sum::<u64>() + journals
    }

    fn is_reserved(&self, slot: SlotIndex) -> bool {
        self.header(slot).reserved.load(Ordering::Relaxed) == 1
    }

    /// Claims the lowest free slot of a room (so that the pages in use stay few and warm) for `owner`.
    ///
    /// `Ok(None)` if no slot is free.
    ///
    /// # Errors
    /// [`Error::Full`] if the slot was never used and /dev/shm cannot hold its pages.
    pub fn claim(self: &Arc<Self>, owner: Owner, room: Room) -> Result<Option<Filling>, Error> {
        let geometry = self.geometry();
        for slot in geometry.numbers(room) {
            let header = self.header(slot);
            if let Some(generation) = header.state.claim(owner) {
                let filling = Filling {
                    arena: self.clone(),
                    slot,
                    generation,
                    owner,
                    done: false,
                };
                if header.reserved.load(Ordering::Relaxed) == 0 {
                    let start = geometry.data_offset() + geometry.slot_offset(slot);
                    self.segment.reserve(start, geometry.of(room).stride())?;
                    header.reserved.store(1, Ordering::Relaxed);
                }
                return Ok(Some(filling));
            }
        }
        Ok(None)
    }

    /// What a slot holds now.
    #[must_use]
    pub fn info(&self, slot: SlotIndex) -> SlotInfo {
        let header = self.header(slot);
        SlotInfo {
            slot,
            word: header.state.load(),
            aggregator: Destination::from_raw(header.aggregator.load(Ordering::Relaxed)),
            round: header.round.load(Ordering::Relaxed),
            weight: f64::from_bits(header.weight_bits.load(Ordering::Relaxed)),
            client: header.client.load(Ordering::Relaxed),
            sequence: header.sequence.load(Ordering::Relaxed),
            content: Content {
                encoding: header.encoding.load(Ordering::Relaxed),
                count: header.count.load(Ordering::Relaxed),
            },
        }
    }

    /// Every slot that is not free.
    pub fn in_use(&self) -> impl Iterator<Item = SlotInfo> + '_ {
        (0..self.geometry().slots())
            .map(|slot| self.info(slot))
            .filter(|info| info.word.state != State::Free)
    }

    /// The clients inside a slot.
    #[must_use]
    pub fn contributors(&self, slot: SlotIndex) -> Contributors {
        // SYNC POINT: pairs with `write_contributors`.
        let range = self.header(slot).contributors.load(Ordering::Acquire);
        let (first, count) = (range as u32, (range >> 32) as usize);
        // Of a slot that has changed hands in the meantime, the words may be another set's.
        let words = self.contributor_words(slot).iter();
        let kept = words.skip(first as usize).take(count);
        Contributors::from_words(first, kept.map(|w| w.load(Ordering::Relaxed)).collect())
    }

    /// Live -> Sent: the accumulator is complete and now its parent's input.
    pub fn send_on(&self, slot: SlotIndex, generation: Generation) -> bool {
        self.header(slot).state.send_on(generation)
    }

    /// Frees a slot of the given generation; false if that generation has ended already.
    pub fn release(&self, slot: SlotIndex, generation: Generation) -> bool {
        self.header(slot).state.release(generation)
    }

    /// Takes back every slot that a dead process was filling; gives their number.
    pub fn recover(&self, owner: Owner) -> u32 {
        (0..self.geometry().slots())
            .filter(|slot| self.header(*slot).state.recover(owner))
            .count() as u32
    }

    /// Copies bytes of a published slot's vector out. `false` if the slot has been released since
    /// (the bytes in `out` are then worthless).
    ///
    /// # Panics
    /// If the range lies outside the vector.
    #[must_use]
    pub fn read(
        &self,
        slot: SlotIndex,
        generation: Generation,
        offset: u64,
        out: &mut [u8],
    ) -> bool {
        // The pages may be rewritten while they are copied: then the generation has moved on, the check
        // below says so, and the bytes are not used.
        self.copy_out(slot, offset, out);
        self.is_still(slot, generation)
    }

    /// As [`Arena::read`], with offsets from the slot's beginning: its page of scalars comes before the vector.
    ///
    /// # Panics
    /// If the range lies outside the slot.
    #[must_use]
    pub fn read_content(
        &self,
        slot: SlotIndex,
        generation: Generation,
        offset: u64,
        out: &mut [u8],
    ) -> bool {
        self.copy_content(slot, offset, out);
        self.is_still(slot, generation)
    }

    /// Whether bytes that were read before are what the slot of that generation holds.
    fn is_still(&self, slot: SlotIndex, generation: Generation) -> bool {
        std::sync::atomic::fence(Ordering::Acquire);
        let word = self.header(slot).state.load();
        word.generation == generation && !matches!(word.state, State::Free | State::Filling)
    }

    /// Copies bytes of a slot's vector out, whatever its state.
    fn copy_out(&self, slot: SlotIndex, offset: u64, out: &mut [u8]) {
        self.copy_content(slot, offset.saturating_add(SCALARS_BYTES), out);
    }

    /// Copies bytes of a slot out, whatever its state: its page of scalars, then its vector.
    fn copy_content(&self, slot: SlotIndex, offset: u64, out: &mut [u8]) {
        let end = offset.checked_add(out.len() as u64);
        assert!(
            end.is_some_and(|end| end <= SCALARS_BYTES + self.vector_bytes(slot)),
            "range beyond the slot"
        );
        let source = self.slot_pointer(slot).wrapping_add(offset as usize);
        // SAFETY: the range lies inside the slot, which is mapped as long as `self` lives;
        // `out` is this process's own memory. Another process may write to the pages meanwhile: any
        // bytes are valid u8, and the callers say what such bytes are worth.
        unsafe { std::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
    }

    fn vector_bytes(&self, slot: SlotIndex) -> u64 {
        let geometry = self.geometry();
        geometry.of(geometry.room(slot)).vector_bytes
    }

    /// Address of an offset in the data.
    fn data_pointer(&self, offset: u64) -> *mut u8 {
        self.segment.pointer(self.geometry().data_offset() + offset)
    }

    fn slot_pointer(&self, slot: SlotIndex) -> *mut u8 {
        self.data_pointer(self.geometry().slot_offset(slot))
    }

    fn vector_pointer(&self, slot: SlotIndex) -> *mut u8 {
        self.slot_pointer(slot).wrapping_add(SCALARS_BYTES as usize)
    }

    /// Puts clients into a published accumulator that is changed in place. May be done twice.
    pub fn add_contributors(&self, slot: SlotIndex, clients: &Contributors) {
        let mut all = self.contributors(slot);
        all.extend(clients);
        self.write_contributors(slot, &all);
    }

    /// Keeps the accumulator's scalars and begins a step.
    ///
    /// # Panics
    /// As [`Arena::journal`], and if another step is under way.
    pub fn begin_step(&self, journal: u32, step: &Step) {
        let geometry = self.geometry();
        let scalars = geometry.slot_offset(step.accumulator.slot);
        let image = geometry.scalars_image_offset(journal);
        self.copy_data(scalars, image, SCALARS_BYTES);
        self.journal(journal).begin(step);
    }

    /// Copies a part of the accumulator's vector to a lane's image, and says that it is whole.
    ///
    /// # Panics
    /// If the part lies outside the vector or is larger than an image.
    pub fn save_part(
        &self,
        journal: u32,
        lane: u32,
        accumulator: SlotRef,
        part: u64,
        bytes: Range<u64>,
    ) {
        let geometry = self.geometry();
        let len = bytes.end - bytes.start;
        assert!(
            bytes.end <= self.vector_bytes(accumulator.slot) && len <= geometry.journal.image_bytes,
            "a part lies inside the vector and fits an image"
        );
        let from = geometry.slot_offset(accumulator.slot) + SCALARS_BYTES + bytes.start;
        self.copy_data(from, geometry.image_offset(journal, lane), len);
        self.journal(journal).saved(lane, part + 1);
    }

    /// Copies within the data. Slots and images never overlap.
    fn copy_data(&self, from: u64, to: u64, bytes: u64) {
        let data = self.geometry().data_bytes();
        assert!(from + bytes <= data && to + bytes <= data);
        // SAFETY: both ranges lie inside the data (asserted), which is mapped as long as `self` lives; slots
        // and images are different extents (geometry). Only the worker that hosts an accumulator changes it
        // or its journal, and it is in this call.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.data_pointer(from),
                self.data_pointer(to),
                bytes as usize,
            );
        }
    }

    fn write_claim(&self, slot: SlotIndex, claim: &Claim) {
        let header = self.header(slot);
        header
            .aggregator
            .store(claim.aggregator.raw(), Ordering::Relaxed);
        header
            .weight_bits
            .store(claim.weight.to_bits(), Ordering::Relaxed);
        header.round.store(claim.round, Ordering::Relaxed);
        header.kind.store(claim.kind as u32, Ordering::Relaxed);
        header.client.store(claim.client, Ordering::Relaxed);
        header.sequence.store(claim.sequence, Ordering::Relaxed);
        let Content { encoding, count } = claim.content;
        header.encoding.store(encoding, Ordering::Relaxed);
        header.count.store(count, Ordering::Relaxed);
        self.write_contributors(slot, &claim.contributors);
    }

    fn write_contributors(&self, slot: SlotIndex, clients: &Contributors) {
        let (first, words) = clients.words();
        // Clients beyond the geometry's are not kept: no round has more.
        let places = self.contributor_words(slot).iter().skip(first as usize);
        for (place, word) in places.zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
        let range = u64::from(first) | (words.len() as u64) << 32;
        // SYNC POINT: who sees the range sees the words in it.
        self.header(slot)
            .contributors
            .store(range, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "arena_tests.rs"]
mod tests;
