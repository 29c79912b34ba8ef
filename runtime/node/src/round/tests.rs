use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use tributary_api::quantity::Interval;

/// The number of the rounds here, which is also the one that most updates are trained for.
const TRAINED: u64 = 3;

fn name(n: u32) -> ClientName {
    format!("client-{n}").parse().unwrap()
}

fn round(full: u32, deadline: Option<(u32, u32)>) -> Round {
    let timer =
        deadline.map(|(seconds, quorum)| Timer::Deadline(Interval::from_secs(seconds), quorum));
    round_with(Closing { full, timer }, Instant::now())
}

fn round_with(closing: Closing, opened: Instant) -> Round {
    let tree = Tree {
        fan_in: 2,
        lanes: 2,
    };
    Round::new(Epoch::first(TRAINED).unwrap(), tree, closing, opened)
}

#[test]
fn closes_when_all_are_in() {
    let now = Instant::now();
    let mut round = round(2, None);
    assert_eq!(round.due(now), None);
    round.accept(name(0), TRAINED, 1, now).unwrap();
    assert_eq!(round.due(now + Duration::from_secs(1000)), None);
    round.accept(name(1), TRAINED, 1, now).unwrap();
    assert_eq!(round.due(now), Some(Reason::Full));
    round.close();
    assert_eq!(round.due(now), None, "closes once");
    assert_eq!(round.accept(name(2), TRAINED, 1, now), None, "late");
}

#[test]
fn deadline_counts_from_the_first_update_and_waits_for_the_quorum() {
    let start = Instant::now();
    let mut round = round(9, Some((10, 2)));
    assert_eq!(
        round.due(start + Duration::from_secs(100)),
        None,
        "nothing came"
    );
    let first = start + Duration::from_secs(50);
    round.accept(name(0), TRAINED, 1, first).unwrap();
    let passed = first + Duration::from_secs(10);
    assert_eq!(round.deadline(), Some(passed));
    assert_eq!(round.due(passed), None, "no quorum");
    round.accept(name(1), TRAINED, 1, passed).unwrap();
    assert_eq!(round.due(passed - Duration::from_secs(1)), None);
    assert_eq!(round.due(passed), Some(Reason::Deadline));
    round.refuse(1, "trap".into());
    assert_eq!(round.due(passed), None, "a refused update is no quorum");
}

#[test]
fn a_client_is_known_by_its_bytes() {
    let now = Instant::now();
    let mut round = round(9, None);
    round.accept(name(0), TRAINED, 7, now).unwrap();
    assert_eq!(round.known(&name(0), TRAINED, 7), Some(Known::Same));
    assert_eq!(round.known(&name(0), TRAINED, 8), Some(Known::Other));
    assert_eq!(round.known(&name(1), TRAINED, 7), None);
    assert_eq!(round.accept(name(0), TRAINED, 7, now), None);
    round.refuse(0, "division".into());
    assert_eq!(
        round.known(&name(0), TRAINED, 7),
        Some(Known::Refused("division".into()))
    );
}

#[test]
fn a_window_counts_from_the_opening_and_waits_for_one_update() {
    let opened = Instant::now();
    let timer = Some(Timer::Window(Interval::from_secs(10)));
    let mut round = round_with(Closing { full: 9, timer }, opened);
    let at = |seconds| opened + Duration::from_secs(seconds);
    assert_eq!((round.due(at(100)), round.deadline()), (None, None));
    round.accept(name(0), TRAINED, 1, at(4)).unwrap();
    assert_eq!((round.due(at(9)), round.deadline()), (None, Some(at(10))));
    assert_eq!(round.due(at(10)), Some(Reason::Window));
    round.refuse(0, "trap".into());
    assert_eq!(round.due(at(10)), None, "nobody is left");
    round.accept(name(1), TRAINED, 1, at(11)).unwrap();
    assert_eq!(round.due(at(11)), Some(Reason::Window), "long passed");
    round.set_follows(true);
    assert_eq!((round.due(at(11)), round.deadline()), (None, None));
}

#[test]
fn a_client_may_have_an_update_for_each_round_in_one() {
    let now = Instant::now();
    let mut round = round(9, None);
    let numbers = [3, 1, 2].map(|trained| round.accept(name(0), trained, trained.into(), now));
    assert_eq!(numbers.map(|placed| placed.unwrap().client), [0, 1, 2]);
    assert_eq!(round.accept(name(0), 1, 1, now), None);
    assert_eq!(round.known(&name(0), 1, 1), Some(Known::Same));
    assert_eq!(round.known(&name(0), 1, 2), Some(Known::Other));
    assert_eq!(round.known(&name(0), 2, 2), Some(Known::Same));
    assert_eq!(round.known(&name(0), 4, 4), None);
    assert_eq!(round.staleness(), StalenessSum { total: 3, max: 2 });
    round.refuse(1, "trap".into());
    assert_eq!(round.known(&name(0), 2, 2), Some(Known::Same));
    let refused = Some(Known::Refused("trap".into()));
    assert_eq!(round.known(&name(0), 1, 1), refused);
    assert_eq!(
        round
            .refused()
            .map(|placed| placed.client)
            .collect::<Vec<_>>(),
        [1]
    );
    assert_eq!((round.accepted(), round.contributors()), (3, 2));
}

#[test]
fn a_full_leaf_is_closed_before_the_round() {
    let now = Instant::now();
    let mut round = round(9, None);
    round.accept(name(0), TRAINED, 1, now).unwrap();
    round.accept(name(1), TRAINED, 1, now).unwrap();
    assert_eq!(round.closes(), vec![], "two lanes, one update each");
    round.accept(name(2), TRAINED, 1, now).unwrap();
    assert_eq!(round.closes(), vec![close(Level::Leaf, 0, 2)]);
    round.accept(name(3), TRAINED, 1, now).unwrap();
    assert_eq!(
        round.closes(),
        vec![close(Level::Leaf, 1, 2), close(Level::Middle, 0, 4)]
    );
    round.close();
    assert_eq!(round.closes(), vec![close(Level::Top, 0, 4)]);
    round.refuse(2, "trap".into());
    let again = vec![
        close(Level::Leaf, 0, 1),
        close(Level::Middle, 0, 3),
        close(Level::Top, 0, 3),
    ];
    assert_eq!(round.closes(), again);
    assert_eq!(round.closes(), vec![]);
}

#[test]
fn attempts_and_rounds_are_ordered() {
    let first = Epoch::first(3).unwrap();
    let again = first.again().unwrap();
    assert!(first < again && again < Epoch::first(4).unwrap());
    assert_eq!((again.round(), again.attempt()), (3, 1));
    assert_eq!(again.before(), Some(first));
    assert_eq!(Epoch::from_raw(0).before(), None);
    assert_eq!(
        Epoch::from_raw(3 << 8 | (Epoch::ATTEMPTS - 1)).again(),
        None
    );
    assert!(Epoch::first(u64::from(Epoch::ROUND_MAX)).is_some());
    assert_eq!(Epoch::first(u64::from(Epoch::ROUND_MAX) + 1), None);
}

proptest! {
    /// Whatever arrives and is refused: after the close, the numbers told to the leaves add up
    /// to those of their middles, and these to the top's.
    #[test]
    fn closes_add_up(fan_in in 2u32..6, lanes in 1u32..4, updates in 1u32..80,
                     refused in proptest::collection::vec(0u32..80, 0..10)) {
        let now = Instant::now();
        let tree = Tree { fan_in, lanes };
        let closing = Closing { full: 1000, timer: None };
        let mut round = Round::new(Epoch::first(TRAINED).unwrap(), tree, closing, now);
        let mut told = BTreeMap::new();
        let mut hear = |closes: Vec<Close>| {
            for c in closes { told.insert((c.level, c.index), c.expected); }
        };
        for n in 0..updates {
            round.accept(name(n), TRAINED, 0, now).unwrap();
            hear(round.closes());
        }
        for client in &refused { round.refuse(*client, String::new()); }
        hear(round.closes());
        round.close();
        hear(round.closes());

        let gone = refused.iter().filter(|c| **c < updates).collect::<std::collections::BTreeSet<_>>().len() as u32;
        prop_assert_eq!(round.contributors(), updates - gone);
        let top = told.get(&(Level::Top as u8, 0)).copied().unwrap_or(0);
        prop_assert_eq!(top, updates - gone);
        let sum = |level: Level| told.iter().filter(|((l, _), _)| *l == level as u8).map(|(_, n)| *n).sum::<u32>();
        // A leaf whose clients were all refused is told nothing more; it has nothing to send.
        let empty_leaves: u32 = round.leaves.iter().zip(0u32..).filter(|(l, _)| l.contributors() == 0)
            .map(|(_, i)| told.get(&(Level::Leaf as u8, i)).copied().unwrap_or(0)).sum();
        prop_assert_eq!(sum(Level::Leaf) - empty_leaves, top);
        // What is told bit by bit is what holds in the end.
        for c in round.current_closes() {
            prop_assert_eq!(told.get(&(c.level, c.index)), Some(&c.expected));
        }
    }

    /// Whoever sends what how often: each update for a round counts once, under a number of its own, and is known
    /// by its bytes from then on.
    #[test]
    fn every_update_counts_once(sent in proptest::collection::vec((0u32..6, 1u64..=TRAINED, 0u8..3), 1..60)) {
        let now = Instant::now();
        let mut round = round(1000, None);
        let mut first = BTreeMap::new();
        let mut sum = StalenessSum::default();
        for (client, trained, digest) in sent {
            let before = first.get(&(client, trained)).copied();
            let known = before.map(|before| if before == digest { Known::Same } else { Known::Other });
            prop_assert_eq!(round.known(&name(client), trained, digest.into()), known);
            let placed = round.accept(name(client), trained, digest.into(), now);
            prop_assert_eq!(placed.map(|placed| placed.client), before.is_none().then_some(first.len() as u32));
            if first.insert((client, trained), before.unwrap_or(digest)).is_none() {
                sum.add(TRAINED - trained);
            }
        }
        prop_assert_eq!(round.accepted() as usize, first.len());
        prop_assert_eq!(round.staleness(), sum);
    }
}
