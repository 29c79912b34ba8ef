//! Nothing runs while nothing arrives.

use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::SMALL;
use tributary_tests::wait::until;
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars, process};

on_both_sidecars![
    nothing_runs_before_the_first_update,
    a_half_full_round_survives_scale_to_zero,
    one_idle_job_does_not_stop_another
];

fn read_in_place(server: &Server, job: &str) -> f64 {
    server
        .scrape()
        .sum("tributary_read_in_place_bytes_total", &[("fl_job", job)])
}

fn worker_starts(server: &Server) -> f64 {
    server.scrape().sum("tributary_worker_starts_total", &[])
}

fn workers_are_gone(server: &Server) {
    until("the last worker goes", || {
        let workers = server.scrape().sum("tributary_workers", &[]);
        workers == 0.0 && server.worker_pids().is_empty() && server.node_status().workers == 0
    });
}

fn nothing_runs_before_the_first_update(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("waiting", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    assert_eq!(server.worker_pids(), Vec::<u32>::new());
    assert_eq!(job.status().workers, 0);
    let threads = process::threads(server.pid());
    assert!(threads < 64, "{threads} threads");
    server.finish_idle();
}

fn a_half_full_round_survives_scale_to_zero(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("dozing", "{ expected: 6 }")
        .with("keepAlive: 200ms")
        .with("tree: { fanIn: 2 }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let mut free = None;
    for round in 1..=3 {
        let updates = updates(SMALL, 6, round);
        for (index, (update, weight)) in updates.iter().enumerate() {
            // The first of the round, one in its middle and the last find nobody awake.
            let asleep = matches!(index, 0 | 3 | 5);
            if asleep {
                workers_are_gone(&server);
            }
            let starts = worker_starts(&server);
            job.push(&format!("client-{index}"), round, *weight, update);
            if asleep {
                until("workers are back from zero", || {
                    worker_starts(&server) > starts
                });
            }
        }
        Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
        let status = job.completed(round);
        assert_eq!((status.contributors, status.rejected), (6, 0));
        workers_are_gone(&server);
        let free_now = job.free_slots();
        if round > 1 {
            assert_eq!(*free.get_or_insert(free_now), free_now, "no slot leaks");
        }
    }
    let scrape = server.scrape();
    assert_eq!(
        scrape.sum("tributary_worker_losses_total", &[]),
        0.0,
        "to go is not to be lost"
    );
    assert!(scrape.sum("tributary_worker_starts_total", &[]) >= 9.0);
    assert!(
        scrape.sum(
            "tributary_aggregator_activations_total",
            &[("start", "cold")]
        ) >= 9.0
    );
    server.finish();
}

fn one_idle_job_does_not_stop_another(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let brief = Manifest::fedavg("brief", "{ expected: 2 }").with("keepAlive: 100ms");
    let long = Manifest::fedavg("long", "{ expected: 2 }").with("keepAlive: 10m");
    let (brief, long) = (
        server.deploy(&brief, &Model::filled(SMALL, 0.0)),
        server.deploy(&long, &Model::filled(SMALL, 0.0)),
    );
    let (first, second) = (updates(SMALL, 2, 1), updates(SMALL, 2, 2));
    long.push_all(1, &first[..1]);
    brief.push_all(1, &second[..1]);
    until("the long job's update is folded", || {
        read_in_place(&server, "long") > 0.0
    });
    until("the brief job's update is folded", || {
        read_in_place(&server, "brief") > 0.0
    });
    until("the brief job is let go", || brief.status().workers == 0);
    assert!(long.status().workers > 0);
    assert!(!server.worker_pids().is_empty());
    long.push("client-1", 1, first[1].1, &first[1].0);
    brief.push("client-1", 1, second[1].1, &second[1].0);
    Mean::of(weighed(&first)).assert_near(&long.result(1), 1e-12);
    Mean::of(weighed(&second)).assert_near(&brief.result(1), 1e-12);
    server.finish();
}
