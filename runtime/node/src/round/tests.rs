use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tributary_api::quantity::Interval;

fn name(n: u32) -> ClientName {
    format!("client-{n}").parse().unwrap()
}

fn round(full: u32, deadline: Option<(u32, u32)>) -> Round {
    let deadline = deadline.map(|(seconds, quorum)| (Interval::from_secs(seconds), quorum));
    Round::new(
        Epoch::first(3).unwrap(),
        Tree {
            fan_in: 2,
            lanes: 2,
        },
        Closing { full, deadline },
    )
}

#[test]
fn closes_when_all_are_in() {
    let now = Instant::now();
    let mut round = round(2, None);
    assert_eq!(round.due(now), None);
    round.accept(name(0), 1, now).unwrap();
    assert_eq!(round.due(now + Duration::from_secs(1000)), None);
    round.accept(name(1), 1, now).unwrap();
    assert_eq!(round.due(now), Some(Reason::Full));
    round.close();
    assert_eq!(round.due(now), None, "closes once");
    assert_eq!(round.accept(name(2), 1, now), None, "late");
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
    round.accept(name(0), 1, first).unwrap();
    let passed = first + Duration::from_secs(10);
    assert_eq!(round.deadline(), Some(passed));
    assert_eq!(round.due(passed), None, "no quorum");
    round.accept(name(1), 1, passed).unwrap();
    assert_eq!(round.due(passed - Duration::from_secs(1)), None);
    assert_eq!(round.due(passed), Some(Reason::Deadline));
    round.refuse(1, "trap".into());
    assert_eq!(round.due(passed), None, "a refused update is no quorum");
}

#[test]
fn a_client_is_known_by_its_bytes() {
    let now = Instant::now();
    let mut round = round(9, None);
    round.accept(name(0), 7, now).unwrap();
    assert_eq!(round.known(&name(0), 7), Some(Known::Same));
    assert_eq!(round.known(&name(0), 8), Some(Known::Other));
    assert_eq!(round.known(&name(1), 7), None);
    assert_eq!(round.accept(name(0), 7, now), None);
    round.refuse(0, "division".into());
    assert_eq!(
        round.known(&name(0), 7),
        Some(Known::Refused("division".into()))
    );
}

#[test]
fn a_full_leaf_is_closed_before_the_round() {
    let now = Instant::now();
    let mut round = round(9, None);
    round.accept(name(0), 1, now).unwrap();
    round.accept(name(1), 1, now).unwrap();
    assert_eq!(round.closes(), vec![], "two lanes, one update each");
    round.accept(name(2), 1, now).unwrap();
    assert_eq!(round.closes(), vec![close(Level::Leaf, 0, 2)]);
    round.accept(name(3), 1, now).unwrap();
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
        let mut round = Round::new(Epoch::first(1).unwrap(), tree, Closing { full: 1000, deadline: None });
        let mut told = BTreeMap::new();
        let mut hear = |closes: Vec<Close>| {
            for c in closes { told.insert((c.level, c.index), c.expected); }
        };
        for n in 0..updates {
            round.accept(name(n), 0, now).unwrap();
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
}
