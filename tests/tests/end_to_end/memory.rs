//! How much memory a job takes: what was planned, and no more.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use tributary_tests::connection::Connection;
use tributary_tests::job::updates;
use tributary_tests::local::{self, LocalClient};
use tributary_tests::tensors::Shapes;
use tributary_tests::wait::until;
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars, process};

on_both_sidecars![
    arrivals_in_sequence_take_few_slots,
    an_accumulator_changed_in_place_has_the_same_bits,
    order_of_arrival_decides_every_bit,
    nobody_keeps_the_memory_of_a_job_that_has_ended
];

/// 2,000,003 elements, 8 MB: several threads have several parts each.
const WIDE: Shapes = &[("a", &[1999, 1000]), ("b", &[1003])];
const WIDE_BYTES: u64 = 2_000_003 * 4;

/// However many clients come one after the other: `k + 3` models at most, with `k` = 8 inputs a call.
fn arrivals_in_sequence_take_few_slots(sidecar: Sidecar) {
    const CLIENTS: u64 = 60;
    let server = Server::start(sidecar);
    for accumulate in ["f32", "f64", "exact"] {
        let manifest = Manifest::fedavg(accumulate, &format!("{{ expected: {CLIENTS} }}"))
            .config(&format!("{{ accumulate: {accumulate} }}"));
        let job = server.deploy(&manifest, &Model::filled(WIDE, 0.0));
        let bound = job.status().arena.unwrap().plan.bytes_max;
        let few = updates(WIDE, 4, 1);
        for round in 1..=3 {
            for client in 0..CLIENTS {
                let (update, weight) = &few[client as usize % few.len()];
                job.push(&format!("client-{client}"), round, *weight, update);
            }
            let _ = job.result(round);
        }
        let arena = job.status().arena.unwrap();
        assert!(arena.bytes <= bound, "{arena:?}");
        assert!(
            arena.bytes <= 11 * WIDE_BYTES + arena.plan.other_bytes + u64::from(arena.slots) * 8192,
            "{accumulate}: {} models in {arena:?}",
            arena.bytes as f64 / WIDE_BYTES as f64
        );
    }
    let described = server.cli(&["describe", "job", "f64"]).expect(0).stdout;
    assert!(described.contains("At most"), "{described}");
    assert!(described.contains("second accumulator"), "{described}");
    server.finish();
}

/// Not one that fetches its model and does not read, not one whose update trickles in, and not one that maps a slot: neither
/// when the job is deleted nor when it is started anew.
fn nobody_keeps_the_memory_of_a_job_that_has_ended(sidecar: Sidecar) {
    /// 6,000,000 elements, 24 MB: more than sockets hold.
    const HUGE: Shapes = &[("w", &[6000, 1000])];
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("held", "{ expected: 3 }").with("ingest: { idleTimeout: 10m }");
    let initial = Model::filled(HUGE, 1.0);
    let file = initial.file();
    for end in ["restart", "delete"] {
        let job = server.deploy(&manifest, &initial);
        let segment = File::open(format!("/dev/shm/{}", server.segments()[0])).unwrap();
        let blocks = || segment.metadata().unwrap().blocks() * 512;

        let mut reader = Connection::open(server.address());
        reader.send(b"GET /v1/jobs/held/model HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut writer = Connection::open(server.address());
        let length = format!("Content-Length: {}", file.len());
        writer.send_head(&job.update_path("slow", "?round=1"), &[&length]);
        writer.send(&file[..1 << 20]);
        let mut local = LocalClient::open(&job);
        let lease = local.lease("near", 1, 1.0);
        local::write(&job, &lease, &initial);
        until("a model and two updates have memory", || {
            blocks() > 3 * file.len() as u64
        });

        if end == "restart" {
            let anew = Manifest::fedavg("held", "{ expected: 3 }")
                .with("ingest: { idleTimeout: 10m }")
                .config("{ accumulate: exact }");
            let _ = server.try_deploy(&anew, &initial).expect(0);
            assert_eq!(server.segments().len(), 1);
        } else {
            let deleted = server.client().send("DELETE", "/v1/jobs/held", &[], &[]);
            assert_eq!(deleted.status, 204);
            assert!(server.segments().is_empty());
        }
        // At once, and not when somebody's patience is over.
        assert!(blocks() < 1 << 20, "{} bytes are held", blocks());
        // Who sends an update is told.
        let answer = writer.answer();
        assert!([404, 503].contains(&answer.status), "{answer:?}");
    }
    server.finish_idle();
}

/// The least of slots leaves no room for a second accumulator. The result is the same, bit for bit, and is so
/// when workers die in the middle of it.
fn an_accumulator_changed_in_place_has_the_same_bits(sidecar: Sidecar) {
    const CLIENTS: u64 = 12;
    // One, so that the one that is killed is the one that works.
    let server = Server::with_workers(sidecar, 1);
    let manifest = |name: &str| {
        Manifest::fedavg(name, &format!("{{ expected: {CLIENTS} }}"))
            .config("{ accumulate: f32 }")
            .with("determinism: ordered")
    };
    let shadow = server.deploy(&manifest("shadow"), &Model::filled(WIDE, 0.0));
    let in_place = manifest("in-place").with("arena: { slots: 5 }");
    let in_place = server.deploy(&in_place, &Model::filled(WIDE, 0.0));
    let tight = manifest("tight").with("arena: { slots: 3 }");
    let tight = server.deploy(&tight, &Model::filled(WIDE, 0.0));
    let planned = |job: &tributary_tests::Job| job.status().arena.unwrap().plan;
    assert!(!planned(&shadow).in_place);
    assert!(planned(&in_place).in_place && planned(&tight).in_place);
    assert_eq!(
        (planned(&in_place).model_slots, planned(&tight).model_slots),
        (3, 1)
    );

    let updates = updates(WIDE, CLIENTS, 7);
    let mut kills = 0;
    for round in 1..=3 {
        shadow.push_all(round, &updates);
        let expected = shadow.result(round);
        for (job, kill) in [(&in_place, round > 1), (&tight, round > 1)] {
            for (index, (update, weight)) in updates.iter().enumerate() {
                let query = format!("?round={round}&weight={weight}");
                job.put_until_taken(&format!("client-{index}"), &query, &update.file());
                if kill && index % 4 == 1 {
                    let worker = server
                        .worker_pids()
                        .into_iter()
                        .find(|pid| process::kill(*pid));
                    kills += u32::from(worker.is_some());
                }
            }
            assert_eq!(job.result(round).bits(), expected.bits(), "{}", job.name());
            assert_eq!(job.completed(round).contributors, CLIENTS as u32);
        }
    }
    assert!(kills >= 8, "only {kills} workers could be killed");
    // Who waits for a slot is not left waiting when a dead worker's is free.
    let scrape = server.scrape();
    let refused = scrape.sum("tributary_updates_total", &[("outcome", "no-slot")]);
    assert!(
        refused <= f64::from(kills) / 4.0,
        "{refused} updates found no slot in {kills} deaths"
    );
    server.finish();
}

/// One order of arrival makes one model: whatever the workers, threads and deaths.
fn order_of_arrival_decides_every_bit(sidecar: Sidecar) {
    const CLIENTS: u64 = 24;
    let updates = updates(WIDE, CLIENTS, 3);
    let manifest = Manifest::fedavg("ordered", &format!("{{ expected: {CLIENTS} }}"))
        .config("{ accumulate: f32 }")
        .with("determinism: ordered");
    let results: Vec<Model> = [(1, false), (3, true)]
        .into_iter()
        .map(|(workers, kill)| {
            let server = Server::with_workers(sidecar, workers);
            let job = server.deploy(&manifest, &Model::filled(WIDE, 0.0));
            for (index, (update, weight)) in updates.iter().enumerate() {
                job.push(&format!("client-{index}"), 1, *weight, update);
                if kill && index % 6 == 3 {
                    server.worker_pids().into_iter().for_each(|pid| {
                        process::kill(pid);
                    });
                }
            }
            let result = job.result(1);
            server.finish();
            result
        })
        .collect();
    assert_eq!(results[0].bits(), results[1].bits());

    // Another order is allowed to make another model, and here it does: the test would notice.
    let server = Server::start(sidecar);
    let job = server.deploy(&manifest, &Model::filled(WIDE, 0.0));
    for (index, (update, weight)) in updates.iter().enumerate().rev() {
        job.push(&format!("client-{index}"), 1, *weight, update);
    }
    assert_ne!(job.result(1).bits(), results[0].bits());
    server.finish();
}
