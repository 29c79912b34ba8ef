//! What agent and worker say to each other beside descriptors.
//!
//! * Control messages, one JSON document a line, on a Unix socket pair: rare, and of any length.
//! * Completion records, 32 bytes in a ring of the job's arena: one for every step of work, and
//!   still there when the worker that wrote them has been killed.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
#[cfg(doc)]
use tributary_arena::Contributors;
use tributary_arena::ring::Record;
use tributary_sidecar_layout::Destination;

/// Agent to worker.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) enum ToWorker {
    /// The first message: who the worker is.
    Hello(Hello),
    /// Host aggregators of a job from now on.
    Attach(Box<Attach>),
    /// Host no more aggregators of a job, and let its memory go.
    Detach {
        /// The job's number.
        job: u32,
    },
}

/// Who a worker is.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Hello {
    /// Its owner number in slots; never used twice in an agent's life.
    pub owner: u32,
    /// Its completion ring in every arena.
    pub ring: u32,
    /// Where precompiled modules lie.
    pub module_cache: PathBuf,
    /// When the agent began to start it, by the monotonic clock.
    pub started_ns: u64,
}

/// All a worker needs to host aggregators of a job, whatever their level.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Attach {
    /// The job's number.
    pub job: u32,
    /// The job's name, for errors.
    pub name: String,
    /// The arena's segment.
    pub segment: String,
    /// The function's name and revision, for errors.
    pub function: String,
    /// The module's digest, hex.
    pub digest: String,
    /// The function's configuration, JSON.
    pub config: String,
    /// The module's own memory, bytes.
    pub memory_bytes: u64,
    /// Time for one call.
    pub deadline_ms: u64,
    /// Elements of the model.
    pub elements: u32,
    /// Children of an aggregator.
    pub fan_in: u32,
    /// Workers that host the job.
    pub lanes: u32,
    /// Threads that fold side by side.
    pub threads: u32,
    /// Updates that are worth waiting for, before they are folded together.
    pub batch: u32,
    /// Leaves take updates in the order of their arrival.
    pub ordered: bool,
    /// Accumulators are changed in place, under the undo journal.
    pub in_place: bool,
    /// Elements that are changed in place at a time.
    pub part_elements: u32,
}

/// Worker to agent.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) enum FromWorker {
    /// A job's aggregators can be routed here.
    Attached {
        /// The job's number.
        job: u32,
    },
    /// A job's aggregators are here no more, and nothing of them is written any more.
    Detached {
        /// The job's number.
        job: u32,
    },
    /// A job cannot be hosted here.
    AttachFailed {
        /// The job's number.
        job: u32,
        /// Why.
        error: String,
    },
    /// The function failed on one input. The worker has forgotten it; the agent strikes it from the book and frees its
    /// slot, both at once, so that the death of either leaves the two in agreement.
    Refused {
        /// The aggregator.
        destination: u64,
        /// The round's epoch.
        round: u32,
        /// The input's slot.
        slot: u32,
        /// The generation of that slot.
        generation: u32,
        /// The client's number in the round.
        client: u32,
        /// What the function did.
        error: String,
    },
    /// A step failed: the round has no result.
    Failed {
        /// The aggregator.
        destination: u64,
        /// The round's epoch.
        round: u32,
        /// The clients inside what the function failed on, as [`Contributors::words`]; none where it is not at fault.
        inside: (u32, Vec<u64>),
        /// What went wrong.
        error: String,
    },
}

/// One step of work that a worker has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub work: Work,
    pub destination: Destination,
    pub round: u32,
    /// Inputs that were read in place.
    pub inputs: u32,
    pub nanoseconds: u64,
    /// The step was the first of a leaf in a round: how long it took to come to it.
    pub activation: Option<Activation>,
}

/// From the moment when a leaf's first descriptor was sent to the function's first instruction on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activation {
    pub nanoseconds: u64,
    /// The descriptor was sent before the worker hosted the job.
    pub cold: bool,
}

impl Activation {
    /// A word that is never 0: at least a nanosecond has passed.
    fn to_word(self) -> u64 {
        self.nanoseconds.clamp(1, u64::MAX >> 1) << 1 | u64::from(self.cold)
    }

    fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            nanoseconds: word >> 1,
            cold: word & 1 == 1,
        })
    }
}

/// What kind of step it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Fold = 1,
    Merge = 2,
    /// A model stands in an arena slot, in state Model.
    Finish = 3,
    /// A lone partial went on to the parent as it was.
    Pass = 4,
}

impl Completion {
    pub(crate) fn to_record(self) -> Record {
        let head = self.work as u64 | u64::from(self.inputs) << 8 | u64::from(self.round) << 32;
        let activation = self.activation.map_or(0, Activation::to_word);
        [head, self.destination.raw(), self.nanoseconds, activation]
    }

    /// `None` for a record that no version of this protocol writes.
    pub(crate) fn from_record(record: Record) -> Option<Self> {
        let work = match record[0] & 0xff {
            1 => Work::Fold,
            2 => Work::Merge,
            3 => Work::Finish,
            4 => Work::Pass,
            _ => return None,
        };
        Some(Self {
            work,
            inputs: (record[0] >> 8) as u32 & 0x00ff_ffff,
            round: (record[0] >> 32) as u32,
            destination: Destination::from_raw(record[1]),
            nanoseconds: record[2],
            activation: Activation::from_word(record[3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_sidecar_layout::Level;

    #[test]
    fn completions_survive_their_record() {
        for work in [Work::Fold, Work::Merge, Work::Finish, Work::Pass] {
            let completion = Completion {
                work,
                destination: Destination::new(7, Level::Middle, 3),
                round: u32::MAX,
                inputs: 64,
                nanoseconds: 123_456,
                activation: (work == Work::Fold).then_some(Activation {
                    nanoseconds: 98_765,
                    cold: true,
                }),
            };
            assert_eq!(
                Completion::from_record(completion.to_record()),
                Some(completion)
            );
        }
        assert_eq!(Completion::from_record([0; 4]), None);
    }
}
