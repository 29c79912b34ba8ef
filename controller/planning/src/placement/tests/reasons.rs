//! Why a job has no place.

use super::*;

fn reason(nodes: &[Node], jobs: &[Job], name: &str) -> String {
    match &fresh(nodes, jobs).jobs[name] {
        Outcome::Unplaced(reason) => reason.to_string(),
        Outcome::Placed(placement) => panic!("placed: {placement:?}"),
    }
}

#[test]
fn nobody_is_there() {
    assert_eq!(
        reason(&[], &[job("j", 1)], "j"),
        "0 nodes have joined: start one with `tributary node`"
    );
    let mut all = nodes(&[1, 1, 1]);
    all[0].state = NodeState::Draining;
    all[1].state = NodeState::Lost;
    all[2].state = NodeState::Lost;
    assert!(
        reason(&all, &[job("j", 1)], "j").starts_with("0 of 3 nodes are ready: 1 draining, 2 lost")
    );
}

#[test]
fn nobody_has_the_label() {
    let mut all = nodes(&[1, 1, 1]);
    all[0].labels = labels(&[("zone", "us"), ("disk", "fast")]);
    all[1].labels = labels(&[("zone", "asia")]);
    let wants = Job {
        required_labels: labels(&[("zone", "eu")]),
        ..job("j", 1)
    };
    let told = reason(&all, std::slice::from_ref(&wants), "j");
    assert!(
        told.starts_with(
            "0 of 3 ready nodes match label zone=eu; labels seen: zone=asia, zone=us;"
        ),
        "{told}"
    );
    // Nobody has that key: what there is at all may tell of a slip of the pen.
    let wants = Job {
        required_labels: labels(&[("zoen", "eu")]),
        ..job("j", 1)
    };
    let told = reason(&all, &[wants], "j");
    assert!(
        told.contains("labels seen: disk=fast, zone=asia, zone=us"),
        "{told}"
    );
}

#[test]
fn everybody_is_taken_by_whom_it_avoids() {
    let avoids = Job {
        anti_affinity: ["a".to_owned()].into(),
        ..job("b", 1)
    };
    let jobs = [job("a", 2), avoids];
    let told = reason(&nodes(&[1, 1]), &jobs, "b");
    assert!(
        told.starts_with("0 of 2 matching nodes are without a (anti-affinity)"),
        "{told}"
    );
}

#[test]
fn a_reason_can_be_stored_and_read() {
    let plan = fresh(&[], &[job("j", 1)]);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let plan = fresh(&nodes(&[1]), &[job("j", 1)]);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}
