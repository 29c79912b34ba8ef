//! Clients on the server's host that write their updates into shared memory themselves.

mod leases;

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;

use tributary_tests::connection::Connection;
use tributary_tests::forged::Forged;
use tributary_tests::http::Answer;
use tributary_tests::job::{updates, weighed};
use tributary_tests::local::{self, LocalClient};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL, Shapes};
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, place};

on_both_sidecars![
    the_model_is_the_same_bit_for_bit_and_nothing_is_copied,
    tensors_lie_in_the_order_of_the_models_file,
    a_slots_pages_are_there_before_it_is_lent,
    what_is_not_finite_is_refused_and_its_coordinate_named,
    what_a_body_may_not_say_a_local_client_may_not_say,
    what_is_sent_again_is_answered_as_before,
    other_ways_are_told_to_send_a_body,
    another_user_cannot_attach,
];

fn start(sidecar: Sidecar, shapes: Shapes, expected: u32, more: &str) -> (Server, Job) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("fed", &format!("{{ expected: {expected} }}")).with(more);
    let job = server.deploy(&manifest, &Model::filled(shapes, 0.0));
    (server, job)
}

const STRICT: &str = "ingest: { nonFinite: reject }";

/// Slots that local clients hold now; with `overdue`, those that they hold for too long.
fn leased(server: &Server, state: &str) -> u32 {
    let labels = [("fl_job", "fed"), ("state", state)];
    server.scrape().sum("tributary_arena_slots", &labels) as u32
}

/// The round goes on with as many clients as it expects, and no slot is missing afterwards.
fn finish(server: Server, job: &Job, round: u64, free: u32) {
    job.until_free(free);
    let status = job.status();
    assert_eq!(status.accepted, 0);
    let updates = updates(LARGE, status.expected.into(), round);
    for (index, (update, weight)) in updates.iter().enumerate() {
        let mut client = LocalClient::open(job);
        let _ = client
            .send(&format!("client-{index}"), round, *weight, update)
            .expect(202);
    }
    Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
    // One slot fewer: the model before is kept for those who are still fetching it.
    job.until_free(free - u32::from(round == 1));
    assert_eq!(leased(&server, "leased"), 0);
    server.finish();
}

fn the_model_is_the_same_bit_for_bit_and_nothing_is_copied(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let initial = Model::filled(LARGE, 0.0);
    let manifest =
        |name: &str| Manifest::fedavg(name, "{ expected: 6 }").config("{ accumulate: exact }");
    let http = server.deploy(&manifest("http"), &initial);
    let near = server.deploy(&manifest("near"), &initial);
    let mixed = server.deploy(&manifest("mixed"), &initial);
    let mut client = LocalClient::open(&near);
    for round in 1..=2 {
        let updates = updates(LARGE, 6, round);
        http.push_all(round, &updates);
        for (index, (update, weight)) in updates.iter().enumerate() {
            let name = format!("client-{index}");
            let _ = client.send(&name, round, *weight, update).expect(202);
            if index % 2 == 0 {
                mixed.push(&name, round, *weight, update);
            } else {
                let mut other = LocalClient::open(&mixed);
                let _ = other.send(&name, round, *weight, update).expect(202);
            }
        }
        let bits = http.result(round).bits();
        assert_eq!(near.result(round).bits(), bits);
        assert_eq!(mixed.result(round).bits(), bits);
    }
    assert_eq!(near.completed(2).bytes_copied, 0);
    assert_eq!(
        mixed.completed(2).bytes_copied * 2,
        http.completed(2).bytes_copied
    );
    // Other requests may come between, and an update with a body, on the same connection.
    let update = Model::random(LARGE, 9);
    let lease = client.lease("between", 3, 1.0);
    let _ = client.connection.get("/v1/jobs/near/model").expect(200);
    let body = near.update_path("by-body", "?round=3");
    let _ = client.connection.put(&body, &update.file()).expect(202);
    local::write(&near, &lease, &update);
    let _ = client.commit("between", 3, 1.0, &lease.ticket).expect(202);
    assert_eq!(near.status().accepted, 2);

    let scrape = server.scrape();
    let sum = |name: &str, job: &str| scrape.sum(name, &[("fl_job", job)]);
    let local_updates = "tributary_local_updates_total";
    assert_eq!(sum(local_updates, "near"), 13.0);
    assert_eq!(sum(local_updates, "mixed"), 6.0);
    assert_eq!(sum(local_updates, "http"), 0.0);
    let bytes = lease.bytes as f64;
    assert_eq!(
        sum("tributary_update_bytes_total", "near"),
        13.0 * bytes + update.file().len() as f64
    );
    assert_eq!(
        sum("tributary_update_copied_bytes_total", "near"),
        update.file().len() as f64
    );
    server.finish();
}

fn tensors_lie_in_the_order_of_the_models_file(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let initial = Model::filled(SMALL, 0.0);
    let order = ["scale", "dense.weight", "dense.bias"];
    let file = server.write("odd.safetensors", Forged::in_order(&initial, &order).file());
    let manifest = Manifest::fedavg("odd", "{ expected: 1 }");
    let _ = server
        .apply(&server.write("odd.yaml", manifest.text(&file)))
        .expect(0);
    let job = server.job("odd");
    let mut client = LocalClient::open(&job);
    let update = Model::random(SMALL, 1);
    let lease = client.lease("c", 1, 1.0);
    assert_eq!((lease.bytes, lease.offset % 4096), (41 * 4, 0));
    // Written in that order, without looking at any header.
    let data = Forged::in_order(&update, &order).data;
    let written = local::attach(&lease).write_all_at(&data, lease.offset);
    written.unwrap();
    let _ = client.commit("c", 1, 1.0, &lease.ticket).expect(202);
    assert_eq!(job.result(1), update);
    server.finish();
}

/// A page that is first allocated by a client's store would kill the client if there were none left.
fn a_slots_pages_are_there_before_it_is_lent(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 4, STRICT);
    let free = job.free_slots();
    let segment = std::fs::File::open(format!("/dev/shm/{}", server.segments()[0])).unwrap();
    let allocated = || segment.metadata().unwrap().blocks() * 512;
    let before = allocated();
    let mut client = LocalClient::open(&job);
    let lease = client.lease("c", 1, 1.0);
    assert_eq!(lease.segment, server.segments()[0]);
    assert!(allocated() >= before + lease.bytes);
    let lent = allocated();
    local::write(&job, &lease, &Model::random(LARGE, 1));
    assert_eq!(allocated(), lent, "writing needs no more");
    drop(client);
    finish(server, &job, 1, free);
}

fn what_is_not_finite_is_refused_and_its_coordinate_named(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 4, STRICT);
    let free = job.free_slots();
    let mut client = LocalClient::open(&job);
    for (value, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        for (tensor, element, coordinate) in [
            ("embedding", 0, "embedding[0, 0]"),
            ("embedding", 1020 * 200 + 199, "embedding[1020, 199]"),
            ("norm", 6 * 3 * 11 * 5 - 1, "norm[5, 2, 10, 4]"),
        ] {
            let mut update = Model::random(LARGE, 1);
            update.tensor(tensor).values[element] = value;
            let problem = client
                .send("wild", 1, 1.0, &update)
                .refused(422, "non-finite");
            let said = format!("{coordinate} is {shown}");
            assert!(problem.detail.contains(&said), "{}", problem.detail);
            job.until_free(free);
        }
    }
    assert_eq!(job.round(1).rejected, 6);
    finish(server, &job, 1, free);

    let (server, job) = start(sidecar, SMALL, 1, "ingest: { nonFinite: allow }");
    let mut wild = Model::random(SMALL, 1);
    wild.tensor("scale").values[0] = f32::INFINITY;
    let _ = LocalClient::open(&job)
        .send("wild", 1, 1.0, &wild)
        .expect(202);
    assert_eq!(job.result(1).tensor("scale").values, [f32::INFINITY]);
    server.finish();
}

fn what_a_body_may_not_say_a_local_client_may_not_say(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 4, STRICT);
    let free = job.free_slots();
    let mut client = LocalClient::open(&job);
    for (query, status, slug) in [
        ("?round=2", 409, "wrong-round"),
        ("?round=x", 400, "malformed-update"),
        ("?round=1&wieght=2", 400, "malformed-update"),
        ("?round=1&slot=1", 400, "malformed-update"),
        ("", 400, "malformed-update"),
        ("?round=1&weight=nan", 422, "bad-weight"),
        ("?round=1&weight=0", 422, "bad-weight"),
    ] {
        let _ = client.ask("c", query).refused(status, slug);
    }
    let problem = client.ask("c", "?round=2").refused(409, "wrong-round");
    assert_eq!(problem.extensions["round"], 1);
    let _ = client
        .ask(&"x".repeat(129), "?round=1")
        .refused(400, "malformed-update");
    let nobody = Job::new(job.client().clone(), "nobody");
    let _ = LocalClient::open(&nobody)
        .ask("c", "?round=1")
        .refused(404, "unknown-job");
    assert_eq!(job.free_slots(), free, "no slot was touched");
    finish(server, &job, 1, free);
}

fn what_is_sent_again_is_answered_as_before(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 2, STRICT);
    let free = job.free_slots();
    let (update, other) = (Model::random(LARGE, 1), Model::random(LARGE, 2));
    let contributors = |answer: Answer| answer.json::<serde_json::Value>()["contributors"].clone();
    let mut client = LocalClient::open(&job);
    let first = client.send("c", 1, 2.0, &update).expect(202);
    assert_eq!(contributors(first), 1);
    // Its answer was lost, say: it asks on another connection.
    for _ in 0..2 {
        let again = LocalClient::open(&job).send("c", 1, 2.0, &update);
        assert_eq!(contributors(again.expect(200)), 1);
        let _ = client.send("c", 1, 2.0, &other).refused(409, "other-bytes");
        let _ = client
            .send("c", 1, 3.0, &update)
            .refused(409, "other-bytes");
    }
    let _ = client.send("d", 1, 2.0, &update).expect(202);
    assert_eq!(job.result(1), update);
    let again = client.send("c", 1, 2.0, &update).expect(200);
    assert_eq!(contributors(again), 2);
    let labels = |outcome| [("fl_job", "fed"), ("outcome", outcome)];
    let scrape = server.scrape();
    let outcomes = |outcome| scrape.sum("tributary_updates_total", &labels(outcome));
    assert_eq!((outcomes("accepted"), outcomes("repeated")), (2.0, 3.0));
    let local_updates = scrape.sum("tributary_local_updates_total", &[("fl_job", "fed")]);
    assert_eq!(local_updates, 2.0, "what is repeated is not new");
    finish(server, &job, 2, free - 1);
}

fn other_ways_are_told_to_send_a_body(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 4, STRICT);
    let free = job.free_slots();
    let slot = job.update_path("c", "/slot?round=1");
    let commit = job.update_path("c", "?round=1&slot=1");
    let by_hand = |request: String| {
        let mut connection = Connection::open(server.address());
        connection.send(request.as_bytes());
        let problem = connection.answer().refused(403, "not-local");
        assert!(
            problem.detail.contains("PUT with a body"),
            "{}",
            problem.detail
        );
    };
    let (empty, json) = (
        "Content-Length: 0\r\n",
        "Content-Type: application/json\r\n",
    );
    by_hand(format!(
        "POST {slot} HTTP/1.1\r\nHost: localhost\r\n{empty}Connection: close\r\n\r\n"
    ));
    by_hand(format!("POST {slot} HTTP/1.0\r\n{empty}\r\n"));
    by_hand(format!(
        "POST {slot} HTTP/1.1\r\nHost: localhost\r\n{json}Content-Length: 4\r\n\r\nbody"
    ));
    by_hand(format!("DELETE {slot} HTTP/1.0\r\n{empty}\r\n"));
    by_hand(format!("PUT {commit} HTTP/1.0\r\n{empty}\r\n"));
    by_hand(format!(
        "PUT {commit} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
    ));
    for (method, path) in [("POST", &slot), ("DELETE", &slot), ("PUT", &commit)] {
        let output = Command::new(place::tool("curl"))
            .args(["--silent", "--http2-prior-knowledge", "--request", method])
            .args(["--header", "Content-Type: application/json", "--data", ""])
            .arg(server.client().url(path))
            .output();
        let text = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
        assert!(text.contains("problems/not-local"), "{method}: {text}");
    }
    let nobody = "POST /v1/jobs/nobody/updates/c/slot HTTP/1.0\r\n\r\n";
    let mut connection = Connection::open(server.address());
    connection.send(nobody.as_bytes());
    let _ = connection.answer().refused(404, "unknown-job");
    assert_eq!(job.free_slots(), free);

    // An operator may refuse it; what is out already may be committed.
    let mut client = LocalClient::open(&job);
    let lease = client.lease("early", 1, 1.0);
    let manifest = |local: &str| {
        Manifest::fedavg("fed", "{ expected: 4 }").with(&format!("ingest: {{ local: {local} }}"))
    };
    let initial = Model::filled(LARGE, 0.0);
    let _ = server.deploy(&manifest("refuse"), &initial);
    let problem = client.ask("c", "?round=1").refused(403, "not-local");
    assert!(
        problem.detail.contains("spec.ingest.local: refuse"),
        "{}",
        problem.detail
    );
    let mut wild = Model::random(LARGE, 1);
    wild.tensor("head").values[0] = f32::NAN;
    local::write(&job, &lease, &wild);
    let _ = client
        .commit("early", 1, 1.0, &lease.ticket)
        .refused(422, "non-finite");
    let refused = job.round(1).rejected;
    assert_eq!(
        refused, 1,
        "another way to send says nothing against an update"
    );
    let _ = server.deploy(&manifest("allow"), &initial);
    finish(server, &job, 1, free);
}

fn another_user_cannot_attach(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 4, STRICT);
    let free = job.free_slots();
    let mut client = LocalClient::open(&job);
    let lease = client.lease("c", 1, 1.0);
    let file = local::file(&lease);
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    for opening in ["cat {} > /dev/null", ": >> {}"] {
        let command = opening.replace("{}", &file.to_string_lossy());
        let ours = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(ours.status.success(), "{ours:?}");
        let theirs = Command::new(place::tool("setpriv"))
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["sh", "-c", &command])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&theirs.stderr).into_owned();
        assert!(!theirs.status.success(), "another user opened {file:?}");
        assert!(said.contains("ermission denied"), "{said}");
    }
    drop(client);
    finish(server, &job, 1, free);
}
