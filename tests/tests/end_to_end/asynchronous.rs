//! Rounds that take updates trained from older models, and close by count, by window or with each update.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tributary_api::status::{RoundPhase, UpdateReceipt};
use tributary_tests::connection::Connection;
use tributary_tests::job::{read, updates};
use tributary_tests::local::{self, LocalClient};
use tributary_tests::reference::{Mean, exact};
use tributary_tests::tensors::{LARGE, SMALL};
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, process};

use super::workers::rampage;

on_both_sidecars![
    weights_fall_with_staleness_bit_for_bit,
    every_weight_has_its_formula,
    late_updates_of_an_over_provisioned_round_are_carried,
    a_window_closes_with_what_is_in,
    each_update_makes_a_model,
    updates_wait_while_a_round_is_closing,
    who_waits_too_long_is_told_to_come_again,
    a_repeat_is_known_whatever_round_took_it,
    after_a_restart_only_new_updates_are_taken,
    kills_of_workers_lose_and_double_nothing,
];

fn start(sidecar: Sidecar, round: &str) -> (Server, Job) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("async", round).with("accumulate: exact");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    (server, job)
}

/// Sends an update that must be taken; gives the answer.
#[track_caller]
fn push(job: &Job, client: &str, trained: u64, (update, weight): &(Model, f64)) -> UpdateReceipt {
    let query = format!("?round={trained}&weight={weight}");
    job.put_until_taken(client, &query, &update.file()).json()
}

/// The round that took an update, and its staleness.
fn taken(receipt: &UpdateReceipt) -> (u64, u64) {
    (receipt.round, receipt.staleness)
}

/// FedBuff of K4: the model plus the mean of differences, weighed by (1 + t)^-1. Weights are multiples of four, so
/// that they stay whole numbers, and the model is known to the bit.
fn weights_fall_with_staleness_bit_for_bit(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let round = "{ count: 4, staleness: { max: 3, weight: polynomial, a: 1 } }";
    let manifest = Manifest::fedavg("fedbuff", round).config("{ update: delta }");
    let mut model = Model::random(SMALL, 77);
    let job = server.deploy(&manifest.with("accumulate: exact"), &model);
    let of_round = |round: u64| match round {
        1 => [0, 0, 0, 0],
        2 | 3 => [0, 1, 1, 0],
        _ => [0, 1, 3, 3],
    };
    for round in 1..=6_u64 {
        let staleness = of_round(round);
        let sent: Vec<_> = (0..4)
            .map(|n| (Model::random(SMALL, 10 * round + n), 4.0 * (n + 1) as f64))
            .collect();
        for (client, (update, age)) in sent.iter().zip(staleness).enumerate() {
            // One client is in a round twice, with what it has trained from different models.
            let busy = round > 1 && client % 2 == 0;
            let name = if busy {
                format!("{round}-busy")
            } else {
                format!("{round}-{client}")
            };
            let receipt = push(&job, &name, round - age, update);
            assert_eq!(taken(&receipt), (round, age));
        }
        let weighted: Vec<_> = sent
            .iter()
            .zip(staleness)
            .map(|((update, weight), age)| (update.clone(), weight / (1 + age) as f64))
            .collect();
        let mean = exact(&weighted);
        for (tensor, mean) in model.tensors.iter_mut().zip(&mean.tensors) {
            for (value, mean) in tensor.values.iter_mut().zip(&mean.values) {
                *value += mean;
            }
        }
        assert!(job.result(round).bits() == model.bits(), "round {round}");
        let told = job.completed(round).staleness.unwrap();
        let sum: u64 = staleness.iter().sum();
        assert_eq!(
            (told.mean, told.max),
            (sum as f64 / 4.0, *staleness.iter().max().unwrap())
        );
    }
    let scrape = server.scrape();
    let family = |suffix: &str, labels: &[(&str, &str)]| {
        scrape.sum(
            &format!("tributary_update_staleness_versions_{suffix}"),
            labels,
        )
    };
    let of_job = ("fl_job", "fedbuff");
    assert_eq!(family("count", &[of_job]), 24.0);
    assert_eq!(family("sum", &[of_job]), f64::from(2 * 2 + 3 * 7));
    assert_eq!(
        family("bucket", &[of_job, ("le", "0")]),
        4.0 + 2.0 * 2.0 + 3.0
    );
    server.finish();
}

fn every_weight_has_its_formula(sidecar: Sidecar) {
    type Formula = fn(f64) -> f64;
    let weights: [(&str, &str, Formula); 4] = [
        ("constant", "weight: constant", |_| 1.0),
        ("fedbuff", "weight: polynomial", |t| 1.0 / (1.0 + t).sqrt()),
        ("polynomial", "weight: polynomial, a: 2.5", |t| {
            (1.0 + t).powf(-2.5)
        }),
        ("hinge", "weight: hinge, a: 10, b: 1", |t| {
            if t <= 1.0 {
                1.0
            } else {
                1.0 / (10.0 * (t - 1.0) + 1.0)
            }
        }),
    ];
    let server = Server::start(sidecar);
    for (name, weight, formula) in weights {
        let round = format!("{{ count: 5, staleness: {{ max: 4, {weight} }} }}");
        let job = server.deploy(&Manifest::fedavg(name, &round), &Model::filled(SMALL, 0.0));
        for round in 1..=4 {
            job.push_all(round, &updates(SMALL, 5, round));
            let _ = job.result(round);
        }
        let last = updates(SMALL, 5, 5);
        for (age, update) in last.iter().enumerate() {
            let receipt = push(&job, "slow", 5 - age as u64, update);
            assert_eq!(taken(&receipt), (5, age as u64));
        }
        let weighed = last
            .iter()
            .zip(0..5)
            .map(|((update, weight), age)| (update, weight * formula(f64::from(age))));
        Mean::of(weighed).assert_near(&job.result(5), 1e-12);
    }
    server.finish();
}

/// Five train, three are enough; the two others count in the next round.
fn late_updates_of_an_over_provisioned_round_are_carried(sidecar: Sidecar) {
    let (server, job) = start(sidecar, "{ expected: 5, count: 3, staleness: { max: 1 } }");
    let sent = updates(SMALL, 6, 1);
    for (client, update) in sent.iter().enumerate().take(5) {
        let receipt = push(&job, &format!("client-{client}"), 1, update);
        let late = u64::from(client >= 3);
        assert_eq!(taken(&receipt), (1 + late, late));
    }
    assert!(job.result(1).bits() == exact(&sent[..3]).bits());
    let status = job.completed(1);
    assert_eq!(
        (status.expected, status.contributors, status.late),
        (5, 3, 0)
    );
    assert_eq!(taken(&push(&job, "client-0", 2, &sent[5])), (2, 0));
    assert!(job.result(2).bits() == exact(&sent[3..]).bits());
    server.finish();
}

fn a_window_closes_with_what_is_in(sidecar: Sidecar) {
    const WINDOW: Duration = Duration::from_millis(500);
    let (server, job) = start(sidecar, "{ window: 500ms, staleness: { max: 2 } }");
    // A window without an update has no end.
    std::thread::sleep(WINDOW * 2);
    assert_eq!(job.round(1).phase, RoundPhase::Open);
    for round in 1..=3_u64 {
        let sent = updates(SMALL, 1, round);
        assert_eq!(taken(&push(&job, "client", round, &sent[0])), (round, 0));
        assert!(job.result(round).bits() == exact(&sent).bits());
        let status = job.completed(round);
        let open = status
            .closed_at
            .unwrap()
            .duration_since(status.opened_at.unwrap());
        // The one is the wall's clock, the other is not.
        assert!(open.unsigned_abs() >= WINDOW / 2, "{status:?}");
    }
    server.finish();
}

fn each_update_makes_a_model(sidecar: Sidecar) {
    let (server, job) = start(sidecar, "{ each: true, staleness: { max: 2 } }");
    let sent = updates(SMALL, 4, 1);
    for (client, update) in sent.iter().enumerate().take(3) {
        let age = client as u64;
        let receipt = push(&job, &format!("client-{client}"), 1, update);
        assert_eq!(taken(&receipt), (1 + age, age));
        assert!(job.result(1 + age).bits() == exact(&sent[client..=client]).bits());
    }
    let answer = job.put("client-3", "?round=1", &sent[3].0.file());
    let problem = answer.refused(409, "stale-update");
    assert!(
        problem.detail.contains("3 versions later, and at most 2"),
        "{}",
        problem.detail
    );
    let told = ["round", "staleness", "max"].map(|member| problem.extensions[member].as_u64());
    assert_eq!(told, [Some(4), Some(3), Some(2)]);
    let _ = job
        .put("client-3", "?round=5", &sent[3].0.file())
        .refused(409, "wrong-round");
    assert_eq!(job.round(1).late, 1);
    server.finish();
}

/// A round whose workers do not move, so that it stays closing. Gives its updates.
fn stuck(server: &Server, job: &Job, round: u64) -> Vec<(Model, f64)> {
    let workers = server.worker_pids();
    assert!(!workers.is_empty());
    for worker in workers {
        assert!(process::signal(worker, Signal::STOP));
    }
    let sent = updates(SMALL, 2, round);
    job.push_all(round, &sent);
    assert_eq!(job.round(round).phase, RoundPhase::Closing);
    sent
}

fn go_on(server: &Server) {
    for worker in server.worker_pids() {
        assert!(process::signal(worker, Signal::CONT));
    }
}

fn updates_wait_while_a_round_is_closing(sidecar: Sidecar) {
    let (server, job) = start(sidecar, "{ count: 2, staleness: { max: 1 } }");
    job.push_all(1, &updates(SMALL, 2, 1));
    let _ = job.result(1);
    // A local client has its slot before.
    let late = updates(SMALL, 2, 9);
    let mut near = LocalClient::open(&job);
    let lease = near.lease("near", 2, late[1].1);
    local::write(&job, &lease, &late[1].0);
    let sent = stuck(&server, &job, 2);

    let mut far = Connection::open(server.address());
    let body = late[0].0.file();
    let length = format!("Content-Length: {}", body.len());
    let query = |weight| format!("?round=2&weight={weight}");
    far.send_head(&job.update_path("far", &query(late[0].1)), &[&length]);
    far.send(&body);
    let ticket = format!("{}&slot={}", query(late[1].1), lease.ticket);
    near.connection
        .send_head(&job.update_path("near", &ticket), &["Content-Length: 0"]);
    let answered = [&mut far, &mut near.connection]
        .map(|connection| connection.is_silent_for(Duration::from_millis(300)));
    assert_eq!(answered, [true, true], "they wait");
    go_on(&server);
    for connection in [&mut far, &mut near.connection] {
        let receipt: UpdateReceipt = connection.answer().expect(202).json();
        assert_eq!(taken(&receipt), (3, 1));
    }
    let model = job
        .client()
        .get("/v1/jobs/async/model?after=3&wait=60s")
        .expect(200);
    assert!(read(&model).1.bits() == exact(&late).bits());
    assert_eq!(job.completed(2).contributors, sent.len() as u32);
    server.finish();
}

fn who_waits_too_long_is_told_to_come_again(sidecar: Sidecar) {
    let (server, job) = start(sidecar, "{ count: 2, staleness: { max: 1 } }");
    job.push_all(1, &updates(SMALL, 2, 1));
    let _ = job.result(1);
    let sent = stuck(&server, &job, 2);
    let (late, weight) = &updates(SMALL, 1, 9)[0];
    let query = format!("?round=2&weight={weight}");
    let answer = job.put("late", &query, &late.file());
    assert_eq!(answer.header("retry-after"), Some("1"));
    let problem = answer.refused(409, "round-closing");
    assert_eq!(problem.extensions["round"], 2);
    go_on(&server);
    assert!(job.result(2).bits() == exact(&sent).bits());
    assert_eq!(
        taken(&push(&job, "late", 2, &(late.clone(), *weight))),
        (3, 1)
    );
    server.finish();
}

fn a_repeat_is_known_whatever_round_took_it(sidecar: Sidecar) {
    let (server, job) = start(sidecar, "{ count: 2, staleness: { max: 2 } }");
    let sent = updates(SMALL, 3, 1);
    let again = |client: &str, update: &(Model, f64)| {
        let query = format!("?round=1&weight={}", update.1);
        job.put(client, &query, &update.0.file())
    };
    let fill = |round: u64, first: u64| {
        for client in first..2 {
            let update = (Model::random(SMALL, 100 * round + client), 1.0);
            assert_eq!(
                taken(&push(&job, &format!("filler-{client}"), round, &update)),
                (round, 0)
            );
        }
        let _ = job.result(round);
    };
    job.push_all(1, &sent[..2]);
    let _ = job.result(1);
    assert_eq!(taken(&push(&job, "late", 1, &sent[2])), (2, 1));
    fill(2, 1);
    for round in 3..=4 {
        // The rounds that took them are over: the last of them in which the book is needed is two rounds on.
        let known: UpdateReceipt = again("late", &sent[2]).expect(200).json();
        assert_eq!(taken(&known), (2, 1), "in round {round}");
        if round == 3 {
            let known: UpdateReceipt = again("client-0", &sent[0]).expect(200).json();
            assert_eq!(taken(&known), (1, 0));
            let mut near = LocalClient::open(&job);
            let other = near.send("client-0", 1, sent[0].1, &sent[2].0);
            let _ = other.refused(409, "other-bytes");
        }
        let _ = again("late", &sent[0]).refused(409, "other-bytes");
        assert_eq!(job.status().accepted, 0, "nothing of it counts");
        fill(round, 0);
    }
    let _ = again("late", &sent[2]).refused(409, "stale-update");
    server.finish();
}

/// Who contributed to the rounds before the start is not known any more.
fn after_a_restart_only_new_updates_are_taken(sidecar: Sidecar) {
    let (mut server, job) = start(sidecar, "{ count: 1, staleness: { max: 5 } }");
    let sent = updates(SMALL, 3, 1);
    for (client, update) in sent.iter().enumerate().take(2) {
        let _ = push(&job, &format!("client-{client}"), 1, update);
        let _ = job.result(1 + client as u64);
    }
    server.restart();
    let job = server.job("async");
    let query = format!("?round=1&weight={}", sent[0].1);
    let problem = job
        .put("client-0", &query, &sent[0].0.file())
        .refused(409, "stale-update");
    assert!(
        problem.detail.contains("might count twice"),
        "{}",
        problem.detail
    );
    assert_eq!(taken(&push(&job, "client-2", 3, &sent[2])), (3, 0));
    let _ = job.result(3);
    assert_eq!(taken(&push(&job, "client-0", 3, &sent[0])), (4, 1));
    server.finish();
}

const CLIENTS: u64 = 6;
const ROUNDS: u64 = 8;
/// Fewer than there are clients, so that each round leaves some to the next.
const COUNT: usize = 4;

/// What clients and their observer have seen.
#[derive(Default)]
struct Seen {
    /// Updates with the weights that they count with, by the round that took them.
    taken: BTreeMap<u64, Vec<(Model, f64)>>,
    /// Models by version.
    models: BTreeMap<u64, Model>,
}

/// Trains from the newest model again and again, until the job is completed. Weights are even, so that half of one is
/// whole.
fn train(job: &Job, client: u64, seen: &Mutex<Seen>) {
    let mut version = 0;
    loop {
        let path = format!("/v1/jobs/{}/model?after={version}&wait=60s", job.name());
        let (newest, model) = read(&job.client().get(&path).expect(200));
        version = newest;
        seen.lock().unwrap().models.insert(version, model);
        if version > ROUNDS {
            return;
        }
        let update = Model::random(LARGE, 1000 * client + version);
        let weight = 2.0 * (client + 1) as f64;
        let query = format!("?round={version}&weight={weight}");
        let answer = loop {
            let answer = job.put(&format!("client-{client}"), &query, &update.file());
            match (answer.status, answer.header("retry-after")) {
                (202, _) | (409, None) => break answer,
                (429 | 409, Some(_)) => std::thread::sleep(Duration::from_millis(20)),
                _ => panic!("{}: {}", answer.status, answer.text()),
            }
        };
        if answer.status == 409 {
            assert!(matches!(
                answer.problem().slug(),
                "stale-update" | "job-completed"
            ));
            continue;
        }
        let receipt: UpdateReceipt = answer.json();
        let weight = weight / (1 + receipt.staleness) as f64;
        let mut seen = seen.lock().unwrap();
        seen.taken
            .entry(receipt.round)
            .or_default()
            .push((update, weight));
    }
}

fn kills_of_workers_lose_and_double_nothing(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let round = format!("{{ count: {COUNT}, staleness: {{ max: 1, weight: polynomial, a: 1 }} }}");
    let manifest = Manifest::fedavg("async", &round)
        .with("accumulate: exact")
        .with(&format!("rounds: {ROUNDS}"));
    let job = server.deploy(&manifest, &Model::filled(LARGE, 0.0));
    let (seen, done) = (Mutex::new(Seen::default()), AtomicBool::new(false));
    let killed = std::thread::scope(|scope| {
        let killer = scope.spawn(|| rampage(server.pid(), 7, &done));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (job, seen) = (&job, &seen);
                scope.spawn(move || train(job, client, seen))
            })
            .collect();
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        done.store(true, Ordering::Relaxed);
        killer.join().unwrap()
    });
    let Seen { taken, models } = seen.into_inner().unwrap();
    let mut late = 0.0;
    for round in 1..=ROUNDS {
        let status = job.completed(round);
        assert_eq!(status.contributors as usize, COUNT, "round {round}");
        assert_eq!(taken[&round].len(), COUNT, "round {round}");
        late += status.staleness.unwrap().mean;
        if let Some(model) = models.get(&(round + 1)) {
            assert!(
                model.bits() == exact(&taken[&round]).bits(),
                "round {round}"
            );
        }
    }
    assert!(late > 0.0, "updates were carried");
    assert!(
        models.contains_key(&(ROUNDS + 1)) && killed > 0,
        "{killed} workers were killed"
    );
    server.finish();
}
