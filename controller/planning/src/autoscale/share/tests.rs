use proptest::prelude::*;

use super::*;

fn demand<'a>(job: &'a str, tenant: &'a str, weight: f64, priority: i32, slots: u32) -> Demand<'a> {
    Demand {
        job,
        tenant,
        weight,
        priority,
        slots,
    }
}

fn once(slots: u32, demands: &[Demand<'_>]) -> Vec<u32> {
    let (_, granted) = divide(&Config::default(), Lags::default(), 0.0, slots, demands);
    demands.iter().map(|demand| granted[demand.job]).collect()
}

#[test]
fn who_fits_has_what_it_wants() {
    let demands = [demand("a", "x", 1.0, 0, 3), demand("b", "y", 9.0, 5, 4)];
    assert_eq!(once(7, &demands), [3, 4]);
}

#[test]
fn tenants_share_by_weight_and_their_jobs_alike() {
    let demands = [
        demand("a1", "a", 1.0, 0, 1),
        demand("a2", "a", 1.0, 0, 20),
        demand("b", "b", 1.0, 0, 20),
    ];
    assert_eq!(once(10, &demands), [1, 4, 5]);
    let demands = [demand("a", "a", 3.0, 0, 20), demand("b", "b", 1.0, 0, 20)];
    assert_eq!(once(8, &demands), [6, 2]);
}

#[test]
fn what_one_does_not_want_others_have() {
    let demands = [
        demand("a", "a", 1.0, 0, 1),
        demand("b", "b", 1.0, 0, 30),
        demand("c", "c", 2.0, 0, 30),
    ];
    assert_eq!(once(10, &demands), [1, 3, 6]);
}

#[test]
fn priorities_leave_a_floor() {
    let demands = [
        demand("low", "a", 1.0, 0, 100),
        demand("high", "b", 1.0, 9, 100),
    ];
    // Half of 40 is fair, a tenth of that is the floor.
    assert_eq!(once(40, &demands), [2, 38]);
}

/// Worker-seconds that each job has after `steps` decisions, `passed` seconds apart.
fn served(slots: u32, demands: &[Demand<'_>], steps: u32, passed: f64) -> Vec<f64> {
    let mut lags = Lags::default();
    let mut sums = vec![0.0; demands.len()];
    for step in 0..steps {
        let since = if step == 0 { 0.0 } else { passed };
        let (next, granted) = divide(&Config::default(), lags, since, slots, demands);
        lags = next;
        for (sum, demand) in sums.iter_mut().zip(demands) {
            *sum += f64::from(granted[demand.job]) * passed;
        }
    }
    sums
}

#[test]
fn a_slot_does_not_change_hands_at_each_decision() {
    let demands = [demand("a", "a", 1.0, 0, 4), demand("b", "b", 1.0, 0, 4)];
    let mut lags = Lags::default();
    let mut changes = 0;
    let mut last = None;
    for _ in 0..100 {
        let (next, granted) = divide(&Config::default(), lags, 1.0, 3, &demands);
        lags = next;
        changes += u32::from(last.is_some_and(|last| last != granted["a"]));
        last = Some(granted["a"]);
    }
    assert!((1..=20).contains(&changes), "{changes}");
}

const NAMES: [&str; 8] = ["j0", "j1", "j2", "j3", "j4", "j5", "j6", "j7"];
const TENANTS: [&str; 3] = ["x", "y", "z"];

fn any_demands() -> impl Strategy<Value = Vec<Demand<'static>>> {
    let one = (0_usize..3, 1_u32..5, 0_i32..3, 0_u32..20);
    prop::collection::vec(one, 1..8).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(at, (tenant, weight, priority, slots))| {
            let weight = f64::from(weight);
            demand(NAMES[at], TENANTS[tenant], weight, priority, slots)
        })
        .collect()
    })
}

proptest! {
    #[test]
    fn grants_are_within_one_slot_of_the_fair_share(
        demands in any_demands(), slots in 0_u32..40, steps in 1_usize..30, passed in 0.0_f64..30.0,
    ) {
        let mut lags = Lags::default();
        let fair = shares(&Config::default(), slots, &demands);
        for _ in 0..steps {
            let (next, granted) = divide(&Config::default(), lags, passed, slots, &demands);
            lags = next;
            prop_assert!(granted.values().sum::<u32>() <= slots);
            let wanted: u32 = demands.iter().map(|demand| demand.slots).sum();
            prop_assert_eq!(granted.values().sum::<u32>(), wanted.min(slots));
            for (demand, fair) in demands.iter().zip(&fair) {
                let granted = granted[demand.job];
                prop_assert!(granted <= demand.slots);
                prop_assert!((f64::from(granted) - fair).abs() < 1.0);
            }
        }
    }

    #[test]
    fn in_the_long_run_everybody_has_its_share(demands in any_demands(), slots in 1_u32..10) {
        let fair = shares(&Config::default(), slots, &demands);
        let (steps, passed) = (2000, 5.0);
        let served = served(slots, &demands, steps, passed);
        for ((demand, fair), served) in demands.iter().zip(&fair).zip(&served) {
            if demand.slots > 0 {
                // Nobody starves.
                prop_assert!(*fair > 0.0 && *served > 0.0);
                let mean = served / (f64::from(steps) * passed);
                prop_assert!((mean - fair).abs() < 0.05, "{demand:?}: {mean} of {fair}");
            }
        }
    }

    #[test]
    fn shares_are_max_min_fair(demands in any_demands(), slots in 1_u32..40) {
        let flat: Vec<_> = demands.iter().map(|demand| Demand { priority: 0, ..*demand }).collect();
        let fair = shares(&Config::default(), slots, &flat);
        let of = |tenant: &str| {
            let jobs = flat.iter().zip(&fair).filter(|(demand, _)| demand.tenant == tenant);
            let (mut share, mut wanted, mut weight) = (0.0, 0.0, 0.0_f64);
            for (demand, fair) in jobs {
                share += fair;
                wanted += f64::from(demand.slots);
                weight = weight.max(demand.weight);
            }
            (share, wanted, weight)
        };
        for (one, other) in [("x", "y"), ("y", "z"), ("z", "x"), ("y", "x")] {
            let (one, other) = (of(one), of(other));
            let lacks = one.0 < one.1 - 1e-6;
            // Who lacks something has no less, for its weight, than anybody else.
            prop_assert!(!lacks || other.2 == 0.0 || one.0 / one.2 >= other.0 / other.2 - 1e-6);
        }
    }
}
