use proptest::prelude::*;

use super::*;

const SETTINGS: fn() -> Settings = Settings::default;

/// A round in which the nodes, `n0` and so on, took these times to hand over.
fn round(times: &[f64]) -> Round {
    let times = times.iter().enumerate().map(|(number, time)| {
        let times = Times {
            hand_over: Some(*time),
            ..Times::default()
        };
        (format!("n{number}"), times)
    });
    times.collect()
}

/// What is said of `n0` after these rounds.
fn first(rounds: &[Round], before: bool) -> Verdict {
    let slow = before.then(|| "n0".to_owned()).into_iter().collect();
    judge(rounds, &slow, &SETTINGS())["n0"]
}

fn z(times: &[f64], floor: f64, least: f64) -> Vec<f64> {
    let names: Vec<String> = (0..times.len()).map(|at| format!("{at:04}")).collect();
    let values = names.iter().map(String::as_str).zip(times.iter().copied());
    let scores = deviations(&values.collect(), floor, least);
    scores.into_values().collect()
}

const GOOD: [f64; 4] = [0.1, 0.11, 0.1, 0.12];
const BAD: [f64; 4] = [2.0, 0.11, 0.1, 0.12];

#[test]
fn the_score_is_that_of_iglewicz_and_hoaglin() {
    // Median 3; distances 2, 1, 0, 1, 97; MAD 1.
    let scores = z(&[1.0, 2.0, 3.0, 4.0, 100.0], 0.0, 0.0);
    let expected = [-2.0, -1.0, 0.0, 1.0, 97.0].map(|distance| distance / 1.4826);
    assert!(
        scores
            .iter()
            .zip(expected)
            .all(|(z, expected)| (z - expected).abs() < 1e-12),
        "{scores:?}"
    );
}

#[test]
fn one_bad_round_says_nothing_and_three_of_five_do() {
    let rounds = |bad: &[bool]| -> Vec<Round> {
        let times = bad.iter().map(|bad| if *bad { BAD } else { GOOD });
        times.map(|times| round(&times)).collect()
    };
    assert!(!first(&rounds(&[true]), false).slow);
    assert!(!first(&rounds(&[true, true, false, false, false]), false).slow);
    assert!(!first(&rounds(&[true, false, true, false, false, true]), false).slow);
    let verdict = first(&rounds(&[true, false, true, false, true]), false);
    assert!(verdict.slow && verdict.now);
    assert_eq!(verdict.worst, Some((Stage::HandOver, 3)));
    assert!(verdict.z > 3.5, "{verdict:?}");
}

#[test]
fn bad_rounds_in_different_stages_are_not_added_up() {
    let stage = |stage| {
        let mut round = Round::new();
        for node in ["n0", "n1", "n2", "n3"] {
            let time = if node == "n0" { Some(9.0) } else { Some(0.1) };
            let times = match stage {
                Stage::Fold => Times {
                    fold: time,
                    ..Times::default()
                },
                Stage::HandOver => Times {
                    hand_over: time,
                    ..Times::default()
                },
                Stage::Transfer => Times {
                    transfer: time,
                    ..Times::default()
                },
            };
            round.insert(node.into(), times);
        }
        round
    };
    let each = Stage::ALL.map(stage);
    assert!(!first(&each, false).slow);
    assert!(
        first(
            &[stage(Stage::Fold), stage(Stage::Fold), stage(Stage::Fold)],
            false
        )
        .slow
    );
}

#[test]
fn who_was_slow_is_well_after_good_rounds_in_a_row_and_not_before() {
    let mut rounds = vec![round(&BAD), round(&BAD), round(&BAD)];
    for good in 1..=5 {
        rounds.push(round(&GOOD));
        assert_eq!(first(&rounds, true).slow, good < 5, "{good} good rounds");
    }
    let mut interrupted = vec![round(&GOOD); 4];
    interrupted.push(round(&BAD));
    interrupted.extend(vec![round(&GOOD); 4]);
    let verdict = first(&interrupted, true);
    assert!(verdict.slow && !verdict.now);
}

#[test]
fn of_two_nodes_nobody_can_say_which_is_the_slow_one() {
    let rounds = vec![round(&[9.0, 0.1]); 5];
    assert_eq!(
        judge(&rounds, &BTreeSet::new(), &SETTINGS()),
        BTreeMap::new()
    );
    // Nor of one that has told nothing while three others have.
    let mut silent = round(&GOOD);
    silent.insert("n9".into(), Times::default());
    assert!(!judge(&[silent], &["n9".into()].into(), &SETTINGS()).contains_key("n9"));
}

#[test]
fn what_is_no_time_says_nothing() {
    for nonsense in [f64::NAN, f64::INFINITY, -1.0] {
        let rounds = vec![round(&[nonsense, 0.1, 0.1, 0.1]); 5];
        let verdicts = judge(&rounds, &BTreeSet::new(), &SETTINGS());
        assert!(!verdicts.contains_key("n0"));
        assert!(verdicts.values().all(|verdict| !verdict.slow));
    }
}

#[test]
fn microseconds_accuse_nobody() {
    let rounds = vec![round(&[900e-6, 1e-6, 1e-6, 1e-6]); 5];
    assert!(!first(&rounds, false).slow);
    assert!(!first(&vec![round(&[0.0; 4]); 5], false).slow);
}

#[test]
fn a_partial_is_overdue_beside_the_others() {
    let is = |handed_over: &[f64], missing, seconds| {
        overdue(
            handed_over,
            missing,
            Duration::from_secs_f64(seconds),
            &SETTINGS(),
        )
    };
    assert!(!is(&[0.1, 0.1], 1, 4.9), "everybody has five seconds");
    assert!(is(&[0.1, 0.1], 1, 5.1));
    assert!(!is(&[1.0, 2.0, 3.0], 1, 19.0), "ten times the median");
    assert!(is(&[1.0, 2.0, 3.0], 1, 21.0));
    assert!(!is(&[0.1], 1, 60.0), "of two nodes nobody can say");
    assert!(
        !is(&[0.1, 0.1], 2, 60.0),
        "where most are late it is not the node"
    );
    assert!(!is(&[0.1, 0.1, 0.1], 0, 60.0), "nothing is missing");
    assert!(!is(&[], 3, 60.0));
}

/// So many nodes, all near 1.
fn alike(nodes: std::ops::Range<usize>, noise: f64) -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec(1.0 - noise..1.0 + noise, nodes)
}

proptest! {
    #[test]
    fn the_unit_of_time_does_not_matter(
        times in proptest::collection::vec(0.001..1000.0_f64, 3..20),
        scale in 1e-6..1e6_f64,
    ) {
        let scaled: Vec<f64> = times.iter().map(|time| time * scale).collect();
        for floor in [0.0, 0.5] {
            let before = z(&times, floor, 0.25);
            let after = z(&scaled, floor, 0.25 * scale);
            for (before, after) in before.iter().zip(&after) {
                prop_assert!((before - after).abs() <= 1e-9 * before.abs().max(1.0));
            }
        }
    }

    #[test]
    fn a_slow_one_among_many_is_found_and_nobody_else(
        others in alike(2..40, 0.3),
        slow in 5.0..100.0_f64,
        scale in 0.1..100.0_f64,
    ) {
        let mut times = vec![slow * scale];
        times.extend(others.iter().map(|time| time * scale));
        let verdicts = judge(&[round(&times), round(&times), round(&times)], &BTreeSet::new(), &SETTINGS());
        let slow: Vec<_> = verdicts.iter().filter(|(_, verdict)| verdict.slow).collect();
        prop_assert!(slow.len() == 1 && slow[0].0 == "n0", "{:?}", verdicts);
    }

    #[test]
    fn equal_nodes_with_noise_are_not_accused(
        rounds in proptest::collection::vec(alike(8..9, 0.4), 1..10),
        scale in 1e-6..1000.0_f64,
    ) {
        let rounds: Vec<Round> = rounds
            .iter()
            .map(|times| round(&times.iter().map(|time| time * scale).collect::<Vec<_>>()))
            .collect();
        let verdicts = judge(&rounds, &BTreeSet::new(), &SETTINGS());
        prop_assert!(verdicts.values().all(|verdict| !verdict.slow), "{:?}", verdicts);
    }

    #[test]
    fn who_takes_longer_never_looks_better(
        mut times in proptest::collection::vec(0.0..10.0_f64, 3..20),
        more in 0.0..10.0_f64,
    ) {
        let before = z(&times, 0.5, 0.05)[0];
        times[0] += more;
        let after = z(&times, 0.5, 0.05)[0];
        prop_assert!(after >= before - 1e-9, "{before} became {after}");
    }

    #[test]
    fn any_numbers_are_survived(times in proptest::collection::vec(any::<f64>(), 0..10)) {
        let _ = judge(&[round(&times)], &BTreeSet::new(), &SETTINGS());
    }
}
