//! Workers are killed at any moment, and the result is the same.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tributary_tests::job::{updates, weighed};
use tributary_tests::random::Random;
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::wait::{eventually, until};
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, process};

on_both_sidecars![
    kills_in_mid_round_change_no_bit_of_an_exact_sum,
    kills_in_mid_round_lose_and_repeat_nothing_in_f64,
    a_worker_killed_between_rounds_is_replaced,
    a_worker_that_is_stopped_and_killed_is_replaced,
];

const CLIENTS: u64 = 32;
pub(super) const ROUNDS: u64 = 3;
/// Losses in quick succession are answered by growing pauses: more kills would test patience only.
const KILLS: usize = 8;

/// Kills random workers at random moments until told to stop; gives how many.
pub(super) fn rampage(server: u32, seed: u64, done: &AtomicBool) -> u32 {
    let (mut random, mut killed) = (Random::new(seed), BTreeSet::new());
    while !done.load(Ordering::Relaxed) && killed.len() < KILLS {
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        let workers = process::workers_of(server);
        if !workers.is_empty() {
            let worker = workers[random.below(workers.len() as u64) as usize];
            // One that is dying already may be found again.
            if process::kill(worker) {
                killed.insert(worker);
            }
        }
    }
    killed.len() as u32
}

/// Runs the rounds while workers are killed; gives the models.
fn disturbed(server: &Server, job: &Job, seed: u64) -> (Vec<Model>, u32) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| rampage(server.pid(), seed, &done));
        let models = (1..=ROUNDS).map(|round| round_of(job, round)).collect();
        done.store(true, Ordering::Relaxed);
        (models, killer.join().unwrap())
    })
}

pub(super) fn round_of(job: &Job, round: u64) -> Model {
    let updates = updates(LARGE, CLIENTS, round);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let updates = &updates;
            scope.spawn(move || {
                for (index, (update, weight)) in updates
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| index % 4 == part)
                {
                    job.push(&format!("client-{index}"), round, *weight, update);
                }
            });
        }
    });
    let model = job.result(round);
    let status = job.completed(round);
    assert_eq!(
        (status.accepted, status.contributors),
        (CLIENTS as u32, CLIENTS as u32)
    );
    // Updates may have been told to come again while all workers were away.
    assert_eq!(status.error, None);
    model
}

pub(super) fn manifest(name: &str, config: &str) -> Manifest {
    Manifest::fedavg(name, &format!("{{ expected: {CLIENTS} }}"))
        .config(config)
        .with("tree: { fanIn: 4 }")
}

fn kills_in_mid_round_change_no_bit_of_an_exact_sum(sidecar: Sidecar) {
    let calm: Vec<Model> = {
        let server = Server::start(sidecar);
        let job = server.deploy(
            &manifest("exact", "{ accumulate: exact }"),
            &Model::filled(LARGE, 0.0),
        );
        let models = (1..=ROUNDS).map(|round| round_of(&job, round)).collect();
        server.finish();
        models
    };
    let mut killed = 0;
    for seed in 0..3 {
        let server = Server::start(sidecar);
        let job = server.deploy(
            &manifest("exact", "{ accumulate: exact }"),
            &Model::filled(LARGE, 0.0),
        );
        let free = job.free_slots();
        let (models, kills) = disturbed(&server, &job, seed);
        for (disturbed, calm) in models.iter().zip(&calm) {
            assert!(
                disturbed.bits() == calm.bits(),
                "a kill has changed the model (seed {seed})"
            );
        }
        job.until_free(free - 1);
        until("every kill is counted", || {
            server.scrape().sum("tributary_worker_losses_total", &[]) >= f64::from(kills)
        });
        killed += kills;
        server.finish();
    }
    assert!(
        killed >= 6,
        "only {killed} workers could be killed: the rounds are too short"
    );
}

fn kills_in_mid_round_lose_and_repeat_nothing_in_f64(sidecar: Sidecar) {
    for seed in 10..12 {
        let server = Server::start(sidecar);
        let job = server.deploy(
            &manifest("double", "{ accumulate: f64 }"),
            &Model::filled(LARGE, 0.0),
        );
        let (models, _) = disturbed(&server, &job, seed);
        for (round, model) in (1..).zip(&models) {
            Mean::of(weighed(&updates(LARGE, CLIENTS, round))).assert_near(model, 1e-12);
        }
        server.finish();
    }
}

fn a_worker_killed_between_rounds_is_replaced(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &Manifest::fedavg("quiet", "{ expected: 4 }"),
        &Model::filled(SMALL, 0.0),
    );
    for round in 1..=4 {
        let updates = updates(SMALL, 4, round);
        job.push_all(round, &updates);
        Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
        let workers = server.worker_pids();
        assert!(!workers.is_empty());
        for worker in workers {
            process::kill(worker);
        }
    }
    until("all losses are seen", || {
        server.scrape().sum("tributary_worker_losses_total", &[]) >= 4.0
    });
    server.finish();
}

/// A worker that hangs, not one that dies: it holds its inputs until the operator ends it.
fn a_worker_that_is_stopped_and_killed_is_replaced(sidecar: Sidecar) {
    let server = Server::with_workers(sidecar, 1);
    let job = server.deploy(
        &Manifest::fedavg("hung", "{ expected: 6 }"),
        &Model::filled(LARGE, 0.0),
    );
    let updates = updates(LARGE, 6, 1);
    let push = |index: usize| {
        job.push(
            &format!("client-{index}"),
            1,
            updates[index].1,
            &updates[index].0,
        )
    };
    push(0);
    let worker = eventually("a worker", || server.worker_pids().first().copied());
    process::signal(worker, rustix::process::Signal::STOP);
    for index in 1..6 {
        push(index);
    }
    assert_eq!(job.status().accepted, 6);
    process::kill(worker);
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    server.finish();
}
