//! Slots are the credits: when all are taken, clients are told to come again.

use tributary_tests::connection::Connection;
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::wait::until;
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    without_a_free_slot_clients_are_told_to_come_again,
    many_clients_share_few_slots
];

/// The least that two workers with a fan-in of two can do with, and a few more.
const SLOTS: u32 = 14;
/// Of these for models and updates.
const FOR_UPDATES: u32 = 7;
/// What no client gets: those for partials, and the new model's.
const KEPT: u32 = SLOTS - FOR_UPDATES + 1;

fn without_a_free_slot_clients_are_told_to_come_again(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("scarce", "{ expected: 20 }")
        .with("tree: { fanIn: 2 }")
        .with(&format!("arena: {{ slots: {SLOTS} }}"))
        .with("ingest: { idleTimeout: 60s }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let free = job.free_slots();

    // Every one of them holds a slot, in which its last byte is missing.
    let update = Model::random(SMALL, 1);
    let file = update.file();
    let mut holding = Vec::new();
    for taken in 1..=free - KEPT {
        let mut connection = Connection::open(server.address());
        let length = format!("Content-Length: {}", file.len());
        let path = job.update_path(&format!("held-{taken}"), "?round=1");
        connection.send_head(&path, &[&length]);
        connection.send(&file[..file.len() - 1]);
        job.until_free(free - taken);
        holding.push(connection);
    }
    let answer = job.put("late", "?round=1", &file);
    let problem = answer.refused(429, "no-slot");
    assert!(
        problem
            .detail
            .contains(&format!("all {FOR_UPDATES} slots of job scarce")),
        "{}",
        problem.detail
    );
    let seconds: u32 = answer
        .header("retry-after")
        .expect("Retry-After")
        .parse()
        .unwrap();
    assert!((1..=60).contains(&seconds));
    // Workers can still work: not every slot is given away.
    assert_eq!(job.free_slots(), KEPT);

    // One of those that hold a slot goes on where it was.
    holding[0].send(&file[file.len() - 1..]);
    let _ = holding[0].answer().expect(202);
    // The others go away; the one that came late gets its slot, by trying again.
    drop(holding);
    until("a slot for the late one", || {
        job.put("late", "?round=1", &file).status == 202
    });
    until("the arena is as free as it was", || {
        job.free_slots() + 3 >= free
    });
    assert_eq!(job.status().accepted, 2);
    // With everybody else the round is whole.
    for index in 2..20 {
        job.push(&format!("client-{index}"), 1, 1.0, &update);
    }
    Mean::of([(&update, 1.0)]).assert_near(&job.result(1), 1e-12);
    assert_eq!(job.completed(1).contributors, 20);
    job.until_free(free - 1);
    server.finish();
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
