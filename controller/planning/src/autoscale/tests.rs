//! What the autoscaler promises.

use proptest::prelude::*;

use super::*;

const NODE: &str = "n";

fn config() -> Config {
    Config::default()
}

/// A job with `rate` updates a second of 0.5 s each, so `rate / 4` workers.
fn job(name: &str, rate: f64, ready: u32) -> JobSeen {
    JobSeen {
        arrivals_per_second: Some(rate),
        seconds_per_update: Some(0.5),
        ready,
        ..JobSeen::new(name, NODE, "tenant")
    }
}

fn seen(jobs: Vec<JobSeen>, workers_max: u32) -> Observations {
    Observations {
        nodes: vec![NodeSeen {
            name: NODE.to_owned(),
            workers_max,
        }],
        jobs,
    }
}

/// One job, whose workers are ready as soon as they are wanted.
struct Alone {
    config: Config,
    state: State,
    now: u64,
    ready: u32,
}

impl Alone {
    fn new() -> Self {
        Self {
            config: config(),
            state: State::default(),
            now: 1000,
            ready: 0,
        }
    }

    /// A second passes in which `job` is seen.
    fn see(&mut self, job: JobSeen) -> Wanted {
        self.now += 1;
        let now = Duration::from_secs(self.now);
        let state = std::mem::take(&mut self.state);
        let (state, decision) = decide(&self.config, state, now, &seen(vec![job], 100));
        self.state = state;
        let wanted = *decision.wanted("j", NODE).unwrap();
        self.ready = wanted.workers;
        wanted
    }

    fn rate(&mut self, rate: f64) -> Wanted {
        let job = job("j", rate, self.ready);
        self.see(job)
    }

    fn nothing_known(&mut self) -> Wanted {
        self.see(JobSeen {
            ready: self.ready,
            ..JobSeen::new("j", NODE, "tenant")
        })
    }
}

#[test]
fn leaves_follow_littles_law() {
    let mut alone = Alone::new();
    // 40 a second, half a second each, two for each leaf.
    let wanted = alone.rate(40.0);
    let tree = Tree {
        leaves: 10,
        middle: true,
        top: false,
    };
    assert_eq!((wanted.workers, wanted.tree), (10, tree));
    let mut alone = Alone::new();
    let top = JobSeen {
        top: true,
        ..job("j", 3.0, 0)
    };
    let tree = Tree {
        leaves: 1,
        middle: false,
        top: true,
    };
    assert_eq!(alone.see(top).tree, tree);
}

#[test]
fn without_reuse_middle_and_top_have_workers_of_their_own() {
    let mut alone = Alone::new();
    alone.config.reuse = false;
    let top = JobSeen {
        top: true,
        ..job("j", 16.0, 0)
    };
    let wanted = alone.see(top);
    assert_eq!((wanted.workers, wanted.tree.leaves), (6, 4));
    assert!(wanted.tree.middle && wanted.tree.top);
}

#[test]
fn a_burst_is_held_for_a_stable_window_and_then_goes() {
    let mut alone = Alone::new();
    for _ in 0..10 {
        alone.rate(4.0);
    }
    let burst = alone.rate(80.0);
    assert_eq!((burst.workers, burst.reason), (20, Reason::Load));
    for _ in 0..59 {
        assert!(alone.rate(4.0).workers >= 3);
    }
    let mut later = alone.rate(4.0);
    for _ in 0..200 {
        later = alone.rate(4.0);
    }
    assert_eq!(later.workers, 1);
}

#[test]
fn after_the_last_update_it_goes_to_zero_and_stays_there() {
    let mut alone = Alone::new();
    for _ in 0..20 {
        alone.rate(20.0);
    }
    let seconds: Vec<u32> = (0..300).map(|_| alone.rate(0.0).workers).collect();
    assert!(seconds[0] > 0);
    assert_eq!(seconds[200..], [0; 100]);
    // It falls, and never rises on the way.
    assert!(seconds.is_sorted_by(|a, b| a >= b), "{seconds:?}");
}

#[test]
fn after_a_restart_nothing_shrinks_for_a_stable_window() {
    let mut alone = Alone::new();
    alone.ready = 12;
    for _ in 0..60 {
        assert_eq!(alone.rate(4.0).workers, 12);
    }
    for _ in 0..200 {
        alone.rate(4.0);
    }
    assert_eq!(alone.ready, 1);
}

#[test]
fn what_waited_for_a_cold_start_is_no_load() {
    let mut alone = Alone::new();
    for _ in 0..5 {
        alone.rate(4.0);
    }
    // The same arrivals; each took 20 seconds, because it waited for a worker.
    let waiting = JobSeen {
        seconds_per_update: Some(20.0),
        starting: 1,
        ..job("j", 4.0, 1)
    };
    assert_eq!(alone.see(waiting.clone()).workers, 1);
    let flushed = JobSeen {
        starting: 0,
        ..waiting
    };
    assert_eq!(alone.see(flushed).workers, 1);
}

#[test]
fn a_worker_that_was_started_for_a_first_update_is_kept_for_a_second_one() {
    let mut alone = Alone::new();
    // It was worked on before anybody could measure.
    let first = JobSeen {
        seconds_per_update: None,
        starting: 1,
        ..job("j", 0.5, 0)
    };
    assert_eq!(alone.see(first).reason, Reason::NoData);
    alone.ready = 1;
    for _ in 0..100 {
        let wanted = alone.rate(0.0);
        assert_eq!((wanted.workers, wanted.reason), (1, Reason::KeptWarm));
    }
    for _ in 0..30 {
        alone.rate(0.0);
    }
    assert_eq!(alone.ready, 0);
}

/// The round `number` at `second`: 40 updates between 30 s and 50 s.
fn round(alone: &Alone, number: u64, second: u64) -> JobSeen {
    let comes = (30..50).contains(&second);
    let arrived = second.clamp(30, 50) - 30;
    JobSeen {
        round: Some(RoundSeen {
            number,
            opened: Duration::from_secs(alone.now + 1 - second),
            expected: 40,
            arrived: u32::try_from(arrived * 2).unwrap(),
            first: None,
            last: None,
        }),
        start_seconds: Some(3.0),
        ..job("j", if comes { 2.0 } else { 0.0 }, alone.ready)
    }
}

#[test]
fn a_known_round_has_its_workers_before_its_updates_and_none_after() {
    let mut alone = Alone::new();
    let mut last = Vec::new();
    for number in 1..=4 {
        last.clear();
        for second in 0..100 {
            let job = round(&alone, number, second);
            last.push(alone.see(job));
        }
    }
    let wanted: Vec<u32> = last.iter().map(|wanted| wanted.workers).collect();
    // Twice the three seconds of a start, and two until the next decision.
    assert_eq!(wanted[..22], [0; 22]);
    assert_eq!(last[23].reason, Reason::Planned);
    assert!(
        wanted[26..50]
            .iter()
            .all(|workers| (1..=3).contains(workers)),
        "{wanted:?}"
    );
    assert_eq!(wanted[53..], [0; 47]);
}

#[test]
fn who_need_not_look_is_told_when_to_look_again() {
    let mut alone = Alone::new();
    let next = |alone: &Alone| alone.state.next(&config(), Duration::from_secs(alone.now));
    assert_eq!(next(&alone), None);
    for number in 1..=3 {
        for second in 0..100 {
            let job = round(&alone, number, second);
            let wanted = alone.see(job);
            let at = next(&alone);
            match (number, second) {
                // Nothing is known of when updates come.
                (1, 0..30) => assert_eq!(at, None, "{number} {second}"),
                // Eight seconds before the first one, or at once when they are near.
                (2.., 0..50) => {
                    let opened = alone.now - second;
                    let at = at.unwrap().as_secs();
                    assert!(
                        (opened + 21..=opened + 22).contains(&at) || at == alone.now,
                        "{at}"
                    );
                }
                (2.., 50..) => assert_eq!(at, None, "all have come"),
                _ => {}
            }
            // Nobody sleeps over a wish.
            let sleeps = at.is_none_or(|at| at.as_secs() > alone.now);
            assert!(number == 1 || wanted.workers == 0 || second >= 50 || !sleeps);
        }
    }
}

#[test]
fn a_job_gets_no_more_workers_than_it_has_a_use_for() {
    let mut alone = Alone::new();
    for rate in [0.0, 80.0, 80.0, 0.0] {
        let two = JobSeen {
            workers_max: Some(2),
            ..job("j", rate, alone.ready)
        };
        let wanted = alone.see(two);
        assert!(
            wanted.wished <= 2 && wanted.reason != Reason::NodeFull,
            "{wanted:?}"
        );
    }
}

#[test]
fn parameters_that_make_no_sense_are_named() {
    assert_eq!(config().check(), Ok(()));
    let wrong = Config {
        updates_per_worker: 0.0,
        ..config()
    };
    let named = wrong.check().unwrap_err().to_string();
    assert_eq!(
        named,
        "updates_per_worker is 0: it must be a number above 0"
    );
    let mut wrong = config();
    wrong.warm.remembered = f64::NAN;
    assert_eq!(wrong.check().unwrap_err().field, "warm.remembered");
    let unknown = serde_json::from_str::<Config>(r#"{"warm": {"start": 1}}"#).unwrap_err();
    assert!(
        unknown.to_string().contains("unknown field `start`"),
        "{unknown}"
    );
}

#[test]
fn jobs_share_a_node_that_is_too_small() {
    let jobs = vec![
        JobSeen {
            tenant_weight: 3.0,
            tenant: "a".to_owned(),
            ..job("a", 80.0, 0)
        },
        job("b", 80.0, 0),
    ];
    let now = Duration::from_secs(1);
    let (_, decision) = decide(&config(), State::default(), now, &seen(jobs, 8));
    let (a, b) = (decision.jobs["a"][NODE], decision.jobs["b"][NODE]);
    assert_eq!((a.workers, b.workers), (6, 2));
    assert_eq!((a.wished, a.reason), (20, Reason::NodeFull));
}

#[test]
fn what_is_gone_is_forgotten() {
    let now = Duration::from_secs(5);
    let first = seen(vec![job("j", 80.0, 0)], 100);
    let (state, _) = decide(&config(), State::default(), now, &first);
    let (state, decision) = decide(&config(), state, now, &seen(vec![], 100));
    assert_eq!(decision, Decision::default());
    let (state, _) = decide(&config(), state, now, &Observations::default());
    assert_eq!(state, State::default());
}

fn any_rates() -> impl Strategy<Value = Vec<f64>> {
    let rate = prop_oneof![2 => Just(0.0), 3 => 0.0_f64..20.0, 1 => 0.0_f64..300.0];
    prop::collection::vec(rate, 1..200)
}

fn needed(rate: f64) -> u32 {
    (rate * 0.5 / 2.0 - 1e-9).ceil() as u32
}

proptest! {
    #[test]
    fn constant_load_has_constant_workers(rate in 0.1_f64..300.0, ready in 0_u32..2) {
        let mut alone = Alone::new();
        alone.ready = ready;
        for _ in 0..400 {
            prop_assert_eq!(alone.rate(rate).workers, needed(rate).min(100));
        }
    }

    #[test]
    fn there_are_never_fewer_than_are_needed(rates in any_rates()) {
        let mut alone = Alone::new();
        for rate in rates {
            let wanted = alone.rate(rate);
            prop_assert!(wanted.wished >= needed(rate).min(100), "{wanted:?} for {rate}");
            prop_assert!(wanted.tree.leaves <= wanted.workers);
            prop_assert_eq!(wanted.workers, wanted.wished.min(100));
        }
    }

    #[test]
    fn nothing_shrinks_in_panic(rates in any_rates()) {
        let mut alone = Alone::new();
        let mut last: Option<Wanted> = None;
        for rate in rates {
            let wanted = alone.rate(rate);
            if let Some(last) = last.filter(|_| wanted.reason == Reason::Panic) {
                let was = if last.reason == Reason::Panic { last.wished } else { 0 };
                prop_assert!(wanted.wished >= was, "{last:?}, then {wanted:?}");
            }
            last = Some(wanted);
        }
    }

    #[test]
    fn more_load_never_has_fewer_workers(rates in any_rates(), now in 0.0_f64..100.0, more in 0.0_f64..100.0) {
        let mut alone = Alone::new();
        for rate in rates {
            alone.rate(rate);
        }
        let mut other = Alone {
            state: alone.state.clone(),
            ready: alone.ready,
            now: alone.now,
            ..Alone::new()
        };
        let base = alone.rate(now);
        prop_assert!(other.rate(now + more).wished >= base.wished);
    }

    #[test]
    fn without_data_nothing_changes(rates in any_rates(), silent in 1_u32..500) {
        let mut alone = Alone::new();
        let mut before = None;
        for rate in &rates {
            before = Some(alone.rate(*rate));
        }
        let before = before.unwrap();
        for _ in 0..silent {
            let wanted = alone.nothing_known();
            prop_assert_eq!(wanted.workers, before.workers);
            prop_assert_eq!(wanted.reason, Reason::NoData);
        }
    }

    #[test]
    fn a_node_is_never_given_more_than_it_has(
        rates in prop::collection::vec((0.0_f64..200.0, 0_i32..3, 0_usize..3, 0_u32..20), 1..8),
        workers_max in 0_u32..30,
        steps in 1_u64..20,
    ) {
        let mut state = State::default();
        for step in 0..steps {
            let jobs = rates.iter().enumerate().map(|(at, (rate, priority, tenant, ready))| JobSeen {
                priority: *priority,
                tenant: ["x", "y", "z"][*tenant].to_owned(),
                ..job(&format!("j{at}"), rate * (step % 3) as f64, *ready)
            });
            let seen = seen(jobs.collect(), workers_max);
            let (next, decision) = decide(&config(), state, Duration::from_secs(step), &seen);
            state = next;
            let given: u32 = decision.jobs.values().flat_map(|nodes| nodes.values()).map(|w| w.workers).sum();
            prop_assert!(given <= workers_max);
        }
    }

    #[test]
    fn figures_that_make_no_sense_do_no_harm(
        seen_each in prop::collection::vec((
            prop::sample::select(vec![f64::NAN, f64::INFINITY, -1.0, 0.0, 1.0, 1e300]),
            prop::sample::select(vec![f64::NAN, f64::INFINITY, -1.0, 0.0, 1.0, 1e300]),
            0_u64..100, any::<u32>(), any::<u32>(), any::<u32>(),
        ), 1..40),
    ) {
        let mut state = State::default();
        for (rate, seconds, now, ready, starting, expected) in seen_each {
            let job = JobSeen {
                arrivals_per_second: Some(rate),
                seconds_per_update: Some(seconds),
                start_seconds: Some(seconds),
                tenant_weight: rate,
                ready,
                starting,
                round: Some(RoundSeen {
                    number: now % 3,
                    opened: Duration::from_secs(now / 2),
                    expected,
                    arrived: ready,
                    first: None,
last: None,
                }),
                ..JobSeen::new("j", NODE, "tenant")
            };
            let (next, decision) = decide(&config(), state, Duration::from_secs(now), &seen(vec![job], 8));
            state = next;
            prop_assert!(decision.wanted("j", NODE).unwrap().workers <= 8);
        }
    }
}
