use serde_json::Value;
use tempfile::tempdir;

use crate::run::{run, server, write};

const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

#[test]
fn problems_become_exit_codes() {
    let cases: [(u16, i32); 6] = [(404, 4), (409, 5), (422, 1), (429, 1), (500, 1), (503, 1)];
    let (url, received) = server(&[
        (
            404,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":404,"detail":"what happened"}"#,
        ),
        (
            409,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":409,"detail":"what happened"}"#,
        ),
        (
            422,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":422,"detail":"what happened"}"#,
        ),
        (
            429,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":429,"detail":"what happened"}"#,
        ),
        (
            500,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":500,"detail":"what happened"}"#,
        ),
        (
            503,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":503,"detail":"what happened"}"#,
        ),
    ]);
    let directory = tempdir().unwrap();
    let update = write(directory.path(), "u", "bytes");
    for (status, code) in cases {
        let outcome = run(&[
            "push", "j", &update, "--client", "c", "--round", "3", "--weight", "1.5", "--server",
            &url,
        ]);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (code, ""),
            "{status}"
        );
        assert_eq!(outcome.stderr, "error: what happened\n");
        let received = received.recv().unwrap();
        assert_eq!(received.line, "PUT /v1/jobs/j/updates/c?round=3&weight=1.5");
        assert_eq!(received.body, b"bytes");
    }
}

#[test]
fn another_server_is_recognised() {
    let (url, _received) = server(&[
        (200, "text/html", "", "<html>"),
        (502, "text/html", "", "<html>"),
    ]);
    let outcome = run(&["get", "jobs", "--server", &url]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome
            .stderr
            .contains("does not answer like a Tributary server"),
        "{}",
        outcome.stderr
    );
    let outcome = run(&["get", "jobs", "--server", &url]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.contains("is it a Tributary server?"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn apply_uploads_what_is_new_and_places_the_servers_errors() {
    let (url, received) = server(&[
        (404, PROBLEM, "", ""),
        (201, JSON, "", "{}"),
        (
            422,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":422,"detail":"d","errors":[{"manifest":0,"path":"spec.module","message":"not WASM"}]}"#,
        ),
        (200, JSON, "", ""),
        (
            200,
            JSON,
            "",
            r#"[{"kind":"Function","name":"f","action":"configured","revision":2,"diff":[{"path":"spec.limits.memory","from":"64MiB","to":"1GiB"}],"notes":["n"]}]"#,
        ),
    ]);
    let directory = tempdir().unwrap();
    write(directory.path(), "f.wasm", "abc");
    let manifest = "\n{apiVersion: tributary.dev/v1, kind: Function, metadata: {name: f},\n spec: {module: {path: f.wasm}}}\n";
    let file = write(directory.path(), "f.yaml", manifest);

    let outcome = run(&["apply", "--dry-run", "-f", &file, "--server", &url]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""));
    assert!(outcome.stderr.contains("uploaded "), "{}", outcome.stderr);
    assert!(
        outcome
            .stderr
            .contains(&format!("{file}:3:9: spec.module: not WASM\n")),
        "{}",
        outcome.stderr
    );

    // SHA-256 of "abc", from FIPS 180.
    let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        received.recv().unwrap().line,
        format!("HEAD /v1/blobs/{digest}")
    );
    let put = received.recv().unwrap();
    assert_eq!(
        (put.line, put.body),
        (format!("PUT /v1/blobs/{digest}"), b"abc".to_vec())
    );
    let post = received.recv().unwrap();
    assert_eq!(post.line, "POST /v1/apply?dryRun=true");
    let sent: Value = serde_json::from_slice(&post.body).unwrap();
    assert_eq!(
        sent[0]["spec"]["module"],
        serde_json::json!({ "digest": digest })
    );

    // What the server has is not sent again.
    let outcome = run(&["apply", "-f", &file, "--server", &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert_eq!(
        outcome.stdout,
        "function/f configured (revision 2)\n  spec.limits.memory: \"64MiB\" -> \"1GiB\"\n  note: n\n"
    );
    received.recv().unwrap();
    assert_eq!(received.recv().unwrap().line, "POST /v1/apply");
}

#[test]
fn models_are_written_whole() {
    let (url, received) = server(&[
        (
            200,
            "application/octet-stream",
            "tributary-version: 7\r\n",
            "model",
        ),
        (
            200,
            "application/octet-stream",
            "tributary-version: 8\r\n",
            "model 8",
        ),
        (204, "text/plain", "", ""),
    ]);
    let directory = tempdir().unwrap();
    let file = directory.path().join("m.safetensors");
    let to = file.to_str().unwrap();
    let outcome = run(&["pull", "j", "-o", to, "--output", "json", "--server", &url]);
    let done: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&done["version"], &done["bytes"]), (&7.into(), &5.into()));
    assert_eq!(std::fs::read(&file).unwrap(), b"model");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(received.recv().unwrap().line, "GET /v1/jobs/j/model");

    let outcome = run(&["pull", "j", "--server", &url]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "model 8"));
    received.recv().unwrap();

    let outcome = run(&[
        "pull", "j", "--after", "8", "--wait", "30s", "--server", &url,
    ]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert_eq!(
        outcome.stderr,
        "error: job j has no model newer than version 8\n"
    );
    assert_eq!(
        received.recv().unwrap().line,
        "GET /v1/jobs/j/model?after=8&wait=30s"
    );
}

const JOBS: &str = r#"[{"name":"digits","phase":"failed","function":"fedavg","function_revision":1,"revision":3,"version":21,
    "rounds":20,"expected":20,"accepted":0,"parameters":2410,"model_bytes":9640,"last_error":"no room\nat all",
    "node":null,"arena":null,"workers":0}]"#;

#[test]
fn lists_come_as_table_json_and_yaml() {
    let (url, _received) = server(&[
        (200, JSON, "", JOBS),
        (200, JSON, "", JOBS),
        (200, JSON, "", JOBS),
        (200, JSON, "", JOBS),
    ]);
    let table = run(&["get", "jobs", "--server", &url]).stdout;
    let expected = "\
NAME     PHASE    FUNCTION   ROUND   UPDATES   PARAMETERS   WORKERS   REVISION   ERROR
digits   Failed   fedavg     20/20   0/20      2410         0         3          no room
";
    assert_eq!(table, expected);
    let json: Value =
        serde_json::from_str(&run(&["get", "jobs", "--output", "json", "--server", &url]).stdout)
            .unwrap();
    assert_eq!(json, serde_json::from_str::<Value>(JOBS).unwrap());
    let yaml = run(&["get", "jobs", "--output", "yaml", "--server", &url]).stdout;
    assert!(yaml.contains("parameters: 2410\n"), "{yaml}");

    let outcome = run(&["get", "jobs", "cifar", "--server", &url]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (4, ""));
    assert!(
        outcome.stderr.contains("there is no job cifar"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_job_that_no_node_runs_can_be_described() {
    const MANIFEST: &str = r#"{"apiVersion":"tributary.dev/v1","kind":"Job","metadata":{"name":"digits"},"spec":{
        "function":{"name":"fedavg","config":{"accumulate":"f64"}},"model":{"path":"m"},
        "round":{"expected":20,"quorum":15,"deadline":"30s"},"determinism":"ordered"}}"#;
    let (url, _received) = server(&[
        (200, JSON, "", JOBS),
        (200, JSON, "", MANIFEST),
        (404, PROBLEM, "", r#"{"type":"t","title":"T","status":404}"#),
    ]);
    let outcome = run(&["describe", "job", "digits", "--server", &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    for line in [
        "Job:          digits\n",
        "Phase:        Failed\n",
        "  Accumulate: f64\n",
        "Determinism:  ordered\n",
        "Closes:     with 20 updates, or 30s after the first with at least 15\n",
        "Last error:   no room\n",
    ] {
        assert!(outcome.stdout.contains(line), "{}", outcome.stdout);
    }
}

#[test]
fn deletions_are_told() {
    let (url, received) = server(&[(204, JSON, "", "")]);
    let outcome = run(&["delete", "function", "fedavg", "--server", &url]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "function/fedavg deleted\n")
    );
    assert_eq!(received.recv().unwrap().line, "DELETE /v1/functions/fedavg");
}
