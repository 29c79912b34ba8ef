//! Who holds a slot that a local client asked for, and until when.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};

use tributary_api::status::SlotLease;
use tributary_tests::connection::Connection;
use tributary_tests::job::{updates, weighed};
use tributary_tests::local::{self, LocalClient};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::LARGE;
use tributary_tests::wait::{eventually, until};
use tributary_tests::{Job, Manifest, Model, Sidecar, on_both_sidecars, place};

use super::{STRICT, finish, leased, start};

on_both_sidecars![
    a_slot_belongs_to_its_connection_and_its_sender,
    a_client_that_dies_leaves_nothing,
    a_slot_shows_nothing_and_what_is_not_written_is_no_update,
    a_slot_is_lent_to_who_can_open_the_segment_and_knows_the_layout,
    a_slot_stays_its_clients_until_the_clients_side_ends,
    few_slots_are_lent_at_a_time_and_no_time_takes_them_back,
    a_round_closes_while_a_slot_is_out,
    a_job_goes_and_comes_back_while_a_slot_is_out,
    where_memory_is_scarce_the_model_has_its_slot,
];

fn a_slot_belongs_to_its_connection_and_its_sender(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 3, STRICT);
    let free = job.free_slots();
    let mut client = LocalClient::open(&job);
    let update = Model::random(LARGE, 1);
    let lease = client.lease("mine", 1, 2.0);
    local::write(&job, &lease, &update);

    // Another connection, and tickets that nobody was given.
    let mut other = LocalClient::open(&job);
    let _ = other
        .commit("mine", 1, 2.0, &lease.ticket)
        .refused(404, "unknown-slot");
    let _ = other
        .give_back("mine", &lease.ticket)
        .refused(404, "unknown-slot");
    for forged in ["", "0", "1-0-0", &lease.ticket[1..], &"9".repeat(300)] {
        let _ = client
            .commit("mine", 1, 2.0, forged)
            .refused(404, "unknown-slot");
    }
    // Another sender, round or weight than it was asked for.
    let _ = client
        .commit("other", 1, 2.0, &lease.ticket)
        .refused(400, "malformed-update");
    let _ = client
        .commit("mine", 2, 2.0, &lease.ticket)
        .refused(400, "malformed-update");
    let problem = client
        .commit("mine", 1, 3.0, &lease.ticket)
        .refused(422, "bad-weight");
    assert!(problem.detail.contains("weight is 3"), "{}", problem.detail);
    assert!(problem.detail.contains("weight 2"), "{}", problem.detail);
    // None of that has cost the slot.
    assert_eq!(job.free_slots(), free - 1);
    let _ = client.commit("mine", 1, 2.0, &lease.ticket).expect(202);
    let _ = client
        .commit("mine", 1, 2.0, &lease.ticket)
        .refused(404, "unknown-slot");

    // Given back, it is not this client's any more.
    let lease = client.lease("unsure", 1, 1.0);
    let answer = client.give_back("unsure", &lease.ticket).expect(204);
    assert!(answer.body.is_empty());
    let _ = client
        .give_back("unsure", &lease.ticket)
        .refused(404, "unknown-slot");
    let _ = client
        .commit("unsure", 1, 1.0, &lease.ticket)
        .refused(404, "unknown-slot");
    let _ = other.lease("next", 1, 1.0);
    drop(other);
    // One connection may hold two.
    let (a, b) = (client.lease("a", 1, 1.0), client.lease("b", 1, 1.0));
    assert_ne!(a.offset, b.offset);
    for (name, lease) in [("b", &b), ("a", &a)] {
        local::write(&job, lease, &update);
        let _ = client.commit(name, 1, 1.0, &lease.ticket).expect(202);
    }
    Mean::of([(&update, 1.0)]).assert_near(&job.result(1), 1e-12);
    finish(server, &job, 2, free - 1);
}

/// A client of its own, in a process that can be killed: it asks for a slot and does nothing more.
struct Stranger(Child);

impl Stranger {
    fn holding_a_slot(job: &Job) -> (Self, SlotLease) {
        let slot = format!("/slot?round=1&{}", local::credentials(job));
        let path = job.update_path("stranger", &slot);
        let port = job.client().address().port();
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; \
             printf 'POST {path} HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 0\\r\\n\\r\\n' >&3; exec cat <&3"
        );
        let mut child = Command::new(place::tool("bash"))
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash runs");
        let mut answer = BufReader::new(child.stdout.take().expect("a pipe"));
        let stranger = Self(child);
        let mut text = String::new();
        while text.is_empty() || !text.ends_with("\r\n\r\n") {
            assert_ne!(answer.read_line(&mut text).expect("text"), 0, "{text}");
        }
        let mut document = Vec::new();
        answer.read_until(b'}', &mut document).expect("a document");
        let lease = serde_json::from_slice(&document).expect("a lease");
        (stranger, lease)
    }
}

impl Drop for Stranger {
    /// kill -9.
    fn drop(&mut self) {
        self.0.kill().expect("a child");
        self.0.wait().expect("a child");
    }
}

fn a_client_that_dies_leaves_nothing(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 4, STRICT);
    let free = job.free_slots();
    let (stranger, lease) = Stranger::holding_a_slot(&job);
    // It has written some of it.
    let half = vec![7; lease.bytes as usize / 2];
    let segment = local::attach(&lease);
    segment.write_all_at(&half, lease.offset).unwrap();
    assert_eq!((job.free_slots(), leased(&server, "leased")), (free - 1, 1));
    drop(stranger);
    job.until_free(free);
    assert_eq!(leased(&server, "leased"), 0);

    // The next one gets that slot, and nothing of what was left in it counts.
    let mut next = LocalClient::open(&job);
    let again = next.lease("next", 1, 1.0);
    assert_eq!(again.offset, lease.offset);
    drop(next);
    job.until_free(free);
    // Connections that close at any step, and many of them.
    for step in 0..12 {
        let mut client = LocalClient::open(&job);
        if step % 3 > 0 {
            let lease = client.lease("gone", 1, 1.0);
            if step % 3 > 1 {
                let _ = client.give_back("gone", &lease.ticket).expect(204);
            }
        } else {
            let slot = format!("/slot?round=1&{}", local::credentials(&job));
            let path = job.update_path("gone", &slot);
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            client.connection.send(head.as_bytes());
        }
    }
    finish(server, &job, 1, free);
}

fn a_slot_shows_nothing_and_what_is_not_written_is_no_update(sidecar: Sidecar) {
    // NaN is allowed: that the slot was not written is found all the same.
    let (server, job) = start(sidecar, LARGE, 2, "ingest: { nonFinite: allow }");
    job.push_all(1, &updates(LARGE, 2, 1));
    let _ = job.result(1);
    let free = job.free_slots();
    let mut client = LocalClient::open(&job);
    let slot = |lease: &SlotLease| {
        let mut bytes = vec![0; lease.bytes.next_multiple_of(4096) as usize + 4096];
        let read = local::attach(lease).read_exact_at(&mut bytes, lease.offset - 4096);
        read.unwrap();
        bytes
    };
    let refused = |client: &mut LocalClient<'_>, lease: &SlotLease, place: &str| {
        let problem = client
            .commit("idle", 2, 1e12, &lease.ticket)
            .refused(422, "unwritten-slot");
        assert!(problem.detail.starts_with(place), "{}", problem.detail);
        let _ = client
            .commit("idle", 2, 1e12, &lease.ticket)
            .refused(404, "unknown-slot");
    };
    let first = client.lease("idle", 2, 1e12);
    let marked = slot(&first);
    assert!(marked.chunks(4).all(|element| element == &marked[..4]));
    refused(&mut client, &first, "embedding[0, 0] ");
    let second = client.lease("idle", 2, 1e12);
    assert_ne!(slot(&second)[..4], marked[..4], "each lease has its own");
    // All but one element, anywhere.
    let zero = vec![0; second.bytes as usize];
    for (hole, place) in [
        (0, "embedding[0, 0] "),
        (1021 * 200 * 4, "head[0, 0] "),
        (zero.len() - 4, "norm[5, 2, 10, 4] "),
    ] {
        let lease = client.lease("idle", 2, 1e12);
        let segment = local::attach(&lease);
        segment.write_all_at(&zero[..hole], lease.offset).unwrap();
        let after = hole + 4;
        segment
            .write_all_at(&zero[after..], lease.offset + after as u64)
            .unwrap();
        refused(&mut client, &lease, place);
    }
    let _ = client.give_back("idle", &second.ticket).expect(204);
    job.until_free(free);
    // Zeros are an update as any other.
    for name in ["a", "b"] {
        let _ = client
            .send(name, 2, 1.0, &Model::filled(LARGE, 0.0))
            .expect(202);
    }
    assert_eq!(job.result(2), Model::filled(LARGE, 0.0));
    server.finish();
}

fn a_slot_is_lent_to_who_can_open_the_segment_and_knows_the_layout(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 2, STRICT);
    let free = job.free_slots();
    let credentials = local::credentials(&job);
    let (layout, proof) = credentials.split_once('&').unwrap();
    let mut connection = Connection::open(job.client().address());
    let mut ask = |query: &str| {
        let path = job.update_path("c", &format!("/slot?round=1&{query}"));
        connection.ask("POST", &path)
    };
    for unproven in [
        layout.to_owned(),
        format!("{layout}&proof="),
        format!("{layout}&proof={}", "0".repeat(32)),
    ] {
        let problem = ask(&unproven).refused(403, "not-local");
        assert!(
            problem.detail.contains("PUT with a body"),
            "{}",
            problem.detail
        );
        assert_eq!(problem.extensions["segment"], server.segments()[0].as_str());
    }
    let _ = ask(proof).refused(400, "malformed-update");
    for other in ["layout=", "layout=0123456789abcdef0123456789abcdef"] {
        let problem = ask(&format!("{other}&{proof}")).refused(422, "layout-mismatch");
        assert!(
            problem.detail.contains("pull its model again"),
            "{}",
            problem.detail
        );
    }
    assert_eq!(job.free_slots(), free);
    let _ = ask(&credentials).expect(201);
    drop(connection);
    finish(server, &job, 1, free);
}

/// Whoever ends the connection on the server's side: the client may still write.
fn a_slot_stays_its_clients_until_the_clients_side_ends(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 4, "ingest: { idleTimeout: 200ms }");
    let free = job.free_slots();
    let spoil = [
        // No HTTP: hyper refuses it and closes.
        "no request at all\r\n\r\n".to_owned(),
        // A body that stalls: the gateway gives the connection up.
        format!(
            "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
            job.update_path("other", "?round=1")
        ),
        "GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    for request in spoil {
        let mut client = LocalClient::open(&job);
        let lease = client.lease("c", 1, 1.0);
        client.connection.send(request.as_bytes());
        let _ = client.connection.answer();
        assert!(client.connection.is_closed(), "{request}");
        // That side has ended; the slot is nobody else's.
        assert_eq!((job.free_slots(), leased(&server, "leased")), (free - 1, 1));
        let mut other = LocalClient::open(&job);
        assert_ne!(other.lease("other", 1, 1.0).offset, lease.offset);
        drop(other);
        drop(client);
        job.until_free(free);
    }
    finish(server, &job, 1, free);
}

fn few_slots_are_lent_at_a_time_and_no_time_takes_them_back(sidecar: Sidecar) {
    // Of 14 slots, four are for updates.
    let (server, job) = start(
        sidecar,
        LARGE,
        4,
        "tree: { fanIn: 2 }\n  arena: { slots: 14 }\n  ingest: { idleTimeout: 200ms }",
    );
    let free = job.free_slots();
    let (mut first, mut second) = (LocalClient::open(&job), LocalClient::open(&job));
    let held = [first.lease("a", 1, 1.0), second.lease("b", 1, 1.0)];
    let mut third = LocalClient::open(&job);
    let answer = third.ask("c", "?round=1");
    let problem = answer.refused(429, "no-slot");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(
        problem.detail.contains("local clients hold 2 slots"),
        "{}",
        problem.detail
    );
    // Those who send bodies are not kept out.
    let updates = updates(LARGE, 4, 1);
    job.push("d", 1, updates[3].1, &updates[3].0);

    // They are overdue; that is said, and nothing else is done.
    until("both leases are overdue", || {
        leased(&server, "overdue") == 2
    });
    let complaint = "has held a slot for longer than spec.ingest.idleTimeout";
    eventually("both are in the log", || {
        (server.log().matches(complaint).count() == 2).then_some(())
    });
    assert_eq!(leased(&server, "leased"), 2);
    // One of them goes on where it was, the other goes away: there is a turn for the third.
    local::write(&job, &held[0], &updates[0].0);
    let _ = first.commit("a", 1, 1.0, &held[0].ticket).expect(202);
    drop(second);
    until("a slot for the third", || {
        third.ask("c", "?round=1").status == 201
    });
    drop(third);
    job.push("b", 1, 1.0, &updates[1].0);
    job.push("c", 1, 1.0, &updates[2].0);
    let all = [
        (&updates[0].0, 1.0),
        (&updates[1].0, 1.0),
        (&updates[2].0, 1.0),
        (&updates[3].0, updates[3].1),
    ];
    Mean::of(all).assert_near(&job.result(1), 1e-12);
    assert_eq!(server.log().matches(complaint).count(), 2, "said once");
    job.until_free(free - 1);
    server.finish();
}

fn a_round_closes_while_a_slot_is_out(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 2, STRICT);
    let free = job.free_slots();
    let mut late = LocalClient::open(&job);
    let lease = late.lease("late", 1, 1.0);
    let updates = updates(LARGE, 2, 1);
    job.push_all(1, &updates);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    job.until_free(free - 2);
    local::write(&job, &lease, &Model::filled(LARGE, 1e30));
    let problem = late
        .commit("late", 1, 1.0, &lease.ticket)
        .refused(409, "wrong-round");
    assert_eq!(problem.extensions["round"], 2);
    assert_eq!(job.round(1).late, 1);
    // One that stays out for rounds keeps nobody from anything.
    let kept = late.lease("late", 2, 1.0);
    for round in 2..=4 {
        job.push_all(round, &updates);
        Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
    }
    local::write(&job, &kept, &Model::filled(LARGE, 1e30));
    let _ = late
        .commit("late", 2, 1.0, &kept.ticket)
        .refused(409, "wrong-round");
    finish(server, &job, 5, free - 1);
}

fn a_job_goes_and_comes_back_while_a_slot_is_out(sidecar: Sidecar) {
    let (server, job) = start(sidecar, LARGE, 2, STRICT);
    let mut client = LocalClient::open(&job);
    let lease = client.lease("c", 1, 1.0);
    let segment = local::attach(&lease);
    let deleted = server.client().send("DELETE", "/v1/jobs/fed", &[], &[]);
    assert_eq!(deleted.status, 204);
    until("its memory goes, whoever holds a slot", || {
        server.segments().is_empty()
    });
    // What was mapped is there, and nobody's.
    segment.write_all_at(&[7; 1000], lease.offset).unwrap();
    let _ = client
        .commit("c", 1, 1.0, &lease.ticket)
        .refused(404, "unknown-job");
    let series = server.scrape();
    assert_eq!(series.labelled("fl_job", "fed"), Vec::<&str>::new());

    // Another job of that name has another segment.
    let manifest = Manifest::fedavg("fed", "{ expected: 2 }").with(STRICT);
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.5));
    let _ = client
        .commit("c", 1, 1.0, &lease.ticket)
        .refused(404, "unknown-slot");
    let second = client.lease("c", 1, 1.0);
    assert_ne!(
        (&second.segment, &second.ticket),
        (&lease.segment, &lease.ticket)
    );
    segment.write_all_at(&[7; 1000], lease.offset).unwrap();
    assert_eq!(job.model(), (1, Model::filled(LARGE, 0.5)));

    // A job that is started anew is another one, too.
    let anew = manifest.config("{ accumulate: exact }");
    let _ = server
        .try_deploy(&anew, &Model::filled(LARGE, 0.5))
        .expect(0);
    assert_eq!(server.segments().len(), 1);
    let _ = client
        .commit("c", 1, 1.0, &second.ticket)
        .refused(404, "unknown-slot");
    let updates = updates(LARGE, 2, 1);
    for (index, (update, weight)) in updates.iter().enumerate() {
        let name = format!("client-{index}");
        let _ = client.send(&name, 1, *weight, update).expect(202);
    }
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-8);
    // A server that stops waits for nobody.
    let _ = client.lease("last", 2, 1.0);
    server.finish();
}

fn where_memory_is_scarce_the_model_has_its_slot(sidecar: Sidecar) {
    // A model, an accumulator, and two updates: one of their slots is the finished model's when a round closes.
    let (server, job) = start(sidecar, LARGE, 3, "arena: { slots: 4 }");
    let mut holder = LocalClient::open(&job);
    let lease = holder.lease("holder", 1, 1.0);
    let _ = LocalClient::open(&job)
        .ask("other", "?round=1")
        .refused(429, "no-slot");
    for round in 1..=3 {
        let updates = updates(LARGE, 3, round);
        for (index, (update, weight)) in updates.iter().enumerate() {
            let (file, query) = (update.file(), format!("?round={round}&weight={weight}"));
            job.put_until_taken(&format!("client-{index}"), &query, &file);
        }
        Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
    }
    let _ = holder
        .commit("holder", 1, 1.0, &lease.ticket)
        .refused(409, "wrong-round");
    server.finish();

    // With one slot less there is none to lend.
    let (server, job) = start(sidecar, LARGE, 1, "arena: { slots: 3 }");
    let mut client = LocalClient::open(&job);
    let problem = client.ask("c", "?round=1").refused(403, "not-local");
    assert!(
        problem.detail.contains("job fed has one slot"),
        "{}",
        problem.detail
    );
    let update = Model::random(LARGE, 1);
    job.push("c", 1, 1.0, &update);
    assert_eq!(job.result(1), update);
    server.finish();
}
