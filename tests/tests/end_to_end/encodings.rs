//! Updates in every encoding through the real server: the right model, and the right refusals.
//!
//! The functions of this tree must say that they fold the encodings.

use safetensors::Dtype;
use tributary_tests::encoded::{Coding, Encoded};
use tributary_tests::job::updates;
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL, Shapes};
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, place};

on_both_sidecars![
    every_encoding_gives_the_mean_of_what_it_stands_for,
    clients_of_one_round_may_differ_in_encoding,
    bytes_are_counted_by_encoding,
    wrong_encoded_updates_are_refused_by_name,
    wrong_numbers_in_encoded_updates_are_refused_by_place,
    functions_refuse_what_they_do_not_fold,
];

const DENSE: [Coding; 5] = [
    Coding::F32,
    Coding::F16,
    Coding::Bf16,
    Coding::I8,
    Coding::Blocks(64),
];

/// A scaled number may be rounded to F32 before it is summed in F64.
const SCALED: f64 = 1e-6;
/// The mean is rounded to F32 before the model is added to it.
const DELTA: f64 = 2e-7;

fn encoded(shapes: Shapes, clients: u64, coding: impl Fn(usize) -> Coding) -> Vec<(Encoded, f64)> {
    let updates = updates(shapes, clients, 5).into_iter().enumerate();
    updates
        .map(|(client, (update, weight))| (Encoded::new(&update, coding(client)), weight))
        .collect()
}

fn push_all(job: &Job, updates: &[(Encoded, f64)]) {
    for (client, (update, weight)) in updates.iter().enumerate() {
        let query = format!("?round=1&weight={weight}");
        let _ = job
            .put(&format!("client-{client}"), &query, &update.file())
            .expect(202);
    }
}

fn mean(updates: &[(Encoded, f64)]) -> Mean {
    Mean::of(
        updates
            .iter()
            .map(|(update, weight)| (&update.decoded, *weight)),
    )
}

fn every_encoding_gives_the_mean_of_what_it_stands_for(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    for (index, shapes) in [SMALL, LARGE].into_iter().enumerate() {
        let initial = Model::random(shapes, 1);
        for (number, coding) in DENSE.into_iter().enumerate() {
            let manifest = Manifest::fedavg(&format!("dense-{index}-{number}"), "{ expected: 10 }");
            let job = server.deploy(&manifest, &initial);
            let updates = encoded(shapes, 10, |_| coding);
            push_all(&job, &updates);
            mean(&updates).assert_near(&job.result(1), SCALED);
        }
        let manifest = Manifest::fedavg(&format!("sparse-{index}"), "{ expected: 10 }")
            .config("{ update: delta }");
        let job = server.deploy(&manifest, &initial);
        let updates = encoded(shapes, 10, |_| Coding::Sparse);
        push_all(&job, &updates);
        mean(&updates)
            .added_to(&initial)
            .assert_near(&job.result(1), DELTA);
    }
    server.finish();
}

fn clients_of_one_round_may_differ_in_encoding(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let initial = Model::random(LARGE, 1);
    for accumulate in ["f32", "f64", "exact"] {
        let manifest = Manifest::fedavg(&format!("mixed-{accumulate}"), "{ expected: 24 }")
            .config("{ update: delta }")
            .with(&format!("accumulate: {accumulate}"));
        let job = server.deploy(&manifest, &initial);
        let codings = [&DENSE[..], &[Coding::Sparse]].concat();
        let updates = encoded(LARGE, 24, |client| codings[client % codings.len()]);
        push_all(&job, &updates);
        mean(&updates)
            .added_to(&initial)
            .assert_near(&job.result(1), 1e-5);
        assert_eq!(job.completed(1).contributors, 24);
    }
    server.finish();
}

fn bytes_are_counted_by_encoding(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("counted", "{ expected: 3 }");
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.0));
    let updates = encoded(LARGE, 3, |client| {
        [Coding::F32, Coding::F16, Coding::I8][client]
    });
    push_all(&job, &updates);
    for ((update, _), encoding) in updates.iter().zip(["f32", "f16", "i8"]) {
        let labels = [("fl_job", "counted"), ("encoding", encoding)];
        let counted = server.scrape().sum("tributary_update_bytes_total", &labels);
        assert_eq!(counted, update.file().len() as f64, "{encoding}");
    }
    let _ = job.result(1);
    server.finish();
}

/// A job of deltas, which takes every encoding, and an update.
fn strict(sidecar: Sidecar) -> (Server, Job, u32, Model) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("strict", "{ expected: 1 }").config("{ update: delta }");
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.0));
    let free = job.free_slots();
    (server, job, free, Model::random(LARGE, 3))
}

/// Nothing of what was refused is left, and the round goes on.
fn finish(server: Server, job: &Job, free: u32, update: &Model, refused: usize) {
    assert_eq!(job.round(1).rejected, refused as u64);
    job.until_free(free);
    job.push("good", 1, 1.0, update);
    assert_eq!(job.result(1), *update);
    server.finish();
}

fn wrong_encoded_updates_are_refused_by_name(sidecar: Sidecar) {
    let (server, job, free, update) = strict(sidecar);
    let of = |coding| Encoded::new(&update, coding);
    let f32_head = || {
        of(Coding::F32)
            .raw
            .into_iter()
            .find(|raw| raw.name == "head")
            .unwrap()
    };
    let mut no_block = of(Coding::Blocks(64));
    no_block.block = None;
    let mut other_block = of(Coding::Blocks(64));
    other_block.block = Some("65".into());
    let cases = [
        (
            of(Coding::F16).edited("head", |head| *head = f32_head()),
            "\"head\" makes this update f32",
        ),
        (
            of(Coding::I8).edited("head", |head| *head = f32_head()),
            "\"head\" is F32",
        ),
        (of(Coding::F16).without("head"), "\"head\" is missing"),
        (
            of(Coding::I8).without("head:scale"),
            "\"head:scale\" is missing",
        ),
        (of(Coding::I8).without("head"), "\"head\" is missing"),
        (no_block, "no \"block\""),
        (other_block, "the shape must be"),
        (
            of(Coding::Sparse).without("head:values"),
            "\"head:values\" is missing",
        ),
        (
            of(Coding::Sparse).without("head:indices"),
            "\"head:indices\" is missing",
        ),
        (
            of(Coding::Sparse).edited("head:values", |values| {
                values.bytes.truncate(40);
                values.shape = vec![10];
            }),
            "each index has one value",
        ),
        (
            of(Coding::Sparse).edited("head:values", |values| values.dtype = Dtype::I32),
            "must be F32",
        ),
    ];
    let refused = cases.len() + 1;
    for (number, (wrong, expected)) in cases.into_iter().enumerate() {
        let answer = job.put(&format!("wrong-{number}"), "?round=1", &wrong.file());
        let detail = answer.refused(422, "layout-mismatch").detail;
        assert!(detail.contains(expected), "{detail}\nlacks {expected}");
    }
    // More pairs than a slot has room for, in a body that is no longer than a body may be.
    let long = of(Coding::Sparse)
        .edited("embedding:values", |values| {
            values.bytes = vec![0; 103_000 * 4];
            values.shape = vec![103_000];
        })
        .edited("embedding:indices", |indices| {
            indices.bytes = (0..103_000_u32).flat_map(u32::to_le_bytes).collect();
            indices.shape = vec![103_000];
        });
    let detail = job
        .put("long", "?round=1", &long.file())
        .refused(413, "update-too-large")
        .detail;
    assert!(detail.contains("send it dense"), "{detail}");
    finish(server, &job, free, &update, refused);
}

fn wrong_numbers_in_encoded_updates_are_refused_by_place(sidecar: Sidecar) {
    let (server, job, free, update) = strict(sidecar);
    let of = |coding| Encoded::new(&update, coding);
    let index = |at: usize, index: u32| {
        of(Coding::Sparse).edited("embedding:indices", |raw| raw.set(at, index.to_le_bytes()))
    };
    let scale = |value: f32| {
        of(Coding::Blocks(64)).edited("embedding:scale", |raw| raw.set(70, value.to_le_bytes()))
    };
    let cases = [
        (
            index(9, 24),
            "bad-index",
            "embedding:indices[9] is 24; it follows 24",
        ),
        (
            index(9, 23),
            "bad-index",
            "embedding:indices[9] is 23; it follows 24",
        ),
        (
            index(9, 204_200),
            "bad-index",
            "embedding:indices[9] is 204200; the tensor has 204200 elements",
        ),
        (
            index(9, u32::MAX).edited("embedding:indices", |raw| raw.dtype = Dtype::I32),
            "bad-index",
            "embedding:indices[9] is -1",
        ),
        (scale(0.0), "bad-scale", "embedding:scale[70] is 0"),
        (scale(-1.0), "bad-scale", "embedding:scale[70] is -1"),
        (scale(f32::NAN), "bad-scale", "embedding:scale[70] is NaN"),
        (scale(f32::MAX), "bad-scale", "embedding:scale[70] is "),
        (
            of(Coding::F16).edited("head", |raw| raw.set_half(3 * 13 + 7, 0x7c00)),
            "non-finite",
            "head[3, 7] is inf",
        ),
        (
            of(Coding::Bf16).edited("head", |raw| raw.set_half(3 * 13 + 7, 0xff80)),
            "non-finite",
            "head[3, 7] is -inf",
        ),
        (
            of(Coding::Sparse).edited("head:values", |raw| raw.set(5, f32::NAN.to_le_bytes())),
            "non-finite",
            "head:values[5] is NaN",
        ),
    ];
    let refused = cases.len();
    for (number, (wrong, slug, expected)) in cases.into_iter().enumerate() {
        let answer = job.put(&format!("wrong-{number}"), "?round=1", &wrong.file());
        let detail = answer.refused(422, slug).detail;
        assert!(detail.contains(expected), "{detail}\nlacks {expected}");
    }
    finish(server, &job, free, &update, refused);
}

fn functions_refuse_what_they_do_not_fold(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let update = Model::random(SMALL, 3);
    // Whole models are never sparse: what is not named would count as 0.
    let fedavg = Manifest::fedavg("whole", "{ expected: 1 }");
    let foreign = Manifest::of(
        "mean",
        &place::function("mean"),
        "foreign",
        "{ expected: 1 }",
    );
    let cases = [
        (fedavg, Coding::Sparse, "sparse"),
        (foreign, Coding::I8, "i8"),
    ];
    for (manifest, coding, name) in cases {
        let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
        let answer = job.put("c", "?round=1", &Encoded::new(&update, coding).file());
        let detail = answer.refused(415, "unsupported-encoding").detail;
        for part in ["f32", name, job.name()] {
            assert!(detail.contains(part), "{detail} lacks {part}");
        }
        job.push("c", 1, 1.0, &update);
        assert_eq!(job.result(1), update);
    }
    server.finish();
}
