//! The tree: three levels, fed by descriptors that the sidecar routes.

use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::scrape::Scrape;
use tributary_tests::tensors::SMALL;
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars};

on_both_sidecars![
    three_levels_take_part,
    what_is_read_in_place_and_what_is_copied_is_told
];

const LEVELS: [&str; 3] = ["leaf", "middle", "top"];

fn descriptors(scrape: &Scrape) -> [f64; 3] {
    LEVELS.map(|level| {
        scrape.sum(
            "tributary_sidecar_descriptors_total",
            &[("fl_job", "levels"), ("level", level)],
        )
    })
}

fn three_levels_take_part(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("levels", "{ expected: 20 }").with("tree: { fanIn: 2 }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    // The first descriptor to an aggregator misses its route and is delivered by the agent; once all
    // aggregators have their places, the sidecar routes everything.
    let mut routed = false;
    for round in 1..=10 {
        let before = descriptors(&server.scrape());
        let updates = updates(SMALL, 20, round);
        job.push_all(round, &updates);
        Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
        let after = descriptors(&server.scrape());

        let aggregators = job.completed(round).aggregators;
        assert_eq!(
            (aggregators.leaf, aggregators.middle, aggregators.top),
            (10, 5, 1)
        );
        let new = [0, 1, 2].map(|level| after[level] - before[level]);
        // 20 updates, 10 leaves' partials, 5 middles' partials; closes come on top.
        routed |= new[0] >= 20.0 && new[1] >= 10.0 && new[2] >= 5.0;
    }
    assert!(routed, "no round was routed by the sidecar alone");

    let scrape = server.scrape();
    for level in LEVELS {
        let labels = [("fl_job", "levels"), ("level", level)];
        assert!(
            scrape.sum("tributary_aggregation_step_seconds_count", &labels) >= 10.0,
            "steps of {level}"
        );
        assert!(
            scrape.sum(
                "tributary_aggregator_activations_total",
                &[("level", level)]
            ) >= 1.0,
            "activations of {level}"
        );
    }
    assert!(
        scrape.sum("tributary_sidecar_misses_total", &[]) >= 16.0,
        "every aggregator was activated by a miss"
    );
    for kind in ["cold", "warm"] {
        assert!(
            scrape.sum("tributary_activation_seconds_count", &[("kind", kind)]) >= 1.0,
            "{kind} activations"
        );
    }
    assert!(scrape.sum("tributary_sidecar_doorbells_total", &[]) > 0.0);
    assert!(scrape.sum("tributary_sidecar_hop_seconds_count", &[]) > 0.0);
    server.finish();
}

fn what_is_read_in_place_and_what_is_copied_is_told(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("counted", "{ expected: 8 }")
        .config("{ accumulate: f64 }")
        .with("tree: { fanIn: 2 }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let updates = updates(SMALL, 8, 1);
    job.push_all(1, &updates);
    let _ = job.result(1);

    let status = job.completed(1);
    let sent: usize = updates.iter().map(|(update, _)| update.file().len()).sum();
    assert_eq!(
        status.bytes_copied, sent as u64,
        "one copy of every byte, the kernel's own"
    );
    // Eight updates of f32; four leaves' and two middles' partials, and the top's, of f64.
    let (update, partial) = (41 * 4, 41 * 8);
    assert_eq!(
        status.bytes_read_in_place,
        8 * update + (4 + 2 + 1) * partial
    );
    let scrape = server.scrape();
    assert_eq!(
        scrape.sum(
            "tributary_update_copied_bytes_total",
            &[("fl_job", "counted")]
        ),
        status.bytes_copied as f64
    );
    assert_eq!(
        scrape.sum(
            "tributary_read_in_place_bytes_total",
            &[("fl_job", "counted")]
        ),
        status.bytes_read_in_place as f64
    );
    assert_eq!(
        scrape.sum(
            "tributary_updates_total",
            &[("fl_job", "counted"), ("outcome", "accepted")]
        ),
        8.0
    );
    server.finish();
}
