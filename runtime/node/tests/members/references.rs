//! Updates that lie elsewhere: clients say where, and gateways fetch them.

use crate::world::{JOB, SHAPES, World, address_of};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::mpsc;
use std::thread;
use tributary_api::Digest;
use tributary_api::status::UpdateReceipt;
use tributary_node::FetchOptions;
use tributary_tests::files::{FileServer, Reply, whole};
use tributary_tests::http::{Answer, Client};
use tributary_tests::job::updates;
use tributary_tests::reference;
use tributary_tests::scrape::Scrape;
use tributary_tests::tensors::{Model, SMALL};
use tributary_tests::wait::until;

const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;
/// Nobody listens on this port.
const NOBODY: &str = "http://127.0.0.1:1";
/// Gives a server that stalls up soon.
const IMPATIENT: &str = r#", "ingest": { "idleTimeout": "2s" }"#;
/// Gives nobody up.
const PATIENT: &str = r#", "ingest": { "idleTimeout": "5m" }"#;

fn fetching(nodes: usize, round: &str, more: &str, from: &FileServer) -> World {
    let fetch = FetchOptions {
        from: [from.url("/updates").as_str(), NOBODY]
            .map(|url| url.parse().unwrap())
            .to_vec(),
        objects: None,
    };
    World::fetching(nodes, round, more, &fetch)
}

fn path(client: &str, query: &str) -> String {
    format!("/v1/jobs/{JOB}/updates/{client}?{query}")
}

fn refer(door: &Client, client: &str, query: &str, document: &Value) -> Answer {
    let document = document.to_string();
    let json = [("content-type", "application/json")];
    door.send("POST", &path(client, query), &json, document.as_bytes())
}

#[test]
fn updates_are_fetched_wherever_their_clients_are_at_home() {
    let files = FileServer::start();
    let world = fetching(2, r#"{ "expected": 12 }"#, EXACT, &files);
    let updates = updates(SHAPES, 12, 1);
    let mut sent_on = 0;
    for (number, (update, weight)) in updates.iter().enumerate().skip(1) {
        let client = format!("client-{number}");
        let url = files.reply(&format!("/updates/{client}"), Reply::File(update.file()));
        let (query, document) = (format!("round=1&weight={weight}"), json!({ "url": url }));
        let mut answer = refer(&world.door(number / 2 % 2), &client, &query, &document);
        if answer.status == 307 {
            sent_on += 1;
            let home = answer.header("location").unwrap().to_owned();
            assert!(home.ends_with(&path(&client, &query)), "{home}");
            answer = refer(&Client::new(address_of(&home)), &client, &query, &document);
        }
        let receipt: UpdateReceipt = answer.expect(202).json();
        assert_eq!(
            (receipt.client.as_str(), receipt.round),
            (client.as_str(), 1)
        );
    }
    assert!(sent_on > 0, "some clients asked elsewhere");
    assert_eq!(files.asked().len(), 11, "and nothing was fetched there");
    // The same by the other way is the same, and another file is another one.
    let (client, (update, weight)) = ("client-1", &updates[1]);
    let query = format!("round=1&weight={weight}");
    let home = world.home(client);
    let _ = home.put(&path(client, &query), &update.file()).expect(200);
    let same = json!({ "url": files.url("/updates/client-1") });
    let _ = refer(&home, client, &query, &same).expect(200);
    let other = json!({ "url": files.url("/updates/client-2") });
    let _ = refer(&home, client, &query, &other).refused(409, "other-bytes");
    world.push(0, "client-0", 1, &updates[0]);
    let model = world.model(0, 2);
    assert!(model.bits() == reference::exact(&updates).bits());
    let metrics = [0, 1].map(|host| Scrape::parse(&world.door(host).get("/metrics").text()));
    let sum = |name: &str, labels: &[(&str, &str)]| -> f64 {
        metrics.iter().map(|scrape| scrape.sum(name, labels)).sum()
    };
    for (outcome, count) in [("accepted", 11.0), ("repeated", 1.0), ("other-bytes", 1.0)] {
        let labels = [("fl_job", JOB), ("outcome", outcome)];
        assert_eq!(
            sum("tributary_references_total", &labels),
            count,
            "{outcome}"
        );
    }
    let bytes: usize = updates[1..]
        .iter()
        .map(|(update, _)| update.file().len())
        .sum();
    let fetched = sum("tributary_reference_bytes_total", &[("fl_job", JOB)]);
    assert_eq!(fetched as usize, bytes + 2 * updates[1].0.file().len());
}

#[test]
fn what_is_not_allowed_is_not_asked_for() {
    let files = FileServer::start();
    let update = Model::random(SHAPES, 1);
    files.reply("/secret", Reply::File(update.file()));
    files.reply("/updates2", Reply::File(update.file()));
    let world = fetching(1, r#"{ "expected": 1 }"#, "", &files);
    let refer = |document: Value| refer(&world.door(0), "c", "round=1", &document);
    let port = files.url("").rsplit(':').next().unwrap().to_owned();
    for url in [
        files.url("/secret"),
        files.url("/updates2"),
        format!("http://localhost:{port}/updates/a"),
        format!("https://127.0.0.1:{port}/updates/a"),
    ] {
        let problem = refer(json!({ "url": url })).refused(403, "reference-not-allowed");
        assert!(problem.detail.contains("--fetch-from"), "{problem}");
    }
    for url in [
        files.url("/updates/../secret"),
        files.url("/updates/%2e%2e/secret"),
        format!("http://127.0.0.1@localhost:{port}/updates/a"),
        "file:///etc/passwd".to_owned(),
    ] {
        let problem = refer(json!({ "url": url })).refused(400, "malformed-reference");
        assert!(problem.detail.contains("no URL"), "{problem}");
    }
    let object = json!({ "object": { "bucket": "updates", "name": "a" } });
    let problem = refer(object).refused(403, "reference-not-allowed");
    assert!(problem.detail.contains("refer to a URL"), "{problem}");
    assert!(files.asked().is_empty(), "{:?}", files.asked());
}

#[test]
fn whatever_is_wrong_with_a_file_has_a_name_and_leaves_nothing() {
    let files = FileServer::start();
    let world = fetching(1, r#"{ "expected": 2 }"#, IMPATIENT, &files);
    let update = Model::random(SHAPES, 1);
    let file = update.file();
    let serve = |reply: Reply| json!({ "url": files.reply("/updates/a", reply) });
    let refer = |document: &Value| refer(&world.door(0), "c", "round=1", document);
    let raw = |text: &str| Reply::Raw(text.as_bytes().to_vec());
    let half = || whole(&file)[..file.len() / 2].to_vec();
    let mut longer = file.clone();
    longer.push(0);
    let chunked = [
        b"HTTP/1.1 200 OK\r\n\r\n".as_slice(),
        &file[..file.len() / 2],
    ]
    .concat();
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}\r\n\r\n",
        files.url("/updates/b")
    );
    for (reply, status, slug, part) in [
        (
            raw("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
            422,
            "reference-not-found",
            "404",
        ),
        (
            raw("HTTP/1.1 204 No Content\r\n\r\n"),
            422,
            "reference-not-found",
            "204",
        ),
        (
            raw(&redirect),
            422,
            "reference-not-found",
            "redirects are not followed",
        ),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n"),
            422,
            "reference-not-found",
            "as it is",
        ),
        (
            raw("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"),
            502,
            "reference-unreachable",
            "503",
        ),
        (
            raw("nonsense"),
            502,
            "reference-unreachable",
            "/updates/a: ",
        ),
        (
            Reply::Raw(half()),
            502,
            "reference-unreachable",
            "broke off",
        ),
        (
            Reply::Hold(Vec::new()),
            502,
            "reference-unreachable",
            "no answer for 2 s",
        ),
        (
            Reply::Hold(half()),
            502,
            "reference-unreachable",
            "no byte came for 2 s",
        ),
        (
            Reply::File(file[..file.len() - 4].to_vec()),
            400,
            "malformed-update",
            "bytes",
        ),
        (Reply::Raw(chunked), 400, "truncated-update", "ended after"),
        (Reply::File(longer), 400, "malformed-update", "bytes"),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"),
            413,
            "update-too-large",
            "99999999999",
        ),
        (
            Reply::File(Model::random(SMALL, 1).file()),
            422,
            "layout-mismatch",
            "tensor",
        ),
        (
            Reply::File(b"not a safetensors file at all".to_vec()),
            400,
            "malformed-update",
            "",
        ),
        (
            Reply::File(update.clone().marked(f32::NAN).file()),
            422,
            "non-finite",
            "NaN",
        ),
    ] {
        let shown = format!("{reply:.80?}");
        let answer = refer(&serve(reply));
        let problem = answer.refused(status, slug);
        assert!(problem.detail.contains(part), "{shown}: {problem}");
        let again = (status == 502).then_some("1");
        assert_eq!(answer.header("retry-after"), again, "{shown}");
    }
    files.release();
    assert!(
        !files.asked().contains(&"/updates/b".to_owned()),
        "it was not followed"
    );
    // Who is told what the file is notices another one, and nothing of it stays.
    let digest = |bytes: &[u8]| Digest::new(Sha256::digest(bytes).into()).to_string();
    let mut document = serve(Reply::File(file.clone()));
    document["digest"] = digest(b"another").into();
    let _ = refer(&document).refused(422, "digest-mismatch");
    let used = || {
        let slots = Scrape::parse(&world.door(0).get("/metrics").text());
        slots.sum(
            "tributary_arena_slots",
            &[("fl_job", JOB), ("state", "used")],
        )
    };
    assert_eq!(used(), 1.0, "the model's own");
    document["digest"] = digest(&file).into();
    let _ = refer(&document).expect(202);
    let document = json!({ "url": format!("{NOBODY}/a") });
    let answer = self::refer(&world.door(0), "d", "round=1", &document);
    let _ = answer.refused(502, "reference-unreachable");
}

#[test]
fn a_reference_is_judged_before_anything_is_fetched() {
    let files = FileServer::start();
    let world = fetching(1, r#"{ "expected": 1 }"#, "", &files);
    let door = world.door(0);
    let url =
        json!({ "url": files.reply("/updates/a", Reply::File(Model::random(SHAPES, 1).file())) });
    for (client, query, document, status, slug) in [
        ("c", "round=2", &url, 409, "wrong-round"),
        ("c", "round=1&weight=-1", &url, 422, "bad-weight"),
        ("c", "round=1&wieght=1", &url, 400, "malformed-update"),
        ("c", "weight=1", &url, 400, "malformed-reference"),
        ("c%20c", "round=1", &url, 400, "malformed-update"),
        ("c", "round=1", &json!({}), 400, "malformed-reference"),
        (
            "c",
            "round=1",
            &json!({ "url": 1 }),
            400,
            "malformed-reference",
        ),
        (
            "c",
            "round=1",
            &json!({ "url": "http://a", "object": { "bucket": "b", "name": "n" } }),
            400,
            "malformed-reference",
        ),
        (
            "c",
            "round=1",
            &json!({ "url": "a".repeat(17 << 10) }),
            400,
            "malformed-reference",
        ),
    ] {
        let _ = refer(&door, client, query, document).refused(status, slug);
    }
    let other = "/v1/jobs/other/updates/c?round=1";
    let json = [("content-type", "application/json")];
    let answer = door.send("POST", other, &json, url.to_string().as_bytes());
    let _ = answer.refused(404, "unknown-job");
    let form = [("content-type", "text/plain")];
    let answer = door.send(
        "POST",
        &path("c", "round=1"),
        &form,
        url.to_string().as_bytes(),
    );
    let _ = answer.refused(415, "not-json");
    assert!(files.asked().is_empty(), "{:?}", files.asked());
}

#[test]
fn no_more_than_so_many_are_fetched_at_a_time() {
    /// What a node fetches at a time.
    const MOST: usize = 32;
    let files = FileServer::start();
    let world = fetching(1, r#"{ "expected": 64 }"#, PATIENT, &files);
    let held = json!({ "url": files.reply("/updates/held", Reply::Hold(Vec::new())) });
    let quick = json!({ "url": files.reply("/updates/quick", Reply::File(Model::random(SHAPES, 1).file())) });
    let (done, ended) = mpsc::channel();
    for number in 0..MOST {
        let (door, held, done) = (world.door(0), held.clone(), done.clone());
        thread::spawn(move || {
            let answer = refer(&door, &format!("held-{number}"), "round=1", &held);
            done.send(answer).unwrap();
        });
    }
    until("all are being fetched", || files.asked().len() == MOST);
    let busy = refer(&world.door(0), "quick", "round=1", &quick);
    let _ = busy.refused(429, "too-many-fetches");
    assert_eq!(busy.header("retry-after"), Some("1"));
    files.release();
    for _ in 0..MOST {
        let _ = ended.recv().unwrap().refused(502, "reference-unreachable");
    }
    let _ = refer(&world.door(0), "quick", "round=1", &quick).expect(202);
}
