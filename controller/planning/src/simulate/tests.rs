use proptest::prelude::*;

use super::*;

fn arrival(seconds: f64, service_seconds: f64) -> Record {
    Record::Arrival {
        seconds,
        job: "j".to_owned(),
        service_seconds,
    }
}

/// Starts take exactly two seconds.
fn setup(policy: Policy) -> Setup {
    Setup {
        policy,
        period_seconds: 1.0,
        start: LogNormal {
            mu: 2.0_f64.ln(),
            sigma: 0.0,
        },
        workers_max: 50,
        seed: 1,
    }
}

fn fixed(keep_alive_seconds: f64) -> Setup {
    setup(Policy::Fixed { keep_alive_seconds })
}

fn ours() -> Setup {
    setup(Policy::Autoscaler(Config {
        updates_per_worker: 1.0,
        ..Config::default()
    }))
}

#[test]
fn a_fixed_keep_alive_is_counted_by_hand() {
    // Cold; 4 s later warm; 100 s later cold again; the end at 300 s.
    let trace = Trace::new([
        arrival(10.0, 1.0),
        arrival(17.0, 1.0),
        arrival(118.0, 1.0),
        arrival(300.0, 1.0),
    ]);
    let outcome = simulate(&trace, &fixed(60.0));
    assert_eq!((outcome.arrivals, outcome.cold, outcome.started), (4, 3, 3));
    // Ready at 12, done at 13, taken at 17, done at 18 and kept for 60; the one of 118 likewise; the last has no time.
    assert!((outcome.wasted_seconds - (3.0 * 2.0 + 4.0 + 60.0 + 60.0)).abs() < 1e-9);
    assert_eq!(outcome.wait_quantile(0.25), 0.0);
    assert!((outcome.wait_quantile(1.0) - 2.0).abs() < 1e-9);
    assert!((outcome.busy_seconds - 4.0).abs() < 1e-9);
}

#[test]
fn the_oracle_is_counted_by_hand() {
    let trace = Trace::new([arrival(10.0, 1.0), arrival(12.0, 1.0), arrival(100.0, 1.0)]);
    let outcome = simulate(&trace, &setup(Policy::Oracle));
    assert_eq!((outcome.cold, outcome.started), (0, 2));
    assert!((outcome.wasted_seconds - (2.0 + 1.0 + 2.0)).abs() < 1e-9);
}

#[test]
fn a_full_node_lets_updates_wait() {
    let trace = Trace::new((0..10).map(|_| arrival(1.0, 1.0)));
    let one = Setup {
        workers_max: 1,
        ..fixed(60.0)
    };
    let outcome = simulate(&trace, &one);
    assert_eq!(outcome.started, 1);
    assert!((outcome.wait_quantile(1.0) - 11.0).abs() < 1e-9);
}

#[test]
fn a_timer_is_learnt() {
    let trace = Trace::new((0..60).map(|n| arrival(100.0 + 300.0 * f64::from(n), 1.0)));
    let (ours, fixed) = (simulate(&trace, &ours()), simulate(&trace, &fixed(60.0)));
    assert_eq!(fixed.cold, 60);
    assert!(ours.cold < 20, "{}", ours.cold);
    assert!(ours.wasted_seconds < fixed.wasted_seconds);
}

#[test]
fn rounds_are_foreseen() {
    let rounds = crate::trace::fitted::Rounds {
        rounds: 30,
        clients: 60,
        training: LogNormal::of(90.0, 10.0),
        service: LogNormal::of(0.5, 0.1),
        pause_seconds: 1.0,
    };
    let trace = Trace::new(rounds.draw("j", 1.0, &mut Random::new(5)));
    let (ours, fixed) = (simulate(&trace, &ours()), simulate(&trace, &fixed(60.0)));
    assert!(ours.cold < fixed.cold, "{} {}", ours.cold, fixed.cold);
    let (our_waste, waste) = (ours.wasted_seconds, fixed.wasted_seconds);
    assert!(our_waste < waste, "{our_waste} {waste}");
}

fn any_trace() -> impl Strategy<Value = Trace> {
    let one = (0.0_f64..500.0, 0.01_f64..20.0, 0_usize..3);
    prop::collection::vec(one, 0..80).prop_map(|all| {
        Trace::new(
            all.into_iter()
                .map(|(seconds, service_seconds, job)| Record::Arrival {
                    seconds,
                    job: ["a", "b", "c"][job].to_owned(),
                    service_seconds,
                }),
        )
    })
}

proptest! {
    #[test]
    fn every_update_is_worked_on_and_the_oracle_is_a_bound(trace in any_trace()) {
        let oracle = simulate(&trace, &setup(Policy::Oracle));
        for setup in [ours(), fixed(60.0), fixed(0.0)] {
            let outcome = simulate(&trace, &setup);
            prop_assert_eq!(outcome.arrivals as usize, trace.records().len());
            prop_assert_eq!(outcome.waits.len(), trace.records().len());
            prop_assert!((outcome.busy_seconds - oracle.busy_seconds).abs() < 1e-6);
            prop_assert!(outcome.cold >= oracle.cold);
            prop_assert!(outcome.wasted_seconds >= 0.0);
            prop_assert_eq!(simulate(&trace, &setup), outcome);
        }
    }

    #[test]
    fn a_longer_keep_alive_has_no_more_cold_starts(trace in any_trace(), keep in 0.0_f64..100.0) {
        // One update at a time, so that starts do not depend on each other.
        let mut busy_until = 0.0;
        let alone = trace.records().iter().filter(|record| {
            let alone = record.seconds() > busy_until && record.job() == "a";
            if alone {
                busy_until = record.seconds() + 30.0;
            }
            alone
        });
        let alone = Trace::new(alone.cloned());
        let (short, long) = (simulate(&alone, &fixed(keep)), simulate(&alone, &fixed(keep + 10.0)));
        prop_assert!(long.cold <= short.cold);
        prop_assert!(long.wasted_seconds + 1e-6 >= short.wasted_seconds - 2.0 * short.started as f64);
    }
}
