//! A bounded single-producer single-consumer ring of 32-byte records in shared memory.
//!
//! A worker pushes completion records, the agent pops them. Positions are free-running 64-bit
//! counters (at a billion records a second they last 580 years), the entry is `position % capacity`.
//! Entries are atomics too: reading one that the other side overwrites is impossible by protocol,
//! and would still be no undefined behaviour.

use crate::sync::{AtomicU64, Ordering};

/// Bytes of a ring's header: the two positions, each on its own pair of cache lines.
pub const RING_HEADER_BYTES: u64 = 256;
/// Bytes of one record.
pub const RECORD_BYTES: u64 = 32;

/// Four words of a record, as the two sides agree on them.
pub type Record = [u64; 4];

/// The ring's positions in shared memory. All zero bytes = empty.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct RingHeader {
    /// Next position to write; only the producer stores it.
    tail: PaddedPosition,
    /// Next position to read; only the consumer stores it.
    head: PaddedPosition,
}

#[derive(Debug)]
#[repr(C, align(128))]
struct PaddedPosition(AtomicU64);

/// One entry: four words.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Entry([AtomicU64; 4]);

/// A view of a ring in a segment.
#[derive(Debug, Clone, Copy)]
pub struct Ring<'a> {
    header: &'a RingHeader,
    entries: &'a [Entry],
}

impl<'a> Ring<'a> {
    /// `entries.len()` is a power of two (checked by the geometry).
    pub(crate) fn new(header: &'a RingHeader, entries: &'a [Entry]) -> Self {
        debug_assert!(entries.len().is_power_of_two());
        Self { header, entries }
    }

    fn entry(&self, position: u64) -> &'a Entry {
        &self.entries[(position as usize) & (self.entries.len() - 1)]
    }

    /// Appends a record. `false` if the ring is full: the consumer must read first.
    ///
    /// Only one thread of one process may push.
    #[must_use]
    pub fn push(&self, record: Record) -> bool {
        let tail = self.header.tail.0.load(Ordering::Relaxed);
        // SYNC POINT: the consumer's release of `head` says the entry has been read.
        let head = self.header.head.0.load(Ordering::Acquire);
        if tail.wrapping_sub(head) >= self.entries.len() as u64 {
            return false;
        }
        for (word, value) in self.entry(tail).0.iter().zip(record) {
            word.store(value, Ordering::Relaxed);
        }
        // SYNC POINT: publishes the entry's words.
        self.header
            .tail
            .0
            .store(tail.wrapping_add(1), Ordering::Release);
        true
    }

    /// Takes the oldest record, if any.
    ///
    /// Only one thread of one process may pop. It need not be the process that a dead producer
    /// knew: records outlive their producer.
    #[must_use]
    pub fn pop(&self) -> Option<Record> {
        let head = self.header.head.0.load(Ordering::Relaxed);
        // SYNC POINT: pairs with the producer's release of `tail`.
        let tail = self.header.tail.0.load(Ordering::Acquire);
        if head == tail {
            return None;
        }
        let mut record = Record::default();
        for (value, word) in record.iter_mut().zip(&self.entry(head).0) {
            *value = word.load(Ordering::Relaxed);
        }
        // SYNC POINT: hands the entry back to the producer.
        self.header
            .head
            .0
            .store(head.wrapping_add(1), Ordering::Release);
        Some(record)
    }
}

#[cfg(any(test, loom))]
#[allow(dead_code, reason = "each test configuration uses a part")]
mod heap {
    use super::*;

    /// A ring on the heap, for tests of the algorithm alone.
    pub(super) struct HeapRing {
        header: RingHeader,
        entries: Vec<Entry>,
    }

    impl HeapRing {
        pub(super) fn new(capacity: usize) -> Self {
            let position = || PaddedPosition(AtomicU64::new(0));
            Self {
                header: RingHeader {
                    tail: position(),
                    head: position(),
                },
                entries: (0..capacity)
                    .map(|_| Entry(std::array::from_fn(|_| AtomicU64::new(0))))
                    .collect(),
            }
        }

        pub(super) fn ring(&self) -> Ring<'_> {
            Ring::new(&self.header, &self.entries)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::heap::HeapRing;
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn layout_is_what_the_geometry_assumes() {
        assert_eq!(size_of::<RingHeader>() as u64, RING_HEADER_BYTES);
        assert_eq!(size_of::<Entry>() as u64, RECORD_BYTES);
    }

    proptest! {
        /// Same answers as a bounded queue, for any mix of pushes and pops.
        #[test]
        fn behaves_like_a_bounded_queue(shift in 0u32..5, pushes in proptest::collection::vec(any::<bool>(), 0..300)) {
            let heap = HeapRing::new(1 << shift);
            let ring = heap.ring();
            let mut model = VecDeque::new();
            for (i, push) in pushes.into_iter().enumerate() {
                let record = [i as u64, 1, 2, 3];
                if push {
                    let fits = model.len() < 1 << shift;
                    prop_assert_eq!(ring.push(record), fits);
                    if fits { model.push_back(record); }
                } else {
                    prop_assert_eq!(ring.pop(), model.pop_front());
                }
            }
        }
    }

    #[test]
    fn two_threads_keep_order() {
        let heap = HeapRing::new(8);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..20_000u64 {
                    while !heap.ring().push([i, !i, i, 0]) {
                        std::thread::yield_now();
                    }
                }
            });
            let mut next = 0u64;
            while next < 20_000 {
                match heap.ring().pop() {
                    Some(record) => {
                        assert_eq!(record, [next, !next, next, 0]);
                        next += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::heap::HeapRing;
    use loom::sync::Arc;
    use loom::thread;

    /// Every record that is popped is whole, in order, and none is lost, through a wrap-around.
    #[test]
    fn loom_records_are_whole_and_in_order() {
        loom::model(|| {
            let heap = Arc::new(HeapRing::new(2));
            let producer = heap.clone();
            let pushing = thread::spawn(move || {
                let mut pushed = 0;
                for i in 1..=3u64 {
                    if producer.ring().push([i, i, i, i]) {
                        pushed += 1;
                    } else {
                        break;
                    }
                }
                pushed
            });
            let mut seen = 0;
            for _ in 0..2 {
                if let Some(record) = heap.ring().pop() {
                    seen += 1;
                    assert_eq!(record, [seen; 4]);
                }
            }
            let pushed = pushing.join().unwrap();
            while let Some(record) = heap.ring().pop() {
                seen += 1;
                assert_eq!(record, [seen; 4]);
            }
            assert_eq!(seen, pushed);
        });
    }
}
