use proptest::prelude::*;

use super::*;
use crate::manifest::Timer;
use crate::quantity::Interval;

const GOOD: &str = "\
apiVersion: tributary.dev/v1
kind: Function
metadata: { name: fedavg }
spec:
  module: { path: ../target/functions/fedavg.wasm }
  algebra: monoid
  limits: { memory: 64MiB, deadline: 2s }
---
# a comment
apiVersion: tributary.dev/v1
kind: Job
metadata: { name: digits }
spec:
  function: { name: fedavg, config: { accumulate: f64 } }
  model: { path: digits/initial.safetensors }
  clients: { max: 1000 }
  round:
    expected: 20
    quorum: 15
    deadline: 30s
  rounds: 20
  tree: { fanIn: 4 }
  keepAlive: 30s
  arena: { slots: 24 }
  ingest: { idleTimeout: 10s, nonFinite: reject }
";

fn errors(text: &str) -> Vec<String> {
    parse("m.yaml", text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// The errors after `from` in the good file was replaced by `to`.
fn broken(from: &str, to: &str) -> Vec<String> {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} must be unique");
    errors(&GOOD.replace(from, to))
}

#[test]
fn the_example_is_read_whole() {
    let documents = parse("m.yaml", GOOD).unwrap();
    let Manifest::Function(function) = &documents[0].manifest else {
        panic!("no function")
    };
    assert_eq!(function.spec.limits.memory.bytes(), 64 << 20);
    let Manifest::Job(job) = &documents[1].manifest else {
        panic!("no job")
    };
    assert_eq!(job.spec.closing().full, 20);
    assert_eq!(
        job.spec.closing().timer,
        Some(Timer::Deadline(Interval::from_secs(30), 15))
    );
    assert_eq!(job.spec.tree.fan_in, Some(4));
    assert_eq!(job.spec.function.config["accumulate"], "f64");
}

#[test]
fn what_is_left_out_has_a_default() {
    let text = "{apiVersion: tributary.dev/v1, kind: Job, metadata: {name: a}, spec: {function: {name: f}, model: {path: m}, round: {quorum: 3}}}";
    let Manifest::Job(job) = parse("m", text).unwrap().remove(0).manifest else {
        panic!("no job")
    };
    assert_eq!(job.spec.clients.max, 1024);
    assert_eq!(
        job.spec.closing(),
        super::super::Closing {
            full: 3,
            timer: None
        }
    );
    assert_eq!(job.spec.keep_alive, None);
    assert_eq!(job.spec.ingest.idle_timeout.to_string(), "10s");
}

#[test]
fn misspelt_fields_get_the_nearest_name() {
    assert_eq!(
        broken("    quorum: 15", "    quorom: 15"),
        ["m.yaml:19:5: spec.round.quorom: unknown field `quorom`; did you mean `quorum`?"]
    );
    assert_eq!(
        broken("fanIn", "fanin"),
        ["m.yaml:22:11: spec.tree.fanin: unknown field `fanin`; did you mean `fanIn`?"]
    );
    assert_eq!(
        broken("  module:", "  modul:"),
        ["m.yaml:5:3: spec.modul: unknown field `modul`; did you mean `module`?"]
    );
    assert_eq!(
        broken("slots: 24", "xyz: 24"),
        ["m.yaml:24:12: spec.arena.xyz: unknown field `xyz`; expected one of `slots`"]
    );
}

#[test]
fn wrong_values_get_the_nearest_value() {
    assert_eq!(
        broken("nonFinite: reject", "nonFinite: rejct"),
        [
            "m.yaml:25:31: spec.ingest.nonFinite: \"rejct\" is not allowed; expected `reject`, `allow`; did you mean `reject`?"
        ]
    );
    assert_eq!(
        broken("kind: Function", "kind: Funktion"),
        [
            "m.yaml:2:1: kind: unknown kind \"Funktion\"; expected one of `Function`, `Tenant`, `Job`; did you mean `Function`?"
        ]
    );
    assert_eq!(
        broken("algebra: monoid", "algebra: monoids"),
        [
            "m.yaml:6:3: spec.algebra: \"monoids\" is not allowed; expected `monoid`; did you mean `monoid`?"
        ]
    );
}

#[test]
fn all_errors_of_all_documents_are_reported_in_order() {
    let text = GOOD
        .replace("memory:", "memori:")
        .replace("rounds: 20", "rounds: twenty")
        .replace("  keepAlive", "  keepalive");
    let lines = errors(&text);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(
        lines[0].starts_with("m.yaml:7:13: spec.limits.memori: unknown field"),
        "{lines:?}"
    );
    assert_eq!(
        lines[1],
        "m.yaml:21:3: spec.rounds: expected a whole number, found the string \"twenty\""
    );
    assert!(
        lines[2].starts_with("m.yaml:23:3: spec.keepalive: unknown field"),
        "{lines:?}"
    );
}

#[test]
fn values_are_checked_where_they_stand() {
    let cases = [
        (
            "deadline: 30s",
            "deadline: 30sec",
            "m.yaml:20:5: spec.round.deadline: \"30sec\" is no duration",
        ),
        (
            "deadline: 30s",
            "deadline: 0s",
            "m.yaml:20:5: spec.round.deadline: must be at least 1ms, is 0s",
        ),
        (
            "deadline: 30s",
            "deadline: 30",
            "m.yaml:20:5: spec.round.deadline: expected a string, found 30; write it with its unit, as in \"30s\"",
        ),
        (
            "deadline: 30s",
            "deadline: 99999999d",
            "m.yaml:20:5: spec.round.deadline: must be at most 365d",
        ),
        (
            "quorum: 15",
            "quorum: 25",
            "m.yaml:19:5: spec.round.quorum: 25 is more than `expected`, which is 20",
        ),
        (
            "quorum: 15",
            "quorum: 0",
            "m.yaml:19:5: spec.round.quorum: must be at least 1, is 0",
        ),
        (
            "quorum: 15",
            "quorum: -1",
            "m.yaml:19:5: spec.round.quorum: must be at least 1, is -1",
        ),
        (
            "quorum: 15",
            "quorum: 1.5",
            "m.yaml:19:5: spec.round.quorum: expected a whole number, found 1.5",
        ),
        (
            "max: 1000",
            "max: 10",
            "m.yaml:18:5: spec.round.expected: 20 is more than clients.max, which is 10",
        ),
        (
            "fanIn: 4",
            "fanIn: 1",
            "m.yaml:22:11: spec.tree.fanIn: must be at least 2, is 1",
        ),
        (
            "name: digits",
            "name: Digits",
            "m.yaml:12:13: metadata.name: name \"Digits\" contains 'D'",
        ),
        (
            "name: digits",
            "name: 7",
            "m.yaml:12:13: metadata.name: expected a string, found 7",
        ),
        (
            "memory: 64MiB",
            "memory: 1KiB",
            "m.yaml:7:13: spec.limits.memory: must be between 64KiB and 4GiB, is 1KiB",
        ),
        (
            "{ path: digits/initial.safetensors }",
            "{}",
            "m.yaml:15:3: spec.model: give either `path` or `digest`",
        ),
        (
            "{ path: digits/initial.safetensors }",
            "{digest: abc}",
            "m.yaml:15:11: spec.model.digest: \"abc\" is no digest",
        ),
        (
            "  rounds: 20",
            "  rounds: [20]",
            "m.yaml:21:3: spec.rounds: expected a whole number, found a list",
        ),
        (
            "config: { accumulate: f64 }",
            "config: f64",
            "m.yaml:14:29: spec.function.config: expected a mapping, found the string \"f64\"",
        ),
    ];
    for (from, to, expected) in cases {
        let lines = broken(from, to);
        assert!(lines[0].starts_with(expected), "{to}: {lines:#?}");
    }
}

#[test]
fn missing_fields_are_named_where_they_should_be() {
    assert_eq!(
        broken("  model: { path: digits/initial.safetensors }\n", ""),
        ["m.yaml:13:1: spec: missing field `model`"]
    );
    assert_eq!(
        broken(
            "  round:\n    expected: 20\n    quorum: 15\n    deadline: 30s\n",
            "  round: {}\n"
        ),
        [
            "m.yaml:17:3: spec.round: a round that nothing closes: give `expected`, `quorum`, `deadline`, `count`, `window` or `each`"
        ]
    );
    assert_eq!(
        errors("metadata: {name: a}\n"),
        ["m.yaml:1:1: missing field `kind`; it is one of `Function`, `Tenant`, `Job`"]
    );
}

#[test]
fn syntax_errors_have_a_place() {
    assert_eq!(
        errors("a: 1\na: 2\n"),
        ["m.yaml:2:1: the field `a` comes twice"]
    );
    assert_eq!(
        errors("a: 1\n b: 2\n"),
        ["m.yaml:2:3: mapping values are not allowed in this context"]
    );
    assert_eq!(
        errors("# nothing\n"),
        ["m.yaml: the file holds no manifest"]
    );
    assert_eq!(
        errors("- 1\n"),
        ["m.yaml:1:1: expected a manifest, found a list"]
    );
}

proptest! {
    /// No text, and no damage to a good file, makes the reader panic; every error has a message.
    #[test]
    fn anything_is_refused_or_read(at in 0..GOOD.len(), length in 0..40_usize, text in ".{0,12}") {
        let end = (at + length).min(GOOD.len());
        let damaged = format!("{}{text}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(errors) = parse("m.yaml", &damaged) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(!error.error.message.is_empty());
            }
        }
    }

    #[test]
    fn manifests_survive_a_trip_through_json(expected in 1..1000_u32, keep in 0..1_000_000_u64, fan in 2..64_u32) {
        let text = GOOD.replace("expected: 20\n    quorum: 15", &format!("expected: {expected}"))
            .replace("keepAlive: 30s", &format!("keepAlive: {keep}ms")).replace("fanIn: 4", &format!("fanIn: {fan}"));
        for document in parse("m.yaml", &text).unwrap() {
            let json = serde_json::to_value(&document.manifest).unwrap();
            prop_assert_eq!(Manifest::from_value(&json), Ok(document.manifest));
        }
    }
}
