use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tributary_arena::{Claim, Geometry, JournalSize, Kind as SlotKind, OWNER_AGENT, Room, Slots};

const ROUND: u32 = 256;
const CLIENTS: u32 = 40;

fn leaf() -> Destination {
    Destination::new(1, Level::Leaf, 0)
}

fn arena() -> Arc<Arena> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let slots = |count| Slots {
        count,
        vector_bytes: 64,
    };
    let geometry = Geometry {
        updates: slots(CLIENTS),
        partials: slots(2),
        clients: CLIENTS,
        rings: 1,
        ring_records: 8,
        journal: JournalSize::default(),
    };
    let name = format!("tributary-test-{}-aggregator-{number}", std::process::id());
    Arc::new(Arena::create(&name, geometry).unwrap())
}

/// An update of a client, and the descriptor that announces it.
fn update(arena: &Arc<Arena>, client: u32) -> Descriptor {
    let filling = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    let (slot, generation) = (filling.slot(), filling.generation());
    let claim = Claim {
        kind: SlotKind::Update,
        aggregator: leaf(),
        round: ROUND,
        weight: 1.0,
        client,
        sequence: 0,
        contributors: Contributors::single(client),
        content: tributary_arena::Content::default(),
    };
    assert!(filling.publish(State::Ready, &claim));
    told(Kind::Update, slot, generation)
}

fn told(kind: Kind, slot: u32, generation: u32) -> Descriptor {
    Descriptor {
        destination: leaf().raw(),
        sent_ns: 0,
        slot,
        generation,
        round: ROUND,
        kind: kind as u32,
    }
}

fn ordered() -> Aggregator {
    Aggregator::new(leaf(), ROUND, Order::Arrival(Contributors::default()))
}

/// Takes all it can, as if folding were done at once; gives the clients in their order.
fn drain(aggregator: &mut Aggregator, arena: &Arena, limit: usize) -> Vec<u32> {
    let mut taken = Vec::new();
    while aggregator.has_work() {
        let Task::Combine { inputs, .. } = aggregator.task(limit, arena) else {
            break;
        };
        let mut contributors = aggregator
            .live
            .as_ref()
            .map_or_else(Contributors::default, |live| live.contributors.clone());
        for input in &inputs {
            contributors.extend(&input.contributors);
            taken.push(input.client);
            arena.release(input.at.slot, input.at.generation);
        }
        aggregator.live = Some(Partial {
            at: inputs[0].at,
            contributors,
            sequence: 1,
        });
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever order descriptors come in, how often, and who is left out: an ordered leaf takes its
    /// updates by number, each once, and ends with all of them.
    #[test]
    fn an_ordered_leaf_takes_updates_by_number(
        order in Just((0..CLIENTS).collect::<Vec<_>>()).prop_shuffle(),
        left_out in proptest::collection::btree_set(0..CLIENTS, 0..5),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        limit in 1usize..9,
    ) {
        let arena = arena();
        let mut aggregator = ordered();
        let mut descriptors: Vec<Descriptor> = Vec::new();
        for client in &order {
            descriptors.push(if left_out.contains(client) {
                told(Kind::Skip, *client, 0)
            } else {
                update(&arena, *client)
            });
        }
        for index in again {
            let repeated = *index.get(&descriptors);
            descriptors.push(repeated);
        }
        let mut taken = Vec::new();
        for descriptor in &descriptors {
            aggregator.receive(descriptor, &arena);
            taken.extend(drain(&mut aggregator, &arena, limit));
        }
        let expected: Vec<u32> = (0..CLIENTS).filter(|client| !left_out.contains(client)).collect();
        prop_assert_eq!(taken, expected);
        prop_assert_eq!(arena.free_slots(Room::Update), CLIENTS);
    }
}

#[test]
fn a_gap_is_waited_for() {
    let arena = arena();
    let mut aggregator = ordered();
    aggregator.receive(&update(&arena, 1), &arena);
    aggregator.receive(&update(&arena, 2), &arena);
    assert!(!aggregator.has_work());
    aggregator.receive(&update(&arena, 0), &arena);
    assert_eq!(drain(&mut aggregator, &arena, 8), [0, 1, 2]);
    // Who comes again is let go, and holds nobody up.
    aggregator.receive(&update(&arena, 1), &arena);
    aggregator.receive(&update(&arena, 3), &arena);
    assert_eq!(drain(&mut aggregator, &arena, 8), [3]);
    assert_eq!(arena.free_slots(Room::Update), CLIENTS);
}

/// A worker died before it could release what it had folded: that makes nobody ready who is not.
#[test]
fn what_is_counted_already_opens_no_gap() {
    let arena = arena();
    let mut aggregator = ordered();
    let first = update(&arena, 0);
    let folded = arena.info(first.slot);
    aggregator.live = Some(Partial {
        at: SlotRef {
            slot: first.slot,
            generation: folded.word.generation,
        },
        contributors: Contributors::single(0),
        sequence: 1,
    });
    for client in [0, 1, 3] {
        let again = update(&arena, client);
        aggregator.receive(&again, &arena);
    }
    let Task::Combine { inputs, .. } = aggregator.task(8, &arena) else {
        panic!("client 1 comes next");
    };
    let clients: Vec<u32> = inputs.iter().map(|input| input.client).collect();
    assert_eq!(clients, [1], "client 2 is missing");
    // Somebody may wait for the slot that was let go.
    assert!(aggregator.take_freed() && !aggregator.take_freed());
}

#[test]
fn what_steps_free_they_tell_themselves() {
    let arena = arena();
    let mut aggregator = ordered();
    for client in 0..4 {
        aggregator.receive(&update(&arena, client), &arena);
    }
    drain(&mut aggregator, &arena, 2);
    assert!(!aggregator.take_freed());
}

#[test]
fn without_an_order_nobody_waits() {
    let arena = arena();
    let mut aggregator = Aggregator::new(leaf(), ROUND, Order::Any);
    aggregator.receive(&update(&arena, 5), &arena);
    assert_eq!(drain(&mut aggregator, &arena, 8), [5]);
}
