//! Bodies that end early, never end, or hold what is no number.

use tributary_tests::connection::Connection;
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    a_truncated_body_is_refused,
    an_oversized_body_is_refused,
    what_is_not_finite_is_refused_and_its_coordinate_named,
    what_is_not_finite_may_be_allowed,
    a_client_that_hangs_is_given_up,
    a_client_that_goes_away_leaves_nothing,
];

fn start(sidecar: Sidecar, ingest: &str) -> (Server, Job, u32) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("fed", "{ expected: 4 }").with(&format!("ingest: {ingest}"));
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.0));
    let free = job.free_slots();
    (server, job, free)
}

/// The round goes on with everybody else.
fn finish(server: Server, job: &Job, free: u32) {
    job.until_free(free);
    assert_eq!(job.status().accepted, 0);
    let updates = updates(LARGE, 4, 1);
    job.push_all(1, &updates);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    // One slot fewer: the model before is kept for those who are still fetching it.
    job.until_free(free - 1);
    server.finish();
}

/// Sends the head of an update and the first bytes of its body.
fn begin(job: &Job, client: &str, file: &[u8], bytes: usize) -> Connection {
    let mut connection = Connection::open(job.client().address());
    let length = format!("Content-Length: {}", file.len());
    connection.send_head(&job.update_path(client, "?round=1"), &[&length]);
    connection.send(&file[..bytes]);
    connection
}

/// Places where a file can break off: in its length, its header, its data.
fn cuts(file: &[u8]) -> [usize; 6] {
    [0, 5, 8, 40, file.len() / 2, file.len() - 1]
}

fn a_truncated_body_is_refused(sidecar: Sidecar) {
    let (server, job, free) = start(sidecar, "{ idleTimeout: 60s }");
    let file = Model::random(LARGE, 1).file();
    for bytes in cuts(&file) {
        let mut connection = begin(&job, "short", &file, bytes);
        connection.finish();
        let problem = connection.answer().refused(400, "truncated-update");
        assert!(
            problem.detail.contains(&bytes.to_string()),
            "{}",
            problem.detail
        );
        assert!(connection.is_closed());
    }
    // Whole requests whose file is cut short.
    for bytes in cuts(&file) {
        let answer = job.put("short", "?round=1", &file[..bytes]);
        assert_eq!(answer.status, 400, "{bytes} bytes: {}", answer.text());
        let _ = answer.problem();
    }
    // A chunked body that ends in time but too early.
    let mut connection = Connection::open(server.address());
    connection.send_head(
        &job.update_path("short", "?round=1"),
        &["Transfer-Encoding: chunked"],
    );
    connection.send(&[b"64\r\n", &file[..100], b"\r\n0\r\n\r\n"].concat());
    let _ = connection.answer().refused(400, "truncated-update");
    finish(server, &job, free);
}

fn an_oversized_body_is_refused(sidecar: Sidecar) {
    let (server, job, free) = start(sidecar, "{ idleTimeout: 60s }");
    let file = Model::random(LARGE, 1).file();
    // Refused by its length, of which not a byte is sent.
    for length in [file.len() as u64 * 2, 1 << 40, u64::MAX] {
        let mut connection = Connection::open(server.address());
        connection.send_head(
            &job.update_path("long", "?round=1"),
            &[&format!("Content-Length: {length}")],
        );
        let problem = connection.answer().refused(413, "update-too-large");
        assert!(
            problem.detail.contains(&length.to_string()),
            "{}",
            problem.detail
        );
    }
    // A few bytes too many.
    let longer = [&file[..], b"more"].concat();
    let _ = job
        .put("long", "?round=1", &longer)
        .refused(400, "malformed-update");
    // Without a length it is refused where it goes too far, however far it would go.
    let mut connection = Connection::open(server.address());
    connection.send_head(
        &job.update_path("long", "?round=1"),
        &["Transfer-Encoding: chunked"],
    );
    connection.send(&[format!("{:x}\r\n", file.len()).as_bytes(), &file, b"\r\n"].concat());
    connection.send(b"4\r\nmore\r\n");
    let answer = connection.answer();
    assert!(
        matches!(answer.status, 400 | 413),
        "{}: {}",
        answer.status,
        answer.text()
    );
    finish(server, &job, free);
}

fn what_is_not_finite_is_refused_and_its_coordinate_named(sidecar: Sidecar) {
    let (server, job, free) = start(sidecar, "{ nonFinite: reject }");
    for (value, shown) in [
        (f32::NAN, "NaN"),
        (-f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        for (tensor, element, coordinate) in [
            ("embedding", 0, "embedding[0, 0]"),
            ("embedding", 1020 * 200 + 199, "embedding[1020, 199]"),
            ("head", 3 * 13 + 7, "head[3, 7]"),
            ("norm", 6 * 3 * 11 * 5 - 1, "norm[5, 2, 10, 4]"),
        ] {
            let mut update = Model::random(LARGE, 1);
            update.tensor(tensor).values[element] = value;
            let problem = job
                .put("wild", "?round=1", &update.file())
                .refused(422, "non-finite");
            assert!(
                problem.detail.contains(coordinate),
                "{} lacks {coordinate}",
                problem.detail
            );
            assert!(
                problem.detail.contains(shown),
                "{} lacks {shown}",
                problem.detail
            );
        }
    }
    assert_eq!(job.round(1).rejected, 16);
    assert_eq!(
        server.scrape().sum(
            "tributary_updates_total",
            &[("fl_job", "fed"), ("outcome", "non-finite")]
        ),
        16.0
    );
    finish(server, &job, free);
}

fn what_is_not_finite_may_be_allowed(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest =
        Manifest::fedavg("tolerant", "{ expected: 2 }").with("ingest: { nonFinite: allow }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let mut wild = Model::random(SMALL, 1);
    wild.tensor("scale").values[0] = f32::INFINITY;
    wild.tensor("dense.bias").values[2] = f32::NAN;
    job.push("wild", 1, 1.0, &wild);
    job.push("tame", 1, 1.0, &Model::filled(SMALL, 0.0));
    let mut model = job.result(1);
    assert_eq!(model.tensor("scale").values, [f32::INFINITY]);
    assert!(model.tensor("dense.bias").values[2].is_nan());
    assert_eq!(model.values().filter(|value| value.is_finite()).count(), 39);
    server.finish();
}

fn a_client_that_hangs_is_given_up(sidecar: Sidecar) {
    let (server, job, free) = start(sidecar, "{ idleTimeout: 300ms }");
    let file = Model::random(LARGE, 1).file();
    for bytes in cuts(&file) {
        let mut connection = begin(&job, "hung", &file, bytes);
        let problem = connection.answer().refused(408, "stalled-update");
        assert!(problem.detail.contains("0.3 s"), "{}", problem.detail);
        assert!(
            problem.detail.contains(&format!("after {bytes} bytes")),
            "{}",
            problem.detail
        );
        assert!(connection.is_closed());
    }
    // Several at once, while everybody else finishes the round.
    let hanging: Vec<Connection> = (0..4)
        .map(|index| begin(&job, &format!("hung-{index}"), &file, 100_000))
        .collect();
    let updates = updates(LARGE, 4, 1);
    job.push_all(1, &updates);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    for mut connection in hanging {
        let status = connection.answer().status;
        assert!(matches!(status, 408 | 409), "{status}");
    }
    job.until_free(free - 1);
    server.finish();
}

fn a_client_that_goes_away_leaves_nothing(sidecar: Sidecar) {
    let (server, job, free) = start(sidecar, "{ idleTimeout: 60s }");
    let file = Model::random(LARGE, 1).file();
    for bytes in cuts(&file) {
        drop(begin(&job, "gone", &file, bytes));
    }
    // Many at once; some leave before, some while they are served.
    let many: Vec<Connection> = (0..8)
        .map(|index| begin(&job, "gone", &file, file.len() / 8 * index))
        .collect();
    drop(many);
    finish(server, &job, free);
}
