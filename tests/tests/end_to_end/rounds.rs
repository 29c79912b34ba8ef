//! Rounds give the right answer.

use tributary_api::status::JobPhase;
use tributary_tests::forged::Forged;
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    a_round_equals_the_mean_in_f64,
    a_large_model_equals_the_mean_in_f64,
    rounds_follow_each_other,
    rounds_of_any_size,
    tensors_may_come_in_another_order,
    round_and_weight_may_stand_in_the_file,
    extreme_weights_and_values,
];

/// How far a sum of twenty may be off, relative to the size of what is summed.
const F64: f64 = 1e-12;
const F32: f64 = 1e-5;
/// A step of 2^-32 for each of twenty terms and weights.
const EXACT: f64 = 1e-8;

fn a_round_equals_the_mean_in_f64(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let initial = Model::random(SMALL, 1);
    for (accumulate, relative) in [("f32", F32), ("f64", F64), ("exact", EXACT)] {
        for update in ["model", "delta"] {
            let config = format!("{{ accumulate: {accumulate}, update: {update} }}");
            let manifest = Manifest::fedavg(&format!("{accumulate}-{update}"), "{ expected: 20 }")
                .config(&config);
            let job = server.deploy(&manifest, &initial);
            let updates = updates(SMALL, 20, 7);
            job.push_all(1, &updates);

            let model = job.result(1);
            let mean = Mean::of(weighed(&updates));
            match update {
                // The mean is rounded to f32 before the model is added to it.
                "delta" => mean
                    .added_to(&initial)
                    .assert_near(&model, relative.max(2e-7)),
                _ => mean.assert_near(&model, relative),
            }
            let status = job.completed(1);
            assert_eq!(
                (status.expected, status.accepted, status.contributors),
                (20, 20, 20)
            );
            assert_eq!((status.rejected, status.late, status.error), (0, 0, None));
        }
    }
    server.finish();
}

fn a_large_model_equals_the_mean_in_f64(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("large", "{ expected: 20 }"),
        &Model::filled(LARGE, 0.0),
    );
    let updates = updates(LARGE, 20, 3);
    job.push_all(1, &updates);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), F64);
    server.finish();
}

fn rounds_follow_each_other(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("steady", "{ expected: 5 }"),
        &Model::filled(SMALL, 0.0),
    );
    let (version, model) = job.model();
    assert_eq!((version, model), (1, Model::filled(SMALL, 0.0)));
    for round in 1..=10 {
        let updates = updates(SMALL, 5, round);
        job.push_all(round, &updates);
        let model = job.result(round);
        Mean::of(weighed(&updates)).assert_near(&model, F64);
        assert_eq!(job.model(), (round + 1, model));
    }
    let status = job.status();
    assert_eq!(
        (status.phase, status.version, status.accepted),
        (JobPhase::Running, 11, 0)
    );
    assert_eq!((status.parameters, status.model_bytes), (41, 164));
    assert_eq!(
        server.scrape().sum(
            "tributary_rounds_total",
            &[("fl_job", "steady"), ("outcome", "completed")]
        ),
        10.0
    );
    assert_eq!(
        server
            .scrape()
            .sum("tributary_model_version", &[("fl_job", "steady")]),
        11.0
    );
    server.finish();
}

/// A tree that is not full, has one leaf, or nothing but one update.
fn rounds_of_any_size(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    for clients in [1, 2, 3, 4, 5, 7, 8, 9, 17] {
        let manifest = Manifest::fedavg(
            &format!("of-{clients}"),
            &format!("{{ expected: {clients} }}"),
        );
        let job = server.deploy(
            &manifest.with("tree: { fanIn: 2 }"),
            &Model::filled(SMALL, 0.0),
        );
        for round in 1..=2 {
            let updates = updates(SMALL, clients, clients + round);
            job.push_all(round, &updates);
            Mean::of(weighed(&updates)).assert_near(&job.result(round), F64);
        }
    }
    server.finish();
}

fn tensors_may_come_in_another_order(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("orders", "{ expected: 3 }"),
        &Model::filled(SMALL, 0.0),
    );
    let updates = updates(SMALL, 3, 1);
    let orders = [
        ["dense.bias", "dense.weight", "scale"],
        ["scale", "dense.weight", "dense.bias"],
        ["dense.weight", "dense.bias", "scale"],
    ];
    for (index, ((update, weight), order)) in updates.iter().zip(orders).enumerate() {
        let file = Forged::in_order(update, &order).file();
        let _ = job
            .put(
                &format!("c{index}"),
                &format!("?round=1&weight={weight}"),
                &file,
            )
            .expect(202);
    }
    Mean::of(weighed(&updates)).assert_near(&job.result(1), F64);
    server.finish();
}

fn round_and_weight_may_stand_in_the_file(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("told", "{ expected: 4 }"),
        &Model::filled(SMALL, 0.0),
    );
    let [a, b, c, d] = [1, 2, 3, 4].map(|seed| Model::random(SMALL, seed));
    let put = |client: &str, query: &str, file: Vec<u8>| job.put(client, query, &file);
    let _ = put(
        "both-in-file",
        "",
        a.file_with(&[("round", "1"), ("num_examples", "30")]),
    )
    .expect(202);
    let _ = put(
        "weight-in-file",
        "?round=1",
        b.file_with(&[("num_examples", "2.5")]),
    )
    .expect(202);
    // What the URL says counts before what the file says.
    let _ = put(
        "both-twice",
        "?weight=4&round=1",
        c.file_with(&[("round", "9"), ("num_examples", "1000")]),
    )
    .expect(202);
    let _ = put("no-round", "?weight=1", d.file()).refused(400, "malformed-update");
    let _ = put("no-weight", "?round=1", d.file()).expect(202);
    Mean::of([(&a, 30.0), (&b, 2.5), (&c, 4.0), (&d, 1.0)]).assert_near(&job.result(1), F64);
    server.finish();
}

fn extreme_weights_and_values(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("extreme", "{ expected: 3 }"),
        &Model::filled(SMALL, 0.0),
    );
    let (mut huge, mut tiny, zero) = (
        Model::random(SMALL, 1),
        Model::random(SMALL, 2),
        Model::filled(SMALL, -0.0),
    );
    huge.tensor("dense.weight")
        .values
        .iter_mut()
        .for_each(|value| *value *= 1e38);
    tiny.tensor("dense.bias")
        .values
        .iter_mut()
        .for_each(|value| *value *= f32::MIN_POSITIVE);
    job.push("huge", 1, 1e-3, &huge);
    job.push("tiny", 1, 1e9, &tiny);
    job.push("zero", 1, 7.0, &zero);
    Mean::of([(&huge, 1e-3), (&tiny, 1e9), (&zero, 7.0)]).assert_near(&job.result(1), F64);
    server.finish();
}
