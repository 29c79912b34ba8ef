//! What a message says: where an object is, and who is to have it. It carries all that its receiver has to know, so
//! aggregators and agents have no state of their own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The stream, and the first word of its subjects.
pub(super) const STREAM: &str = "aggregators";

/// One place in the tree, with all that are above it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) host: usize,
    /// Inputs that it waits for.
    pub(super) expected: usize,
    /// They are partials.
    pub(super) merges: bool,
    pub(super) parent: Option<Box<Place>>,
}

impl Place {
    /// The hosts on the way to the top.
    pub(super) fn hosts(&self) -> Vec<usize> {
        let above = self.parent.iter().flat_map(|parent| parent.hosts());
        std::iter::once(self.host).chain(above).collect()
    }
}

/// What all aggregators of a round have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Work {
    /// The round's name, and its bucket's.
    pub(super) run: String,
    pub(super) elements: usize,
    /// The function, in a cache of compiled ones.
    pub(super) digest: String,
    pub(super) cache: PathBuf,
    pub(super) eager: bool,
}

/// An input for an aggregator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) work: Work,
    pub(super) to: Place,
    /// Where it is: an object of the round's bucket.
    pub(super) object: String,
    pub(super) weight: f64,
    pub(super) contributors: u32,
}

impl Message {
    /// Where it is published.
    pub(super) fn subject(&self) -> String {
        let (host, run) = (self.to.host, &self.work.run);
        format!("{STREAM}.{host}.{run}.{}", self.to.name)
    }
}

/// Everything for a host's aggregators.
pub(super) fn subjects_of_host(host: usize) -> String {
    format!("{STREAM}.{host}.>")
}

/// Where the new model is told.
pub(super) fn model_subject(run: &str) -> String {
    format!("models.{run}")
}
