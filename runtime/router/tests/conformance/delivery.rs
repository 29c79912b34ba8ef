//! Who receives what.

use std::{
    io::Write,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use tributary_router::{Arrival, Error};
use tributary_sidecar_layout::{Descriptor, Destination, Level};

use crate::bench::{Bench, descriptor, leaf, numbered, slots};

pub(crate) async fn descriptors_arrive_intact_and_in_order(bench: Bench) {
    let sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(1)]);
    let sent = numbered(leaf(1), 0..3000);
    sender.send(&sent);
    assert_eq!(receiver.receive_all(3000), sent);
}

pub(crate) async fn each_descriptor_of_one_write_is_routed_alone(mut bench: Bench) {
    let mut sender = bench.port_at(&[leaf(0)]);
    let (mut first, mut second) = (bench.port_at(&[leaf(1)]), bench.port_at(&[leaf(2)]));
    let to = [
        leaf(1),
        leaf(9),
        leaf(2),
        Destination::agent(1),
        leaf(1),
        leaf(0),
        leaf(9),
        leaf(2),
    ];
    let sent: Vec<Descriptor> = (0..)
        .zip(to)
        .map(|(slot, to)| descriptor(to, slot))
        .collect();
    let bytes: Vec<u8> = sent.iter().flat_map(Descriptor::to_bytes).collect();
    sender.socket.write_all(&bytes).unwrap();
    assert_eq!(first.receive_all(2), [sent[0], sent[4]]);
    assert_eq!(second.receive_all(2), [sent[2], sent[7]]);
    assert_eq!(sender.receive(), sent[5]);
    assert_eq!(bench.arrival().await, Arrival::Miss(sender.id, sent[1]));
    assert_eq!(bench.arrival().await, Arrival::Doorbell(sender.id, sent[3]));
    assert_eq!(bench.arrival().await, Arrival::Miss(sender.id, sent[6]));
}

/// Twenty thousand descriptors are more than one kernel message holds. It is cut within a descriptor, and that one
/// may come late.
pub(crate) async fn one_write_of_thousands_loses_nothing(bench: Bench) {
    let mut sender = bench.port();
    let (mut even, mut odd) = (bench.port_at(&[leaf(0)]), bench.port_at(&[leaf(1)]));
    let sent: Vec<Descriptor> = (0..20_000)
        .map(|slot| descriptor(leaf(slot % 2), slot))
        .collect();
    let bytes: Vec<u8> = sent.iter().flat_map(Descriptor::to_bytes).collect();
    let reader = std::thread::spawn(move || slots(&odd.receive_all(10_000)));
    let writer = std::thread::spawn(move || {
        // An odd number of bytes on another connection moves the thread's place in its page: descriptors then
        // straddle pages.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut other = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        other.write_all(&[0; 7]).unwrap();
        sender.socket.write_all(&bytes).unwrap();
    });
    assert_eq!(
        slots(&even.receive_all(10_000)),
        (0..20_000).step_by(2).collect::<Vec<_>>()
    );
    assert_eq!(
        reader.join().unwrap(),
        (1..20_000).step_by(2).collect::<Vec<_>>()
    );
    writer.join().unwrap();
}

pub(crate) async fn a_port_sends_to_itself(bench: Bench) {
    let mut port = bench.port_at(&[leaf(1), leaf(2)]);
    let sent: Vec<Descriptor> = (0..2000)
        .map(|slot| descriptor(leaf(1 + slot % 2), slot))
        .collect();
    for half in sent.chunks(1000) {
        port.send(half);
        assert_eq!(port.receive_all(1000), half);
    }
}

pub(crate) async fn misses_reach_the_agent_who_activates_and_delivers(mut bench: Bench) {
    let sender = bench.port();
    let sent = numbered(leaf(1), 0..3);
    sender.send(&sent[..1]);
    assert_eq!(bench.miss().await, (sender.id, sent[0]));
    let mut receiver = bench.port_at(&[leaf(1)]);
    bench.router.deliver(receiver.id, &sent[..1]).unwrap();
    assert_eq!(receiver.receive(), sent[0]);
    sender.send(&sent[1..2]);
    assert_eq!(receiver.receive(), sent[1]);
    bench.router.remove_route(leaf(1)).unwrap();
    bench.router.remove_route(leaf(1)).unwrap();
    sender.send(&sent[2..]);
    assert_eq!(bench.miss().await, (sender.id, sent[2]));
}

pub(crate) async fn doorbells_reach_the_agent(mut bench: Bench) {
    let (one, other) = (bench.port(), bench.port());
    for (port, job) in [(&one, 1), (&other, u32::MAX)] {
        let bell = descriptor(Destination::agent(job), 3);
        port.send(&[bell]);
        assert_eq!(bench.arrival().await, Arrival::Doorbell(port.id, bell));
    }
    let snapshot = bench.router.snapshot().unwrap();
    assert_eq!((snapshot.doorbells, snapshot.misses), (2, 0));
}

pub(crate) async fn what_is_no_descriptor_is_dropped_and_counted(mut bench: Bench) {
    let sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(1)]);
    let good = descriptor(leaf(1), 1);
    let no_kind = Descriptor { kind: 99, ..good };
    let no_level = Descriptor {
        destination: 1 << 32 | 77 << 24,
        ..good
    };
    let bell = descriptor(Destination::agent(1), 2);
    sender.send(&[no_kind, good, no_level, bell]);
    assert_eq!(receiver.receive(), good);
    assert_eq!(bench.arrival().await, Arrival::Doorbell(sender.id, bell));
    assert_eq!(bench.router.snapshot().unwrap().malformed, 2);
}

pub(crate) async fn a_descriptor_in_two_pieces_arrives(mut bench: Bench) {
    let mut sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(1)]);
    for slot in 0..100 {
        let routed = descriptor(leaf(1), slot);
        let (head, tail) = (routed.to_bytes(), descriptor(leaf(9), slot).to_bytes());
        sender.socket.write_all(&head[..16]).unwrap();
        // The rest, and another descriptor with it.
        sender
            .socket
            .write_all(&[&head[16..], &tail].concat())
            .unwrap();
        assert_eq!(receiver.receive(), routed);
        assert_eq!(bench.miss().await, (sender.id, descriptor(leaf(9), slot)));
    }
}

/// Lengths from 1 to 97 bytes, in an order that has no period of a descriptor's size.
pub(crate) async fn any_pieces_arrive(mut bench: Bench) {
    let mut sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(1)]);
    let sent: Vec<Descriptor> = (0..3000)
        .map(|slot| descriptor(leaf(1 + slot % 2), slot))
        .collect();
    let bytes: Vec<u8> = sent.iter().flat_map(Descriptor::to_bytes).collect();
    let (mut rest, mut length) = (bytes.as_slice(), 1);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(length.min(rest.len()));
        sender.socket.write_all(now).unwrap();
        (rest, length) = (later, (length * 29 + 3) % 97 + 1);
    }
    let (mut received, mut missed) = (receiver.receive_all(1500), Vec::new());
    for _ in 0..1500 {
        missed.push(bench.miss().await.1);
    }
    for all in [&mut received, &mut missed] {
        all.sort_unstable_by_key(|descriptor| descriptor.slot);
    }
    assert!(received.iter().eq(sent.iter().step_by(2)));
    assert!(missed.iter().eq(sent.iter().skip(1).step_by(2)));
}

/// `cat` sends back what it receives. It has never heard of the router.
pub(crate) async fn another_process_may_own_a_port(mut bench: Bench) {
    let (port, socket) = bench.router.open_port().unwrap();
    let input = OwnedFd::from(socket.try_clone().unwrap());
    let mut child = Command::new("cat")
        .stdin(input)
        .stdout(Stdio::from(OwnedFd::from(socket)))
        .spawn()
        .unwrap();
    let mut other = bench.port_at(&[leaf(2)]);
    bench.router.set_route(leaf(1), port).unwrap();
    for slot in 0..100 {
        // Delivered to the port, sent back by it, and routed on.
        bench
            .router
            .deliver(port, &[descriptor(leaf(2), slot)])
            .unwrap();
        assert_eq!(other.receive(), descriptor(leaf(2), slot));
    }
    bench.router.remove_route(leaf(1)).unwrap();
    bench
        .router
        .deliver(port, &[descriptor(leaf(3), 0)])
        .unwrap();
    assert_eq!(bench.miss().await, (port, descriptor(leaf(3), 0)));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bench.arrival().await, Arrival::Closed(port));
}

pub(crate) async fn what_cannot_be_routed_is_refused(bench: Bench) {
    let port = bench.port();
    for destination in [Destination::agent(1), Destination::from_raw(77 << 24)] {
        let refused = bench.router.set_route(destination, port.id);
        assert!(
            matches!(refused, Err(Error::NotRoutable { .. })),
            "{refused:?}"
        );
    }
    for nobody in [0, port.id + 1, u32::MAX] {
        let refused = bench
            .router
            .set_route(Destination::new(1, Level::Top, 0), nobody);
        assert!(
            matches!(refused, Err(Error::PortClosed { .. })),
            "{refused:?}"
        );
        let refused = bench.router.deliver(nobody, &[descriptor(leaf(1), 0)]);
        assert!(
            matches!(refused, Err(Error::PortClosed { .. })),
            "{refused:?}"
        );
        bench.router.close_port(nobody);
    }
}
