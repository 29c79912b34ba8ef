//! Jobs come, change and go while others run.

use std::sync::atomic::{AtomicBool, Ordering};

use tributary_tests::connection::Connection;
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::wait::until;
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    a_job_is_deleted_while_updates_stream,
    what_is_applied_again_is_unchanged,
    another_weight_leaves_the_open_round_alone,
    a_change_that_needs_a_restart_keeps_the_model,
    jobs_do_not_disturb_each_other,
    more_jobs_than_workers,
];

fn a_job_is_deleted_while_updates_stream(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest =
        Manifest::fedavg("doomed", "{ expected: 1000 }").with("ingest: { idleTimeout: 60s }");
    let spared = server.deploy(
        &Manifest::fedavg("spared", "{ expected: 4 }"),
        &Model::filled(SMALL, 0.0),
    );
    let bystanders = updates(SMALL, 4, 1);
    spared.push_all(1, &bystanders[..2]);
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.0));
    let file = Model::random(LARGE, 1).file();
    let mut half = Connection::open(server.address());
    half.send_head(
        &job.update_path("half", "?round=1"),
        &[&format!("Content-Length: {}", file.len())],
    );
    half.send(&file[..file.len() / 2]);

    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (job, file, gone) = (&job, &file, &gone);
            scope.spawn(move || {
                for update in 0.. {
                    match job.client().try_send(
                        "PUT",
                        &job.update_path(&format!("{client}-{update}"), "?round=1"),
                        &[],
                        file,
                    ) {
                        Ok(answer) if answer.status == 404 => {
                            return drop(answer.refused(404, "unknown-job"));
                        }
                        Ok(answer) => {
                            assert!(matches!(answer.status, 202 | 429), "{}", answer.text());
                        }
                        // The connection may be closed under an update, once the job is going.
                        Err(error) => assert!(gone.load(Ordering::Relaxed), "{error}"),
                    }
                }
            });
        }
        until("updates stream", || job.status().accepted >= 8);
        gone.store(true, Ordering::Relaxed);
        assert_eq!(
            server
                .client()
                .send("DELETE", "/v1/jobs/doomed", &[], &[])
                .status,
            204
        );
    });
    if half.try_send(&file[file.len() / 2..]).is_ok()
        && let Ok(answer) = half.try_answer()
    {
        let _ = answer.refused(404, "unknown-job");
    }
    drop(half);
    let _ = server
        .client()
        .get("/v1/jobs/doomed")
        .refused(404, "unknown-job");
    assert_eq!(server.cli(&["delete", "job", "doomed"]).code, 4);
    until("its memory goes", || {
        server
            .segments()
            .iter()
            .all(|segment| !segment.contains("doomed"))
    });
    let series: Vec<String> = server
        .scrape()
        .labelled("fl_job", "doomed")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(series, Vec::<String>::new(), "its metrics go");

    // Its name is free, and what takes it begins at the beginning.
    let job = server.deploy(
        &manifest.round("{ expected: 4 }"),
        &Model::filled(LARGE, 0.5),
    );
    assert_eq!(job.model(), (1, Model::filled(LARGE, 0.5)));
    let new = updates(LARGE, 4, 9);
    job.push_all(1, &new);
    Mean::of(weighed(&new)).assert_near(&job.result(1), 1e-12);
    for (index, (update, weight)) in bystanders.iter().enumerate().skip(2) {
        spared.push(&format!("client-{index}"), 1, *weight, update);
    }
    Mean::of(weighed(&bystanders)).assert_near(&spared.result(1), 1e-12);
    server.finish();
}

fn what_is_applied_again_is_unchanged(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("same", "{ expected: 2 }");
    let initial = Model::filled(SMALL, 0.0);
    let first = server.try_deploy(&manifest, &initial).expect(0);
    assert!(
        first
            .stdout
            .contains("function/fedavg created (revision 1)"),
        "{}",
        first.stdout
    );
    assert!(
        first.stdout.contains("job/same created (revision 1)"),
        "{}",
        first.stdout
    );
    let job = server.job("same");
    let updates = updates(SMALL, 2, 1);
    job.push_all(1, &updates[..1]);

    let again = server.try_deploy(&manifest, &initial).expect(0);
    assert!(
        again.stdout.contains("function/fedavg unchanged"),
        "{}",
        again.stdout
    );
    assert!(
        again.stdout.contains("job/same unchanged"),
        "{}",
        again.stdout
    );
    assert_eq!(
        (job.status().accepted, job.status().revision),
        (1, 1),
        "the round goes on"
    );

    // A dry run says what would be, and changes nothing.
    let file = server.write(
        "dry.yaml",
        manifest
            .clone()
            .round("{ expected: 5 }")
            .text(&server.home().join("same.safetensors")),
    );
    let dry = server
        .cli(&["apply", "--dry-run", "-f", &file.to_string_lossy()])
        .expect(0);
    assert!(
        dry.stdout.contains("spec.round.expected: 2 -> 5"),
        "{}",
        dry.stdout
    );
    assert_eq!(job.status().expected, 2);
    job.push("client-1", 1, updates[1].1, &updates[1].0);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    server.finish();
}

fn another_weight_leaves_the_open_round_alone(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let weighs = |weight: &str| {
        let text = format!(
            "apiVersion: tributary.dev/v1\nkind: Tenant\nmetadata: {{ name: vision }}\nspec: {{ weight: {weight} }}\n"
        );
        let file = server.write("vision.yaml", text);
        server.apply(&file).expect(0).stdout
    };
    let manifest = Manifest::fedavg("shared", "{ expected: 2 }").with("tenant: vision");
    let initial = Model::filled(SMALL, 0.0);
    let refused = server.try_deploy(&manifest, &initial).expect(2);
    let fix = "spec.tenant: there is no tenant vision; apply its manifest first";
    assert!(refused.stderr.contains(fix), "{}", refused.stderr);

    assert_eq!(weighs("2"), "tenant/vision created (revision 1)\n");
    let job = server.deploy(&manifest, &initial);
    let updates = updates(SMALL, 2, 1);
    job.push_all(1, &updates[..1]);
    assert_eq!(
        weighs("0.5"),
        "tenant/vision configured (revision 2)\n  spec.weight: 2.0 -> 0.5\n"
    );
    let applied = server
        .try_deploy(&manifest.with("priority: 7"), &initial)
        .expect(0);
    assert!(
        applied.stdout.contains("spec.priority: (none) -> 7"),
        "{}",
        applied.stdout
    );
    let status = job.status();
    let sharing = status.sharing.unwrap();
    assert_eq!((sharing.weight, sharing.priority), (0.5, 7));
    assert_eq!(status.accepted, 1, "the round goes on");
    job.push("client-1", 1, updates[1].1, &updates[1].0);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    server.finish();
}

fn a_change_that_needs_a_restart_keeps_the_model(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("grown", "{ expected: 3 }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let first = updates(SMALL, 3, 1);
    job.push_all(1, &first);
    let model = job.result(1);
    job.push("client-0", 2, 1.0, &first[0].0);

    let grown = manifest
        .config("{ accumulate: exact }")
        .with("tree: { fanIn: 3 }");
    let applied = server
        .try_deploy(&grown, &Model::filled(SMALL, 0.0))
        .expect(0);
    assert!(
        applied.stdout.contains("restarted at its newest model"),
        "{}",
        applied.stdout
    );
    assert_eq!(job.model(), (2, model));
    assert_eq!(job.status().accepted, 0, "the open round began anew");
    job.push_all(2, &first);
    Mean::of(weighed(&first)).assert_near(&job.result(2), 1e-8);
    assert_eq!(server.segments().len(), 1, "one arena, not two");

    // Another layout is another job.
    let other = server
        .try_deploy(&grown, &Model::filled(LARGE, 0.0))
        .expect(2);
    assert!(other.stderr.contains("spec.model"), "{}", other.stderr);
    server.finish();
}

fn jobs_do_not_disturb_each_other(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let jobs: Vec<_> = [("f32", LARGE), ("f64", SMALL), ("exact", LARGE)]
        .map(|(accumulate, shapes)| {
            let manifest = Manifest::fedavg(accumulate, "{ expected: 6 }")
                .config(&format!("{{ accumulate: {accumulate} }}"));
            (
                server.deploy(&manifest, &Model::filled(shapes, 0.0)),
                shapes,
            )
        })
        .into();
    std::thread::scope(|scope| {
        for (job, shapes) in &jobs {
            scope.spawn(move || {
                for round in 1..=5 {
                    let updates = updates(shapes, 6, round);
                    job.push_all(round, &updates);
                    Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-5);
                }
            });
        }
    });
    assert_eq!(server.segments().len(), 3);
    server.finish();
}

fn more_jobs_than_workers(sidecar: Sidecar) {
    let server = Server::with_workers(sidecar, 1);
    let jobs: Vec<_> = (0..6)
        .map(|index| {
            server.deploy(
                &Manifest::fedavg(&format!("job-{index}"), "{ expected: 2 }"),
                &Model::filled(SMALL, 0.0),
            )
        })
        .collect();
    let updates = updates(SMALL, 2, 1);
    for job in &jobs {
        job.push_all(1, &updates);
    }
    for job in &jobs {
        Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    }
    assert_eq!(server.worker_pids().len(), 1);
    server.finish();
}
