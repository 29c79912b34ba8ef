//! Thousands of descriptors while everything changes: each arrives, and each once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tributary_router::{Arrival, send, send_async};
use tributary_sidecar_layout::{Descriptor, Destination};

use crate::bench::{Bench, Owner, descriptor, leaf, numbered, slots};

const MANY: u32 = 20_000;

/// The slot that tells a reader to stop.
const STOP: u32 = u32::MAX;

/// Reads until it is told to stop.
fn read_until_stop(mut owner: Owner) -> thread::JoinHandle<Vec<Descriptor>> {
    thread::spawn(move || {
        let mut received = Vec::new();
        loop {
            match owner.receive() {
                Descriptor { slot: STOP, .. } => return received,
                descriptor => received.push(descriptor),
            }
        }
    })
}

/// Two ports take turns at a destination, and at times nobody has it.
pub(crate) async fn routes_change_under_load(mut bench: Bench) {
    let sender = bench.port();
    let (one, other) = (bench.port(), bench.port());
    let ports = [one.id, other.id];
    let readers = [read_until_stop(one), read_until_stop(other)];
    let done = Arc::new(AtomicBool::new(false));
    let finished = Arc::clone(&done);
    let sending = thread::spawn(move || {
        for batch in numbered(leaf(1), 0..MANY).chunks(3) {
            sender.send(batch);
        }
        finished.store(true, Ordering::Release);
        sender
    });
    let router = Arc::clone(&bench.router);
    let changes = tokio::task::spawn_blocking(move || {
        let mut changes = 0;
        while !done.load(Ordering::Acquire) || changes < 10 {
            match changes % 5 {
                4 => router.remove_route(leaf(1)).unwrap(),
                turn => router.set_route(leaf(1), ports[turn % 2]).unwrap(),
            }
            changes += 1;
        }
    });
    changes.await.unwrap();
    let sender = sending.join().unwrap();
    // The sender's last word follows everything that it sent to the agent, and the agent's to the ports follow
    // what the agent routed to them.
    sender.send(&[descriptor(Destination::agent(1), STOP)]);
    let mut received = Vec::new();
    while let Arrival::Miss(_, missed) = bench.arrival().await {
        received.push(missed);
    }
    for port in ports {
        bench
            .router
            .deliver(port, &[descriptor(leaf(1), STOP)])
            .unwrap();
    }
    for reader in readers {
        received.extend(reader.join().unwrap());
    }
    assert_eq!(slots(&received), (0..MANY).collect::<Vec<_>>());
}

/// A destination whose ports die all the time, with descriptors unread. Senders never notice; what was sent while
/// nobody was there reaches the agent; nothing arrives twice, nor at a stranger.
pub(crate) async fn targets_die_under_load(mut bench: Bench) {
    let (sender, second) = (bench.port(), bench.port().socket);
    let mut bystander = bench.port_at(&[leaf(2)]);
    let done = Arc::new(AtomicBool::new(false));
    let (sent, also_sent) = (Arc::clone(&done), Arc::clone(&done));
    let sending = thread::spawn(move || {
        for slot in 0..MANY {
            sender.send(&[descriptor(leaf(1), slot), descriptor(leaf(2), slot)]);
        }
        sent.store(true, Ordering::Release);
        sender
    });
    let also_sending = tokio::spawn(async move {
        second.set_nonblocking(true).unwrap();
        let second = tokio::net::TcpStream::from_std(second).unwrap();
        for slot in MANY..2 * MANY {
            send_async(
                &second,
                &[descriptor(leaf(1), slot), descriptor(leaf(2), slot)],
            )
            .await
            .unwrap();
        }
        also_sent.store(true, Ordering::Release);
        second
    });
    let mut received = Vec::new();
    let mut generations = 0;
    while !done.load(Ordering::Acquire) || generations < 10 {
        let mut target = bench.port_at(&[leaf(1)]);
        let port = target.id;
        if generations % 2 == 0 && !done.load(Ordering::Acquire) {
            bench
                .router
                .deliver(port, &[descriptor(leaf(1), STOP)])
                .unwrap();
            received.push(target.receive());
        }
        drop(target);
        bench.router.close_port(port);
        generations += 1;
    }
    let (sender, _second) = (sending.join().unwrap(), also_sending.await.unwrap());
    let after = descriptor(leaf(1), STOP - 1);
    sender.send(&[after]);
    let (mut closed, mut last) = (0, false);
    while closed < generations || !last {
        match bench.arrival().await {
            Arrival::Miss(_, missed) if missed == after => last = true,
            Arrival::Miss(_, missed) => received.push(missed),
            Arrival::Closed(_) => closed += 1,
            Arrival::Doorbell(..) => panic!("nobody rang"),
        }
    }
    assert!(received.iter().all(|descriptor| descriptor.to() == leaf(1)));
    received.retain(|descriptor| descriptor.slot != STOP);
    let mut once = slots(&received);
    once.dedup();
    assert_eq!(once.len(), received.len(), "something arrived twice");
    // The bystander has everything that was sent to it.
    assert_eq!(
        slots(&bystander.receive_all(2 * MANY as usize)),
        (0..2 * MANY).collect::<Vec<_>>()
    );
}

/// Each of 48 ports sends to each, in writes of several.
pub(crate) async fn many_ports_talk_to_each_other(bench: Bench) {
    const PORTS: u32 = 48;
    const EACH: u32 = 20;
    let owners: Vec<Owner> = (0..PORTS)
        .map(|index| bench.port_at(&[leaf(index)]))
        .collect();
    let threads: Vec<_> = (0..)
        .zip(owners)
        .map(|(own, mut owner)| {
            thread::spawn(move || {
                for turn in 0..EACH {
                    let to = (0..PORTS).map(|index| (own + index) % PORTS);
                    let slot = own * EACH + turn;
                    let batch: Vec<_> = to.map(|to| descriptor(leaf(to), slot)).collect();
                    owner.send(&batch);
                }
                let received = owner.receive_all((PORTS * EACH) as usize);
                assert!(
                    received
                        .iter()
                        .all(|descriptor| descriptor.to() == leaf(own))
                );
                assert_eq!(slots(&received), (0..PORTS * EACH).collect::<Vec<_>>());
                owner
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(bench.router.snapshot().unwrap().misses, 0);
}

/// The agent delivers, two ports and the port itself send, and the port begins to read when thousands are queued.
/// What one sender sent comes in order.
pub(crate) async fn delivered_and_routed_share_a_queue(bench: Bench) {
    let senders = [bench.port(), bench.port()];
    let mut target = bench.port_at(&[leaf(1)]);
    let itself = target.socket.try_clone().unwrap();
    let mut threads = Vec::new();
    for (index, sender) in (0..).zip(senders) {
        threads.push(thread::spawn(move || {
            for batch in numbered(leaf(1), index * MANY..(index + 1) * MANY).chunks(7) {
                sender.send(batch);
            }
        }));
    }
    threads.push(thread::spawn(move || {
        send(itself, &numbered(leaf(1), 2 * MANY..3 * MANY)).unwrap();
    }));
    for batch in numbered(leaf(1), 3 * MANY..4 * MANY).chunks(5) {
        bench.router.deliver(target.id, batch).unwrap();
    }
    let mut received = target.receive_all(2 * MANY as usize);
    for thread in threads {
        // Dropping a sender's port here must not disturb what it has sent.
        thread.join().unwrap();
    }
    received.extend(target.receive_all(2 * MANY as usize));
    assert_eq!(slots(&received), (0..4 * MANY).collect::<Vec<_>>());
    for source in 0..4 {
        let from = received
            .iter()
            .filter(|descriptor| descriptor.slot / MANY == source);
        assert!(
            from.is_sorted_by_key(|descriptor| descriptor.slot),
            "source {source} is out of order"
        );
    }
}

/// 640 kB for a port that sleeps are more than its socket's buffers hold.
pub(crate) async fn a_port_that_does_not_read_stops_nobody(bench: Bench) {
    let sender = bench.port();
    let (mut sleeper, mut awake) = (bench.port_at(&[leaf(1)]), bench.port_at(&[leaf(2)]));
    sender.send(&numbered(leaf(1), 0..MANY));
    bench
        .router
        .deliver(sleeper.id, &numbered(leaf(1), MANY..2 * MANY))
        .unwrap();
    sender.send(&numbered(leaf(2), 0..100));
    assert_eq!(awake.receive_all(100), numbered(leaf(2), 0..100));
    assert_eq!(
        slots(&sleeper.receive_all(2 * MANY as usize)),
        (0..2 * MANY).collect::<Vec<_>>()
    );
}

/// Single descriptors from several threads on one port: as if each had been sent alone.
pub(crate) async fn threads_share_a_port(mut bench: Bench) {
    const THREADS: u32 = 4;
    let sender = bench.port();
    let mut receiver = bench.port_at(&[leaf(1)]);
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let socket = sender.socket.try_clone().unwrap();
            thread::spawn(move || {
                for slot in (index..MANY).step_by(THREADS as usize) {
                    let to = if slot % 16 < 4 { leaf(9) } else { leaf(1) };
                    send(&socket, &[descriptor(to, slot)]).unwrap();
                }
            })
        })
        .collect();
    let mut all = receiver.receive_all((MANY / 4 * 3) as usize);
    for thread in threads {
        thread.join().unwrap();
    }
    for _ in 0..MANY / 4 {
        all.push(bench.miss().await.1);
    }
    assert_eq!(slots(&all), (0..MANY).collect::<Vec<_>>());
}
