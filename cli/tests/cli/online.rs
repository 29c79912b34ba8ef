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

const SOON: &str = "Retry-After: 0\r\n";
const NOBODY_LEADS: &str =
    r#"{"type":"t","title":"T","status":503,"detail":"no controller leads at the moment"}"#;

#[test]
fn a_server_that_asks_for_a_moment_is_given_it() {
    let (url, received) = server(&[
        (503, PROBLEM, SOON, NOBODY_LEADS),
        (503, PROBLEM, SOON, NOBODY_LEADS),
        (
            202,
            JSON,
            "",
            r#"{"job":"j","client":"c","round":3,"slot_state":"ready","contributors":1}"#,
        ),
    ]);
    let directory = tempdir().unwrap();
    let update = write(directory.path(), "u", "bytes");
    let outcome = run(&[
        "push", "j", &update, "--client", "c", "--round", "3", "--weight", "1.5", "--server", &url,
    ]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    // Once, however long it takes.
    assert_eq!(
        outcome.stderr,
        "waiting: no controller leads at the moment\n"
    );
    for _ in 0..3 {
        let received = received.recv().unwrap();
        assert_eq!(received.line, "PUT /v1/jobs/j/updates/c?round=3&weight=1.5");
        assert_eq!(received.body, b"bytes");
    }
}

/// An answer to HEAD has no body: that to the upload says why.
#[test]
fn the_reason_of_a_failed_look_is_told() {
    let (url, received) = server(&[
        (503, PROBLEM, SOON, ""),
        (503, PROBLEM, SOON, NOBODY_LEADS),
        (
            500,
            PROBLEM,
            "",
            r#"{"type":"t","title":"T","status":500,"detail":"the disk is full"}"#,
        ),
    ]);
    let directory = tempdir().unwrap();
    write(directory.path(), "f.wasm", "abc");
    let manifest = "{apiVersion: tributary.dev/v1, kind: Function, metadata: {name: f}, spec: {module: {path: f.wasm}}}";
    let file = write(directory.path(), "f.yaml", manifest);
    let outcome = run(&["apply", "-f", &file, "--server", &url]);
    assert_eq!(outcome.code, 1);
    let told = "waiting: no controller leads at the moment\nerror: the disk is full\n";
    assert_eq!(outcome.stderr, told);
    for method in ["HEAD", "PUT", "PUT"] {
        assert!(received.recv().unwrap().line.starts_with(method));
    }
}

#[test]
fn a_dry_run_uploads_nothing() {
    let (url, received) = server(&[(200, JSON, "", "[]")]);
    let directory = tempdir().unwrap();
    write(directory.path(), "f.wasm", "\0asm");
    let manifest = "{apiVersion: tributary.dev/v1, kind: Function, metadata: {name: f}, spec: {module: {path: f.wasm}}}";
    let file = write(directory.path(), "f.yaml", manifest);
    let outcome = run(&["apply", "--dry-run", "-f", &file, "--server", &url]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(received.recv().unwrap().line, "POST /v1/apply?dryRun=true");
    // What can be seen without the server is.
    write(directory.path(), "f.wasm", "text");
    let outcome = run(&["apply", "--dry-run", "-f", &file, "--server", &url]);
    assert_eq!(outcome.code, 2);
    assert!(
        outcome.stderr.contains("no WASM module"),
        "{}",
        outcome.stderr
    );
}

/// A controller that has just died is still named by the others for a moment.
#[test]
fn who_is_sent_to_where_nobody_answers_asks_again() {
    let (url, received) = server(&[
        (307, JSON, "Location: http://127.0.0.1:1/v1/jobs\r\n", ""),
        (200, JSON, "", "[]"),
    ]);
    let outcome = run(&["get", "jobs", "--server", &url]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let told = "waiting: cannot reach a Tributary server at http://127.0.0.1:1:";
    assert!(outcome.stderr.starts_with(told), "{}", outcome.stderr);
    for _ in 0..2 {
        assert_eq!(received.recv().unwrap().line, "GET /v1/jobs");
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

    let outcome = run(&["apply", "-f", &file, "--server", &url]);
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
    assert_eq!(post.line, "POST /v1/apply");
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
NAME     PHASE    FUNCTION   TENANT   ROUND   UPDATES   PARAMETERS   WORKERS   REVISION   ERROR
digits   Failed   fedavg     -        20/20   0/20      2410         0         3          no room
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

const TENANTS: &str = r#"[{"name":"default","revision":0,"weight":1.0,"jobs":[]},
    {"name":"vision","revision":3,"weight":2.5,"jobs_max":4,"jobs":["digits","faces"]}]"#;

#[test]
fn tenants_are_shown_with_their_weights_and_jobs() {
    const VISION: &str =
        r#"{"name":"vision","revision":3,"weight":2.5,"jobs_max":4,"jobs":["digits","faces"]}"#;
    let (url, received) = server(&[
        (200, JSON, "", TENANTS),
        (200, JSON, "", VISION),
        (200, JSON, "", VISION),
        (204, JSON, "", ""),
    ]);
    let table = run(&["get", "tenants", "--server", &url]).stdout;
    let expected = "\
NAME      WEIGHT   REVISION   JOBS
default   1        0
vision    2.5      3          digits,faces
";
    assert_eq!(table, expected);
    let outcome = run(&[
        "get", "tenants", "vision", "--output", "json", "--server", &url,
    ]);
    let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(json[0], serde_json::from_str::<Value>(VISION).unwrap());
    let described = run(&["describe", "tenant", "vision", "--server", &url]).stdout;
    let expected = "\
Tenant:       vision
Revision:     3
Weight:       2.5
At most:      4 jobs
Jobs:         digits, faces
";
    assert_eq!(described, expected);
    let deleted = run(&["delete", "tenant", "vision", "--server", &url]);
    assert_eq!(deleted.stdout, "tenant/vision deleted\n");
    let lines: Vec<_> = received.iter().map(|received| received.line).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/tenants",
            "GET /v1/tenants/vision",
            "GET /v1/tenants/vision",
            "DELETE /v1/tenants/vision"
        ]
    );
}

#[test]
fn a_jobs_tenant_is_shown_and_its_priority_where_there_is_one() {
    const OF_TENANTS: &str = r#"[{"name":"a","phase":"running","function":"fedavg","function_revision":1,"revision":1,
        "version":2,"rounds":null,"expected":20,"accepted":0,"parameters":2410,"model_bytes":9640,"last_error":null,
        "node":"n1","arena":null,"workers":2,"sharing":{"tenant":"vision","weight":2.5,"priority":-5}},
        {"name":"b","phase":"running","function":"fedavg","function_revision":1,"revision":1,
        "version":2,"rounds":null,"expected":20,"accepted":0,"parameters":2410,"model_bytes":9640,"last_error":null,
        "node":"n1","arena":null,"workers":2,"sharing":{"tenant":"default","weight":1.0,"priority":0}}]"#;
    const MANIFEST: &str = r#"{"apiVersion":"tributary.dev/v1","kind":"Job","metadata":{"name":"a"},"spec":{
        "function":{"name":"fedavg"},"model":{"path":"m"},"round":{"expected":20},"tenant":"vision","priority":-5}}"#;
    let (url, _received) = server(&[
        (200, JSON, "", OF_TENANTS),
        (200, JSON, "", OF_TENANTS),
        (200, JSON, "", MANIFEST),
        (200, JSON, "", "[]"),
    ]);
    let table = run(&["get", "jobs", "--server", &url]).stdout;
    let expected = "\
NAME   PHASE     FUNCTION   TENANT                 ROUND   UPDATES   PARAMETERS   WORKERS   REVISION   ERROR
a      Running   fedavg     vision (priority -5)   2       0/20      2410         2         1
b      Running   fedavg     default                2       0/20      2410         2         1
";
    assert_eq!(table, expected);
    let described = run(&["describe", "job", "a", "--server", &url]).stdout;
    let expected = "Tenant:       vision\n  Weight:     2.5\n  Priority:   -5\n";
    assert!(described.contains(expected), "{described}");
}

const NODES: &str = r#"[
    {"name":"n1","sidecar":"ebpf","sidecar_reason":null,"workers":2,"jobs":1,"version":"0.1.0","kernel":"6.1","cores":2,
     "shm_free_bytes":8000000000,"load":{"updates":7,"busy_milliseconds":3},"state":"draining","url":"http://n1:8470",
     "labels":{"zone":"eu","disk":"fast"},"heard_milliseconds_ago":420,
     "capacity":{"measured":true,"concurrency_milli":16000,"update_microseconds":2500,"arrivals_milli_per_second":800000}},
    {"name":"n2","sidecar":"userspace","sidecar_reason":"no BPF","workers":0,"jobs":0,"version":"0.1.0","kernel":"6.1",
     "cores":4,"shm_free_bytes":0,"state":"lost","url":"http://n2:8470","heard_milliseconds_ago":61000,
     "slow_in":["digits","other"]}]"#;

#[test]
fn several_nodes_are_shown_with_state_labels_load_and_beat() {
    let (url, _received) = server(&[(200, JSON, "", NODES), (200, JSON, "", NODES)]);
    let table = run(&["get", "nodes", "--server", &url]).stdout;
    let expected = "\
NAME   STATE      SLOW IN        LABELS              JOBS   WORKERS   LOAD                BEAT   SIDECAR     CORES   SHM FREE   VERSION   URL
n1     Draining   -              disk=fast,zone=eu   1      2         2.0/16 (measured)   0.4s   ebpf        2       8.0 GB     0.1.0     http://n1:8470
n2     Lost       digits,other   -                   0      0         -                   61s    userspace   4       0 B        0.1.0     http://n2:8470
";
    assert_eq!(table, expected);
    let outcome = run(&["describe", "node", "n1", "--server", &url]);
    for line in [
        "State:        Draining\n",
        "Labels:       disk=fast,zone=eu\n",
        "Last beat:    0.4s ago\n",
        "Capacity:     16.0 updates at once, 2.50 ms each (measured)\n",
    ] {
        assert!(outcome.stdout.contains(line), "{}", outcome.stdout);
    }
}

#[test]
fn a_jobs_nodes_are_described() {
    const PLACED: &str = r#"[{"name":"digits","phase":"running","function":"fedavg","function_revision":1,"revision":3,
        "version":2,"rounds":20,"expected":20,"accepted":0,"parameters":2410,"model_bytes":9640,"last_error":null,
        "node":"n1","arena":null,"workers":2,"placement":{"generation":4,"leader":"n1","members":["n1","n2"]}}]"#;
    const MANIFEST: &str = r#"{"apiVersion":"tributary.dev/v1","kind":"Job","metadata":{"name":"digits"},"spec":{
        "function":{"name":"fedavg"},"model":{"path":"m"},"round":{"expected":20}}}"#;
    const PLACEMENT: &str = r#"{"job":"digits","generation":4,"leader":"n1","reason":"a node takes part; spread takes n1, n2",
        "members":[{"node":"n1","url":"http://n1","duty":"serving","expected":10,"buckets":512,"generation":4},
                   {"node":"n2","url":"http://n2","duty":"draining","expected":0,"buckets":0,"generation":null,
                    "stages":{"fold_microseconds":1500,"hand_over_microseconds":2500000,"transfer_microseconds":40000},
                    "verdict":"bypassed","why":"fold was out of line"}],
        "bypassed":[{"node":"n2","until":12,"times":1}]}"#;
    let (url, received) = server(&[
        (200, JSON, "", PLACED),
        (200, JSON, "", MANIFEST),
        (200, JSON, "", "[]"),
        (200, JSON, "", PLACEMENT),
    ]);
    let outcome = run(&["describe", "job", "digits", "--server", &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    let expected = "\
Placement:    4: a node takes part; spread takes n1, n2

Nodes:
NODE   PART       DUTY       UPDATES   HOME OF   FOLLOWS   FOLD     HAND-OVER   TRANSFER   VERDICT    URL
n1     leader     serving    10        50.0 %    4         -        -           -          well       http://n1
n2     follower   draining   0         0.0 %     -         1.5 ms   2.50 s      40.0 ms    bypassed   http://n2
n2 is slow: fold was out of line
n2 is bypassed until round 12, once since it was well
";
    assert!(outcome.stdout.contains(expected), "{}", outcome.stdout);
    let lines: Vec<_> = received.iter().map(|received| received.line).collect();
    assert_eq!(lines[3], "GET /v1/jobs/digits/placement");
}

#[test]
fn nodes_are_drained_and_given_work_again() {
    let (url, received) = server(&[(204, JSON, "", ""), (204, JSON, "", "")]);
    let outcome = run(&["drain", "n1", "--server", &url]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "node/n1 draining\n")
    );
    let outcome = run(&["undrain", "n1", "--server", &url]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "node/n1 ready\n")
    );
    let lines: Vec<_> = received.iter().map(|received| received.line).collect();
    assert_eq!(
        lines,
        ["PUT /v1/nodes/n1/drain", "DELETE /v1/nodes/n1/drain"]
    );
}

#[test]
fn requests_follow_to_where_they_can_be_answered() {
    let (there, received) = server(&[(
        202,
        JSON,
        "",
        r#"{"job":"j","client":"c","round":3,"slot_state":"ready","contributors":1}"#,
    )]);
    let location = format!("Location: {there}/v1/jobs/j/updates/c?round=3\r\n");
    let answers: &'static [(u16, &str, &str, &str)] =
        &*Vec::leak(vec![(307, JSON, &*String::leak(location), "")]);
    let (here, _received) = server(answers);
    let directory = tempdir().unwrap();
    let update = write(directory.path(), "u", "bytes");
    let outcome = run(&[
        "push", "j", &update, "--client", "c", "--round", "3", "--server", &here,
    ]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    let received = received.recv().unwrap();
    assert_eq!(received.line, "PUT /v1/jobs/j/updates/c?round=3");
    assert_eq!(received.body, b"bytes");
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
