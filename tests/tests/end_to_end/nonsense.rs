//! What is no proper HTTP harms nobody.

use tributary_tests::connection::Connection;
use tributary_tests::tensors::SMALL;
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, process};

on_both_sidecars![
    nonsense_on_the_socket_harms_nobody,
    ambiguous_requests_are_refused,
    many_silent_connections_cost_little
];

fn start(sidecar: Sidecar) -> (Server, Job) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("calm", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    (server, job)
}

/// The server works, and has lost no slot.
fn finish(server: Server, job: &Job, free: u32) {
    assert_eq!(job.free_slots(), free);
    let update = Model::random(SMALL, 1);
    job.push("sane", 1, 1.0, &update);
    assert_eq!(job.result(1), update);
    server.finish();
}

fn nonsense_on_the_socket_harms_nobody(sidecar: Sidecar) {
    let (server, job) = start(sidecar);
    let free = job.free_slots();
    let path = job.update_path("c", "?round=1");
    let cases: [Vec<u8>; 9] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a greeting by TLS".to_vec(),
        b"\0\0\0\0\0\0\0\0\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthat is no frame, however long one looks at it".to_vec(),
        format!("PUT {path} HTTP/1.1\r\nno colon here\r\n\r\n").into_bytes(),
        format!("PUT {path} HTTP/1.1\r\nContent-Length: minus one\r\n\r\n").into_bytes(),
        format!("PUT {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnot hexadecimal\r\n")
            .into_bytes(),
        format!("PUT {path} HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes(),
    ];
    for bytes in cases {
        let mut connection = Connection::open(server.address());
        // The server may close before it has read everything.
        let _ = connection.try_send(&bytes);
        connection.finish();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        if let Ok(answer) = connection.try_answer() {
            assert!(
                (400..500).contains(&answer.status),
                "{shown}: {}",
                answer.status
            );
        }
        let _ = server.client().get("/live").expect(200);
    }
    finish(server, &job, free);
}

/// Two ways to read where a body ends are a way to smuggle requests.
fn ambiguous_requests_are_refused(sidecar: Sidecar) {
    let (server, job) = start(sidecar);
    let free = job.free_slots();
    let (path, file) = (
        job.update_path("c", "?round=1"),
        Model::random(SMALL, 1).file(),
    );
    let length = format!("Content-Length: {}", file.len());
    let shorter = format!("Content-Length: {}", file.len() - 1);
    for headers in [
        [length.as_str(), shorter.as_str()],
        [shorter.as_str(), length.as_str()],
        [length.as_str(), "Transfer-Encoding: chunked, identity"],
        [length.as_str(), "Content-Encoding: gzip"],
    ] {
        let mut connection = Connection::open(server.address());
        connection.send_head(&path, &headers);
        let _ = connection.try_send(&file);
        let answer = connection.answer();
        assert!(
            (400..500).contains(&answer.status),
            "{headers:?}: {} {}",
            answer.status,
            answer.text()
        );
    }
    assert_eq!(job.status().accepted, 0);
    finish(server, &job, free);
}

fn many_silent_connections_cost_little(sidecar: Sidecar) {
    let (server, job) = start(sidecar);
    let free = job.free_slots();
    let before = process::resident_bytes(server.pid());
    let mut silent: Vec<Connection> = (0..500)
        .map(|_| Connection::open(server.address()))
        .collect();
    for connection in &mut silent {
        connection.send(b"PUT /v1/jobs/calm/upd");
    }
    let _ = server.client().get("/live").expect(200);
    let after = process::resident_bytes(server.pid());
    assert!(after < before + (64 << 20), "{before} bytes, then {after}");
    let threads = process::threads(server.pid());
    assert!(threads < 64, "{threads} threads");
    drop(silent);
    finish(server, &job, free);
}
