//! What happens when a port ends, from either side.

use std::{collections::HashSet, net::Shutdown};

use tributary_router::{Arrival, Error};
use tributary_sidecar_layout::Destination;

use crate::bench::{Bench, descriptor, leaf, numbered};

pub(crate) async fn a_dead_owners_port_is_closed_and_its_routes_miss(mut bench: Bench) {
    let sender = bench.port();
    let owner = bench.port_at(&[leaf(1), leaf(2)]);
    let port = owner.id;
    drop(owner);
    assert_eq!(bench.arrival().await, Arrival::Closed(port));
    for destination in [leaf(1), leaf(2)] {
        sender.send(&[descriptor(destination, 1)]);
        assert_eq!(bench.miss().await, (sender.id, descriptor(destination, 1)));
    }
    let refused = bench.router.set_route(leaf(3), port);
    assert!(
        matches!(refused, Err(Error::PortClosed { .. })),
        "{refused:?}"
    );
    let refused = bench.router.deliver(port, &[descriptor(leaf(1), 1)]);
    assert!(
        matches!(refused, Err(Error::PortClosed { .. })),
        "{refused:?}"
    );
    assert_eq!(bench.router.snapshot().unwrap().routes, 2);
    bench.router.close_port(port);
    bench.router.close_port(port);
    assert_eq!(bench.router.snapshot().unwrap().routes, 0);
    assert_eq!(bench.arrived(), None, "Closed comes once");
}

/// The owner dies with descriptors unread, which makes TCP reset the connection.
pub(crate) async fn the_last_words_of_a_dead_owner_arrive_before_closed(mut bench: Bench) {
    let sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(2)]);
    for round in 0..50 {
        let owner = bench.port_at(&[leaf(1)]);
        let port = owner.id;
        sender.send(&numbered(leaf(1), 0..100));
        bench
            .router
            .deliver(port, &[descriptor(leaf(1), 100)])
            .unwrap();
        let (misses, bell) = (
            numbered(leaf(9), 0..10),
            descriptor(Destination::agent(1), round),
        );
        owner.send(&numbered(leaf(2), 0..10));
        owner.send(&misses);
        owner.send(&[bell]);
        drop(owner);
        assert_eq!(receiver.receive_all(10), numbered(leaf(2), 0..10));
        let mut expected: Vec<Arrival> = misses
            .iter()
            .map(|miss| Arrival::Miss(port, *miss))
            .collect();
        expected.extend([Arrival::Doorbell(port, bell), Arrival::Closed(port)]);
        for expected in expected {
            // In user space, what was sent to the dead port may still be on its way, and miss it.
            let mut arrival = bench.arrival().await;
            while matches!(arrival, Arrival::Miss(from, _) if from == sender.id) {
                arrival = bench.arrival().await;
            }
            assert_eq!(arrival, expected);
        }
        bench.router.close_port(port);
    }
}

pub(crate) async fn a_closed_port_reads_what_is_queued_then_the_end(mut bench: Bench) {
    let sender = bench.port();
    let mut owner = bench.port_at(&[leaf(1)]);
    let queued = numbered(leaf(1), 0..500);
    sender.send(&queued[..250]);
    if bench.router.kind() == tributary_router::RouterKind::Userspace {
        // There, what was sent is not queued yet. Any later arrival of the same sender proves that it is.
        sender.send(&[descriptor(Destination::agent(1), 0)]);
        bench.arrival().await;
    }
    bench.router.deliver(owner.id, &queued[250..]).unwrap();
    bench.router.close_port(owner.id);
    assert_eq!(owner.receive_all(500), queued);
    assert_eq!(owner.try_receive(), None);
    sender.send(&[descriptor(leaf(1), 500)]);
    assert_eq!(bench.miss().await, (sender.id, descriptor(leaf(1), 500)));
    let port = owner.id;
    drop(owner);
    assert_eq!(bench.arrival().await, Arrival::Closed(port));
}

pub(crate) async fn what_a_closed_port_still_sends_is_routed(mut bench: Bench) {
    let mut receiver = bench.port_at(&[leaf(2)]);
    let owner = bench.port();
    bench.router.close_port(owner.id);
    owner.send(&numbered(leaf(2), 0..100));
    assert_eq!(receiver.receive_all(100), numbered(leaf(2), 0..100));
    owner.send(&[descriptor(leaf(9), 1)]);
    assert_eq!(bench.miss().await, (owner.id, descriptor(leaf(9), 1)));
    // The owner says that it has finished, and keeps its socket.
    owner.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.arrival().await, Arrival::Closed(owner.id));
}

pub(crate) async fn a_route_set_anew_leaves_the_dead_port(mut bench: Bench) {
    let sender = bench.port();
    for slot in 0..50 {
        let owner = bench.port_at(&[leaf(1)]);
        let port = owner.id;
        drop(owner);
        assert_eq!(bench.arrival().await, Arrival::Closed(port));
        let mut next = bench.port_at(&[leaf(1)]);
        // Closing the old port must not take the route away from the new one.
        bench.router.close_port(port);
        sender.send(&[descriptor(leaf(1), slot)]);
        assert_eq!(next.receive(), descriptor(leaf(1), slot));
        bench.router.close_port(next.id);
        let port = next.id;
        drop(next);
        assert_eq!(bench.arrival().await, Arrival::Closed(port));
    }
}

pub(crate) async fn ports_are_numbered_anew(mut bench: Bench) {
    let mut seen = HashSet::new();
    for _ in 0..300 {
        let owner = bench.port_at(&[leaf(1)]);
        let port = owner.id;
        assert!(port != 0 && seen.insert(port), "port {port} came twice");
        owner.send(&[descriptor(leaf(1), port)]);
        let mut owner = owner;
        assert_eq!(owner.receive().slot, port);
        bench.router.close_port(port);
        drop(owner);
        assert_eq!(bench.arrival().await, Arrival::Closed(port));
    }
    let snapshot = bench.router.snapshot().unwrap();
    assert_eq!((snapshot.ports, snapshot.routes), (0, 0));
}

pub(crate) async fn a_router_that_is_dropped_ends_its_ports(bench: Bench) {
    let mut owner = bench.port_at(&[leaf(1)]);
    drop(bench);
    assert_eq!(owner.try_receive(), None);
}
