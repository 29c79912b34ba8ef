//! The jobs of a soak, and what their clients send.
//!
//! Models have a tensor `who` with one element for each client and, where a round takes older updates, for each round
//! that an update of the client may have been trained for. An update is 1 at its own element and 0 at all others. So an
//! element of a model's `who` is the part that one update has in the sum of weights: 0 if it is not in it, and twice
//! what it should be if it counted twice.

use std::collections::BTreeSet;

use crate::Manifest;
use crate::reference;
use crate::tensors::{Model, Shapes};

/// A job.
#[derive(Debug)]
pub struct Job {
    /// Its name.
    pub name: &'static str,
    /// How many clients train it.
    pub clients: usize,
    /// How many versions back an update may have been trained.
    pub staleness_max: u64,
    /// The longest time that a client trains, in milliseconds.
    pub training_ms: u64,
    shapes: Shapes,
    /// When a round closes.
    closes: &'static str,
    /// More fields of `spec.round`.
    round: &'static str,
    /// More lines of its spec.
    more: &'static [&'static str],
}

/// An update: a client, and the round that it was trained for.
pub type Update = (usize, u64);

/// A synchronous job on all nodes, and an asynchronous one with a tree of its own on some of them.
pub const JOBS: &[Job] = &[
    Job {
        name: "steady",
        clients: 24,
        staleness_max: 0,
        training_ms: 400,
        shapes: &[("body", &[211, 97]), ("who", &[24, 1])],
        closes: "quorum: 12, deadline: 5s",
        round: "expected: 24",
        more: &["placement: { policy: spread }"],
    },
    Job {
        name: "eager",
        clients: 12,
        staleness_max: 2,
        training_ms: 600,
        shapes: &[("body", &[41, 5]), ("head", &[7]), ("who", &[12, 3])],
        closes: "count: 8",
        round: "expected: 12, staleness: { max: 2, weight: hinge, a: 1, b: 1 }",
        more: &[
            "placement: { policy: spread, nodes: { max: 3 } }",
            "tree: { fanIn: 2 }",
        ],
    },
];

impl Job {
    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let manifest =
            Manifest::fedavg(self.name, &self.round(self.closes)).config("{ accumulate: exact }");
        self.more
            .iter()
            .fold(manifest, |manifest, line| manifest.with(line))
    }

    /// Its rounds, closed by some rule.
    #[must_use]
    pub fn round(&self, closes: &str) -> String {
        format!("{{ {}, {closes} }}", self.round)
    }

    /// Its model of version 1.
    #[must_use]
    pub fn initial(&self) -> Model {
        Model::filled(self.shapes, 0.0)
    }

    /// A client's name.
    #[must_use]
    pub fn client(&self, client: usize) -> String {
        format!("{}-{client}", self.name)
    }

    /// A client's weight. Whole numbers, of which halves are exact as well.
    #[must_use]
    pub fn weight(&self, client: usize) -> f64 {
        (client % 7 + 1) as f64
    }

    /// What a client sends for a round, whoever asks and however often.
    #[must_use]
    pub fn update(&self, (client, trained): Update) -> Model {
        let seed = (trained * 1_000 + client as u64) * 1_000 + self.clients as u64;
        let mut update = Model::random(self.shapes, seed);
        let place = self.place((client, trained));
        let who = &mut update.tensor("who").values;
        who.fill(0.0);
        who[place] = 1.0;
        update
    }

    /// The element of `who` that is an update's own.
    fn place(&self, (client, trained): Update) -> usize {
        let kept = self.staleness_max as usize + 1;
        client * kept + trained as usize % kept
    }

    /// The update whose own element that is in a model that the round `round` has made.
    fn at(&self, place: usize, round: u64) -> Option<Update> {
        let kept = self.staleness_max + 1;
        let (client, remainder) = (place / kept as usize, place as u64 % kept);
        let trained = (round.saturating_sub(self.staleness_max)..=round)
            .find(|trained| trained % kept == remainder)?;
        (trained > 0).then_some((client, trained))
    }

    /// What an update's weight is multiplied by: `hinge` with a = b = 1.
    fn factor(&self, round: u64, trained: u64) -> f64 {
        match round - trained {
            0 | 1 => 1.0,
            staleness => 1.0 / staleness as f64,
        }
    }

    /// The updates in the model that a round has made.
    ///
    /// # Errors
    /// If the model is not what those updates make, bit for bit: with what is wrong.
    pub fn contributors(&self, round: u64, model: &Model) -> Result<BTreeSet<Update>, String> {
        let mut copy = model.clone();
        let who = copy.tensor("who").values.clone();
        let inside = (0..who.len()).filter(|place| who[*place] != 0.0);
        let inside: Option<BTreeSet<Update>> = inside.map(|place| self.at(place, round)).collect();
        let inside = inside.ok_or("it has an update that was trained before the first round")?;
        let weighed: Vec<(Model, f64)> = inside
            .iter()
            .map(|update| {
                let (client, trained) = *update;
                let weight = self.weight(client) * self.factor(round, trained);
                (self.update(*update), weight)
            })
            .collect();
        if weighed.is_empty() {
            return Err("nobody is in it".into());
        }
        let right = reference::exact(&weighed);
        if right.bits() == model.bits() {
            return Ok(inside);
        }
        let mut right = right;
        let expected = right.tensor("who").values.clone();
        let shares = inside.iter().map(|update| {
            let place = self.place(*update);
            format!(
                "client {} for round {}: {} of {}",
                update.0, update.1, who[place], expected[place]
            )
        });
        let shares: Vec<String> = shares.collect();
        Err(format!("it is another one; {}", shares.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The model of some updates, each as often as it is named.
    fn model(job: &Job, round: u64, updates: &[Update]) -> Model {
        let weighed = updates.iter().map(|(client, trained)| {
            let weight = job.weight(*client) * job.factor(round, *trained);
            (job.update((*client, *trained)), weight)
        });
        reference::exact(&weighed.collect::<Vec<_>>())
    }

    #[test]
    fn a_model_tells_who_is_in_it() {
        let steady = [(0, 9), (3, 9), (23, 9)];
        let eager = [(0, 9), (0, 8), (3, 7), (11, 9)];
        for (job, updates) in JOBS.iter().zip([&steady[..], &eager]) {
            let found = job.contributors(9, &model(job, 9, updates));
            assert_eq!(found, Ok(updates.iter().copied().collect()));
        }
    }

    #[test]
    fn who_counts_twice_is_found() {
        for job in JOBS {
            let wrong = job
                .contributors(5, &model(job, 5, &[(1, 5), (2, 5), (2, 5)]))
                .unwrap_err();
            assert!(wrong.contains("client 2"), "{wrong}");
        }
    }

    #[test]
    fn a_bit_that_is_wrong_is_found() {
        for job in JOBS {
            let mut wrong = model(job, 5, &[(1, 5), (2, 5)]);
            let value = &mut wrong.tensor("body").values[17];
            *value = f32::from_bits(value.to_bits() ^ 1);
            assert!(job.contributors(5, &wrong).is_err());
        }
    }
}
