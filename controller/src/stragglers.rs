//! Which nodes are slow in which jobs, from what the jobs' leaders report.
//!
//! [`tributary_planning::straggler`] has the verdict. Here the rounds are remembered that it is about, and what it was
//! before, so that each change is told once. All of it is in memory: a controller that begins to lead is told the newest
//! rounds with the first report, and finds in a job's placement which nodes were bypassed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tributary_api::{
    Name,
    fleet::MemberDescription,
    stages::{Awaited, RoundTimes, StageTimes, Verdict},
    status::JobStatus,
};
use tributary_planning::straggler::{self, Settings, Stage, Times};

/// Rounds of a job that are remembered. A node that was bypassed is judged by the newest of them.
const ROUNDS: usize = 16;

/// What is known of all jobs.
#[derive(Debug, Default)]
pub(crate) struct Stragglers {
    jobs: BTreeMap<Name, Watched>,
}

/// The nodes of one job.
#[derive(Debug, Default)]
struct Watched {
    /// The newest last.
    rounds: VecDeque<RoundTimes>,
    /// Slow nodes, and why they are.
    slow: BTreeMap<Name, String>,
    /// Of these, the ones that what they did since they last took part makes slow.
    now: BTreeSet<Name>,
    overdue: BTreeSet<Name>,
}

/// What is said of a job's nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// They are slow, or were and are not well again.
    pub(crate) slow: BTreeSet<Name>,
    /// What they did since they last took part makes them slow.
    pub(crate) now: BTreeSet<Name>,
    /// Followers for whose partials a closed round has waited long enough.
    pub(crate) overdue: BTreeSet<Name>,
}

/// A node has become slow in a job, or well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) job: Name,
    pub(crate) node: Name,
    /// Why it is slow; `None` if it is well again.
    pub(crate) slow: Option<String>,
}

impl Stragglers {
    /// Takes over what the leader of a job reports. `since` are the nodes that the job does or did without, with the
    /// round from which on they take part again: what they did before does not count. `known` are all nodes.
    pub(crate) fn observe(
        &mut self,
        job: &Name,
        status: &JobStatus,
        since: &BTreeMap<Name, u64>,
        known: &BTreeSet<&Name>,
    ) -> Vec<Turn> {
        let watched = self.jobs.entry(job.clone()).or_insert_with(|| {
            // Somebody else has led until now, and has told of these.
            let slow = since
                .keys()
                .map(|node| (node.clone(), "it was before".into()));
            Watched {
                slow: slow.collect(),
                ..Watched::default()
            }
        });
        watched.remember(status);
        let turns = watched.judge(status.awaited.as_ref(), since, known);
        turns
            .into_iter()
            .map(|(node, slow)| Turn {
                job: job.clone(),
                node,
                slow,
            })
            .collect()
    }

    /// Forgets jobs that are not there any more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&Name) -> bool) {
        self.jobs.retain(|job, _| is_there(job));
    }

    /// What is said of a job's nodes; `None` if nothing was reported.
    pub(crate) fn judged(&self, job: &Name) -> Option<Judged> {
        let watched = self.jobs.get(job)?;
        Some(Judged {
            slow: watched.slow.keys().cloned().collect(),
            now: watched.now.clone(),
            overdue: watched.overdue.clone(),
        })
    }

    /// How many nodes are slow, of each job.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&Name, usize)> {
        let jobs = self.jobs.iter();
        jobs.map(|(job, watched)| (job, watched.slow.len()))
    }

    /// The jobs in which a node is slow.
    pub(crate) fn slow_in(&self, node: &Name) -> Vec<Name> {
        let jobs = self.jobs.iter();
        let jobs = jobs.filter(|(_, watched)| watched.slow.contains_key(node));
        jobs.map(|(job, _)| job.clone()).collect()
    }

    /// Adds what is known of a member of a job.
    pub(crate) fn describe(&self, job: &Name, member: &mut MemberDescription) {
        let Some(watched) = self.jobs.get(job) else {
            return;
        };
        member.stages = watched.newest(&member.node);
        member.why = watched.slow.get(&member.node).cloned();
        if member.why.is_some() {
            member.verdict = Verdict::Slow;
        }
    }
}

impl Watched {
    fn remember(&mut self, status: &JobStatus) {
        let newest = |rounds: &VecDeque<RoundTimes>| rounds.back().map_or(0, |round| round.round);
        if status.version <= newest(&self.rounds) {
            // A job of the same name that has begun anew.
            self.rounds.clear();
        }
        for round in &status.times {
            if round.round > newest(&self.rounds) {
                self.rounds.push_back(round.clone());
            }
        }
        let excess = self.rounds.len().saturating_sub(ROUNDS);
        self.rounds.drain(..excess);
    }

    /// Judges all nodes; gives those that have become slow, with the reason, or well.
    fn judge(
        &mut self,
        awaited: Option<&Awaited>,
        since: &BTreeMap<Name, u64>,
        known: &BTreeSet<&Name>,
    ) -> Vec<(Name, Option<String>)> {
        let settings = Settings::default();
        let rounds: Vec<_> = self
            .rounds
            .iter()
            .map(|round| times(round, since))
            .collect();
        let before = self.slow.keys().map(Name::to_string).collect();
        let verdicts = straggler::judge(&rounds, &before, &settings);
        let mut slow = std::mem::take(&mut self.slow);
        slow.retain(|node, _| known.contains(node));
        let mut turns = Vec::new();
        self.now.clear();
        for (node, verdict) in &verdicts {
            let Some(node) = node
                .parse::<Name>()
                .ok()
                .filter(|node| known.contains(node))
            else {
                continue;
            };
            if verdict.now {
                self.now.insert(node.clone());
            }
            let why = why(verdict, &settings);
            match (slow.contains_key(&node), verdict.slow) {
                (false, true) => turns.push((node.clone(), Some(why.clone()))),
                (true, false) => turns.push((node.clone(), None)),
                _ => {}
            }
            if !verdict.slow {
                slow.remove(&node);
            } else if verdict.now || !slow.contains_key(&node) {
                slow.insert(node, why);
            }
        }
        self.overdue = awaited
            .map(|awaited| overdue(awaited, &settings))
            .unwrap_or_default();
        self.overdue.retain(|node| known.contains(node));
        for node in &self.overdue {
            if !slow.contains_key(node) {
                let why = "its partial of a closed round has not come".to_owned();
                slow.insert(node.clone(), why.clone());
                turns.push((node.clone(), Some(why)));
            }
        }
        self.slow = slow;
        turns
    }

    /// A node's times in the newest round in which it had any.
    fn newest(&self, node: &Name) -> StageTimes {
        let rounds = self.rounds.iter().rev();
        let mut times = rounds.filter_map(|round| {
            let times = round.nodes.iter().find(|times| times.node == *node)?;
            (times.stages != StageTimes::default()).then_some(times.stages)
        });
        times.next().unwrap_or_default()
    }
}

/// A round as it is judged.
fn times(round: &RoundTimes, since: &BTreeMap<Name, u64>) -> straggler::Round {
    let counts = |node: &Name| since.get(node).is_none_or(|since| round.round >= *since);
    let nodes = round.nodes.iter().filter(|times| counts(&times.node));
    let seconds = |microseconds: Option<u64>| Some(microseconds? as f64 / 1e6);
    nodes
        .map(|times| {
            let stages = times.stages;
            let of_node = Times {
                fold: seconds(stages.fold_microseconds),
                hand_over: seconds(stages.hand_over_microseconds),
                transfer: seconds(stages.transfer_microseconds),
            };
            (times.node.to_string(), of_node)
        })
        .collect()
}

fn overdue(awaited: &Awaited, settings: &Settings) -> BTreeSet<Name> {
    let handed_over = awaited.handed_over_microseconds.iter();
    let handed_over: Vec<f64> = handed_over.map(|time| *time as f64 / 1e6).collect();
    let waited = Duration::from_micros(awaited.microseconds);
    if straggler::overdue(&handed_over, awaited.nodes.len(), waited, settings) {
        awaited.nodes.iter().cloned().collect()
    } else {
        BTreeSet::new()
    }
}

fn why(verdict: &straggler::Verdict, settings: &Settings) -> String {
    let (stage, rounds) = verdict.worst.unwrap_or((Stage::HandOver, 0));
    format!(
        "{} of {rounds} of the last {} rounds was out of line with the others (z {:.1})",
        stage.as_str(),
        settings.of,
        verdict.z
    )
}

#[cfg(test)]
mod tests;
