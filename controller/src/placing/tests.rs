use serde_json::{Value, json};
use tributary_api::status::PlacementStatus;
use tributary_planning::placement::{Node, NodeState};

use super::*;
use crate::testing::{name, record, report, status};

mod bypass;
mod draining;

/// Nodes, jobs, and what was decided: as a controller has them.
struct World {
    desired: Desired,
    sites: BTreeMap<Name, Site>,
    placed: BTreeMap<Name, Placed>,
    unfit: Unfit,
    verdicts: Verdicts,
}

impl World {
    fn new(spec: Value, nodes: &[&str]) -> Self {
        let mut desired = Desired::default();
        desired.jobs.insert(name("j"), record(1, 1, spec));
        let mut world = Self {
            desired,
            sites: BTreeMap::new(),
            placed: BTreeMap::new(),
            unfit: Unfit::new(),
            verdicts: Verdicts::new(),
        };
        nodes.iter().for_each(|node| world.add(node));
        world
    }

    fn add(&mut self, node: &str) {
        let site = Site {
            node: Node::new(node, 2),
            url: format!("http://{node}"),
            report: Arc::new(report(node, Vec::new())),
        };
        self.sites.insert(name(node), site);
    }

    fn state(&mut self, node: &str, state: NodeState) {
        self.sites.get_mut(&name(node)).unwrap().node.state = state;
    }

    /// The node reports the job at this version, with so many updates, and as following the newest placement.
    fn runs(&mut self, node: &str, version: u64, accepted: u32) {
        self.runs_since(node, None, version, accepted);
    }

    /// As [`Self::runs`]; it took the placement over in the round `since`.
    fn runs_since(&mut self, node: &str, since: Option<u64>, version: u64, accepted: u32) {
        let mut job = status("j", 1);
        (job.version, job.accepted) = (version, accepted);
        let generation = self
            .placed
            .get("j")
            .map(|placed| placed.placement.generation);
        job.placement = generation.map(|generation| PlacementStatus {
            generation,
            since,
            leader: name(node),
            members: Vec::new(),
        });
        let site = self.sites.get_mut(&name(node)).unwrap();
        site.report = Arc::new(report(node, vec![job]));
    }

    fn placing(&self) -> Placing {
        self.placing_with(|| "secret".into())
    }

    fn placing_with(&self, secret: impl FnMut() -> String) -> Placing {
        let given = Given {
            desired: &self.desired,
            sites: &self.sites,
            placed: &self.placed,
            unfit: &self.unfit,
            verdicts: &self.verdicts,
        };
        place(&given, secret)
    }

    /// Decides once; what has changed.
    fn decide(&mut self) -> Option<Placed> {
        let placing = self.placing();
        let changed = placing.changed.get("j").cloned();
        self.placed.extend(placing.changed);
        changed
    }

    /// Decides until nothing changes.
    fn settle(&mut self) -> Placement {
        for _ in 0..10 {
            if self.decide().is_none() {
                return self.placed["j"].placement.clone();
            }
        }
        panic!("placements change for ever");
    }
}

fn members(placement: &Placement) -> Vec<(&str, Duty)> {
    let members = placement.members.iter();
    members
        .map(|member| (member.node.as_str(), member.duty))
        .collect()
}

fn spread() -> Value {
    json!({"placement": {"policy": "spread"}})
}

const SERVING: Duty = Duty::Serving;
const DRAINING: Duty = Duty::Draining;

#[test]
fn a_job_that_fits_has_one_node_and_stays_there() {
    let mut world = World::new(json!({"round": {"expected": 10}}), &["a", "b", "c"]);
    let placement = world.settle();
    assert_eq!(members(&placement), [("a", SERVING)]);
    assert_eq!((placement.generation, placement.leader.as_str()), (1, "a"));
    world.add("d");
    assert_eq!(
        world.settle(),
        placement,
        "a node that is not needed stays idle"
    );
}

#[test]
fn homes_follow_the_shares() {
    let mut world = World::new(spread(), &["a", "b", "c", "d"]);
    let placement = world.settle();
    assert_eq!(placement.members.len(), 4);
    for node in &placement.homes.nodes {
        let at = placement.homes.nodes.iter().position(|other| other == node);
        let own = placement.homes.buckets.iter();
        assert_eq!(
            own.filter(|home| Some(usize::from(**home)) == at).count(),
            256
        );
    }
}

#[test]
fn a_node_that_joins_takes_part_at_once() {
    let mut world = World::new(spread(), &["a", "b"]);
    let before = world.settle();
    world.runs("a", 5, 3);
    world.runs("b", 5, 1);
    world.add("c");
    let placed = world.decide().unwrap();
    assert_eq!(placed.cause, Cause::Joined);
    let after = placed.placement;
    assert_eq!(
        members(&after),
        [("a", SERVING), ("b", SERVING), ("c", SERVING)]
    );
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(after.leader, before.leader);
    assert_eq!((after.since, &after.earlier), (5, &vec![before.homes]));
    assert_eq!(after.secret, before.secret);
    assert_eq!(placed.joined[&name("c")], after.generation);
    assert_eq!(placed.joined[&name("a")], 1);
}

#[test]
fn homes_of_a_round_are_remembered_while_it_is_open() {
    let mut world = World::new(spread(), &["a", "b"]);
    let first = world.settle().homes;
    world.runs("a", 5, 3);
    world.add("c");
    let second = world.decide().unwrap().placement;
    world.add("d");
    let third = world.decide().unwrap().placement;
    assert_eq!((third.since, third.earlier), (5, vec![first, second.homes]));
    // In a later round the tables of this one do not count.
    for node in ["a", "b", "c", "d"] {
        world.runs(node, 6, 0);
    }
    world.add("e");
    let later = world.decide().unwrap().placement;
    assert_eq!((later.since, later.earlier), (6, vec![third.homes]));
}

/// Rounds go on while members learn of a placement: until all have, and for as long as a round takes updates from before,
/// an update may be where its client's home was.
#[test]
fn homes_are_remembered_until_all_members_have_heard_and_no_older_update_may_come() {
    let spec = |max: u32| {
        let staleness = json!({"max": max});
        json!({"placement": {"policy": "spread"}, "round": {"count": 20, "staleness": staleness}})
    };
    for (max, kept) in [(1, 8), (3, 10)] {
        let mut world = World::new(spec(max), &["a", "b"]);
        let first = world.settle().homes;
        world.runs("a", 5, 3);
        world.add("c");
        let second = world.decide().unwrap().placement;
        assert_eq!((second.since, &second.earlier), (5, &vec![first.clone()]));
        // Two have heard in round 5, the third in round 7.
        for open in 7..=kept {
            let node = if open % 2 == 0 { "d" } else { "e" };
            for (node, since) in [("a", 5), ("b", 5), ("c", 7)] {
                world.runs_since(node, Some(since), open, 1);
            }
            let before = world.placed.clone();
            world.add(node);
            assert!(world.decide().unwrap().placement.earlier.contains(&first));
            world.placed = before;
            world.sites.remove(&name(node));
        }
        for (node, since) in [("a", 5), ("b", 5), ("c", 7)] {
            world.runs_since(node, Some(since), kept + 1, 1);
        }
        world.add("d");
        let later = world.decide().unwrap().placement;
        assert_eq!(later.earlier, vec![second.homes]);
    }
}

#[test]
fn a_lost_follower_is_given_up_at_once() {
    let mut world = World::new(spread(), &["a", "b", "c"]);
    let before = world.settle();
    assert_eq!(before.leader.as_str(), "a");
    for node in ["a", "b", "c"] {
        world.runs(node, 4, 2);
    }
    world.state("c", NodeState::Lost);
    let placed = world.decide().unwrap();
    assert_eq!(placed.cause, Cause::Lost);
    assert_eq!(members(&placed.placement), [("a", SERVING), ("b", SERVING)]);
    assert_eq!(placed.placement.leader.as_str(), "a");
    assert!(!placed.placement.homes.nodes.contains(&name("c")));
    // It comes back, and begins anew.
    world.state("c", NodeState::Ready);
    let placed = world.decide().unwrap();
    assert_eq!(placed.joined[&name("c")], placed.placement.generation);
}

#[test]
fn the_newest_model_leads_after_the_leader_is_lost() {
    let mut world = World::new(spread(), &["a", "b", "c"]);
    world.settle();
    world.runs("a", 8, 2);
    world.runs("b", 7, 2);
    world.runs("c", 8, 2);
    world.state("a", NodeState::Lost);
    assert_eq!(world.decide().unwrap().placement.leader.as_str(), "c");
    assert_eq!(world.decide(), None);
}

#[test]
fn what_has_nowhere_to_go_stays_and_says_why() {
    let mut world = World::new(spread(), &["a"]);
    let before = world.settle();
    world.runs("a", 4, 5);
    world.state("a", NodeState::Draining);
    let placing = world.placing();
    assert!(
        placing.nowhere["j"].contains("0 of 1 nodes are ready"),
        "{placing:?}"
    );
    assert_eq!(world.settle(), before);
    world.state("a", NodeState::Lost);
    assert_eq!(world.settle(), before, "it may come back with all it has");
}

#[test]
fn a_selector_that_nothing_matches_is_said() {
    let spec = json!({"placement": {"selector": {"zone": "eu"}}});
    let mut world = World::new(spec, &["a"]);
    assert_eq!(world.decide(), None);
    let placing = world.placing();
    assert!(
        placing.nowhere["j"].contains("label zone=eu"),
        "{placing:?}"
    );
}

#[test]
fn jobs_that_cannot_be_split_have_one_node() {
    let spec = json!({"determinism": "ordered", "placement": {"policy": "spread"}});
    let mut world = World::new(spec, &["a", "b"]);
    assert_eq!(world.settle().members.len(), 1);
}

#[test]
fn a_job_that_begins_anew_is_not_understood_by_those_who_run_it_as_it_was() {
    let mut world = World::new(spread(), &["a", "b"]);
    let before = world.settle();
    let old = world.desired.jobs[&name("j")].clone();
    world.desired.remember(&name("j"), old);
    let changed = record(
        2,
        1,
        json!({"tree": {"fanIn": 3}, "placement": {"policy": "spread"}}),
    );
    world.desired.jobs.insert(name("j"), changed);
    let mut secrets = (1..).map(|number| format!("another {number}"));
    let placing = world.placing_with(|| secrets.next().unwrap());
    let placed = &placing.changed["j"];
    assert_eq!(placed.cause, Cause::Restarted);
    assert_eq!(placed.placement.generation, before.generation + 1);
    assert_ne!(placed.placement.secret, before.secret);
    world.placed.extend(placing.changed);
    assert_eq!(world.decide(), None);
}

#[test]
fn a_change_under_the_running_job_is_no_reason_to_place_it_anew() {
    let mut world = World::new(spread(), &["a", "b"]);
    world.settle();
    let old = world.desired.jobs[&name("j")].clone();
    world.desired.remember(&name("j"), old);
    let changed = record(
        2,
        1,
        json!({"keepAlive": "1s", "placement": {"policy": "spread"}}),
    );
    world.desired.jobs.insert(name("j"), changed);
    assert_eq!(world.decide(), None);
}

#[test]
fn a_node_that_cannot_start_a_job_is_left_out_while_there_are_others() {
    let mut world = World::new(spread(), &["a", "b", "c"]);
    world.settle();
    world.runs("a", 1, 0);
    world.runs("b", 1, 0);
    world.unfit = [(name("j"), [name("c")].into())].into();
    assert_eq!(members(&world.settle()), [("a", SERVING), ("b", SERVING)]);
    let all = [name("a"), name("b"), name("c")].into();
    world.unfit = [(name("j"), all)].into();
    assert_eq!(world.settle().members.len(), 3, "somebody has to have it");
}

#[test]
fn where_there_is_too_little_room_the_job_of_higher_priority_has_it() {
    let spec = |priority| json!({"priority": priority, "round": {"expected": 12}});
    let mut world = World::new(spec(0), &["a"]);
    world.desired.jobs.insert(name("k"), record(1, 1, spec(3)));
    let capacity = Some(tributary_planning::capacity::Capacity {
        concurrency: 12.0,
        seconds_per_update: 0.1,
    });
    world.sites.get_mut(&name("a")).unwrap().node.capacity = capacity;
    let reason = |job: &str| world.placing().changed[job].reason.clone();
    assert!(
        reason("j").contains("12 updates are beyond"),
        "{}",
        reason("j")
    );
    assert!(!reason("k").contains("beyond"), "{}", reason("k"));
}

/// Nodes under load are measured anew with every report; clients are not sent to and fro for that.
#[test]
fn for_other_shares_alone_homes_move_once_in_a_round() {
    let mut world = World::new(json!({"round": {"expected": 100}}), &["a", "b"]);
    let first = world.settle().homes;
    let measure = |world: &mut World, node: &str, concurrency: f64| {
        let site = world.sites.get_mut(&name(node)).unwrap();
        site.node.capacity = Some(tributary_planning::capacity::Capacity {
            concurrency,
            seconds_per_update: 0.05,
        });
        world.decide()
    };
    world.runs("a", 4, 5);
    world.runs("b", 4, 5);
    let moved = measure(&mut world, "a", 60.0).unwrap().placement;
    assert_ne!(moved.homes, first);
    world.runs_since("a", Some(4), 4, 9);
    world.runs_since("b", Some(4), 4, 9);
    let planned = measure(&mut world, "b", 60.0).unwrap();
    assert_eq!(planned.placement, moved, "only the plan is another");
    world.runs_since("a", Some(4), 5, 0);
    world.runs_since("b", Some(4), 5, 0);
    let next = world.decide().unwrap();
    assert_ne!(next.placement.homes, moved.homes);
    assert_eq!(next.cause, Cause::Moved);
}
