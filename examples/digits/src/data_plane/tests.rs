//! The client against a server that answers as it is told.

use super::*;
use crate::SEED;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Gives `answers` to one request each, on a connection each, and returns the requests as text.
fn serve(answers: Vec<Vec<u8>>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let one = |answer: Vec<u8>| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !complete(&request) {
                let count = stream.read(&mut part).unwrap();
                request.extend_from_slice(&part[..count]);
            }
            stream.write_all(&answer).unwrap();
            String::from_utf8_lossy(&request).into_owned()
        };
        answers.into_iter().map(one).collect()
    });
    (url, server)
}

/// Whether the head and as many bytes of body as it announces are there.
fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn plane(url: &str) -> DataPlane {
    DataPlane::new(url, "digits", Duration::from_secs(30))
}

#[test]
fn an_update_goes_where_it_belongs() {
    let accepted =
        br#"{"job":"digits","client":"c","round":3,"slot_state":"ready","contributors":2}"#;
    let (home, at_home) = serve(vec![reply("202 Accepted", "", accepted)]);
    let there = format!("location: {home}/v1/jobs/digits/updates/c?round=3&weight=2\r\n");
    let (url, elsewhere) = serve(vec![reply("307 Temporary Redirect", &there, b"")]);
    let answer = plane(&url).push("c", 3, 2.0, b"update").unwrap();
    assert_eq!(answer.contributors, 2);
    let _ = elsewhere.join().unwrap();
    let [request] = at_home.join().unwrap().try_into().unwrap();
    assert!(
        request.starts_with("PUT /v1/jobs/digits/updates/c?round=3&weight=2 "),
        "{request}"
    );
    assert!(request.ends_with("update"), "{request}");
}

#[test]
fn an_update_is_sent_again_after_a_429_and_after_a_lost_connection() {
    let accepted =
        br#"{"job":"digits","client":"c","round":3,"slot_state":"ready","contributors":2}"#;
    let (url, server) = serve(vec![
        reply("429 Too Many Requests", "retry-after: 0\r\n", b""),
        Vec::new(),
        reply(
            "202 Accepted",
            "content-type: application/json\r\n",
            accepted,
        ),
    ]);
    let answer = plane(&url).push("c", 3, 71.0, b"the update").unwrap();
    assert_eq!(
        answer,
        Accepted {
            round: 3,
            contributors: 2
        }
    );
    let requests = server.join().unwrap();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert!(
            request.starts_with("PUT /v1/jobs/digits/updates/c?round=3&weight=71 HTTP/1.1\r\n")
        );
        assert!(request.ends_with("\r\n\r\nthe update"));
    }
}

#[test]
fn patience_ends() {
    let (url, server) = serve(vec![reply(
        "429 Too Many Requests",
        "retry-after: 5\r\n",
        b"",
    )]);
    let plane = DataPlane::new(&url, "digits", Duration::from_secs(4));
    let error = plane.push("c", 1, 1.0, b"").unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    server.join().unwrap();

    let plane = DataPlane::new(&url, "digits", Duration::ZERO);
    let error = plane.model().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_model_comes_with_its_version_or_not_at_all() {
    let model = Model::initial(SEED);
    let file = tensors::encode(&model).unwrap();
    let (url, server) = serve(vec![
        reply("200 OK", "etag: \"4\"\r\ntributary-version: 4\r\n", &file),
        reply("204 No Content", "", b""),
        reply("200 OK", "", &file),
    ]);
    let plane = plane(&url);
    assert_eq!(plane.model().unwrap(), Published { version: 4, model });
    assert_eq!(plane.model_after(4, Duration::from_secs(30)).unwrap(), None);
    let error = plane.model().unwrap_err().to_string();
    assert!(
        error.ends_with("/v1/jobs/digits/model: no tributary-version header"),
        "{error}"
    );
    let requests = server.join().unwrap();
    assert!(requests[1].starts_with("GET /v1/jobs/digits/model?after=4&wait=30s "));
}

#[test]
fn a_refusal_says_why() {
    let problem =
        br#"{"type":"about:blank","title":"wrong round","status":409,"detail":"round 2 is open"}"#;
    let (url, server) = serve(vec![
        reply(
            "409 Conflict",
            "content-type: application/problem+json\r\n",
            problem,
        ),
        reply("500 Internal Server Error", "", b"broken"),
    ]);
    let plane = plane(&url);
    let error = plane.push("c", 1, 1.0, b"").unwrap_err().to_string();
    assert!(
        error.ends_with("409: wrong round: round 2 is open"),
        "{error}"
    );
    let error = plane.push("c", 1, 1.0, b"").unwrap_err().to_string();
    assert!(error.ends_with("500: broken"), "{error}");
    server.join().unwrap();
}
