//! What the snapshot says.

use std::collections::BTreeMap;

use rustix::time::{ClockId, clock_gettime};
use tributary_router::{RouterKind, Traffic};
use tributary_sidecar_layout::{Descriptor, Destination, Level};

use crate::bench::{Bench, descriptor, leaf, numbered};

fn traffic(descriptors: u64) -> Traffic {
    Traffic {
        descriptors,
        bytes: 32 * descriptors,
    }
}

pub(crate) async fn everything_is_counted(mut bench: Bench) {
    let (middle, top) = (
        Destination::new(1, Level::Middle, 3),
        Destination::new(2, Level::Top, 0),
    );
    let sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(1), leaf(2), middle, top]);
    sender.send(&numbered(leaf(1), 0..10));
    sender.send(&numbered(leaf(2), 0..5));
    sender.send(&numbered(middle, 0..3));
    sender.send(&numbered(top, 0..2));
    sender.send(&numbered(leaf(9), 0..4));
    sender.send(&[descriptor(Destination::agent(1), 0)]);
    bench
        .router
        .deliver(receiver.id, &numbered(leaf(9), 0..4))
        .unwrap();
    receiver.receive_all(24);
    for _ in 0..4 {
        bench.miss().await;
    }
    bench.arrival().await;
    let snapshot = bench.router.snapshot().unwrap();
    let expected = [
        ((1, Level::Leaf), traffic(15)),
        ((1, Level::Middle), traffic(3)),
        ((2, Level::Top), traffic(2)),
    ];
    assert_eq!(snapshot.routed, BTreeMap::from(expected));
    assert_eq!(
        (snapshot.misses, snapshot.doorbells, snapshot.malformed),
        (4, 1, 0)
    );
    assert_eq!(
        (snapshot.delivered, snapshot.ports, snapshot.routes),
        (4, 2, 4)
    );
    assert_eq!(snapshot.hop_latency.count(), 0, "nothing was stamped");
    let Some(sidecar) = snapshot.sidecar else {
        assert_eq!(bench.router.kind(), RouterKind::Userspace);
        return;
    };
    assert_eq!(
        (sidecar.misses, sidecar.agent, sidecar.delivered),
        (4, 1, 4)
    );
    assert_eq!((sidecar.malformed, sidecar.split), (0, 0));
}

/// Two thousand routes come and go, some of them again and again, while there is traffic.
pub(crate) async fn counts_survive_their_routes(bench: Bench) {
    let sender = bench.port();
    let mut receiver = bench.port();
    for turn in 0..2000 {
        let (fresh, recurring) = (leaf(turn), Destination::new(2, Level::Top, turn % 300));
        for destination in [fresh, recurring] {
            bench.router.set_route(destination, receiver.id).unwrap();
        }
        sender.send(&[
            descriptor(fresh, turn),
            descriptor(recurring, turn),
            descriptor(fresh, turn),
        ]);
        receiver.receive_all(3);
        for destination in [fresh, recurring] {
            bench.router.remove_route(destination).unwrap();
        }
        if turn % 250 == 0 {
            let snapshot = bench.router.snapshot().unwrap();
            assert_eq!(
                snapshot.routed[&(1, Level::Leaf)],
                traffic(2 * u64::from(turn + 1))
            );
        }
    }
    bench.router.close_port(receiver.id);
    drop(receiver);
    let snapshot = bench.router.snapshot().unwrap();
    let expected = [
        ((1, Level::Leaf), traffic(4000)),
        ((2, Level::Top), traffic(2000)),
    ];
    assert_eq!(snapshot.routed, BTreeMap::from(expected));
    assert_eq!((snapshot.routes, snapshot.misses), (0, 0));
}

pub(crate) async fn latency_is_measured_from_the_time_stamp(bench: Bench) {
    let sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(1)]);
    let now = clock_gettime(ClockId::Monotonic);
    let now_ns = now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
    // A second ago, and in the future.
    for sent_ns in [now_ns.saturating_sub(1_000_000_000), now_ns * 2] {
        sender.send(&[Descriptor {
            sent_ns,
            ..descriptor(leaf(1), 0)
        }]);
        receiver.receive();
    }
    let latency = bench.router.snapshot().unwrap().hop_latency;
    assert_eq!(latency.count(), 2);
    assert_eq!(
        latency.buckets[0], 1,
        "what comes from the future took no time"
    );
    // 2^29 ns is half a second.
    assert_eq!(latency.buckets[29..].iter().sum::<u64>(), 1);
    assert!(latency.sum_ns >= 1_000_000_000);
}
