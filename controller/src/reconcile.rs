//! Desired against observed jobs: a pure function that says what the node must be told.

use tributary_api::{Name, status::JobStatus};

use crate::store::{Desired, JobRecord};

/// One thing that brings the node nearer to the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The job is not wanted.
    Stop(Name),
    /// The job is wanted and does not run.
    Start(Name),
    /// The job runs at a revision from which it cannot change without a restart.
    Restart(Name),
    /// The job runs at another revision.
    Update(Name),
}

/// The steps from `observed` to `desired`, stops first so that what they free can be used.
/// `record` gives a job's older revisions.
pub(crate) fn steps(
    desired: &Desired,
    observed: &[JobStatus],
    record: impl Fn(&Name, u64) -> Option<JobRecord>,
) -> Vec<Step> {
    let unwanted = observed
        .iter()
        .filter(|job| !desired.jobs.contains_key(&job.name));
    let mut steps: Vec<_> = unwanted.map(|job| Step::Stop(job.name.clone())).collect();
    for (name, wanted) in &desired.jobs {
        let name = name.clone();
        match observed.iter().find(|job| job.name == name) {
            None => steps.push(Step::Start(name)),
            Some(job) if job.revision == wanted.revision => {}
            Some(job) => {
                let running = record(&name, job.revision);
                let live = running.is_some_and(|running| {
                    running.function_revision == wanted.function_revision
                        && !running.spec.needs_restart(&wanted.spec)
                });
                steps.push(if live {
                    Step::Update(name)
                } else {
                    Step::Restart(name)
                });
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tributary_api::status::JobPhase;

    use super::*;

    fn record(revision: u64, function_revision: u64, quorum: u32, fan_in: u32) -> JobRecord {
        let spec = json!({
            "function": {"name": "f"}, "model": {"path": "m"},
            "round": {"quorum": quorum}, "tree": {"fanIn": fan_in},
        });
        JobRecord {
            revision,
            spec: serde_json::from_value(spec).unwrap(),
            function_revision,
            elements: 1,
        }
    }

    fn observed(name: &str, revision: u64) -> JobStatus {
        let name: Name = name.parse().unwrap();
        JobStatus {
            phase: JobPhase::Running,
            function: name.clone(),
            name,
            function_revision: 1,
            revision,
            version: 1,
            rounds: None,
            expected: 1,
            accepted: 0,
            parameters: 1,
            model_bytes: 4,
            last_error: None,
            node: None,
            arena: None,
            workers: 0,
            placement: None,
        }
    }

    #[test]
    fn each_difference_has_its_step() {
        let name: Name = "j".parse().unwrap();
        let old = |_: &Name, revision| (revision == 1).then(|| record(1, 1, 1, 2));
        let cases = [
            (
                Some(record(1, 1, 1, 2)),
                None,
                Some(Step::Start(name.clone())),
            ),
            (Some(record(1, 1, 1, 2)), Some(1), None),
            (
                Some(record(2, 1, 9, 2)),
                Some(1),
                Some(Step::Update(name.clone())),
            ),
            (
                Some(record(2, 1, 1, 3)),
                Some(1),
                Some(Step::Restart(name.clone())),
            ),
            (
                Some(record(2, 2, 1, 2)),
                Some(1),
                Some(Step::Restart(name.clone())),
            ),
            // A revision that nobody remembers: what it was cannot be known.
            (
                Some(record(8, 1, 1, 2)),
                Some(7),
                Some(Step::Restart(name.clone())),
            ),
            (None, Some(1), Some(Step::Stop(name.clone()))),
            (None, None, None),
        ];
        for (wanted, running, expected) in cases {
            let mut desired = Desired::default();
            desired
                .jobs
                .extend(wanted.clone().map(|record| (name.clone(), record)));
            let running: Vec<_> = running
                .map(|revision| observed("j", revision))
                .into_iter()
                .collect();
            let steps = steps(&desired, &running, old);
            assert_eq!(
                steps,
                Vec::from_iter(expected),
                "wanted {wanted:?}, running {running:?}"
            );
        }
    }

    #[test]
    fn stops_come_first() {
        let mut desired = Desired::default();
        desired
            .jobs
            .insert("a".parse().unwrap(), record(1, 1, 1, 2));
        let steps = steps(&desired, &[observed("z", 1)], |_, _| None);
        assert_eq!(
            steps,
            [
                Step::Stop("z".parse().unwrap()),
                Step::Start("a".parse().unwrap())
            ]
        );
    }
}
