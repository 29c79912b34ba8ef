use proptest::prelude::*;

use super::*;

/// A node that serves `servers` updates at once, each in `alone` seconds when it is.
#[derive(Clone, Copy)]
struct Machine {
    servers: f64,
    alone: f64,
    cores: u32,
}

impl Machine {
    /// What it shows with `in_flight` updates in service: beyond its servers they wait.
    fn shows(self, in_flight: f64) -> Observation {
        let seconds = self.alone * (in_flight / self.servers).max(1.0);
        Observation {
            arrivals_per_second: Some(in_flight / seconds),
            seconds_per_update: Some(seconds),
            in_flight: Some(in_flight),
            cores: Some(self.cores),
        }
    }
}

/// One observation per second of `machine` under each load.
fn feed(
    estimator: &mut Estimator,
    from: u64,
    machine: Machine,
    loads: impl IntoIterator<Item = f64>,
) -> u64 {
    let mut now = from;
    for load in loads {
        estimator.observe(Duration::from_secs(now), machine.shows(load));
        now += 1;
    }
    now
}

fn up_to(load: u32, seconds: usize) -> impl Iterator<Item = f64> {
    (1..=load).flat_map(move |load| std::iter::repeat_n(f64::from(load), seconds))
}

fn near(value: f64, wanted: f64) -> bool {
    (value / wanted - 1.0).abs() < 0.1
}

#[test]
fn nothing_seen_is_nothing_known() {
    let mut estimator = Estimator::new(Settings::default());
    assert_eq!(estimator.capacity(), None);
    estimator.observe(Duration::from_secs(1), Observation::default());
    assert_eq!(estimator.capacity(), None);
}

#[test]
fn a_load_that_rises_finds_the_knee() {
    for (servers, cores) in [(4.0, 4), (16.0, 4), (2.0, 2), (3.0, 1)] {
        let machine = Machine {
            servers,
            alone: 0.1,
            cores,
        };
        let mut estimator = Estimator::new(Settings::default());
        feed(&mut estimator, 0, machine, up_to(servers as u32 * 4, 20));
        let capacity = estimator.capacity().unwrap();
        assert!(
            near(capacity.concurrency, servers),
            "{capacity:?} of {servers}"
        );
        // It is far beyond the knee, and E says so: MC - k * E is below 0.
        let rate = servers / machine.alone;
        assert!(capacity.concurrency - rate * capacity.seconds_per_update < 0.0);
    }
}

#[test]
fn nodes_that_differ_are_told_apart() {
    let measure = |servers: f64, alone: f64| {
        let machine = Machine {
            servers,
            alone,
            cores: 8,
        };
        let mut estimator = Estimator::new(Settings::default());
        let end = feed(&mut estimator, 0, machine, up_to(64, 10));
        feed(&mut estimator, end, machine, [1.0; 60]);
        estimator.capacity().unwrap()
    };
    let (fast, slow) = (measure(16.0, 0.05), measure(8.0, 0.2));
    assert!(near(fast.seconds_per_update, 0.05), "{fast:?}");
    assert!(near(slow.seconds_per_update, 0.2), "{slow:?}");
    assert!(fast.concurrency > 1.3 * slow.concurrency);
}

#[test]
fn a_node_that_slows_down_is_slow_and_not_full() {
    let machine = Machine {
        servers: 8.0,
        alone: 0.05,
        cores: 4,
    };
    let mut estimator = Estimator::new(Settings::default());
    let end = feed(&mut estimator, 0, machine, [2.0; 60]);
    let before = estimator.capacity().unwrap();
    let throttled = Machine {
        alone: 0.2,
        ..machine
    };
    feed(&mut estimator, end, throttled, [2.0; 60]);
    let after = estimator.capacity().unwrap();
    assert!(near(after.seconds_per_update, 0.2), "{after:?}");
    assert_eq!(after.concurrency, before.concurrency);
    // The same arrivals leave less: k * E has grown.
    let residual = |of: Capacity| of.concurrency - 40.0 * of.seconds_per_update;
    assert!(residual(after) < residual(before));
}

#[test]
fn a_node_that_was_full_recovers() {
    let machine = Machine {
        servers: 2.0,
        alone: 0.1,
        cores: 2,
    };
    let mut estimator = Estimator::new(Settings::default());
    let end = feed(&mut estimator, 0, machine, up_to(16, 20));
    let full = estimator.capacity().unwrap();
    assert!(near(full.concurrency, 2.0), "{full:?}");
    let end = feed(&mut estimator, end, machine, [1.0; 300]);
    let later = estimator.capacity().unwrap();
    assert!(later.concurrency > 8.0, "{later:?}");
    assert!(near(later.seconds_per_update, 0.1));
    // And what it cannot do is found again.
    feed(&mut estimator, end, machine, [12.0; 60]);
    assert!(near(estimator.capacity().unwrap().concurrency, 2.0));
}

#[test]
fn littles_law_stands_in_for_what_is_in_flight() {
    let machine = Machine {
        servers: 4.0,
        alone: 0.1,
        cores: 4,
    };
    let mut with = Estimator::new(Settings::default());
    let mut without = with.clone();
    for (now, load) in up_to(12, 5).enumerate() {
        let now = Duration::from_secs(now as u64);
        let shown = machine.shows(load);
        with.observe(now, shown);
        without.observe(
            now,
            Observation {
                in_flight: None,
                ..shown
            },
        );
    }
    let (with, without) = (with.capacity().unwrap(), without.capacity().unwrap());
    assert!(near(without.concurrency, with.concurrency));
}

fn any_value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        Just(None),
        Just(Some(f64::NAN)),
        Just(Some(f64::INFINITY)),
        Just(Some(-1.0)),
        Just(Some(0.0)),
        (1e-6..1e6).prop_map(Some),
    ]
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let cores = prop_oneof![Just(None), (0_u32..200).prop_map(Some)];
    (any_value(), any_value(), any_value(), cores).prop_map(
        |(arrivals_per_second, seconds_per_update, in_flight, cores)| Observation {
            arrivals_per_second,
            seconds_per_update,
            in_flight,
            cores,
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_seen_the_estimate_is_sound(
        seen in prop::collection::vec((0_u64..10_000, any_observation()), 0..50),
    ) {
        let mut estimator = Estimator::new(Settings::default());
        for (now, observation) in seen {
            let before = estimator.clone();
            estimator.observe(Duration::from_millis(now), observation);
            if let Some(capacity) = estimator.capacity() {
                prop_assert!(capacity.is_sound(), "{capacity:?}");
            }
            if positive(observation.seconds_per_update).is_none() && observation.cores.is_none() {
                prop_assert_eq!(&estimator, &before, "missing data changed something");
            }
        }
    }

    #[test]
    fn the_estimate_lies_between_what_was_seen(
        seconds in prop::collection::vec(0.001_f64..10.0, 1..40),
    ) {
        let mut estimator = Estimator::new(Settings::default());
        for (now, seconds) in seconds.iter().enumerate() {
            let observation = Observation {
                seconds_per_update: Some(*seconds),
                cores: Some(4),
                ..Observation::default()
            };
            estimator.observe(Duration::from_secs(now as u64), observation);
        }
        let e = estimator.capacity().unwrap().seconds_per_update;
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = seconds.iter().copied().fold(0.0, f64::max);
        prop_assert!((least * 0.999..=most * 1.001).contains(&e));
    }
}
