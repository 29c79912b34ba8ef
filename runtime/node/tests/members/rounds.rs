//! Rounds in which nothing goes wrong.

use crate::world::{JOB, SHAPES, World};
use tributary_api::status::{RoundPhase, UpdateReceipt};
use tributary_tests::http::Answer;
use tributary_tests::job::updates;
use tributary_tests::reference;

const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;

#[test]
fn three_nodes_make_one_model_of_everybodys_updates() {
    let world = World::of(3, r#"{ "expected": 24 }"#, EXACT);
    for round in 1..=4_u64 {
        let updates = updates(SHAPES, 24, round);
        for (number, update) in updates.iter().enumerate() {
            // Wherever a client asks first, it ends at its home.
            world.push(number % 3, &format!("client-{number}"), round, update);
        }
        let expected = reference::exact(&updates).bits();
        for host in 0..3 {
            assert!(
                world.model(host, round + 1).bits() == expected,
                "node {host}, round {round}"
            );
        }
        let status = world.round(0, round);
        assert_eq!(
            (status.phase, status.accepted, status.contributors),
            (RoundPhase::Completed, 24, 24)
        );
        assert_eq!((status.lost, status.shares.len()), (0, 3));
        assert_eq!(
            status
                .shares
                .iter()
                .map(|share| share.contributors)
                .sum::<u32>(),
            24
        );
        let crossed: Vec<u64> = status
            .shares
            .iter()
            .map(|share| share.bytes)
            .filter(|bytes| *bytes > 0)
            .collect();
        assert_eq!(crossed.len(), 2, "one partial from each follower");
    }
    assert_eq!(
        world.host(0).kept.versions(),
        [2, 3, 4, 5],
        "the leader keeps the models"
    );
    assert!(world.host(1).kept.versions().is_empty());
}

#[test]
fn a_tree_on_each_node_hands_over_one_partial() {
    let world = World::of(
        2,
        r#"{ "expected": 30 }"#,
        &format!(r#"{EXACT}, "tree": {{ "fanIn": 2 }}"#),
    );
    for round in 1..=2 {
        let updates = updates(SHAPES, 30, round);
        for (number, update) in updates.iter().enumerate() {
            world.push(number % 2, &format!("client-{number}"), round, update);
        }
        let expected = reference::exact(&updates).bits();
        assert!((0..2).all(|host| world.model(host, round + 1).bits() == expected));
    }
}

/// Two leaves below a middle, which has the whole partial and tells nobody.
#[test]
fn a_partial_is_handed_over_wherever_it_is_whole() {
    let world = World::of(
        2,
        r#"{ "expected": 12 }"#,
        &format!(r#"{EXACT}, "tree": {{ "fanIn": 4 }}"#),
    );
    let mut clients = world.clients_of(0, 6);
    clients.extend(world.clients_of(1, 6));
    for round in 1..=30 {
        let updates = updates(SHAPES, 12, round);
        for (client, update) in clients.iter().zip(&updates) {
            world.push(1, client, round, update);
        }
        let expected = reference::exact(&updates).bits();
        assert!(world.model(0, round + 1).bits() == expected);
    }
}

#[test]
fn a_node_without_clients_in_the_round_hands_over_nothing() {
    for busy in 0..3 {
        let world = World::of(3, r#"{ "expected": 4 }"#, EXACT);
        let updates = updates(SHAPES, 4, 1);
        for (client, update) in world.clients_of(busy, 4).iter().zip(&updates) {
            world.push(busy, client, 1, update);
        }
        let expected = reference::exact(&updates).bits();
        assert!(
            (0..3).all(|host| world.model(host, 2).bits() == expected),
            "all clients at node {busy}"
        );
    }
}

/// Both nodes take updates at the same time, and the one that follows hears of the close a little later.
#[test]
fn updates_that_slip_in_while_a_round_closes_are_all_counted() {
    const CLIENTS: usize = 8;
    let round = r#"{ "expected": 6, "quorum": 4, "deadline": "1h" }"#;
    let world = World::of(2, round, &format!(r#"{EXACT}, "clients": {{ "max": 6 }}"#));
    let homes = [world.clients_of(0, CLIENTS), world.clients_of(1, CLIENTS)];
    for round in 1..=5 {
        let updates = updates(SHAPES, 2 * CLIENTS as u64, round);
        let clients = homes
            .iter()
            .enumerate()
            .flat_map(|(host, clients)| clients.iter().map(move |client| (host, client)));
        let taken: Vec<bool> = std::thread::scope(|scope| {
            let world = &world;
            let sent = clients.zip(&updates).map(|((host, client), update)| {
                scope.spawn(move || {
                    let query = format!("round={round}&weight={}", update.1);
                    let path = format!("/v1/jobs/{JOB}/updates/{client}?{query}");
                    let answer = world.door(host).put(&path, &update.0.file());
                    // What comes later finds the round closing, or the next one open.
                    assert!(
                        matches!(answer.status, 202 | 409 | 429),
                        "{}",
                        answer.text()
                    );
                    answer.status == 202
                })
            });
            let sent: Vec<_> = sent.collect();
            sent.into_iter().map(|sent| sent.join().unwrap()).collect()
        });
        let counted: Vec<_> = updates
            .iter()
            .zip(&taken)
            .filter(|(_, taken)| **taken)
            .map(|(update, _)| update.clone())
            .collect();
        assert!(counted.len() >= 6, "{} were taken", counted.len());
        let expected = reference::exact(&counted).bits();
        assert!((0..2).all(|host| world.model(host, round + 1).bits() == expected));
        let status = world.round(0, round);
        let count = counted.len() as u32;
        assert_eq!((status.accepted, status.contributors), (count, count));
    }
}

#[test]
fn a_deadline_counts_from_the_first_update_on_any_node() {
    let world = World::of(
        2,
        r#"{ "deadline": "300ms", "quorum": 3, "expected": 100 }"#,
        EXACT,
    );
    let updates = updates(SHAPES, 3, 1);
    for (client, update) in world.clients_of(1, 3).iter().zip(&updates) {
        world.push(1, client, 1, update);
    }
    assert!(world.model(0, 2).bits() == reference::exact(&updates).bits());
    assert_eq!(world.round(0, 1).contributors, 3);
}

#[test]
fn a_window_counts_from_the_leaders_opening() {
    let world = World::of(
        2,
        r#"{ "window": "300ms", "staleness": { "max": 1 } }"#,
        EXACT,
    );
    for round in 1..=3 {
        let updates = updates(SHAPES, 2, round);
        for (client, update) in world.clients_of(1, 2).iter().zip(&updates[..1]) {
            world.push(1, client, round, update);
        }
        let expected = reference::exact(&updates[..1]).bits();
        assert!((0..2).all(|host| world.model(host, round + 1).bits() == expected));
        assert_eq!(world.round(0, round).contributors, 1, "round {round}");
    }
}

#[test]
fn stale_updates_count_once_and_by_their_weight_on_any_node() {
    let round = r#"{ "count": 6, "staleness": { "max": 2, "weight": "polynomial", "a": 1 } }"#;
    let mut world = World::of(3, round, EXACT);
    let homes: Vec<Vec<String>> = (0..3).map(|host| world.clients_of(host, 4)).collect();
    let client = |number: usize| homes[number % 3][number / 3].as_str();
    let weighed = |seed| {
        let updates = updates(SHAPES, 6, seed).into_iter();
        // Weights of which a half is whole.
        updates
            .map(|(model, weight)| (model, weight * 2.0))
            .collect::<Vec<_>>()
    };
    let receipt = |answer: Answer| {
        let receipt: UpdateReceipt = answer.json();
        (receipt.round, receipt.staleness)
    };
    let first = weighed(1);
    for (number, update) in first.iter().enumerate() {
        world.push(number % 3, client(number), 1, update);
    }
    let expected = reference::exact(&first).bits();
    assert!((0..3).all(|host| world.model(host, 2).bits() == expected));

    // Six others, the first three of them late.
    let mut second = weighed(2);
    for (number, update) in second.iter().enumerate() {
        let trained = 1 + (number / 3) as u64;
        let answer = world
            .send(0, client(6 + number), trained, update)
            .expect(202);
        assert_eq!(receipt(answer), (2, 2 - trained));
    }
    second
        .iter_mut()
        .take(3)
        .for_each(|(_, weight)| *weight /= 2.0);
    let expected = reference::exact(&second).bits();
    assert!((0..3).all(|host| world.model(host, 3).bits() == expected));
    let told = world.round(0, 2).staleness.unwrap();
    assert_eq!((told.mean, told.max), (0.5, 1));

    // Homes move to two nodes. Who has sent before is known wherever it asks, whatever round took it.
    world.move_homes(world.spread(&[2, 0]));
    let placement = world.placement_since(3, 0, &[0, 1, 2]);
    world.place(&[0, 1, 2], &placement);
    for host in 0..3 {
        for (number, update) in first.iter().enumerate() {
            let answer = world.send(host, client(number), 1, update).expect(200);
            assert_eq!(receipt(answer), (1, 0));
        }
        for (number, (update, _)) in second.iter().enumerate() {
            let trained = 1 + (number / 3) as u64;
            let sent = (update.clone(), weighed(2)[number].1);
            let answer = world
                .send(host, client(6 + number), trained, &sent)
                .expect(200);
            assert_eq!(receipt(answer), (2, 2 - trained));
        }
    }
    assert_eq!(world.round(0, 3).accepted, 0);
    let third = weighed(3);
    for (number, update) in third.iter().enumerate() {
        let _ = world.send(1, client(number), 3, update).expect(202);
    }
    let expected = reference::exact(&third).bits();
    assert!((0..3).all(|host| world.model(host, 4).bits() == expected));
}

#[test]
fn clients_are_sent_home_with_their_query_and_keep_their_answer() {
    let world = World::of(2, r#"{ "expected": 3 }"#, "");
    let client = &world.clients_of(1, 1)[0];
    let (update, weight) = &updates(SHAPES, 1, 1)[0];
    let path = format!("/v1/jobs/{JOB}/updates/{client}?round=1&weight={weight}");
    let sent = world.door(0).put(&path, &update.file());
    assert_eq!(sent.refused(307, "elsewhere").status, 307);
    let url = format!("http://{}{path}", world.host(1).address);
    assert_eq!(sent.header("location"), Some(url.as_str()));
    let _ = world.door(1).put(&path, &update.file()).expect(202);
    let _ = world.door(1).put(&path, &update.file()).expect(200);
}

#[test]
fn strangers_are_no_members() {
    let world = World::of(2, r#"{ "expected": 3 }"#, "");
    let follower = &world.host(1).name;
    for (method, what) in [
        ("POST", "report"),
        ("GET", "directive"),
        ("PUT", "partial?version=1&attempt=0&contributors=1"),
        ("POST", "claims/somebody?round=1"),
    ] {
        let path = format!("/v1/jobs/{JOB}/members/{follower}/{what}");
        let body = if what == "report" {
            report(follower.as_str())
        } else {
            Vec::new()
        };
        for token in [None, Some("Bearer told to members onlx"), Some("Bearer ")] {
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(token.map(|token| ("authorization", token)));
            let answer = world.door(0).send(method, &path, &headers, &body);
            let problem = answer.refused(403, "not-a-member");
            assert!(!problem.detail.contains("told to"), "{}", problem.detail);
        }
    }
    // A member that tells nonsense.
    let headers = [("authorization", "Bearer told to members only")];
    let partial = |query: &str| {
        let path = format!("/v1/jobs/{JOB}/members/{follower}/partial?{query}");
        world.door(0).send("PUT", &path, &headers, b"short")
    };
    let _ = partial("version=1&attempt=0&contributors=1").refused(400, "malformed-partial");
    let _ = partial("version=2&attempt=0&contributors=1").refused(409, "other-part");
    let _ = partial("version=1&attempt=0").refused(400, "bad-query");
    let stranger =
        format!("/v1/jobs/{JOB}/members/stranger/partial?version=1&attempt=0&contributors=1");
    let _ = world
        .door(0)
        .send("PUT", &stranger, &headers, b"")
        .refused(409, "other-part");
}

fn report(node: &str) -> Vec<u8> {
    let report = serde_json::json!({
        "node": node, "generation": 1, "version": 1, "attempt": 0, "accepted": 1, "contributors": 1, "closed": true,
    });
    report.to_string().into_bytes()
}

#[test]
fn a_slot_is_lent_at_home_only() {
    let world = World::of(2, r#"{ "expected": 3 }"#, "");
    let client = &world.clients_of(1, 1)[0];
    let path = format!("/v1/jobs/{JOB}/updates/{client}/slot?round=1&weight=1");
    let refused = world.door(0).send("POST", &path, &[], &[]);
    let problem = refused.refused(403, "not-local");
    assert!(
        problem.detail.contains("another node"),
        "{}",
        problem.detail
    );
}

#[test]
fn whether_an_update_is_held_is_told_wherever_one_asks() {
    let world = World::of(2, r#"{ "expected": 3 }"#, "");
    let clients = world.clients_of(1, 2);
    world.push(1, &clients[0], 1, &updates(SHAPES, 1, 1)[0]);
    let ask = |at, client: &String| {
        world
            .door(at)
            .get(&format!("/v1/jobs/{JOB}/updates/{client}?round=1"))
    };
    assert_eq!(ask(1, &clients[0]).status, 200);
    let _ = ask(1, &clients[1]).refused(404, "not-held");
    let sent = ask(0, &clients[0]);
    let there = format!(
        "http://{}/v1/jobs/{JOB}/updates/{}?round=1",
        world.host(1).address,
        clients[0]
    );
    assert_eq!(
        (sent.status, sent.header("location")),
        (307, Some(there.as_str()))
    );
    // Rounds are told by who leads.
    let rounds = world.door(1).get(&format!("/v1/jobs/{JOB}/rounds"));
    let leader = format!("http://{}/v1/jobs/{JOB}/rounds", world.host(0).address);
    assert_eq!(
        (rounds.status, rounds.header("location")),
        (307, Some(leader.as_str()))
    );
}
