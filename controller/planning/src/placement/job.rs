//! One job among others.

use std::collections::{BTreeMap, BTreeSet};

use super::adapt::{Task, keep};
use super::book::Book;
use super::candidate::{Candidate, Shares};
use super::fill::fill;
use super::{Job, Node, NodeState, Placed, Settings, State, Unplaced, apart};

/// Labels of nodes that are told in a reason, at most.
const LABELS_SEEN_MAX: usize = 8;

/// Places the job `at`, beside what all others have.
pub(super) fn place(
    book: &mut Book<'_>,
    jobs: &[&Job],
    at: usize,
    before: Option<&Placed>,
    settings: &Settings,
) -> State {
    book.release(at);
    let had = before.map(|before| &before.shares);
    let candidates = match candidates(book, jobs, at, had, settings) {
        Ok(candidates) => candidates,
        Err(reason) => return State::Unplaced(reason),
    };
    let job = jobs[at];
    let task = Task {
        policy: job.policy,
        candidates: &candidates,
        demand: job.expected_updates.get(),
        width: job.width(),
    };
    let fresh = fill(task.policy, task.candidates, task.demand, task.width);
    let kept =
        before.and_then(|before| keep(task, &before.shares, &fresh.shares, settings.tolerance));
    let shares = kept.unwrap_or(fresh.shares);
    book.take(at, &shares);
    State::Placed(Placed {
        top: top(&shares, before.and_then(|before| before.top)),
        shares,
        overload: fresh.overload,
    })
}

/// The node with the most; of several the one that has the top already, else the first by name.
fn top(shares: &Shares, before: Option<usize>) -> Option<usize> {
    let most = shares.values().max()?;
    let mut largest = shares.iter().filter(|(_, share)| *share == most);
    let stays = before.filter(|node| shares.get(node) == Some(most));
    stays.or_else(|| largest.next().map(|(node, _)| *node))
}

/// The nodes that the job may use, by name; or why there are none.
pub(super) fn candidates(
    book: &Book<'_>,
    jobs: &[&Job],
    at: usize,
    had: Option<&Shares>,
    settings: &Settings,
) -> Result<Vec<Candidate>, Unplaced> {
    let job = jobs[at];
    let ready: Vec<_> = book
        .nodes()
        .filter(|(_, node)| node.state == NodeState::Ready)
        .collect();
    if ready.is_empty() {
        return Err(none_ready(book));
    }
    let matching = ready.iter().filter(|(_, node)| has_labels(job, node));
    let matching: Vec<_> = matching.copied().collect();
    if matching.is_empty() {
        return Err(no_labels(job, &ready));
    }
    let count = matching.len();
    let open = |number: &usize| {
        let stays = had.is_some_and(|had| had.contains_key(number));
        stays || book.jobs(*number) < settings.jobs_max
    };
    let matching: Vec<_> = matching
        .into_iter()
        .filter(|(number, _)| open(number))
        .collect();
    if matching.is_empty() {
        let jobs_max = settings.jobs_max;
        return Err(Unplaced::Full {
            matching: count,
            jobs_max,
        });
    }
    let apart = apart(jobs, at);
    let taken: BTreeSet<usize> = apart
        .iter()
        .flat_map(|other| book.nodes_of(*other))
        .collect();
    let near: BTreeSet<usize> = jobs
        .iter()
        .enumerate()
        .filter(|(_, other)| job.affinity.contains(&other.name))
        .flat_map(|(other, _)| book.nodes_of(other))
        .collect();
    let free = matching
        .iter()
        .filter(|(number, _)| !taken.contains(number));
    let candidates: Vec<_> = free
        .map(|(number, node)| {
            let labels_missed = labels_missed(job, node);
            let far = !job.affinity.is_empty() && !near.contains(number);
            let candidate = Candidate {
                node: *number,
                tier: labels_missed + usize::from(far),
                labels_missed,
                concurrency: book.concurrency(*number),
                load: book.load(*number),
                cost: book.cost(at, *number),
                room: 0,
                has: 0,
            };
            candidate.with_room()
        })
        .collect();
    if candidates.is_empty() {
        let names = apart
            .iter()
            .filter(|other| book.nodes_of(**other).next().is_some());
        let names: Vec<_> = names.map(|other| jobs[*other].name.as_str()).collect();
        return Err(Unplaced::Apart {
            matching: matching.len(),
            jobs: names.join(", "),
        });
    }
    Ok(candidates)
}

fn has_labels(job: &Job, node: &Node) -> bool {
    let mut required = job.required_labels.iter();
    required.all(|(key, value)| node.labels.get(key) == Some(value))
}

fn labels_missed(job: &Job, node: &Node) -> usize {
    let labels = job.preferred_labels.iter();
    let missed = labels.filter(|(key, value)| node.labels.get(*key) != Some(value));
    missed.count()
}

fn none_ready(book: &Book<'_>) -> Unplaced {
    let count = |state| book.nodes().filter(|(_, node)| node.state == state).count();
    let known = book.nodes().count();
    if known == 0 {
        return Unplaced::NoNodes;
    }
    Unplaced::NoneReady {
        known,
        draining: count(NodeState::Draining),
        lost: count(NodeState::Lost),
    }
}

fn no_labels(job: &Job, ready: &[(usize, &Node)]) -> Unplaced {
    let label = |(key, value): (&String, &String)| format!("{key}={value}");
    let kind = if job.required_labels.len() > 1 {
        "labels"
    } else {
        "label"
    };
    let wanted: Vec<_> = job.required_labels.iter().map(label).collect();
    let all = ready.iter().flat_map(|(_, node)| &node.labels);
    let all: BTreeSet<_> = all.collect();
    // What is there for the keys that were asked for says most; else what keys there are.
    let mut seen: BTreeMap<bool, Vec<String>> = BTreeMap::new();
    for (key, value) in all {
        let asked = job.required_labels.contains_key(key);
        seen.entry(asked).or_default().push(label((key, value)));
    }
    let seen = seen.remove(&true).or_else(|| seen.remove(&false));
    Unplaced::NoLabels {
        ready: ready.len(),
        wanted: format!("{kind} {}", wanted.join(", ")),
        seen: seen.map_or_else(|| "none".to_owned(), shortened),
    }
}

fn shortened(mut labels: Vec<String>) -> String {
    let more = labels.len().saturating_sub(LABELS_SEEN_MAX);
    labels.truncate(LABELS_SEEN_MAX);
    let mut text = labels.join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}
