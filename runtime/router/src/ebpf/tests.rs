//! What only the sidecar has. `TRIBUTARY_REQUIRE_EBPF=1` makes it a failure that it cannot be loaded.

use std::{
    thread,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tokio::sync::mpsc;
use tributary_sidecar_layout::{Destination, Kind, Level};

use super::*;

/// The sidecar, unless there is none here and that may be.
fn load() -> Option<Sidecar> {
    match Sidecar::load() {
        Ok(sidecar) => Some(sidecar),
        Err(error) => {
            let required =
                std::env::var_os("TRIBUTARY_REQUIRE_EBPF").is_some_and(|value| value == "1");
            assert!(!required, "the sidecar must be tested here, but: {error}");
            println!("NOT RUN: {error}");
            None
        }
    }
}

fn leaf(slot: u32) -> Descriptor {
    let destination = Destination::new(1, Level::Leaf, 1).raw();
    Descriptor {
        destination,
        sent_ns: 0,
        slot,
        generation: 0,
        round: 0,
        kind: Kind::Update as u32,
    }
}

/// Runs something in a thread that has only some of this process's capabilities.
fn with_capabilities<T: Send>(some: CapabilitySet, run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let effective = capabilities(None).unwrap().permitted & some;
            let inheritable = CapabilitySet::empty();
            set_capabilities(
                None,
                CapabilitySets {
                    effective,
                    permitted: effective,
                    inheritable,
                },
            )
            .unwrap();
            run()
        });
        thread.join().unwrap()
    })
}

#[test]
fn probing_leaves_nothing_behind() {
    if load().is_some() {
        for _ in 0..3 {
            probe().unwrap();
        }
    }
}

#[test]
fn two_capabilities_are_enough() {
    if load().is_some() {
        with_capabilities(CapabilitySet::BPF | CapabilitySet::NET_ADMIN, probe).unwrap();
    }
}

#[test]
fn missing_capabilities_are_named_and_auto_falls_back() {
    if load().is_none() {
        return;
    }
    for (has, lacks) in [
        (CapabilitySet::empty(), "CAP_BPF and CAP_NET_ADMIN"),
        (CapabilitySet::BPF, "lacks CAP_NET_ADMIN"),
        (CapabilitySet::NET_ADMIN, "lacks CAP_BPF"),
    ] {
        let (probed, started) = with_capabilities(has, || {
            let (arrivals, _) = mpsc::unbounded_channel();
            (
                probe().unwrap_err().to_string(),
                crate::start(crate::Choice::Auto, arrivals).unwrap(),
            )
        });
        assert!(probed.contains(lacks) && !probed.contains('\n'), "{probed}");
        assert_eq!(started.0.kind(), RouterKind::Userspace);
        assert_eq!(started.1, Some(probed));
    }
}

/// The kernel frees the program some time after its last reference has gone.
#[test]
fn the_program_goes_with_the_sidecar_and_the_last_port() {
    let Some(mut sidecar) = load() else { return };
    let id = sidecar.program_id();
    let exists =
        || loaded_programs().any(|program| program.is_ok_and(|program| program.id() == id));
    assert!(exists());
    let ends = loopback::connect().unwrap();
    sidecar
        .connect(&Connection::of(1, &ends).unwrap(), &ends)
        .unwrap();
    // The socket holds the program, and that its maps, beyond the sidecar's end.
    drop(sidecar);
    drop(ends);
    let patience = Instant::now() + Duration::from_secs(60);
    while exists() {
        assert!(Instant::now() < patience, "program {id} stays");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The runtime has one thread: until this test waits, the router cannot know that the port has ended.
#[tokio::test]
async fn what_is_delivered_to_a_port_that_has_just_ended_comes_back() {
    if load().is_none() {
        return;
    }
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    let router = EbpfRouter::start(sender).unwrap();
    let (port, owner) = router.open_port().unwrap();
    router.set_route(leaf(0).to(), port).unwrap();
    let (_, other) = router.open_port().unwrap();
    router.deliver(port, &[leaf(1)]).unwrap();
    drop(owner);
    router.deliver(port, &[leaf(2), leaf(3)]).unwrap();
    crate::send(&other, &[leaf(4)]).unwrap();
    let (mut missed, mut closed) = (Vec::new(), false);
    while missed.len() < 3 || !closed {
        match arrivals.recv().await.unwrap() {
            Arrival::Miss(_, descriptor) => missed.push(descriptor),
            Arrival::Closed(ended) => closed = ended == port,
            Arrival::Doorbell(..) => panic!("nobody rang"),
        }
    }
    missed.sort_unstable_by_key(|descriptor| descriptor.slot);
    // The first was in the port's queue when the owner died.
    assert_eq!(missed, [leaf(2), leaf(3), leaf(4)]);
}

#[test]
fn a_port_is_gone_from_every_map_when_it_has_ended() {
    let Some(mut sidecar) = load() else { return };
    let ends = loopback::connect().unwrap();
    let connection = Connection::of(9, &ends).unwrap();
    sidecar.connect(&connection, &ends).unwrap();
    assert_eq!(sidecar.entries(), (2, 2));
    drop(ends.port);
    assert_eq!(
        sidecar.entries(),
        (1, 2),
        "the kernel takes the port's end out"
    );
    sidecar.disconnect(&connection);
    assert_eq!(sidecar.entries(), (0, 0));
}

#[test]
fn the_self_test_is_counted_like_anything_else() {
    let Some(mut sidecar) = load() else { return };
    self_test::run(&mut sidecar).unwrap();
    let mut snapshot = Snapshot::default();
    sidecar.add_to(&mut snapshot).unwrap();
    let counters = snapshot.sidecar.unwrap();
    assert_eq!(
        (counters.misses, counters.delivered, counters.split),
        (1, 1, 0)
    );
    assert_eq!(
        snapshot
            .routed
            .values()
            .map(|traffic| traffic.descriptors)
            .sum::<u64>(),
        2
    );
}
