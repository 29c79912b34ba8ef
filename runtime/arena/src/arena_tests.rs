use super::*;
use crate::geometry::{JournalSize, Slots};
use crate::journal::{Phase, Progress};
use crate::slot::OWNER_AGENT;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU32 as Counter;
use tributary_sidecar_layout::Level;

fn unique(name: &str) -> String {
    static NEXT: Counter = Counter::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tributary-test-{}-{name}-{n}", std::process::id())
}

fn geometry(slots: u32) -> Geometry {
    Geometry {
        updates: Slots {
            count: slots,
            vector_bytes: 1000,
        },
        partials: Slots {
            count: 1,
            vector_bytes: 5000,
        },
        clients: 100,
        rings: 2,
        ring_records: 8,
        journal: JournalSize {
            lanes: 2,
            image_bytes: 600,
        },
    }
}

fn claim_of(kind: Kind) -> Claim {
    let contributors = Contributors::single(70);
    Claim {
        kind,
        aggregator: Destination::new(3, Level::Leaf, 5),
        round: 9,
        weight: 2.5,
        client: 70,
        sequence: 1,
        content: Content {
            encoding: 3,
            count: 17,
        },
        contributors,
    }
}

#[test]
fn another_process_sees_what_was_published() {
    let name = unique("publish");
    let arena = Arc::new(Arena::create(&name, geometry(4)).unwrap());
    let other = Arena::open(&name).unwrap();
    assert_eq!(other.geometry(), arena.geometry());

    let mut filling = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    assert_eq!(filling.vector_mut().len(), 4096, "whole pages");
    filling.vector_mut().fill(7);
    let (slot, generation) = (filling.slot(), filling.generation());
    assert_eq!(other.info(slot).word.state, State::Filling);
    assert!(filling.publish(State::Ready, &claim_of(Kind::Update)));

    let info = other.info(slot);
    assert_eq!(info.word.state, State::Ready);
    assert_eq!((info.round, info.weight, info.client), (9, 2.5, 70));
    assert_eq!(info.aggregator, Destination::new(3, Level::Leaf, 5));
    assert_eq!((info.content.encoding, info.content.count), (3, 17));
    assert_eq!(other.contributors(slot).len(), 1);
    let mut bytes = [0; 100];
    assert!(other.read(slot, generation, 900, &mut bytes));
    assert_eq!(bytes, [7; 100]);

    assert!(other.release(slot, generation));
    assert!(!arena.release(slot, generation), "a generation ends once");
    assert!(
        !other.read(slot, generation, 0, &mut bytes),
        "released bytes are not handed out"
    );
}

#[test]
fn segment_is_private_and_goes_with_its_creator() {
    let name = unique("private");
    let path = format!("/dev/shm/{name}");
    let arena = Arena::create(&name, geometry(1)).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(Arena::open(&name).unwrap());
    assert!(
        std::fs::exists(&path).unwrap(),
        "who only attached does not remove it"
    );
    drop(arena);
    assert!(!std::fs::exists(&path).unwrap());
}

#[test]
fn stale_segments_are_removed_by_prefix() {
    let name = unique("stale");
    let arena = Arena::create(&name, geometry(1)).unwrap();
    std::mem::forget(arena);
    assert_eq!(remove_stale_once(&name), vec![name.clone()]);
    assert!(Arena::open(&name).is_err());
}

fn remove_stale_once(prefix: &str) -> Vec<String> {
    crate::remove_stale(prefix).unwrap()
}

#[test]
fn foreign_segments_are_refused() {
    let name = unique("foreign");
    let memory = shared_memory::ShmemConf::new()
        .os_id(format!("/{name}"))
        .size(8192)
        .create()
        .unwrap();
    let error = Arena::open(&name).unwrap_err().to_string();
    assert!(error.contains("magic number"), "{error}");
    drop(memory);
    let error = Arena::open(&name).unwrap_err().to_string();
    assert!(error.contains(&name), "{error}");
}

#[test]
fn a_changed_header_is_refused() {
    let name = unique("header");
    let _arena = Arena::create(&name, geometry(2)).unwrap();
    // Byte 20 is the number of clients: a segment of another layout.
    let path = format!("/dev/shm/{name}");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] = 3;
    std::fs::write(&path, bytes).unwrap();
    let error = Arena::open(&name).unwrap_err().to_string();
    assert!(error.contains("layout hash"), "{error}");
}

#[test]
fn an_abandoned_claim_is_free_again() {
    let arena = Arc::new(Arena::create(&unique("abandon"), geometry(2)).unwrap());
    let filling = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    assert_eq!(arena.free_slots(Room::Update), 1);
    drop(filling);
    assert_eq!(arena.free_slots(Room::Update), 2);
    assert_eq!(arena.reserved_slots(), 1);
}

#[test]
fn a_full_arena_says_so_and_recovers_from_a_dead_owner() {
    let arena = Arc::new(Arena::create(&unique("full"), geometry(2)).unwrap());
    let dead = arena.claim(77, Room::Update).unwrap().unwrap();
    let mine = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    assert!(arena.claim(OWNER_AGENT, Room::Update).unwrap().is_none());
    let late = (dead.slot(), dead.generation());
    assert_eq!(arena.recover(77), 1);
    assert_eq!(arena.free_slots(Room::Update), 1);
    // The owner was not dead after all: its publish fails, and its drop frees nobody else's slot.
    let reclaimed = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    assert_eq!(reclaimed.slot(), late.0);
    assert!(!dead.publish(State::Live, &claim_of(Kind::Partial)));
    assert_eq!(arena.info(late.0).word.state, State::Filling);
    drop((mine, reclaimed));
    assert_eq!(arena.free_slots(Room::Update), 2);
}

#[test]
fn completion_rings_lie_in_the_segment() {
    let name = unique("ring");
    let agent = Arena::create(&name, geometry(1)).unwrap();
    let worker = Arena::open(&name).unwrap();
    for i in 0..8 {
        assert!(worker.ring(1).push([i, 0, 0, 0]));
    }
    assert!(!worker.ring(1).push([9, 0, 0, 0]), "bounded");
    drop(worker);
    assert_eq!(agent.ring(1).pop(), Some([0, 0, 0, 0]));
    assert_eq!(agent.ring(0).pop(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Allocation: slots are handed out once, all come back, and the free count is always exact.
    #[test]
    fn allocation_never_loses_or_doubles_a_slot(steps in proptest::collection::vec((0u8..4, any::<usize>()), 1..120)) {
        let arena = Arc::new(Arena::create(&unique("alloc"), geometry(5)).unwrap());
        let mut filling: Vec<Filling> = Vec::new();
        let mut published: Vec<(SlotIndex, Generation)> = Vec::new();
        for (step, pick) in steps {
            match step {
                0 => if let Some(claimed) = arena.claim(OWNER_AGENT, Room::Update).unwrap() {
                    prop_assert!(filling.iter().all(|f| f.slot() != claimed.slot()));
                    prop_assert!(published.iter().all(|p| p.0 != claimed.slot()));
                    filling.push(claimed);
                } else {
                    prop_assert_eq!(filling.len() + published.len(), 5);
                },
                1 if !filling.is_empty() => drop(filling.swap_remove(pick % filling.len())),
                2 if !filling.is_empty() => {
                    let f = filling.swap_remove(pick % filling.len());
                    published.push((f.slot(), f.generation()));
                    prop_assert!(f.publish(State::Ready, &claim_of(Kind::Update)));
                }
                3 if !published.is_empty() => {
                    let (slot, generation) = published.swap_remove(pick % published.len());
                    prop_assert!(arena.release(slot, generation));
                }
                _ => {}
            }
            prop_assert_eq!(arena.free_slots(Room::Update) as usize, 5 - filling.len() - published.len());
            for slots in 0..6 {
                let more = arena.free_slots(Room::Update) > slots;
                prop_assert_eq!(arena.more_free_than(Room::Update, slots), more);
            }
        }
    }
}

#[test]
fn threads_and_one_arena_never_share_a_claim() {
    let arena = Arc::new(Arena::create(&unique("threads"), geometry(3)).unwrap());
    let marks: Arc<Vec<Counter>> = Arc::new((0..3).map(|_| Counter::new(0)).collect());
    let threads: Vec<_> = (0..4u32)
        .map(|owner| {
            let (arena, marks) = (arena.clone(), marks.clone());
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    if let Some(claimed) = arena.claim(owner + 1, Room::Update).unwrap() {
                        let mark = &marks[claimed.slot() as usize];
                        assert_eq!(mark.fetch_add(1, Ordering::SeqCst), 0);
                        mark.fetch_sub(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(arena.free_slots(Room::Update), 3);
}

#[test]
fn partials_have_slots_of_their_own_width() {
    let arena = Arc::new(Arena::create(&unique("rooms"), geometry(3)).unwrap());
    let mut partial = arena.claim(7, Room::Partial).unwrap().unwrap();
    assert_eq!(partial.vector_mut().len(), 8192);
    assert_eq!(partial.slot(), 3);
    assert!(arena.claim(7, Room::Partial).unwrap().is_none());
    assert_eq!(arena.free_slots(Room::Update), 3);
    let mut update = arena.claim(7, Room::Update).unwrap().unwrap();
    assert_eq!(update.vector_mut().len(), 4096);
    let touched = arena.geometry().updates.stride() + arena.geometry().partials.stride();
    let journals = 2 * arena.geometry().journal.bytes();
    assert_eq!(arena.reserved_bytes(), touched + journals);
}

#[test]
fn a_journal_keeps_a_step_and_its_images() {
    let name = unique("journal");
    let arena = Arc::new(Arena::create(&name, geometry(2)).unwrap());
    let mut accumulator = arena.claim(7, Room::Partial).unwrap().unwrap();
    for (i, byte) in accumulator.vector_mut().iter_mut().enumerate() {
        *byte = i as u8;
    }
    let at = SlotRef {
        slot: accumulator.slot(),
        generation: accumulator.generation(),
    };
    assert!(accumulator.publish(State::Live, &claim_of(Kind::Partial)));
    let input = SlotRef {
        slot: 1,
        generation: 9,
    };
    let step = Step {
        accumulator: at,
        inputs: vec![input, SlotRef { slot: 0, ..input }],
    };
    assert_eq!(arena.journal(1).step(), None);
    arena.begin_step(1, &step);
    arena.save_part(1, 1, at, 2, 1200..1800);

    // What another process finds.
    let other = Arena::open(&name).unwrap();
    assert_eq!(other.journal(0).phase(), Phase::Idle);
    let journal = other.journal(1);
    assert_eq!(journal.phase(), Phase::Folding);
    assert_eq!(journal.step(), Some(step));
    assert_eq!(journal.progress(1), Progress { saved: 3, done: 0 });
    let image = other.geometry().image_offset(1, 1);
    // SAFETY: the image lies inside the mapped data, and nobody writes it now.
    let bytes = unsafe { std::slice::from_raw_parts(other.data_pointer(image), 600) };
    let expected: Vec<u8> = (1200..1800).map(|i| i as u8).collect();
    assert_eq!(bytes, expected);

    journal.done(1, 3);
    journal.commit();
    assert_eq!(arena.journal(1).phase(), Phase::Committed);
    let clients = Contributors::single(3);
    arena.add_contributors(at.slot, &clients);
    arena.add_contributors(at.slot, &clients);
    assert_eq!(arena.contributors(at.slot).len(), 2);
    journal.clear();
    assert_eq!(arena.journal(1).step(), None);
}

/// As a client on the same host does it: by the segment's name and the place that it was told.
#[test]
fn what_another_process_writes_into_a_slot_is_read_there() {
    use std::os::unix::fs::FileExt;
    let name = unique("lent");
    let arena = Arc::new(Arena::create(&name, geometry(3)).unwrap());
    let first = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    let second = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    assert_eq!(first.offset() % 4096, 0, "it can be mapped by itself");
    let segment = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/dev/shm/{name}"))
        .unwrap();
    segment.write_all_at(&[1; 1000], first.offset()).unwrap();
    segment.write_all_at(&[2; 1000], second.offset()).unwrap();
    for (filling, byte) in [(&first, 1), (&second, 2)] {
        let mut bytes = [0; 600];
        filling.read(400, &mut bytes);
        assert_eq!(bytes, [byte; 600]);
    }
    let (slot, generation) = (second.slot(), second.generation());
    assert!(second.publish(State::Ready, &claim_of(Kind::Update)));
    let mut bytes = [0; 1000];
    assert!(arena.read(slot, generation, 0, &mut bytes));
    assert_eq!(bytes, [2; 1000]);
}
