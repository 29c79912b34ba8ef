use super::super::{Manifest, source};
use super::*;
use proptest::prelude::*;

/// A job whose rounds are these; `round` begins in line 7, column 3.
fn job(round: &str) -> Result<JobSpec, Vec<String>> {
    let text = format!(
        "apiVersion: tributary.dev/v1\nkind: Job\nmetadata: {{ name: j }}\nspec:\n\
         \x20 function: {{ name: f }}\n  model: {{ path: m }}\n  round: {round}\n  clients: {{ max: 50 }}\n"
    );
    match source::parse("m.yaml", &text) {
        Ok(mut documents) => match documents.remove(0).manifest {
            Manifest::Job(job) => Ok(job.spec),
            other => unreachable!("a job was written, not a {}", other.kind()),
        },
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

#[track_caller]
fn refused(round: &str) -> String {
    job(round).unwrap_err().join("\n")
}

#[test]
fn each_trigger_closes_by_its_rule() {
    let seconds = Interval::from_secs;
    let (deadline, window) = (Timer::Deadline, Timer::Window);
    for (round, full, timer, least) in [
        ("{ expected: 9 }", 9, None, 9),
        ("{ expected: 9, quorum: 4 }", 4, None, 4),
        (
            "{ quorum: 4, deadline: 2s }",
            50,
            Some(deadline(seconds(2), 4)),
            4,
        ),
        (
            "{ expected: 9, deadline: 2s }",
            9,
            Some(deadline(seconds(2), 1)),
            1,
        ),
        ("{ count: 10 }", 10, None, 10),
        ("{ expected: 12, count: 10 }", 10, None, 10),
        (
            "{ count: 10, deadline: 2s }",
            10,
            Some(deadline(seconds(2), 1)),
            1,
        ),
        ("{ count: 10, window: 2s }", 10, Some(window(seconds(2))), 1),
        ("{ window: 2s }", 50, Some(window(seconds(2))), 1),
        (
            "{ window: 2s, expected: 12 }",
            12,
            Some(window(seconds(2))),
            1,
        ),
        ("{ each: true }", 1, None, 1),
    ] {
        let closing = job(round).unwrap().closing();
        assert_eq!(closing, Closing { full, timer }, "{round}");
        assert_eq!(closing.least(), least, "{round}");
    }
    assert_eq!(job("{ expected: 12, count: 10 }").unwrap().expected(), 12);
    assert_eq!(job("{ count: 10 }").unwrap().expected(), 10);
}

#[test]
fn what_contradicts_itself_is_refused_with_the_field_and_the_fix() {
    for (round, field, says) in [
        ("{}", "spec.round", "nothing closes"),
        ("{ each: false }", "spec.round", "nothing closes"),
        (
            "{ each: true, count: 3 }",
            "spec.round.each",
            "`count` can never count",
        ),
        (
            "{ each: true, expected: 3 }",
            "spec.round.each",
            "`expected` can never count",
        ),
        (
            "{ window: 5s, deadline: 5s }",
            "spec.round.window",
            "one clock",
        ),
        (
            "{ count: 3, quorum: 2 }",
            "spec.round.quorum",
            "`count` closes a round without a quorum",
        ),
        (
            "{ window: 5s, quorum: 2 }",
            "spec.round.quorum",
            "`window` closes a round without a quorum",
        ),
        (
            "{ expected: 10, count: 12 }",
            "spec.round.count",
            "12 is more than `expected`, which is 10",
        ),
        (
            "{ count: 51 }",
            "spec.round.count",
            "raise spec.clients.max",
        ),
        ("{ window: 0ms }", "spec.round.window", "at least 1ms"),
        (
            "{ count: 3, timeout: 0ms }",
            "spec.round.timeout",
            "at least 1ms",
        ),
    ] {
        let error = refused(round);
        assert!(error.contains(&format!(" {field}: ")), "{round}: {error}");
        assert!(error.contains(says), "{round}: {error}");
        assert_eq!(error.lines().count(), 1, "{round}: {error}");
    }
}

#[test]
fn a_closed_round_has_a_timeout_given_or_not() {
    for (round, timeout) in [
        ("{ count: 3 }", "5m"),
        ("{ count: 3, window: 5s }", "5m"),
        ("{ expected: 3, deadline: 2m }", "20m"),
        ("{ expected: 3, deadline: 2h }", "1h"),
        ("{ expected: 3, deadline: 2h, timeout: 3s }", "3s"),
    ] {
        assert_eq!(
            job(round).unwrap().timeout().to_string(),
            timeout,
            "{round}"
        );
    }
}

#[test]
fn a_staleness_is_read_and_refused_by_its_fields() {
    let allowed = |round: &str| job(round).unwrap().round.staleness.unwrap();
    let constant = allowed("{ count: 3, staleness: { max: 4 } }");
    assert_eq!((constant.max, constant.factor(4)), (4, 1.0));
    let polynomial = allowed("{ count: 3, staleness: { max: 4, weight: polynomial, a: 1 } }");
    assert_eq!([0, 1, 3].map(|t| polynomial.factor(t)), [1.0, 0.5, 0.25]);
    let fedbuff = allowed("{ count: 3, staleness: { max: 4, weight: polynomial } }");
    assert_eq!(fedbuff.factor(3), 0.5, "1 / sqrt(1 + 3)");
    let hinge = allowed("{ count: 3, staleness: { max: 9, weight: hinge, a: 0.5, b: 2 } }");
    assert_eq!([0, 2, 4, 8].map(|t| hinge.factor(t)), [1.0, 1.0, 0.5, 0.25]);

    for (staleness, field, says) in [
        ("{ max: 4, a: 0.5 }", ".a", "weight `constant` has no `a`"),
        (
            "{ max: 4, weight: polynomial, b: 2 }",
            ".b",
            "set weight to `hinge`",
        ),
        ("{ max: 4, weight: hinge, a: 1 }", "", "needs `a` and `b`"),
        ("{ max: 4, weight: polynomial, a: -1 }", ".a", "at least 0"),
        (
            "{ max: 4, weight: linear }",
            ".weight",
            "expected `constant`, `polynomial`, `hinge`",
        ),
        (
            "{ max: 4, weight: polynomal }",
            ".weight",
            "did you mean `polynomial`?",
        ),
        ("{ max: 1001 }", ".max", "at most 1000"),
        ("{ weight: constant }", "", "missing field `max`"),
    ] {
        let error = refused(&format!("{{ count: 3, staleness: {staleness} }}"));
        assert!(
            error.contains(&format!(" spec.round.staleness{field}: ")),
            "{staleness}: {error}"
        );
        assert!(error.contains(says), "{staleness}: {error}");
    }
}

#[test]
fn rules_of_closing_change_under_a_running_job() {
    let (before, after) = (
        job("{ expected: 9 }").unwrap(),
        job("{ count: 3, staleness: { max: 4 } }").unwrap(),
    );
    assert!(!before.needs_restart(&after));
}

proptest! {
    /// Older updates never count more than newer ones, and every update counts.
    #[test]
    fn weights_fall_with_staleness(a in 0.0_f64..10.0, b in 0_u32..50, t in 0_u64..1000) {
        for weight in [StalenessWeight::Constant, StalenessWeight::Polynomial, StalenessWeight::Hinge] {
            let allowed = Staleness { max: 1000, weight, a: Some(a), b: Some(b) };
            prop_assert_eq!(allowed.factor(0), 1.0);
            let (now, next) = (allowed.factor(t), allowed.factor(t + 1));
            prop_assert!(0.0 < next && next <= now && now <= 1.0, "{now} {next}");
            let round = RoundSpec { staleness: Some(allowed), ..RoundSpec::default() };
            prop_assert_eq!(round.weigh(3.0, t, 1e-40), 3.0 * now);
            prop_assert!(round.weigh(1e-12, t, 1e-12) >= 1e-12);
        }
    }
}
