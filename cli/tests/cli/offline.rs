use std::{net::TcpListener, process::Stdio};

use tempfile::tempdir;

use crate::run::{command, outcome, run, run_with_stdin, write};

const FUNCTION: &str = "\
apiVersion: tributary.dev/v1
kind: Function
metadata: { name: fedavg }
spec:
  module: { path: fedavg.wasm }
";

const JOB: &str = "\
apiVersion: tributary.dev/v1
kind: Job
metadata: { name: digits }
spec:
  function: { name: fedavg }
  model: { path: initial.safetensors }
  round:
    expected: 20
    quorum: 15
";

const MODEL: &[u8] = b"\x3a\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}    \0\0\0\0";

#[test]
fn valid_manifests_are_listed() {
    let directory = tempdir().unwrap();
    write(directory.path(), "fedavg.wasm", b"\0asm\x01\0\0\0");
    write(directory.path(), "initial.safetensors", MODEL);
    write(directory.path(), "ignored.txt", "no manifest");
    write(
        directory.path(),
        "all.yaml",
        format!("{FUNCTION}---\n{JOB}"),
    );
    let outcome = run(&["validate", "-f", directory.path().to_str().unwrap()]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert_eq!(
        outcome.stdout,
        "function/fedavg is valid\njob/digits is valid\n"
    );

    let file = directory.path().join("all.yaml");
    let outcome = run(&["validate", "--output", "json", "-f", file.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(json[1]["name"], "digits");
    let outcome = run(&["validate", "--output", "yaml", "-f", file.to_str().unwrap()]);
    assert!(
        outcome.stdout.contains("name: digits\n"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn tenants_are_checked_without_a_server() {
    let directory = tempdir().unwrap();
    let tenant = |spec: &str| {
        let text = format!(
            "apiVersion: tributary.dev/v1\nkind: Tenant\nmetadata: {{ name: vision }}\nspec: {spec}\n"
        );
        write(directory.path(), "tenant.yaml", text)
    };
    let outcome = run(&["validate", "-f", &tenant("{ weight: 2.5 }")]);
    assert_eq!(
        (
            outcome.code,
            outcome.stdout.as_str(),
            outcome.stderr.as_str()
        ),
        (0, "tenant/vision is valid\n", "")
    );
    let file = tenant("{ weight: 5000 }");
    let outcome = run(&["validate", "-f", &file]);
    assert_eq!(outcome.code, 2);
    assert_eq!(
        outcome.stderr.lines().next().unwrap(),
        format!("{file}:4:9: spec.weight: must be at most 1000, is 5000")
    );
}

#[test]
fn wrong_manifests_have_file_line_and_nearest_name() {
    let directory = tempdir().unwrap();
    let job = write(
        directory.path(),
        "job.yaml",
        JOB.replace("quorum", "quorom"),
    );
    let function = write(
        directory.path(),
        "function.yaml",
        FUNCTION.replace("tributary.dev/v1", "v1"),
    );
    let outcome = run(&["validate", "-f", &job, &function]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""));
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        lines[0],
        format!("{job}:9:5: spec.round.quorom: unknown field `quorom`; did you mean `quorum`?")
    );
    assert!(
        lines[1].starts_with(&format!(
            "{function}:1:1: apiVersion: \"v1\" is not allowed"
        )),
        "{lines:?}"
    );
}

#[test]
fn manifests_come_from_stdin_too() {
    let outcome = run_with_stdin(&["validate", "-f", "-"], &JOB.replace("digits", "Digits"));
    assert_eq!(outcome.code, 2);
    assert!(
        outcome
            .stderr
            .starts_with("<stdin>:3:13: metadata.name: name \"Digits\""),
        "{}",
        outcome.stderr
    );
}

#[test]
fn files_that_manifests_name_are_looked_at() {
    let directory = tempdir().unwrap();
    let job = write(directory.path(), "job.yaml", JOB);
    let missing = run(&["validate", "-f", &job]);
    assert_eq!(missing.code, 0);
    assert!(
        missing
            .stderr
            .starts_with(&format!("warning: {job}:6:12: spec.model.path:")),
        "{}",
        missing.stderr
    );

    for (file, message) in [
        (
            &b"\x3a\0\0"[..],
            "it has 3 bytes, and its header ends at byte 8",
        ),
        (
            &MODEL[..MODEL.len() - 1],
            "describes 4 bytes of data, but 3 follow",
        ),
        (
            &[0xff; 20][..],
            "this is no safetensors file, or its header is too long: it says it has",
        ),
        (
            &b"version https://git-lfs.github.com/spec/v1"[..],
            "this is no safetensors file, but a Git LFS pointer",
        ),
    ] {
        write(directory.path(), "initial.safetensors", file);
        let outcome = run(&["validate", "-f", &job]);
        assert_eq!(outcome.code, 2);
        assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    }

    write(directory.path(), "fedavg.wasm", "#!/bin/sh");
    let function = write(directory.path(), "function.yaml", FUNCTION);
    let outcome = run(&["validate", "-f", &function]);
    assert_eq!(outcome.code, 2);
    assert!(
        outcome.stderr.contains("the file is no WASM module"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn files_that_are_not_there_are_named() {
    let outcome = run(&["validate", "-f", "/nowhere/job.yaml"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.stderr,
        "error: cannot read /nowhere/job.yaml: No such file or directory (os error 2)\n"
    );

    // Apply finds the missing model before it talks to anybody.
    let directory = tempdir().unwrap();
    let job = write(directory.path(), "job.yaml", JOB);
    let outcome = run(&["apply", "-f", &job]);
    assert_eq!(outcome.code, 2);
    assert!(
        outcome
            .stderr
            .starts_with(&format!("{job}:6:12: spec.model.path: cannot read")),
        "{}",
        outcome.stderr
    );
}

#[test]
fn schemas_are_printed() {
    for (args, title) in [
        (&["schema", "job"][..], "Job"),
        (&["schema", "Function"], "Function"),
        (&["schema", "tenant"], "Tenant"),
    ] {
        let schema: serde_json::Value = serde_json::from_str(&run(args).stdout).unwrap();
        assert_eq!(schema["title"], title);
    }
    let any: serde_json::Value = serde_json::from_str(&run(&["schema"]).stdout).unwrap();
    assert_eq!(any["anyOf"].as_array().unwrap().len(), 3);
    let outcome = run(&["schema", "jib"]);
    assert_eq!(outcome.code, 2);
    assert!(
        outcome
            .stderr
            .contains("the kinds are Function, Tenant, Job"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = run(&["completions", shell]);
        assert_eq!(outcome.code, 0);
        assert!(
            outcome.stdout.contains("tributary") && outcome.stdout.contains("dry-run"),
            "{shell}"
        );
    }
}

#[test]
fn help_tells_the_exit_codes_and_hides_the_worker() {
    let outcome = run(&["--help"]);
    assert_eq!(outcome.code, 0);
    for text in [
        "Exit codes:",
        "3  the server cannot be reached",
        "doctor",
        "--output",
    ] {
        assert!(outcome.stdout.contains(text), "{}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains("worker "), "{}", outcome.stdout);
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["get"][..],
        &["frobnicate"],
        &["get", "jobs", "--output", "xml"],
        &["push", "digits", "file"],
        &["push", "Digits", "file", "--client", "c"],
        &["push", "digits", "file", "--client", "a/b"],
        &["pull", "digits", "--wait", "3s"],
        &["get", "jobs", "--server", "https://example.org"],
        &["get", "jobs", "--server", "http://"],
    ] {
        let outcome = run(args);
        assert_eq!(outcome.code, 2, "{args:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{args:?}");
    }
}

#[test]
fn wrong_usage_is_answered_in_words_that_can_be_typed() {
    let directory = tempdir().unwrap();
    let update = write(directory.path(), "update", MODEL);
    let folder = directory.path().to_str().unwrap();
    let cases: [(&[&str], i32, &str, &str); 9] = [
        (
            &["describe", "digits"],
            2,
            "did you mean `tributary describe job digits`?",
            "",
        ),
        (
            &["delete", "digits"],
            2,
            "did you mean `tributary delete job digits`?",
            "",
        ),
        (&["aply"], 2, "did you mean `tributary apply`?", ""),
        // Far from `push`, which would change something.
        (&["pause"], 2, "unrecognized subcommand 'pause'", "push"),
        (
            &["get", "rounds"],
            2,
            "Usage: tributary get rounds [OPTIONS] <JOB>",
            "--server",
        ),
        (
            &["--output", "json", "pull"],
            2,
            "Usage: tributary pull [OPTIONS] <JOB>",
            "--server",
        ),
        (
            &["push", "j", &update, "--client", "c"],
            2,
            "names no round: give --round",
            "URL",
        ),
        (
            &["push", "j", folder, "--client", "c"],
            1,
            "cannot read /",
            "cannot reach",
        ),
        (
            &["push", "j", "/nowhere", "--client", "c"],
            1,
            "cannot read /nowhere: No such file",
            "cannot reach",
        ),
    ];
    for (args, code, said, not_said) in cases {
        let outcome = run(args);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (code, ""),
            "{args:?}: {}",
            outcome.stderr
        );
        assert!(
            outcome.stderr.contains(said),
            "{args:?}: {}",
            outcome.stderr
        );
        let silent = not_said.is_empty() || !outcome.stderr.contains(not_said);
        assert!(silent, "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_server_that_is_not_there_is_3_and_says_how_to_start_one() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = format!("http://127.0.0.1:{port}");
    let outcome = run(&["get", "jobs", "--server", &server]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (3, ""));
    assert!(outcome.stderr.contains(&server), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("Start one with `tributary up`"),
        "{}",
        outcome.stderr
    );
    // The environment variable is heeded, the flag comes first.
    assert!(run(&["get", "jobs"]).stderr.contains("http://127.0.0.1:1:"));
}

#[test]
fn doctor_says_what_it_found_in_each_format() {
    let directory = tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let text = run(&["doctor", "--state-dir", state]);
    for check in [
        "kernel",
        "sidecar",
        "shared memory",
        "open files",
        "locked memory",
        "Tributary",
    ] {
        assert!(text.stdout.contains(check), "{}", text.stdout);
    }
    let json = run(&["doctor", "--state-dir", state, "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["usable"].as_bool().unwrap(), json.code == 0);
    assert_eq!(report["checks"].as_array().unwrap().len(), 8);

    // A place where nothing can be kept.
    let file = write(directory.path(), "file", "");
    let outcome = run(&["doctor", "--state-dir", &format!("{file}/state")]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stdout.contains("FAIL"), "{}", outcome.stdout);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    // The reader of the pipe is gone before the first byte.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let outcome = outcome(command(&["schema"]).stdout(Stdio::from(writer)));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
}

#[test]
fn processes_of_several_machines_say_what_they_lack() {
    let directory = tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let nats = "nats://127.0.0.1:1";
    let missing = directory.path().join("none.creds");
    let missing = missing.to_str().unwrap();
    let listen = "127.0.0.1:0";
    let cases: [(&[&str], i32, &str); 7] = [
        (&["controller"], 2, "--nats <URL>"),
        (&["node", "--state-dir", state], 2, "--nats <URL>"),
        (
            &[
                "node",
                "--nats",
                nats,
                "--state-dir",
                state,
                "--label",
                "eu",
            ],
            2,
            "write KEY=VALUE",
        ),
        (
            &[
                "node",
                "--nats",
                nats,
                "--state-dir",
                state,
                "--listen",
                "0.0.0.0:0",
            ],
            1,
            "give --advertise http://HOST:",
        ),
        (
            &[
                "controller",
                "--nats",
                nats,
                "--listen",
                listen,
                "--advertise",
                "c1",
            ],
            1,
            "write http://HOST:PORT",
        ),
        (
            &[
                "controller",
                "--nats",
                nats,
                "--listen",
                listen,
                "--nats-creds",
                missing,
            ],
            1,
            "none.creds",
        ),
        (
            &[
                "controller",
                "--nats",
                nats,
                "--listen",
                listen,
                "--nats-tls-cert",
                "c.pem",
            ],
            2,
            "--nats-tls-key",
        ),
    ];
    for (args, code, text) in cases {
        let outcome = run(args);
        assert_eq!(outcome.code, code, "{args:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(text),
            "{args:?}: {}",
            outcome.stderr
        );
    }
}
