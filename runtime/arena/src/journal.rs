//! The undo journal: how an accumulator is changed in place and is still whole whoever dies when.
//!
//! For accumulators so large that a second one beside them is out of the question. A *step* folds some
//! inputs into an accumulator, part by part; each of a few *lanes* (threads) walks its own parts from the
//! first to the last. For every part:
//!
//! ```text
//!   1  copy the part to the lane's image          crash: the part is as it was; begin it again
//!   2  `saved` = parts saved so far        ──┐
//!   3  fold image + inputs -> the part       │    crash: the part may be torn; the image is whole: fold again
//!   4  `done` = parts done so far          ──┘
//! ```
//!
//! `begin` names accumulator and inputs and keeps the old scalars; when all parts are done, `commit` says so;
//! then the accumulator's header takes the inputs' contributors, the inputs are released, and `clear` ends the
//! step. Whoever finds a journal that is not idle finishes the step: everything needed for it is in the arena,
//! and every part of the work may be done twice.

use crate::slot::{Generation, SlotIndex};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bytes of a journal's header.
pub(crate) const JOURNAL_HEADER_BYTES: u64 = 4096;
/// The most lanes of a journal.
pub(crate) const LANES_MAX: u32 = 64;
/// The most inputs of a step.
const INPUTS_MAX: usize = 64;

/// A slot of a certain generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// The slot's number.
    pub slot: SlotIndex,
    /// Its generation.
    pub generation: Generation,
}

impl SlotRef {
    fn bits(self) -> u64 {
        u64::from(self.slot) | u64::from(self.generation) << 32
    }

    fn from_bits(bits: u64) -> Self {
        Self {
            slot: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// What is folded into what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The accumulator, changed in place.
    pub accumulator: SlotRef,
    /// The inputs, at most 64, in the order of the fold.
    pub inputs: Vec<SlotRef>,
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// No step is under way.
    Idle = 0,
    /// Parts are being folded.
    Folding = 1,
    /// All parts are done; contributors and inputs are being settled.
    Committed = 2,
}

/// How far a lane has come, in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Parts whose image was saved.
    pub saved: u64,
    /// Parts that are done. One less than `saved` while a part is being folded, else equal.
    pub done: u64,
}

/// All zero bytes = idle.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct JournalHeader {
    phase: AtomicU32,
    inputs: AtomicU32,
    accumulator: AtomicU64,
    input: [AtomicU64; INPUTS_MAX],
    lanes: [Lane; LANES_MAX as usize],
}

const _: () = assert!(size_of::<JournalHeader>() as u64 <= JOURNAL_HEADER_BYTES);

#[derive(Debug)]
#[repr(C)]
struct Lane {
    saved: AtomicU64,
    done: AtomicU64,
}

/// A worker's journal in a segment.
#[derive(Clone, Copy, Debug)]
pub struct Journal<'a> {
    header: &'a JournalHeader,
}

impl<'a> Journal<'a> {
    pub(crate) fn new(header: &'a JournalHeader) -> Self {
        Self { header }
    }

    /// How far the step has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        // SYNC POINT: pairs with the releases below: who sees a phase sees what was written before it.
        match self.header.phase.load(Ordering::Acquire) {
            1 => Phase::Folding,
            2 => Phase::Committed,
            // Only this module writes phases.
            _ => Phase::Idle,
        }
    }

    fn enter(&self, phase: Phase) {
        // SYNC POINT: everything the phase stands for was written before.
        self.header.phase.store(phase as u32, Ordering::Release);
    }

    /// The step that is under way; `None` if idle.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        if self.phase() == Phase::Idle {
            return None;
        }
        let inputs = (self.header.inputs.load(Ordering::Relaxed) as usize).min(INPUTS_MAX);
        let input = self.header.input[..inputs].iter();
        Some(Step {
            accumulator: SlotRef::from_bits(self.header.accumulator.load(Ordering::Relaxed)),
            inputs: input
                .map(|bits| SlotRef::from_bits(bits.load(Ordering::Relaxed)))
                .collect(),
        })
    }

    /// Begins a step; the image of the scalars is whole already.
    ///
    /// # Panics
    /// If another step is under way, or if there are more than 64 inputs.
    pub(crate) fn begin(&self, step: &Step) {
        assert!(
            self.phase() == Phase::Idle,
            "a journal has one step at a time"
        );
        assert!(
            step.inputs.len() <= INPUTS_MAX,
            "a step has at most {INPUTS_MAX} inputs"
        );
        let header = self.header;
        header
            .accumulator
            .store(step.accumulator.bits(), Ordering::Relaxed);
        header
            .inputs
            .store(step.inputs.len() as u32, Ordering::Relaxed);
        for (place, input) in header.input.iter().zip(&step.inputs) {
            place.store(input.bits(), Ordering::Relaxed);
        }
        for lane in &header.lanes {
            lane.saved.store(0, Ordering::Relaxed);
            lane.done.store(0, Ordering::Relaxed);
        }
        self.enter(Phase::Folding);
    }

    /// How far a lane has come.
    ///
    /// # Panics
    /// If `lane` is not below 64.
    #[must_use]
    pub fn progress(&self, lane: u32) -> Progress {
        let lane = &self.header.lanes[lane as usize];
        Progress {
            // SYNC POINT: who sees a part as done sees its bytes; as saved, its image.
            done: lane.done.load(Ordering::Acquire),
            saved: lane.saved.load(Ordering::Acquire),
        }
    }

    /// The image of part `parts - 1` is whole: from now on the part may be torn.
    pub(crate) fn saved(&self, lane: u32, parts: u64) {
        // SYNC POINT: the image's bytes were written before.
        self.header.lanes[lane as usize]
            .saved
            .store(parts, Ordering::Release);
    }

    /// Part `parts - 1` is folded: its image is of no use any more.
    pub fn done(&self, lane: u32, parts: u64) {
        // SYNC POINT: the part's bytes were written before.
        self.header.lanes[lane as usize]
            .done
            .store(parts, Ordering::Release);
    }

    /// All parts of all lanes are done: the commit point.
    pub fn commit(&self) {
        self.enter(Phase::Committed);
    }

    /// The step is over, or its accumulator is of a round that is.
    pub fn clear(&self) {
        self.enter(Phase::Idle);
    }
}
