//! Who is let in, and where requests begin and end.

use crate::world::{JOB, SHAPES, World};
use serde_json::json;
use std::process::Command;
use tributary_tests::Model;
use tributary_tests::connection::Connection;
use tributary_tests::place;

fn world() -> World {
    World::of(1, r#"{ "expected": 4 }"#, "")
}

fn connect(world: &World) -> Connection {
    Connection::open(world.host(0).address)
}

fn targets() -> Vec<String> {
    let update = format!("/v1/jobs/{JOB}/updates/c");
    vec![
        format!("PUT {update}?round=1"),
        format!("PUT {update}?round=1&slot=1"),
        format!("POST {update}?round=1"),
        format!("POST {update}/slot?round=1"),
        format!("DELETE {update}/slot?ticket=1"),
        format!("PUT /v1/jobs/{JOB}/members/n/partial?version=1"),
        format!("GET /v1/jobs/{JOB}/model"),
        "GET /metrics".into(),
        "POST /v1/apply".into(),
        "OPTIONS /v1/apply".into(),
        "DELETE /v1/jobs/other".into(),
    ]
}

#[test]
fn strangers_are_refused_whatever_they_ask_for() {
    let world = world();
    let own = "Host: localhost\r\n";
    for target in targets() {
        for (headers, status, slug) in [
            ("", 400, "malformed-request"),
            (
                "Host: localhost\r\nHost: localhost\r\n",
                400,
                "malformed-request",
            ),
            ("Host: evil.example\r\n", 403, "foreign-host"),
            (
                &format!("{own}Origin: http://evil.example\r\n"),
                403,
                "foreign-origin",
            ),
            (
                &format!("{own}Sec-Fetch-Site: cross-site\r\n"),
                403,
                "foreign-origin",
            ),
            ("Host: localhost\n", 400, "malformed-request"),
        ] {
            let mut connection = connect(&world);
            let request = format!("{target} HTTP/1.1\r\n{headers}Content-Length: 0\r\n\r\n");
            connection.send(request.as_bytes());
            let _ = connection.answer().refused(status, slug);
            assert!(connection.is_closed(), "{target} {headers}");
        }
    }
    // A form sends what needs no browser's consent.
    for target in targets().iter().filter(|target| target.starts_with("POST")) {
        let mut connection = connect(&world);
        let kind = "Content-Type: text/plain\r\nContent-Length: 2\r\n";
        connection.send(format!("{target} HTTP/1.1\r\n{own}{kind}\r\n[]").as_bytes());
        let _ = connection.answer().refused(415, "not-json");
    }
    // By HTTP/2 as well.
    for (header, slug) in [
        ("Host: evil.example", "foreign-host"),
        ("Origin: http://evil.example", "foreign-origin"),
        ("Sec-Fetch-Site: same-site", "foreign-origin"),
        ("Content-Type: text/plain", "not-json"),
    ] {
        let output = Command::new(place::tool("curl"))
            .args(["--silent", "--show-error", "--http2-prior-knowledge"])
            .args(["--data", "[]"])
            .args(["--header", header, &world.door(0).url("/v1/apply")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(slug), "{header}: {text} {error}");
    }
    let _ = world.door(0).get("/live").expect(200);
}

#[test]
fn nothing_is_read_behind_a_request_that_can_be_read_in_two_ways() {
    let world = world();
    let behind = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
    ] {
        let mut connection = connect(&world);
        connection.send(
            format!(
                "PUT /v1/jobs/{JOB} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n0\r\n\r\n{behind}"
            )
            .as_bytes(),
        );
        let answer = connection.answer();
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        assert!(connection.is_closed(), "{headers}");
    }
}

#[test]
fn a_refusal_does_not_wait_for_the_body_that_is_refused() {
    let world = world();
    let mut connection = connect(&world);
    let path = format!("/v1/jobs/{JOB}/updates/c?round=7");
    connection.send_head(&path, &["Content-Length: 1000"]);
    connection.send(&[0; 10]);
    let _ = connection.answer().refused(409, "wrong-round");
    connection.send(&[0; 990]);
    let _ = connection.get("/live").expect(200);
}

/// What a client sends again cannot be longer than what it has sent.
#[test]
fn what_is_sent_again_is_no_longer_than_an_update() {
    let world = world();
    let update = Model::random(SHAPES, 1);
    world.push(0, "c", 1, &(update, 1.0));
    let bytes = 1_u64 << 42;
    let header = json!({ "embedding": { "dtype": "F32", "shape": [bytes / 4], "data_offsets": [0, bytes] } });
    let text = header.to_string();
    let mut connection = connect(&world);
    let path = format!("/v1/jobs/{JOB}/updates/c?round=1");
    connection.send_head(&path, &["Transfer-Encoding: chunked"]);
    connection.send(format!("{:x}\r\n", 8 + text.len()).as_bytes());
    connection.send(&(text.len() as u64).to_le_bytes());
    connection.send(format!("{text}\r\n").as_bytes());
    let _ = connection.answer().refused(422, "layout-mismatch");
    assert!(connection.is_closed());
}
