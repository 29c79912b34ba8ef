//! Files whose header lies.

use serde_json::json;
use tributary_tests::forged::Forged;
use tributary_tests::http::Answer;
use tributary_tests::tensors::SMALL;
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![lying_headers_are_refused, other_layouts_are_refused_by_name];

struct World {
    server: Server,
    job: Job,
    update: Model,
    free: u32,
}

impl World {
    fn start(sidecar: Sidecar) -> Self {
        let server = Server::start(sidecar);
        let job = server.deploy(
            &Manifest::fedavg("strict", "{ expected: 2 }"),
            &Model::filled(SMALL, 0.0),
        );
        let update = Model::random(SMALL, 1);
        job.push("honest-0", 1, 1.0, &update);
        // Once folded, its slot is free again: what is free now is free for good.
        let free = tributary_tests::wait::eventually("the first update is folded", || {
            let read = server.scrape().sum(
                "tributary_read_in_place_bytes_total",
                &[("fl_job", "strict")],
            );
            (read > 0.0).then(|| job.free_slots())
        });
        Self {
            server,
            job,
            update,
            free,
        }
    }

    fn put(&self, file: &Forged) -> Answer {
        self.job.put("liar", "?round=1", &file.file())
    }

    fn honest(&self) -> Forged {
        Forged::honest(&self.update)
    }

    /// The round goes on as if nothing had happened.
    fn finish(self, refused: u64) {
        self.job.until_free(self.free);
        assert_eq!(self.job.status().accepted, 1);
        assert_eq!(self.job.round(1).rejected, refused);
        // The liar itself may come to its senses.
        let _ = self.put(&self.honest()).expect(202);
        assert_eq!(self.job.result(1), self.update);
        assert_eq!(self.job.completed(1).contributors, 2);
        self.server.finish();
    }
}

fn lying_headers_are_refused(sidecar: Sidecar) {
    let world = World::start(sidecar);
    let honest = || world.honest();
    let tensor = |name: &'static str, field: &'static str, value: serde_json::Value| {
        honest().edited(|header| {
            header[name][field] = value;
        })
    };
    let sized = |header_bytes: u64| Forged {
        header_bytes: Some(header_bytes),
        ..honest()
    };
    let entry = r#""scale":{"dtype":"F32","shape":[],"data_offsets":[160,164]}"#;
    let open = honest().header.strip_suffix('}').unwrap().to_owned();

    let mut cases = vec![
        ("a header of no length", sized(0)),
        ("a header of one byte", sized(1)),
        ("a header beyond all bounds", sized(u64::MAX)),
        ("a header longer than the format allows", sized(100_000_001)),
        ("a header longer than this model needs", sized(1 << 20)),
        ("a header cut short", sized(20)),
        (
            "a header that reaches into the data",
            sized(honest().header.len() as u64 + 4),
        ),
        ("no JSON", honest().headed("GET / HTTP/1.1")),
        ("JSON of another kind", honest().headed("[1, 2, 3]")),
        ("nothing", honest().headed("{}")),
        ("bytes that are no text", honest().headed("{\"\u{0}\u{1}")),
        (
            "a name that comes twice",
            honest().headed(format!("{open},{entry}}}")),
        ),
        (
            "metadata that is no text",
            honest().edited(|header| {
                header.insert("__metadata__".into(), json!({ "round": 1 }));
            }),
        ),
        ("an unknown dtype", tensor("scale", "dtype", json!("F33"))),
        (
            "a dtype that is no text",
            tensor("scale", "dtype", json!(32)),
        ),
        (
            "a shape larger than its bytes",
            tensor("dense.bias", "shape", json!([6])),
        ),
        (
            "a shape smaller than its bytes",
            tensor("dense.bias", "shape", json!([4])),
        ),
        (
            "a negative shape",
            tensor("dense.bias", "shape", json!([-5])),
        ),
        (
            "a shape that overflows",
            tensor("dense.bias", "shape", json!([u64::MAX, u64::MAX, 5])),
        ),
        (
            "a shape that overflows to its size",
            tensor("dense.bias", "shape", json!([1_u64 << 62, 4, 5])),
        ),
        (
            "offsets the wrong way round",
            tensor("dense.bias", "data_offsets", json!([20, 0])),
        ),
        (
            "offsets beyond the data",
            tensor(
                "dense.bias",
                "data_offsets",
                json!([1_u64 << 40, (1_u64 << 40) + 20]),
            ),
        ),
        (
            "offsets that overlap",
            tensor("scale", "data_offsets", json!([0, 4])),
        ),
        (
            "offsets with a hole",
            honest().edited(|header| {
                header["scale"]["data_offsets"] = json!([164, 168]);
            }),
        ),
        (
            "a field too few",
            honest().edited(|header| {
                header["scale"].as_object_mut().unwrap().remove("shape");
            }),
        ),
    ];
    let mut short = honest();
    short.data.truncate(160);
    cases.push(("less data than the header says", short));
    let mut long = honest();
    long.data.extend([0; 4]);
    cases.push(("more data than the header says", long));

    let refused = cases.len() as u64;
    for (what, file) in cases {
        let answer = world.put(&file);
        // An empty header is no lie; it is another model's.
        let expected = if what == "nothing" {
            [400, 422]
        } else {
            [400, 400]
        };
        assert!(
            expected.contains(&answer.status),
            "{what}: {} {}",
            answer.status,
            answer.text()
        );
        let problem = answer.problem();
        assert!(problem.detail.len() < 1000, "{what}: {}", problem.detail);
    }
    world.finish(refused);
}

fn other_layouts_are_refused_by_name(sidecar: Sidecar) {
    let world = World::start(sidecar);
    let edited = |edit: &dyn Fn(&mut Model)| {
        let mut model = world.update.clone();
        edit(&mut model);
        Forged::honest(&model)
    };
    let cases = [
        (
            "scale",
            edited(&|model| {
                model.tensors.pop();
            }),
        ),
        (
            "extra",
            edited(&|model| {
                let mut tensor = model.tensors[0].clone();
                tensor.name = "extra".into();
                model.tensors.push(tensor);
            }),
        ),
        (
            "dense.weigth",
            edited(&|model| model.tensor("dense.weight").name = "dense.weigth".into()),
        ),
        (
            "dense.weight",
            edited(&|model| model.tensor("dense.weight").shape = vec![5, 7]),
        ),
        (
            "dense.bias",
            edited(&|model| model.tensor("dense.bias").shape = vec![5, 1]),
        ),
        (
            "dense.bias",
            world
                .honest()
                .edited(|header| header["dense.bias"]["dtype"] = json!("I32")),
        ),
        (
            "dense.weight",
            world.honest().edited(|header| {
                header["dense.weight"] =
                    json!({ "dtype": "F16", "shape": [7, 10], "data_offsets": [20, 160] });
            }),
        ),
    ];
    let refused = cases.len() as u64;
    for (tensor, file) in cases {
        let problem = world.put(&file).refused(422, "layout-mismatch");
        assert!(
            problem.detail.contains(&format!("{tensor:?}")),
            "{}",
            problem.detail
        );
        assert!(
            problem.detail.contains("strict"),
            "it names the job: {}",
            problem.detail
        );
    }
    let misspelt = edited(&|model| model.tensor("dense.weight").name = "dense.weigth".into());
    let detail = world.put(&misspelt).problem().detail;
    assert!(detail.contains("did you mean \"dense.weight\""), "{detail}");
    world.finish(refused + 1);
}
