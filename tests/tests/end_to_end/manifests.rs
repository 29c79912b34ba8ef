//! The command line: manifests that are wrong, exit codes, and a round run by hand.

use serde_json::Value;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    a_wrong_field_is_named_with_its_place_and_its_neighbour,
    what_cannot_be_run_is_refused_before_it_is_kept,
    exit_codes_tell_what_happened,
    a_round_by_command_line,
];

fn a_wrong_field_is_named_with_its_place_and_its_neighbour(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let model = server.write("model.safetensors", Model::filled(SMALL, 0.0).file());
    let good = Manifest::fedavg("job", "{ expected: 2 }")
        .with("rounds: 3")
        .text(&model);
    let cases = [
        (
            "  rounds: 3",
            "  ronuds: 3",
            "job.yaml:15:3: spec.ronuds: unknown field `ronuds`; did you mean `rounds`?",
        ),
        (
            "{ expected: 2 }",
            "{ expcted: 2 }",
            "did you mean `expected`?",
        ),
        ("{ expected: 2 }", "{ expected: two }", "job.yaml:14:"),
        (
            "{ expected: 2 }",
            "{ expected: 0 }",
            "must be at least 1, is 0",
        ),
        (
            "{ expected: 2 }",
            "{ expected: 2, quorum: 3 }",
            "spec.round.quorum: 3 is more than `expected`",
        ),
        ("{ expected: 2 }", "{ }", "a round that nothing closes"),
        ("kind: Job", "kind: Jib", "job.yaml:9:"),
        ("name: job }", "name: My_Job }", "job.yaml:10:"),
        (
            "tributary.dev/v1\nkind: Job",
            "tributary.dev/v2\nkind: Job",
            "job.yaml:8:",
        ),
        ("memory: 64MiB", "memory: 64", "spec.limits.memory"),
        ("fedavg.wasm", "fedawg.wasm", "cannot read"),
        (
            "name: fedavg, config",
            "name: fedawg, config",
            "job.yaml:12:",
        ),
        ("config: {}", "config: { acumulate: f64 }", "acumulate"),
        ("metadata:", "metadata", "job.yaml:"),
    ];
    for (right, wrong, told) in cases {
        let text = good.replacen(right, wrong, 1);
        assert_ne!(text, good, "{right} is not in the manifest");
        let ran = server.apply(&server.write("job.yaml", text)).expect(2);
        assert!(ran.stderr.contains("job.yaml:"), "{wrong}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(told),
            "{wrong}: {} lacks {told}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "", "{wrong}");
    }
    // None of them left anything.
    let functions: Vec<Value> = server.client().get("/v1/functions").json();
    let jobs: Vec<Value> = server.client().get("/v1/jobs").json();
    assert_eq!((functions.len(), jobs.len()), (0, 0));
    let _ = server.apply(&server.write("job.yaml", good)).expect(0);
    server.finish_idle();
}

fn what_cannot_be_run_is_refused_before_it_is_kept(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = |line: &str| Manifest::fedavg("job", "{ expected: 20 }").with(line);
    let few = server
        .try_deploy(
            &manifest("arena: { slots: 4 }").with("tree: { fanIn: 4 }"),
            &Model::filled(SMALL, 0.0),
        )
        .expect(2);
    assert!(
        few.stderr
            .contains("spec.arena.slots is 4, but the job needs at least"),
        "{}",
        few.stderr
    );

    let many = server
        .try_deploy(
            &manifest("arena: { slots: 1000000 }"),
            &Model::filled(LARGE, 0.0),
        )
        .expect(2);
    assert!(many.stderr.contains("shared memory"), "{}", many.stderr);
    let _ = server
        .try_deploy(
            &manifest("clients: { max: 19 }"),
            &Model::filled(SMALL, 0.0),
        )
        .expect(2);

    let not_a_model = server.write("model.safetensors", b"not a model");
    let text = Manifest::fedavg("job", "{ expected: 2 }").text(&not_a_model);
    let ran = server.apply(&server.write("job.yaml", text)).expect(2);
    assert!(
        ran.stderr.contains("job.yaml:13:") && ran.stderr.contains("spec.model"),
        "{}",
        ran.stderr
    );
    let _ = server
        .client()
        .get("/v1/jobs/job")
        .refused(404, "unknown-job");

    let post = |body: &str| {
        let json = [("content-type", "application/json")];
        let client = server.client();
        client.send("POST", "/v1/apply", &json, body.as_bytes())
    };
    let _ = post("not JSON").refused(400, "malformed-request");
    let problem = post(r#"[{"kind": "Job"}]"#).refused(422, "invalid-manifest");
    assert!(!problem.errors.is_empty());
    server.finish_idle();
}

fn exit_codes_tell_what_happened(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("job", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    let file = server.write("update.safetensors", Model::random(SMALL, 1).file());
    let file = file.to_string_lossy();
    let push =
        |round: &str| server.cli(&["push", job.name(), &file, "--client", "c", "--round", round]);
    assert!(
        push("7").expect(5).stderr.contains("round 1 is"),
        "wrong round"
    );
    let _ = push("1").expect(0);
    let _ = server.cli(&["describe", "job", "nobody"]).expect(4);
    let _ = server.cli(&["delete", "function", "fedavg"]).expect(5);
    let _ = server.cli(&["no-such-command"]).expect(2);
    // Nobody listens at the discard port.
    let away = server
        .cli(&["get", "jobs", "--server", "http://127.0.0.1:9"])
        .expect(3);
    assert!(away.stderr.contains("tributary up"), "{}", away.stderr);
    let _ = server.cli(&["delete", "job", "job"]).expect(0);
    let _ = server.cli(&["delete", "function", "fedavg"]).expect(0);
    let _ = server.cli(&["describe", "function", "fedavg"]).expect(4);
    server.finish_idle();
}

fn a_round_by_command_line(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("manual", "{ expected: 2 }"),
        &Model::filled(SMALL, 0.0),
    );
    let (a, b) = (Model::random(SMALL, 1), Model::random(SMALL, 2));
    let first = server.write(
        "a.safetensors",
        a.file_with(&[("round", "1"), ("num_examples", "3")]),
    );
    let second = server.write("b.safetensors", b.file());
    let _ = server
        .cli(&["push", "manual", &first.to_string_lossy(), "--client", "a"])
        .expect(0);
    let second = second.to_string_lossy();
    let _ = server
        .cli(&[
            "push", "manual", &second, "--client", "b", "--round", "1", "--weight", "1",
        ])
        .expect(0);

    let pulled = server.home().join("pulled.safetensors");
    let to = pulled.to_string_lossy();
    let _ = server
        .cli(&["pull", "manual", "-o", &to, "--after", "1", "--wait", "60s"])
        .expect(0);
    let model = Model::from_file(&std::fs::read(&pulled).unwrap());
    tributary_tests::reference::Mean::of([(&a, 3.0), (&b, 1.0)]).assert_near(&model, 1e-12);
    assert_eq!(job.model(), (2, model));
    let _ = server.cli(&["pull", "manual", "--after", "2"]).expect(1);

    for what in [
        &["get", "jobs"][..],
        &["get", "functions"],
        &["get", "nodes"],
        &["get", "rounds", "manual"],
        &["describe", "job", "manual"],
        &["describe", "function", "fedavg"],
    ] {
        let json = server
            .cli(&[what, &["--output", "json"]].concat())
            .expect(0);
        let _: Value = serde_json::from_str(&json.stdout)
            .unwrap_or_else(|error| panic!("{what:?}: {error}: {}", json.stdout));
        assert_eq!(json.stderr, "", "{what:?}");
        assert!(!server.cli(what).expect(0).stdout.is_empty());
    }
    let nodes = server.cli(&["get", "nodes"]).expect(0).stdout;
    assert!(nodes.contains(sidecar.name()), "{nodes}");
    let rounds = server.cli(&["get", "rounds", "manual"]).expect(0).stdout;
    assert!(
        rounds.contains("Completed") && rounds.contains("Open"),
        "{rounds}"
    );
    server.finish();
}
