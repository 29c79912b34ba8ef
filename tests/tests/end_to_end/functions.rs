//! Functions that misbehave harm nobody but whom they concern.

use std::path::Path;

use tributary_api::event::EventKind;
use tributary_api::problem::Problem;
use tributary_tests::feed::Feed;
use tributary_tests::job::{updates, weighed};
use tributary_tests::reference::Mean;
use tributary_tests::tensors::SMALL;
use tributary_tests::wait::eventually;
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, guest, on_both_sidecars, place};

on_both_sidecars![
    an_update_that_a_function_fails_on_is_left_out,
    a_bad_update_among_many_costs_only_itself,
    a_round_of_nothing_but_bad_updates_fails_and_opens_again,
    a_failing_finish_fails_the_round_and_it_opens_again,
    a_model_that_is_not_finite_is_not_published,
    a_sum_out_of_range_is_the_clients_fault,
    no_weight_makes_a_sum_leave_its_range,
    bad_modules_are_refused_at_deploy,
    a_function_in_another_language_works,
];

const LIMITS: &str = "{ memory: 1MiB, deadline: 250ms }";

fn mischief(server: &Server, name: &str, round: &str) -> Manifest {
    let module = guest::stored(server.home(), "mischief", &guest::mischief());
    Manifest::of("mischief", &module, name, round)
        .limits(LIMITS)
        .with("tree: { fanIn: 4 }")
}

/// Asks about an update that was accepted until its fold has failed.
fn refusal(job: &Job, client: &str, file: &[u8]) -> Problem {
    eventually("the function fails on the update", || {
        let answer = job.put(client, "?round=1", file);
        match answer.status {
            200 => None,
            _ => Some(answer.refused(422, "function-failed")),
        }
    })
}

fn whole(value: u8) -> Model {
    Model::filled(SMALL, f32::from(value))
}

fn an_update_that_a_function_fails_on_is_left_out(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let bystander = server.deploy(
        &Manifest::fedavg("bystander", "{ expected: 6 }"),
        &Model::filled(SMALL, 0.0),
    );
    let bystanders = updates(SMALL, 6, 1);
    let cases = [
        ("trap", guest::TRAP, "trapped"),
        ("loop", guest::LOOP, "ran longer than its deadline of 250ms"),
        ("write", guest::WRITE, "wrote outside its output"),
        ("grow", guest::GROW, "its limit is 1048576 bytes"),
        ("error", guest::ERROR, "returned error 7"),
    ];
    for (index, (name, mark, told)) in cases.into_iter().enumerate() {
        let job = server.deploy(
            &mischief(&server, name, "{ expected: 4, quorum: 3, deadline: 1h }"),
            &Model::filled(SMALL, 0.0),
        );
        let free = job.free_slots();
        job.push("good-0", 1, 1.0, &whole(1));
        let bad = whole(2).marked(mark);
        let _ = job.put("bad", "?round=1", &bad.file()).expect(202);
        let problem = refusal(&job, "bad", &bad.file());
        assert!(problem.detail.contains(told), "{name}: {}", problem.detail);
        assert!(
            problem
                .detail
                .contains(&format!("function mischief revision 1, job {name}")),
            "{}",
            problem.detail
        );
        // Other bytes are other bytes still: the first update of a client counts.
        let _ = job
            .put("bad", "?round=1", &whole(9).file())
            .refused(409, "other-bytes");

        job.push("good-1", 1, 1.0, &whole(10));
        job.push("good-2", 1, 1.0, &whole(100));
        assert_eq!(
            job.result(1),
            whole(111),
            "{name}: the sum of those that are good"
        );
        let status = job.completed(1);
        assert_eq!(
            (status.accepted, status.contributors, status.rejected),
            // The failure, and what the client has tried since.
            (4, 3, 3),
            "{name}"
        );
        assert!(job.last_error().contains(told), "{name}");
        job.until_free(free - 1);
        let (update, weight) = &bystanders[index];
        bystander.push(&format!("client-{index}"), 1, *weight, update);
    }
    bystander.push("client-5", 1, bystanders[5].1, &bystanders[5].0);
    Mean::of(weighed(&bystanders)).assert_near(&bystander.result(1), 1e-12);
    assert_eq!(
        server.scrape().sum("tributary_worker_losses_total", &[]),
        0.0,
        "no worker died of it"
    );
    server.finish();
}

/// Several inputs are folded in one call: a bad one is found, and the others are folded without it.
/// Each job is new, so that refusals meet activations.
fn a_bad_update_among_many_costs_only_itself(sidecar: Sidecar) {
    const CLIENTS: u8 = 30;
    let server = Server::start(sidecar);
    for attempt in 0..10 {
        let round = "{ expected: 30, quorum: 24, deadline: 1h }";
        let manifest = mischief(&server, &format!("many-{attempt}"), round);
        let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
        let is_bad = |client: u8| client % 5 == 3;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let job = &job;
                let mark = if is_bad(client) {
                    guest::TRAP
                } else {
                    f32::from(client)
                };
                let update = whole(client).marked(mark);
                scope.spawn(move || job.push(&format!("client-{client}"), 1, 1.0, &update));
            }
        });
        let good: u16 = (0..CLIENTS)
            .filter(|client| !is_bad(*client))
            .map(u16::from)
            .sum();
        assert_eq!(
            job.result(1),
            Model::filled(SMALL, f32::from(good)),
            "attempt {attempt}"
        );
        let status = job.completed(1);
        assert_eq!(
            (status.accepted, status.contributors, status.rejected),
            (30, 24, 6)
        );
    }
    server.finish();
}

fn a_round_of_nothing_but_bad_updates_fails_and_opens_again(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &mischief(&server, "hopeless", "{ expected: 2 }"),
        &Model::filled(SMALL, 0.0),
    );
    let free = job.free_slots();
    let feed = Feed::listen(server.client(), "/v1/events?job=hopeless");
    for client in ["a", "b"] {
        let _ = job
            .put(client, "?round=1", &whole(1).marked(guest::TRAP).file())
            .expect(202);
    }
    let failed = feed.through(EventKind::RoundFailed.as_str()).pop().unwrap();
    assert!(
        failed.data["data"]["error"]
            .as_str()
            .unwrap()
            .contains("trapped"),
        "{}",
        failed.data
    );
    assert_eq!(
        feed.through(EventKind::RoundOpened.as_str())
            .pop()
            .unwrap()
            .data["data"]["round"],
        1
    );
    job.until_free(free);
    assert_eq!(
        server.scrape().sum(
            "tributary_rounds_total",
            &[("fl_job", "hopeless"), ("outcome", "failed")]
        ),
        1.0
    );

    job.push("a", 1, 1.0, &whole(4));
    job.push("b", 1, 1.0, &whole(5));
    assert_eq!(job.result(1), whole(9));
    server.finish();
}

fn a_failing_finish_fails_the_round_and_it_opens_again(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &mischief(&server, "unlucky", "{ expected: 2 }"),
        &Model::filled(SMALL, 0.0),
    );
    let free = job.free_slots();
    let feed = Feed::listen(server.client(), "/v1/events?job=unlucky");
    job.push("a", 1, 1.0, &whole(1).marked(guest::FINISH_TRAP - 5.0));
    job.push("b", 1, 1.0, &whole(1).marked(5.0));
    let failed = feed.through(EventKind::RoundFailed.as_str()).pop().unwrap();
    let error = failed.data["data"]["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("function mischief revision 1, job unlucky")
            && error.contains("finish trapped"),
        "{error}"
    );
    let _ = feed.through(EventKind::RoundOpened.as_str());
    job.until_free(free);
    assert_eq!((job.status().version, job.status().accepted), (1, 0));

    job.push("a", 1, 1.0, &whole(1));
    job.push("b", 1, 1.0, &whole(2));
    assert_eq!(job.result(1), whole(3));
    server.finish();
}

fn a_model_that_is_not_finite_is_not_published(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let job = server.deploy(
        &mischief(&server, "summit", "{ expected: 1 }"),
        &Model::filled(SMALL, 0.0),
    );
    let free = job.free_slots();
    let feed = Feed::listen(server.client(), "/v1/events?job=summit");
    // The laws did not find it.
    job.push("a", 1, 1.0, &whole(1).marked(guest::FINISH_INFINITE));
    let failed = feed.through(EventKind::RoundFailed.as_str()).pop().unwrap();
    let error = failed.data["data"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("] = inf"), "{error}");
    let _ = feed.through(EventKind::RoundOpened.as_str());
    job.until_free(free);
    let status = job.status();
    assert_eq!((status.version, status.last_error), (1, Some(error)));

    job.push("b", 1, 1.0, &whole(3));
    assert_eq!(job.result(1), whole(3));
    server.finish();
}

fn a_sum_out_of_range_is_the_clients_fault(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("ranged", "{ expected: 3 }").config("{ accumulate: exact }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let mut huge = Model::random(SMALL, 1);
    huge.tensor("dense.weight").values[3] = 1e30;
    let problem = job.put("huge", "?round=1", &huge.file());
    let detail = problem.refused(422, "out-of-range").detail;
    assert!(
        detail.starts_with("dense.weight[0, 3] is 1e30; with weight 1e0, exact sums of job ranged"),
        "{detail}"
    );
    let good = updates(SMALL, 3, 1);
    job.push_all(1, &good);
    Mean::of(weighed(&good)).assert_near(&job.result(1), 1e-8);
    server.finish();
}

/// The heaviest updates that are let in, in a tree of leaves that each have room for them: every merge does as well.
fn no_weight_makes_a_sum_leave_its_range(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("heavy", "{ expected: 4 }")
        .with("accumulate: exact")
        .with("clients: { max: 4 }")
        .with("tree: { fanIn: 2 }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    let most = job.status().bounds.unwrap().weight_max;
    let update = whole(0);
    for weight in [most * 1.01, 1e300, 1e-30, 5e-324] {
        let query = format!("?round=1&weight={weight:e}");
        let problem = job.put("heavy", &query, &update.file());
        let detail = problem.refused(422, "bad-weight").detail;
        assert!(detail.contains("spec.ingest.weight"), "{detail}");
    }
    for client in ["a", "b", "c", "d"] {
        job.push(client, 1, most, &update);
    }
    assert_eq!(job.result(1), update);
    server.finish();
}

fn bad_modules_are_refused_at_deploy(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let good = guest::mischief();
    let mut cases = vec![
        (
            "subtype",
            guest::with(
                "(type $a (sub (func (param i32) (result i32))))
                 (type $b (sub $a (func (param i32) (result i32))))
                 (table 1 funcref) (elem (i32.const 0) $callee)
                 (func $callee (type $b) (local.get 0))",
                "(drop (call_indirect (type $a) (i32.const 1) (i32.const 0)))",
            ),
            "functions may use",
        ),
        (
            "nothing",
            guest::always("(return (i32.const 0))"),
            "fold leaves byte 0 of its vector",
        ),
        ("text", b"#!/bin/sh\nexit 0\n".to_vec(), "not a WASM module"),
        ("empty", Vec::new(), "not a WASM module"),
        ("cut", good[..good.len() / 2].to_vec(), "not valid"),
        ("trap", guest::always("unreachable"), "fold trapped"),
        (
            "loop",
            guest::always("(loop $for_ever (br $for_ever))"),
            "deadline",
        ),
        (
            "grow",
            guest::always(
                "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
            ),
            "spec.limits.memory",
        ),
        (
            "write",
            guest::always(
                "(f32.store (i32.load (i32.add (local.get $call) (i32.const 64))) (f32.const 1))",
            ),
            "wrote outside its output",
        ),
        (
            "forget",
            guest::always("(i32.store offset=8 (local.get $call) (i32.const 0))"),
            "wrote outside its output",
        ),
    ];
    for export in [
        "memory",
        "tributary_abi_v1",
        "describe",
        "fold",
        "merge",
        "finish",
    ] {
        cases.push((export, guest::without(export), export));
    }
    for (what, module, told) in cases {
        let file = guest::stored(server.home(), "bad", &module);
        let manifest = Manifest::of("bad", &file, "victim", "{ expected: 1 }").limits(LIMITS);
        let ran = server
            .try_deploy(&manifest, &Model::filled(SMALL, 0.0))
            .expect(2);
        assert!(
            ran.stderr.contains("victim.yaml:5:"),
            "{what}: it names the line: {}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("spec.module") && ran.stderr.contains(told),
            "{what}: {}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "", "{what}");
    }
    // Nothing was applied, not even in part.
    let _ = server
        .client()
        .get("/v1/functions/bad")
        .refused(404, "unknown-function");
    let _ = server
        .client()
        .get("/v1/jobs/victim")
        .refused(404, "unknown-job");
    assert_eq!(server.segments(), Vec::<String>::new());
    server.finish_idle();
}

fn a_function_in_another_language_works(sidecar: Sidecar) {
    let server = Server::start(sidecar);
    let module = place::function("mean");
    let job = server.deploy(&by(&module), &Model::filled(SMALL, 0.0));
    let updates = updates(SMALL, 9, 1);
    job.push_all(1, &updates);
    // It is a mean without weights, in C.
    Mean::of(updates.iter().map(|(update, _)| (update, 1.0))).assert_near(&job.result(1), 1e-5);
    server.finish();
}

fn by(module: &Path) -> Manifest {
    Manifest::of("mean", module, "foreign", "{ expected: 9 }").with("tree: { fanIn: 2 }")
}
