//! A thousand rounds, and nothing grows.

use std::collections::BTreeMap;
use std::time::Duration;

use tributary_tests::connection::Connection;
use tributary_tests::tensors::SMALL;
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, process};

on_both_sidecars![a_thousand_rounds_leave_nothing_behind];

const CLIENTS: u64 = 4;
const WARM_UP: u64 = 100;
const ROUNDS: u64 = 1_000;
/// The rounds' history fills up, allocators settle: far less than any leak per round would make.
const SERVER_SLACK_BYTES: u64 = 6 << 20;
const WORKER_SLACK_BYTES: u64 = 2 << 20;

/// Everything that must not grow.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    free_slots: u32,
    segments: Vec<String>,
    workers: Vec<u32>,
    server_descriptors: BTreeMap<String, usize>,
    worker_descriptors: Vec<BTreeMap<String, usize>>,
    worker_mappings: Vec<usize>,
    routes: f64,
    ports: f64,
    series: usize,
}

impl Held {
    fn now(server: &Server, job: &Job) -> Self {
        let workers = server.worker_pids();
        let scrape = server.scrape();
        Self {
            free_slots: job.free_slots(),
            segments: server.segments(),
            server_descriptors: settled(server.pid()),
            worker_descriptors: workers
                .iter()
                .map(|worker| process::descriptors(*worker))
                .collect(),
            worker_mappings: workers
                .iter()
                .map(|worker| process::mappings(*worker))
                .collect(),
            workers,
            routes: scrape.sum("tributary_sidecar_routes", &[]),
            ports: scrape.sum("tributary_sidecar_ports", &[]),
            series: server.client().get("/metrics").text().lines().count(),
        }
    }
}

/// The fewest of several looks: the connection of the request before may not be closed yet.
fn settled(process: u32) -> BTreeMap<String, usize> {
    let looks = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        process::descriptors(process)
    });
    let fewest = looks.min_by_key(|found| found.values().sum::<usize>());
    fewest.unwrap_or_default()
}

fn resident(server: &Server) -> (u64, Vec<u64>) {
    let workers = server
        .worker_pids()
        .into_iter()
        .map(process::resident_bytes)
        .collect();
    (process::resident_bytes(server.pid()), workers)
}

fn run(connection: &mut Connection, job: &Job, rounds: std::ops::RangeInclusive<u64>) {
    for round in rounds {
        for client in 0..CLIENTS {
            let path = job.update_path(&format!("client-{client}"), &format!("?round={round}"));
            let update = Model::filled(SMALL, (round * CLIENTS + client) as f32);
            let _ = connection.put(&path, &update.file()).expect(202);
        }
        let answer = connection
            .get(&format!(
                "/v1/jobs/{}/model?after={round}&wait=60s",
                job.name()
            ))
            .expect(200);
        let (version, model) = tributary_tests::job::read(&answer);
        let mean = (round * CLIENTS) as f32 + (CLIENTS - 1) as f32 / 2.0;
        assert_eq!((version, model), (round + 1, Model::filled(SMALL, mean)));
    }
}

fn a_thousand_rounds_leave_nothing_behind(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("endless", &format!("{{ expected: {CLIENTS} }}"))
        .with("tree: { fanIn: 2 }")
        .with("keepAlive: 10m");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let mut connection = Connection::open(server.address());
    run(&mut connection, &job, 1..=WARM_UP);
    let (held, (server_bytes, worker_bytes)) = (Held::now(&server, &job), resident(&server));
    assert!(!held.workers.is_empty() && server_bytes > 0);

    run(&mut connection, &job, WARM_UP + 1..=ROUNDS);
    let (held_after, (server_after, worker_after)) = (Held::now(&server, &job), resident(&server));
    assert_eq!(held_after, held);
    assert!(
        server_after <= server_bytes + SERVER_SLACK_BYTES,
        "the server's memory grew from {server_bytes} to {server_after} bytes"
    );
    for (before, after) in worker_bytes.iter().zip(&worker_after) {
        assert!(
            *after <= before + WORKER_SLACK_BYTES,
            "a worker's memory grew from {before} to {after} bytes"
        );
    }
    assert_eq!(
        server
            .scrape()
            .sum("tributary_rounds_total", &[("outcome", "completed")]),
        ROUNDS as f64
    );
    server.finish();
}
