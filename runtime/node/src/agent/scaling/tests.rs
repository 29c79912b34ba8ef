use super::*;
use tributary_planning::autoscale::{JobSeen, RoundSeen, Tree};

fn wanted(workers: u32, wished: u32, reason: Reason) -> Wanted {
    Wanted {
        workers,
        wished,
        reason,
        tree: Tree::default(),
    }
}

#[test]
fn a_job_has_what_it_is_granted_and_no_more_than_its_lanes() {
    let of = |workers, wished, reason| hosts(&wanted(workers, wished, reason), false, 3);
    assert_eq!(of(2, 2, Reason::Load), Some(2));
    assert_eq!(of(9, 9, Reason::Panic), Some(3));
    assert_eq!(of(0, 0, Reason::Idle), Some(0));
    assert_eq!(of(1, 3, Reason::NodeFull), Some(1));
    assert_eq!(of(0, 3, Reason::NodeFull), Some(1), "it shares one");
    assert_eq!(of(7, 7, Reason::NoData), None);
}

#[test]
fn workers_of_a_fixed_time_are_limited_by_a_full_node_alone() {
    let of = |workers, wished, reason| hosts(&wanted(workers, wished, reason), true, 3);
    assert_eq!(of(0, 0, Reason::Idle), Some(3));
    assert_eq!(of(1, 1, Reason::Load), Some(3));
    assert_eq!(of(1, 2, Reason::NodeFull), Some(1));
    assert_eq!(of(0, 0, Reason::NoData), None);
}

fn scaling() -> (Scaling, Jobs) {
    let options = Options {
        node: "n".to_owned(),
        workers_max: 2,
        ..Options::default()
    };
    (Scaling::new(options), Jobs::default())
}

#[test]
fn nobody_looks_while_there_is_nothing_to_decide() {
    let (mut scaling, jobs) = scaling();
    assert_eq!(scaling.due(), None);
    let now = scaling.begun;
    scaling.hurry(now, &jobs);
    assert_eq!(scaling.due(), Some(now + Duration::from_millis(200)));
    // Another activation puts nothing off.
    scaling.hurry(now + Duration::from_millis(100), &jobs);
    assert_eq!(scaling.due(), Some(now + Duration::from_millis(200)));
    scaling.look_again(now, true);
    assert_eq!(
        scaling.due(),
        Some(now + Duration::from_secs(2)),
        "workers live"
    );
    scaling.look_again(now, false);
    assert_eq!(scaling.due(), None, "and now they do not");
}

#[test]
fn a_node_without_workers_wakes_for_a_round_that_is_expected() {
    let (mut scaling, _) = scaling();
    let second = |second: u64| Duration::from_secs(second);
    // Two rounds whose updates came 100 s after they were opened.
    for (now, number, opened, arrived) in [
        (0, 1, 0, 0),
        (100, 1, 0, 10),
        (101, 1, 0, 10),
        (110, 2, 110, 0),
        (210, 2, 110, 10),
        (211, 3, 211, 0),
    ] {
        let job = JobSeen {
            arrivals_per_second: Some(0.1),
            seconds_per_update: Some(0.01),
            start_seconds: Some(1.0),
            round: Some(RoundSeen {
                number,
                opened: second(opened),
                expected: 10,
                arrived,
                first: (arrived > 0).then(|| second(opened + 99)),
                last: None,
            }),
            ..JobSeen::new("j", "n", "default")
        };
        let seen = Observations {
            nodes: vec![scaling.node.clone()],
            jobs: vec![job],
        };
        let _ = scaling.decide(scaling.begun + second(now), seen);
    }
    let now = scaling.begun + second(211);
    scaling.look_again(now, false);
    let due = scaling.due().expect("a round is expected") - now;
    assert!(due > second(80) && due < second(100), "{due:?}");
}
