use tributary_api::stages::NodeTimes;

use super::*;
use crate::testing::{name, status};

/// Nodes a, b, c and d; d takes `slow` seconds to hand over, the others a tenth.
fn round(number: u64, slow: f64) -> RoundTimes {
    let nodes = ["a", "b", "c", "d"].into_iter().map(|node| {
        let seconds = if node == "d" { slow } else { 0.1 };
        NodeTimes {
            node: name(node),
            stages: StageTimes {
                hand_over_microseconds: Some((seconds * 1e6) as u64),
                ..StageTimes::default()
            },
        }
    });
    RoundTimes {
        round: number,
        nodes: nodes.collect(),
    }
}

#[derive(Default)]
struct World {
    stragglers: Stragglers,
    since: BTreeMap<Name, u64>,
}

impl World {
    /// What has changed after these rounds, `d+` for slow and `d-` for well.
    fn hear(&mut self, rounds: Vec<RoundTimes>) -> Vec<String> {
        let mut job = status("j", 1);
        job.version = rounds.last().map_or(1, |round| round.round + 1);
        job.times = rounds;
        self.hear_status(&job)
    }

    fn hear_status(&mut self, job: &JobStatus) -> Vec<String> {
        let names = ["a", "b", "c", "d"].map(name);
        let known = names.iter().collect();
        let turns = self
            .stragglers
            .observe(&name("j"), job, &self.since, &known);
        let turns = turns.into_iter();
        turns
            .map(|turn| {
                format!(
                    "{}{}",
                    turn.node,
                    if turn.slow.is_some() { '+' } else { '-' }
                )
            })
            .collect()
    }

    fn judged(&self) -> Judged {
        self.stragglers.judged(&name("j")).unwrap()
    }
}

#[test]
fn a_change_is_told_once() {
    let mut world = World::default();
    let nothing = Vec::<String>::new();
    assert_eq!(world.hear(vec![round(1, 3.0)]), nothing);
    assert_eq!(world.hear(vec![round(1, 3.0), round(2, 3.0)]), nothing);
    let three = vec![round(1, 3.0), round(2, 3.0), round(3, 3.0)];
    assert_eq!(world.hear(three.clone()), ["d+"]);
    assert_eq!(world.hear(three), nothing, "the same report again");
    assert_eq!(world.hear(vec![round(4, 3.0)]), nothing);
    assert_eq!(world.judged().slow, [name("d")].into());
    assert_eq!(world.stragglers.slow_in(&name("d")), [name("j")]);
    assert_eq!(
        world.hear((5..9).map(|number| round(number, 0.1)).collect()),
        nothing
    );
    assert_eq!(world.hear(vec![round(9, 0.1)]), ["d-"]);
    assert_eq!(world.judged(), Judged::default());
}

#[test]
fn a_round_counts_once_however_often_it_is_told() {
    let mut world = World::default();
    for _ in 0..5 {
        assert_eq!(world.hear(vec![round(7, 3.0)]), Vec::<String>::new());
    }
}

#[test]
fn what_was_before_a_bypass_does_not_count_after_it() {
    let mut world = World::default();
    world.hear((1..4).map(|number| round(number, 3.0)).collect());
    assert_eq!(world.judged().now, [name("d")].into());
    world.since.insert(name("d"), 14);
    assert_eq!(world.hear(vec![round(13, 0.1)]), Vec::<String>::new());
    assert_eq!(
        world.judged().now,
        BTreeSet::new(),
        "nothing is known of it since"
    );
    assert_eq!(world.judged().slow, [name("d")].into());
    world.hear(vec![round(14, 3.0), round(15, 3.0)]);
    assert_eq!(world.judged().now, BTreeSet::new());
    assert_eq!(
        world.hear(vec![round(16, 3.0)]),
        Vec::<String>::new(),
        "it was slow all the time"
    );
    assert_eq!(world.judged().now, [name("d")].into());
}

#[test]
fn who_leads_from_now_on_knows_whom_the_other_has_bypassed() {
    let mut world = World::default();
    world.since.insert(name("d"), 30);
    assert_eq!(world.hear(vec![round(20, 0.1)]), Vec::<String>::new());
    assert_eq!(world.judged().slow, [name("d")].into());
    assert_eq!(
        world.hear((30..35).map(|number| round(number, 0.1)).collect()),
        ["d-"]
    );
}

#[test]
fn a_job_that_begins_anew_is_judged_anew() {
    let mut world = World::default();
    world.hear(vec![round(7, 3.0), round(8, 3.0)]);
    assert_eq!(world.hear(vec![round(1, 3.0)]), Vec::<String>::new());
    assert_eq!(world.hear(vec![round(2, 3.0), round(3, 3.0)]), ["d+"]);
}

#[test]
fn nodes_that_are_gone_are_not_slow() {
    let mut world = World::default();
    world.hear((1..4).map(|number| round(number, 3.0)).collect());
    let job = JobStatus {
        version: 5,
        ..status("j", 1)
    };
    let others = ["a", "b", "c"].map(name);
    let known = others.iter().collect();
    let turns = world
        .stragglers
        .observe(&name("j"), &job, &world.since, &known);
    assert_eq!(turns, Vec::new(), "that it is lost has been told");
    assert_eq!(world.judged(), Judged::default());
    world.stragglers.retain(|_| false);
    assert_eq!(world.stragglers.judged(&name("j")), None);
}

#[test]
fn a_partial_that_does_not_come_makes_its_node_slow() {
    let mut world = World::default();
    let waiting = |seconds: u64| {
        let mut job = status("j", 1);
        job.awaited = Some(Awaited {
            round: 1,
            microseconds: seconds * 1_000_000,
            nodes: vec![name("d")],
            handed_over_microseconds: vec![1000, 1000, 1000],
        });
        job
    };
    assert_eq!(world.hear_status(&waiting(4)), Vec::<String>::new());
    assert_eq!(world.judged().overdue, BTreeSet::new());
    assert_eq!(world.hear_status(&waiting(6)), ["d+"]);
    assert_eq!(world.judged().overdue, [name("d")].into());
    assert_eq!(world.hear_status(&waiting(7)), Vec::<String>::new());
    // It has come, or is not waited for any more.
    assert_eq!(world.hear_status(&status("j", 1)), Vec::<String>::new());
    assert_eq!(world.judged().overdue, BTreeSet::new());
    assert_eq!(
        world.judged().slow,
        [name("d")].into(),
        "until it has shown that it is well"
    );
}
