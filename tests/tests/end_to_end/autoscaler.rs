//! How many workers there are follows the work, and runs ahead of it where it is predictable.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tributary_planning::autoscale::{Decided, JobSeen, Line, Reason, Wanted, replay};
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::wait::until;
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars};

use crate::workers;

on_both_sidecars![
    workers_are_ready_before_a_predictable_rounds_first_update,
    without_keep_alive_workers_go_and_the_node_sleeps,
    kills_while_workers_come_and_go_change_no_bit,
    two_jobs_share_two_workers,
];

/// Decides often, and forgets soon.
const BRISK: &str = "
period_seconds: 0.2
stable_seconds: 2
panic_seconds: 1
scale_down_delay_seconds: 1
warm: { cold_start_cost_seconds: 1, let_go_seconds_min: 1 }
";

/// Holds nothing: workers come with the work, and go with it.
const NERVOUS: &str = "
past_weight: 0
period_seconds: 0.02
updates_per_worker: 1
stable_seconds: 0
panic_seconds: 0
scale_down_delay_seconds: 0
forecast_spread: 0
warm: { cold_start_cost_seconds: 0, let_go_seconds_min: 0 }
";

/// A job that wishes for two workers does so for as long as the test takes.
const GREEDY: &str = "
period_seconds: 0.1
updates_per_worker: 0.001
panic_threshold: 0.5
stable_seconds: 600
panic_seconds: 60
";

fn decided(server: &Server) -> Vec<Decided> {
    let lines = server.decisions().into_iter();
    let decided = lines.filter_map(|line| match line {
        Line::Decided(decided) => Some(decided),
        Line::Config(_) => None,
    });
    decided.collect()
}

/// What was seen of a job, and what was decided.
fn of_job(decided: &[Decided], job: &str) -> Vec<(JobSeen, Wanted)> {
    let of_one = decided.iter().filter_map(|decided| {
        let seen = decided
            .observations
            .jobs
            .iter()
            .find(|seen| seen.job == job)?;
        let wanted = decided.decision.wanted(job, &seen.node)?;
        Some((seen.clone(), *wanted))
    });
    of_one.collect()
}

/// Everything that the node has decided is decided again by the function alone.
fn replayed(server: &Server) {
    let lines = server.decisions();
    assert!(matches!(lines.first(), Some(Line::Config(_))));
    let decisions = lines.len() - 1;
    assert!(decisions > 1);
    assert_eq!(replay(lines), Ok(decisions));
}

fn cold_activations(server: &Server) -> f64 {
    let cold = [("start", "cold")];
    server
        .scrape()
        .sum("tributary_aggregator_activations_total", &cold)
}

fn decisions(server: &Server, reason: Option<&str>) -> f64 {
    let labels = reason.map(|reason| ("reason", reason));
    server
        .scrape()
        .sum("tributary_autoscaler_decisions_total", labels.as_slice())
}

fn workers_are_ready_before_a_predictable_rounds_first_update(sidecar: Sidecar) {
    let server = Server::with_autoscaler(sidecar, 2, BRISK);
    let job = server.deploy(
        &Manifest::fedavg("punctual", "{ expected: 2 }"),
        &Model::filled(SMALL, 0.0),
    );
    // Clients train for two seconds, or for five: that is what is to be learnt.
    let first = updates(SMALL, 2, 1);
    for (pause, (client, (update, weight))) in [2, 3].into_iter().zip(first.iter().enumerate()) {
        std::thread::sleep(Duration::from_secs(pause));
        job.push(&format!("client-{client}"), 1, *weight, update);
    }
    Mean::of(weighed(&first)).assert_near(&job.result(1), 1e-12);
    let cold = cold_activations(&server);
    assert!(cold > 0.0, "the first round's workers were started by need");

    // The second round: nothing for a while, then a worker although no update has come.
    until("a worker waits for the second round's updates", || {
        let all = of_job(&decided(&server), "punctual");
        let second = all.iter().filter(|(seen, _)| {
            seen.round
                .is_some_and(|round| round.number == 2 && round.arrived == 0)
        });
        let mut after_nothing = second.skip_while(|(seen, _)| seen.ready + seen.starting > 0);
        after_nothing.any(|(seen, _)| seen.ready > 0)
    });
    assert!(decisions(&server, Some("planned")) > 0.0);
    let described = server
        .cli(&["describe", "job", "punctual"])
        .expect(0)
        .stdout;
    assert!(described.contains("1 of 1 wished, planned"), "{described}");
    let second = updates(SMALL, 2, 2);
    job.push_all(2, &second);
    Mean::of(weighed(&second)).assert_near(&job.result(2), 1e-12);
    assert_eq!(cold_activations(&server), cold, "everybody was there");
    replayed(&server);
    server.finish();
}

fn without_keep_alive_workers_go_and_the_node_sleeps(sidecar: Sidecar) {
    let server = Server::with_autoscaler(sidecar, 2, BRISK);
    let manifest = Manifest::fedavg("dozing", "{ expected: 6 }").with("tree: { fanIn: 2 }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let updates = updates(SMALL, 6, 1);
    // A round without workers in its middle.
    for half in [0..3, 3..6] {
        for client in half {
            let (update, weight) = &updates[client];
            job.push(&format!("client-{client}"), 1, *weight, update);
        }
        until("the last worker goes", || {
            server.worker_pids().is_empty() && server.node_status().workers == 0
        });
        assert_eq!(job.status().workers, 0);
    }
    Mean::of(weighed(&updates)).assert_near(&job.result(1), 1e-12);
    assert_eq!(job.completed(1).contributors, 6);
    let scrape = server.scrape();
    assert_eq!(scrape.sum("tributary_worker_losses_total", &[]), 0.0);
    assert_eq!(
        scrape.sum("tributary_autoscaler_workers", &[("kind", "wanted")]),
        0.0
    );
    until("nobody looks any more", || {
        let before = decisions(&server, None);
        std::thread::sleep(Duration::from_millis(600));
        decisions(&server, None) == before
    });
    replayed(&server);
    server.finish();
}

/// Ends what runs beside a test, however the test ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The same rounds on a server that nobody disturbs.
fn calm(sidecar: Sidecar) -> Vec<Model> {
    let server = Server::start(sidecar);
    let job = deploy_exact(&server);
    let rounds = 1..=workers::ROUNDS;
    let models = rounds.map(|round| workers::round_of(&job, round)).collect();
    server.finish();
    models
}

fn deploy_exact(server: &Server) -> Job {
    let manifest = workers::manifest("exact", "{ accumulate: exact }");
    server.deploy(&manifest, &Model::filled(LARGE, 0.0))
}

fn kills_while_workers_come_and_go_change_no_bit(sidecar: Sidecar) {
    let calm = calm(sidecar);
    let server = Server::with_autoscaler(sidecar, 2, NERVOUS);
    let job = deploy_exact(&server);
    let free = job.free_slots();
    // The first round without kills: workers come and go by decisions alone.
    let mut models = vec![workers::round_of(&job, 1)];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| workers::rampage(server.pid(), 42, &done));
        let _ends = Done(&done);
        for round in 2..=workers::ROUNDS {
            until("the workers go between rounds, or are killed", || {
                server.worker_pids().is_empty()
            });
            models.push(workers::round_of(&job, round));
        }
        done.store(true, Ordering::Relaxed);
        assert!(killer.join().unwrap() > 0);
    });
    for (model, calm) in models.iter().zip(&calm) {
        assert!(model.bits() == calm.bits(), "a model has changed");
    }
    job.until_free(free - 1);
    let all = of_job(&decided(&server), "exact");
    let fewer = |pair: &[(JobSeen, Wanted)]| pair[1].1.workers < pair[0].1.workers;
    assert!(all.windows(2).any(fewer), "workers were let go");
    replayed(&server);
    server.finish();
}

/// The jobs of which a worker has the memory.
fn mapped(worker: u32, jobs: [&str; 2]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{worker}/maps")).unwrap_or_default();
    let has = |job: &&&str| maps.contains(&format!("-{job}-"));
    jobs.iter().filter(has).count()
}

fn two_jobs_share_two_workers(sidecar: Sidecar) {
    let server = Server::with_autoscaler(sidecar, 2, GREEDY);
    let names = ["mine", "yours"];
    let deploy = |name| {
        let manifest = Manifest::fedavg(name, "{ expected: 8 }").with("tree: { fanIn: 2 }");
        server.deploy(&manifest, &Model::filled(LARGE, 0.0))
    };
    let jobs = names.map(deploy);
    let run = |round| {
        std::thread::scope(|scope| {
            for job in &jobs {
                scope.spawn(move || {
                    let updates = updates(LARGE, 8, round);
                    job.push_all(round, &updates);
                    Mean::of(weighed(&updates)).assert_near(&job.result(round), 1e-12);
                });
            }
        });
    };
    run(1);
    until("each has a worker of its own", || {
        let alone = server
            .worker_pids()
            .iter()
            .all(|worker| mapped(*worker, names) == 1);
        let one_each = jobs.iter().all(|job| job.status().workers == 1);
        alone && one_each && server.worker_pids().len() == 2
    });
    // And so it stays, under load.
    for round in 2..=4 {
        run(round);
    }
    for job in &jobs {
        let last = of_job(&decided(&server), job.name())
            .pop()
            .expect("a decision");
        let Wanted {
            workers,
            wished,
            reason,
            ..
        } = last.1;
        assert_eq!(
            (workers, wished, reason),
            (1, 2, Reason::NodeFull),
            "{}",
            job.name()
        );
        let status = job.status().autoscaler.expect("a decision");
        assert_eq!((status.wanted, status.wished), (1, 2));
    }
    replayed(&server);
    server.finish();
}
