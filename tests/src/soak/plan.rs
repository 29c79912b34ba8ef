//! What breaks when, and for how long: a pure function of a seed.
//!
//! Faults come in *lanes*. In a lane one thing is broken at a time, so the lanes bound how much is broken together: two
//! of four nodes, one of three controllers, one NATS server or all of them, a worker.

use std::time::Duration;

use crate::random::Random;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When, from the beginning.
    pub at: Duration,
    /// How long until it is repaired.
    pub lasts: Duration,
    /// What it is.
    pub kind: Kind,
    /// Whom it meets.
    pub target: Target,
}

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9 of a node with its workers.
    KillNode,
    /// A node and its workers are stopped, and go on later.
    FreezeNode,
    /// A node's link is cut.
    CutNode,
    /// A node is drained.
    DrainNode,
    /// kill -9 of a controller.
    KillController,
    /// A controller is stopped, and goes on later.
    FreezeController,
    /// A controller's link is cut.
    CutController,
    /// kill -9 of a NATS server.
    KillNats,
    /// kill -9 of all NATS servers.
    KillAllNats,
    /// kill -9 of a worker.
    KillWorker,
    /// A worker is stopped, and goes on later.
    FreezeWorker,
}

/// Whom it meets; whoever is broken already is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one of that number, counted round.
    Number(usize),
    /// The node that leads that job, or the controller that leads.
    Leader(usize),
}

/// A lane: faults one after the other.
struct Lane {
    /// Kinds and how often each comes.
    kinds: &'static [(Kind, u64)],
    /// Milliseconds for which a fault lasts: least and most.
    lasts: (u64, u64),
    /// Milliseconds until the next one.
    pause: (u64, u64),
}

const NODES: &[(Kind, u64)] = &[
    (Kind::KillNode, 4),
    (Kind::FreezeNode, 2),
    (Kind::CutNode, 3),
    (Kind::DrainNode, 3),
];

const LANES: &[Lane] = &[
    Lane {
        kinds: NODES,
        lasts: (500, 9_000),
        pause: (3_000, 9_000),
    },
    Lane {
        kinds: NODES,
        lasts: (500, 9_000),
        pause: (8_000, 20_000),
    },
    Lane {
        kinds: &[
            (Kind::KillController, 3),
            (Kind::FreezeController, 2),
            (Kind::CutController, 2),
        ],
        lasts: (1_000, 8_000),
        pause: (6_000, 15_000),
    },
    Lane {
        kinds: &[(Kind::KillNats, 5), (Kind::KillAllNats, 1)],
        lasts: (2_000, 10_000),
        pause: (10_000, 25_000),
    },
    Lane {
        kinds: &[(Kind::KillWorker, 3), (Kind::FreezeWorker, 1)],
        lasts: (200, 2_000),
        pause: (500, 3_000),
    },
];

/// All faults of a soak, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The faults.
    pub faults: Vec<Fault>,
    /// When nothing more breaks.
    pub lasts: Duration,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64, lasts: Duration) -> Self {
        let mut random = Random::new(seed);
        let mut faults: Vec<Fault> = LANES
            .iter()
            .flat_map(|lane| lane.faults(Random::new(random.bits()), lasts))
            .collect();
        faults.sort_by_key(|fault| fault.at);
        Self { faults, lasts }
    }
}

impl Lane {
    fn faults(&self, mut random: Random, end: Duration) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut at = between(&mut random, (0, self.pause.1));
        while at < end {
            let fault = Fault {
                at,
                lasts: between(&mut random, self.lasts),
                kind: self.kind(&mut random),
                target: target(&mut random),
            };
            at += fault.lasts + between(&mut random, self.pause);
            faults.push(fault);
        }
        faults
    }

    fn kind(&self, random: &mut Random) -> Kind {
        let all: u64 = self.kinds.iter().map(|(_, often)| often).sum();
        let mut drawn = random.below(all);
        for (kind, often) in self.kinds {
            match drawn.checked_sub(*often) {
                Some(left) => drawn = left,
                None => return *kind,
            }
        }
        self.kinds[0].0
    }
}

/// Half of the faults meet whoever leads: that is where it hurts.
fn target(random: &mut Random) -> Target {
    let (leads, number) = (random.below(2) == 0, random.below(64) as usize);
    if leads {
        Target::Leader(number)
    } else {
        Target::Number(number)
    }
}

fn between(random: &mut Random, (least, most): (u64, u64)) -> Duration {
    Duration::from_millis(least + random.below(most - least + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_seed_makes_the_same_plan_again_and_another_one_another() {
        assert_eq!(Plan::new(7, HOUR), Plan::new(7, HOUR));
        assert_ne!(Plan::new(7, HOUR), Plan::new(8, HOUR));
    }

    #[test]
    fn a_longer_plan_begins_as_a_shorter_one() {
        let (short, long) = (Plan::new(3, HOUR / 60), Plan::new(3, HOUR));
        assert_eq!(long.faults[..short.faults.len()], short.faults);
    }

    #[test]
    fn everything_breaks_and_never_too_much_at_once() {
        let plan = Plan::new(1, HOUR);
        for lane in LANES {
            for (kind, _) in lane.kinds {
                assert!(
                    plan.faults.iter().any(|fault| fault.kind == *kind),
                    "{kind:?}"
                );
            }
        }
        let is_of_node = |fault: &&Fault| NODES.iter().any(|(kind, _)| *kind == fault.kind);
        for fault in plan.faults.iter().filter(is_of_node) {
            let broken = plan
                .faults
                .iter()
                .filter(is_of_node)
                .filter(|other| (other.at..other.at + other.lasts).contains(&fault.at));
            assert!(
                broken.count() <= 2,
                "more than two nodes are broken at {:?}",
                fault.at
            );
        }
    }
}
