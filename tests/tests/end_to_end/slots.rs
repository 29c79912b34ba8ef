//! Slots are the credits: when all are taken, clients are told to come again.

use rustix::process::Signal;
use tributary_tests::connection::Connection;
use tributary_tests::job::{updates, weighed};
use tributary_tests::process::{signal, workers_of};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL, Shapes};
use tributary_tests::wait::until;
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    without_a_free_slot_clients_are_told_to_come_again,
    clients_that_trickle_have_no_slots,
    the_slowest_makes_room_for_who_waits,
    many_clients_share_few_slots
];

/// The least that two workers with a fan-in of two can do with, and a few more.
const SLOTS: u32 = 14;
/// Of these for models and updates.
const FOR_UPDATES: u32 = 7;

fn scarce(sidecar: Sidecar, shapes: Shapes) -> (Server, Job, u32) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("scarce", "{ expected: 20 }")
        .with("tree: { fanIn: 2 }")
        .with(&format!("arena: {{ slots: {SLOTS} }}"))
        .with("ingest: { idleTimeout: 60s }");
    let job = server.deploy(&manifest, &Model::filled(shapes, 0.0));
    let free = job.free_slots();
    (server, job, free)
}

/// Sends an update's head and the first `bytes` of its body.
fn begin(job: &Job, client: &str, file: &[u8], bytes: usize) -> Connection {
    let mut connection = Connection::open(job.client().address());
    let length = format!("Content-Length: {}", file.len());
    connection.send_head(&job.update_path(client, "?round=1"), &[&length]);
    connection.send(&file[..bytes]);
    connection
}

/// All but `done` of 20 clients, with the same update; the round is whole.
fn finish(server: Server, job: &Job, update: &Model, done: u32, free: u32) {
    assert_eq!(job.status().accepted, done);
    for index in done..20 {
        job.push(&format!("client-{index}"), 1, 1.0, update);
    }
    Mean::of([(update, 1.0)]).assert_near(&job.result(1), 1e-12);
    assert_eq!(job.completed(1).contributors, 20);
    job.until_free(free - 1);
    server.finish();
}

fn without_a_free_slot_clients_are_told_to_come_again(sidecar: Sidecar) {
    let (server, job, free) = scarce(sidecar, SMALL);
    let update = Model::random(SMALL, 1);
    let file = update.file();
    job.push("first", 1, 1.0, &update);
    // While workers stand still, every update keeps its slot.
    let mut taken = 1;
    let refused = loop {
        for worker in workers_of(server.pid()) {
            signal(worker, Signal::STOP);
        }
        let answer = job.put(&format!("taken-{taken}"), "?round=1", &file);
        if answer.status != 202 {
            break answer;
        }
        taken += 1;
        assert!(taken < 20, "all were folded");
    };
    let problem = refused.refused(429, "no-slot");
    assert!(
        problem
            .detail
            .contains(&format!("all {FOR_UPDATES} slots of job scarce")),
        "{}",
        problem.detail
    );
    let seconds: u32 = refused
        .header("retry-after")
        .expect("Retry-After")
        .parse()
        .unwrap();
    assert!((1..=60).contains(&seconds));
    // Workers can still work: not every slot is given away.
    assert!(job.free_slots() > 0);
    for worker in workers_of(server.pid()) {
        signal(worker, Signal::CONT);
    }
    // The one that came late gets its slot by trying again.
    until("a slot for the late one", || {
        job.put("late", "?round=1", &file).status == 202
    });
    finish(server, &job, &update, taken + 1, free);
}

/// Not even their beginnings: a body has to come before it has a slot.
fn clients_that_trickle_have_no_slots(sidecar: Sidecar) {
    let (server, job, free) = scarce(sidecar, LARGE);
    let update = Model::random(LARGE, 1);
    let file = update.file();
    let length = file.len();
    let chunked = |client: &str| {
        let mut connection = Connection::open(server.address());
        let path = job.update_path(client, "?round=1");
        connection.send_head(&path, &["Transfer-Encoding: chunked"]);
        connection.send(&[format!("{length:x}\r\n").as_bytes(), &file[..1000]].concat());
        connection
    };
    let trickling: Vec<Connection> = (0..20)
        .map(|index| match index % 2 {
            0 => begin(&job, &format!("slow-{index}"), &file, 1000),
            _ => chunked(&format!("slow-{index}")),
        })
        .collect();
    finish(server, &job, &update, 0, free);
    drop(trickling);
}

fn the_slowest_makes_room_for_who_waits(sidecar: Sidecar) {
    let (server, job, free) = scarce(sidecar, LARGE);
    let update = Model::random(LARGE, 1);
    let file = update.file();
    let half = file.len() / 2;
    let mut holding: Vec<Connection> = Vec::new();
    for taken in 1..FOR_UPDATES - 1 {
        let connection = begin(&job, &format!("held-{taken}"), &file, half);
        job.until_free(free - taken);
        holding.push(connection);
    }
    // One place is the new model's.
    let _ = job.put("late", "?round=1", &file).expect(202);
    let mut done = 1;
    let mut sent_away = 0;
    for mut connection in holding {
        // Who was sent away may not be read any more.
        let _ = connection.try_send(&file[half..]);
        match connection.answer().status {
            202 => done += 1,
            status => {
                assert_eq!(status, 429);
                sent_away += 1;
            }
        }
    }
    assert!(sent_away > 0, "nobody made room");
    finish(server, &job, &update, done, free);
}

/// Four times as many clients at once as there are slots: all come through, some by trying again.
fn many_clients_share_few_slots(sidecar: Sidecar) {
    const CLIENTS: u64 = 48;
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("shared", &format!("{{ expected: {CLIENTS} }}"))
        .with("tree: { fanIn: 4 }")
        .with(&format!("arena: {{ slots: {SLOTS} }}"));
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.0));
    for round in 1..=2 {
        let updates = updates(LARGE, CLIENTS, round);
        std::thread::scope(|scope| {
            for (index, (update, weight)) in updates.iter().enumerate() {
                let job = &job;
                scope.spawn(move || {
                    let (file, query) = (update.file(), format!("?round={round}&weight={weight}"));
                    job.put_until_taken(&format!("client-{index}"), &query, &file);
                });
            }
        });
        Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
    }
    server.finish();
}
