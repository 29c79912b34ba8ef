//! Recorded decisions, decided again.
//!
//! A record is a list of [`Line`]s: the parameters, then each decision with all that led to it. Whoever records begins
//! with a new [`State`], so the same list gives the same decisions; where it does not, the autoscaler has changed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, Decision, Observations, State, decide};

/// One entry of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A process began to record, with these parameters.
    Config(Config),
    /// It decided.
    Decided(Decided),
}

/// A decision, and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// On the clock of the observations.
    pub now: Duration,
    /// What was seen.
    pub observations: Observations,
    /// What was said.
    pub decision: Decision,
}

/// A decision that comes out otherwise than it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decision {number} was {was:?} and is {is:?}")]
pub struct Difference {
    /// Its number in the record, from 1.
    pub number: usize,
    /// As recorded.
    pub was: Decision,
    /// As it is decided now.
    pub is: Decision,
}

/// Decides everything in a record again; gives the number of decisions.
///
/// # Errors
/// The first decision that comes out otherwise.
pub fn replay(lines: impl IntoIterator<Item = Line>) -> Result<usize, Difference> {
    let (mut config, mut state, mut number) = (Config::default(), State::default(), 0);
    for line in lines {
        let decided = match line {
            Line::Config(begun) => {
                (config, state) = (begun, State::default());
                continue;
            }
            Line::Decided(decided) => decided,
        };
        let is;
        (state, is) = decide(&config, state, decided.now, &decided.observations);
        number += 1;
        if is != decided.decision {
            let was = decided.decision;
            return Err(Difference { number, was, is });
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoscale::{JobSeen, NodeSeen};

    fn recorded(rates: &[f64]) -> Vec<Line> {
        let config = Config::default();
        let mut state = State::default();
        let mut lines = vec![Line::Config(config)];
        for (second, rate) in (1..).zip(rates) {
            let now = Duration::from_secs(second);
            let job = JobSeen {
                arrivals_per_second: Some(*rate),
                seconds_per_update: Some(0.5),
                ..JobSeen::new("j", "n", "tenant")
            };
            let node = NodeSeen {
                name: "n".to_owned(),
                workers_max: 8,
            };
            let observations = Observations {
                nodes: vec![node],
                jobs: vec![job],
            };
            let decision;
            (state, decision) = decide(&config, state, now, &observations);
            lines.push(Line::Decided(Decided {
                now,
                observations,
                decision,
            }));
        }
        lines
    }

    #[test]
    fn what_was_decided_is_decided_again_also_after_a_restart() {
        let mut lines = recorded(&[4.0, 40.0, 0.0]);
        lines.extend(recorded(&[8.0, 0.0]));
        let written: Vec<String> = lines
            .iter()
            .map(|line| serde_json::to_string(line).unwrap())
            .collect();
        let read = written
            .iter()
            .map(|line| serde_json::from_str(line).unwrap());
        assert_eq!(replay(read), Ok(5));
    }

    #[test]
    fn another_decision_is_found() {
        let mut lines = recorded(&[4.0, 40.0, 0.0]);
        let Some(Line::Decided(decided)) = lines.get_mut(2) else {
            panic!("a decision")
        };
        decided.observations.jobs[0].arrivals_per_second = Some(80.0);
        let difference = replay(lines).unwrap_err();
        assert_eq!(difference.number, 2);
        assert_ne!(difference.was, difference.is);
    }
}
