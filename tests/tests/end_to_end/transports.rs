//! However an update travels, it arrives; and a client is told early what will not be taken.

use std::process::Command;

use tributary_tests::connection::Connection;
use tributary_tests::job::{read, updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, place};

on_both_sidecars![
    http2_and_chunked_bodies_give_the_same_model,
    a_refusal_comes_before_the_body_is_sent,
    a_kept_connection_serves_updates_and_models,
    requests_may_be_pipelined,
    bytes_may_trickle,
];

fn chunked(
    job: &Job,
    client: &str,
    query: &str,
    file: &[u8],
    chunk: usize,
) -> tributary_tests::http::Answer {
    let mut connection = Connection::open(job.client().address());
    connection.send_head(
        &job.update_path(client, query),
        &["Transfer-Encoding: chunked"],
    );
    for piece in file.chunks(chunk) {
        connection.send(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    connection.send(b"0\r\n\r\n");
    connection.answer()
}

/// A foreign client: curl, by HTTP/2 with prior knowledge.
fn by_http2(server: &Server, job: &Job, client: &str, query: &str, file: &[u8]) {
    let path = server.write("update.safetensors", file);
    let url = server.client().url(&job.update_path(client, query));
    let output = Command::new(place::tool("curl"))
        .args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--write-out",
            "\n%{http_code} %{http_version}",
        ])
        .arg("--upload-file")
        .args([path.as_os_str(), url.as_ref()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.ends_with("\n202 2"),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn http2_and_chunked_bodies_give_the_same_model(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let initial = Model::filled(LARGE, 0.0);
    let manifest =
        |name: &str| Manifest::fedavg(name, "{ expected: 4 }").config("{ accumulate: exact }");
    let (plain, other) = (
        server.deploy(&manifest("plain"), &initial),
        server.deploy(&manifest("other"), &initial),
    );
    let updates = updates(LARGE, 4, 1);
    plain.push_all(1, &updates);
    for (index, (update, weight)) in updates.iter().enumerate() {
        let (client, query, file) = (
            format!("client-{index}"),
            format!("?round=1&weight={weight}"),
            update.file(),
        );
        match index {
            0 | 1 => by_http2(&server, &other, &client, &query, &file),
            2 => drop(chunked(&other, &client, &query, &file, 100_000).expect(202)),
            _ => drop(chunked(&other, &client, &query, &file, 777).expect(202)),
        }
    }
    assert_eq!(plain.result(1).bits(), other.result(1).bits());
    // hyper reads these bodies into its own memory first, and that is told.
    let (once, twice) = (
        plain.completed(1).bytes_copied,
        other.completed(1).bytes_copied,
    );
    assert_eq!(twice, 2 * once);
    server.finish();
}

fn a_refusal_comes_before_the_body_is_sent(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("eager", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    let update = Model::random(SMALL, 1);
    let file = update.file();
    let expecting = |path: &str, length: usize| {
        let mut connection = Connection::open(server.address());
        connection.send_head(
            path,
            &[&format!("Content-Length: {length}"), "Expect: 100-continue"],
        );
        let answer = connection.answer();
        (connection, answer)
    };
    let _ = expecting("/v1/jobs/nobody/updates/c?round=1", file.len())
        .1
        .refused(404, "unknown-job");
    let _ = expecting(&job.update_path("c", "?round=2"), file.len())
        .1
        .refused(409, "wrong-round");
    let _ = expecting(&job.update_path("c", "?round=1&weight=-1"), file.len())
        .1
        .refused(422, "bad-weight");
    let _ = expecting(&job.update_path("c", "?round=1"), 1 << 30)
        .1
        .refused(413, "update-too-large");

    let (mut connection, interim) = expecting(&job.update_path("c", "?round=1"), file.len());
    assert_eq!(interim.status, 100);
    connection.send(&file);
    let _ = connection.answer().expect(202);
    assert_eq!(job.result(1), update);
    server.finish();
}

fn a_kept_connection_serves_updates_and_models(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("kept", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    let mut connection = Connection::open(server.address());
    let mut sent = 0;
    for round in 1..=100 {
        let update = Model::random(SMALL, round);
        let file = update.file();
        let query = format!("?round={round}&weight={}", round % 3 + 1);
        let _ = connection
            .put(&job.update_path("c", &query), &file)
            .expect(202);
        sent += file.len() as u64;
        let model = connection
            .get(&format!("/v1/jobs/kept/model?after={round}&wait=60s"))
            .expect(200);
        assert_eq!(read(&model), (round + 1, update));
        match round % 4 {
            0 => drop(
                connection
                    .put(&job.update_path("c", &query), &file)
                    .expect(200),
            ),
            1 => drop(
                connection
                    .put(&job.update_path("d", "?round=9999"), &file)
                    .refused(409, "wrong-round"),
            ),
            2 => drop(connection.get("/v1/jobs/kept").expect(200)),
            _ => drop(
                connection
                    .get("/v1/jobs/nobody")
                    .refused(404, "unknown-job"),
            ),
        }
        assert_eq!(
            job.completed(round).bytes_copied,
            file.len() as u64,
            "one copy, whatever came before"
        );
    }
    assert_eq!(
        server
            .scrape()
            .sum("tributary_update_copied_bytes_total", &[("fl_job", "kept")]),
        sent as f64
    );
    server.finish();
}

fn requests_may_be_pipelined(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("piped", "{ expected: 3 }"),
        &Model::filled(SMALL, 0.0),
    );
    let updates = updates(SMALL, 3, 1);
    let mut bytes = Vec::new();
    for (index, (update, weight)) in updates.iter().enumerate() {
        let file = update.file();
        let path = job.update_path(&format!("c{index}"), &format!("?round=1&weight={weight}"));
        bytes.extend(
            format!(
                "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
                file.len()
            )
            .bytes(),
        );
        bytes.extend(file);
        bytes.extend(b"GET /v1/jobs/piped HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    let mut connection = Connection::open(server.address());
    connection.send(&bytes);
    for _ in &updates {
        let _ = connection.answer().expect(202);
        let _ = connection.answer().expect(200);
    }
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    server.finish();
}

/// Nothing depends on where the network cuts.
fn bytes_may_trickle(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("slow", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    let update = Model::random(SMALL, 1);
    let file = update.file();
    let path = job.update_path("c", "?round=1");
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        file.len()
    );
    let mut connection = Connection::open(server.address());
    for byte in head.bytes().chain(file) {
        connection.send(&[byte]);
    }
    let _ = connection.answer().expect(202);
    assert_eq!(job.result(1), update);
    server.finish();
}
