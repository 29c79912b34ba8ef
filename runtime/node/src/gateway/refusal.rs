//! Why an update is turned away, as a problem document.

use super::fetch::FETCHES_MAX;
use super::pieces::SCALE_MAX;
use crate::job;
use tributary_api::model::{Encoding, Encodings, HeaderError, LayoutMismatch};
use tributary_api::problem::Problem;
use tributary_api::{Digest, Name};

/// Every value of the `outcome` label: the two good ones, and each problem's slug.
pub(crate) const OUTCOMES: [&str; 36] = [
    "accepted",
    "repeated",
    "malformed-update",
    "truncated-update",
    "unknown-job",
    "job-starting",
    "stalled-update",
    "slow-update",
    "wrong-round",
    "stale-update",
    "round-closing",
    "job-completed",
    "job-failed",
    "other-bytes",
    "update-too-large",
    "layout-mismatch",
    "non-finite",
    "out-of-range",
    "bad-weight",
    "unsupported-encoding",
    "bad-scale",
    "bad-index",
    "function-failed",
    "no-slot",
    "shared-memory-full",
    "not-local",
    "unknown-slot",
    "unwritten-slot",
    "elsewhere",
    "home-unknown",
    "malformed-reference",
    "reference-not-allowed",
    "reference-not-found",
    "reference-unreachable",
    "digest-mismatch",
    "too-many-fetches",
];

/// Outcomes that reject no update: it was taken, belongs at another door, may come again as it is, or came too late,
/// which its own round counts.
const NO_REJECTIONS: [&str; 11] = [
    "accepted",
    "repeated",
    "elsewhere",
    "home-unknown",
    "not-local",
    "no-slot",
    "too-many-fetches",
    "reference-unreachable",
    "round-closing",
    "wrong-round",
    "job-completed",
];

/// Whether an outcome rejects an update for what it is.
pub(crate) fn is_rejection(outcome: &str) -> bool {
    !NO_REJECTIONS.contains(&outcome)
}

/// Why an update is turned away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the body ended after {received} of {expected} bytes")]
    Truncated { received: u64, expected: u64 },
    #[error("no job {0} runs on this node; `tributary get jobs` lists them")]
    UnknownJob(String),
    #[error("job {0} is being started on this node; try again in a second")]
    Starting(String),
    #[error(
        "no byte of the body came for {seconds} s, after {received} bytes; the update was dropped"
    )]
    Stalled { seconds: f64, received: u64 },
    #[error(
        "the body came at less than {bytes_per_second} bytes per second (spec.ingest.minRate): {received} bytes in \
         {seconds:.1} s; the update was dropped"
    )]
    Slow {
        seconds: f64,
        received: u64,
        bytes_per_second: u64,
    },
    #[error("{0}")]
    TooLarge(String),
    #[error("{mismatch}; the layout of job {job} is that of its model (GET /v1/jobs/{job}/model)")]
    Layout { job: Name, mismatch: LayoutMismatch },
    #[error(
        "{coordinate} is {value}; updates of job {job} must be finite (spec.ingest.nonFinite: reject)"
    )]
    NonFinite {
        job: Name,
        coordinate: String,
        value: f32,
    },
    #[error(
        "{coordinate} is {value:e}; with weight {weight:e}, exact sums of job {job} take values up to {most:e}: send a \
         smaller weight, or lower scaleBits of the function's configuration or spec.clients.max"
    )]
    OutOfRange {
        job: Name,
        coordinate: String,
        value: f32,
        weight: f64,
        most: f32,
    },
    #[error(
        "function {function} of job {job} takes updates in {taken}; this one is in {encoding}: \
         send it in F32, or {}",
        other_way(*by_windows, *encoding)
    )]
    Encoding {
        job: Name,
        function: Name,
        taken: Encodings,
        encoding: Encoding,
        /// The job's arena is larger than what the function sees at once.
        by_windows: bool,
    },
    #[error(
        "{place} is {value}; a scale must be a finite number above 0 and at most {SCALE_MAX:e}, \
         so that no element becomes infinite"
    )]
    BadScale { place: String, value: f32 },
    #[error("{place} is {index}; {rule}")]
    BadIndex {
        place: String,
        index: i64,
        rule: String,
    },
    #[error("weight is {0}; it must be a finite number greater than 0")]
    BadWeight(String),
    #[error(
        "weight is {weight:e}; job {job} takes weights from {least:e} to {most:e} (spec.ingest.weight{})",
        if *.exact { ", and what its exact sums can hold" } else { "" }
    )]
    WeightBeyond {
        job: Name,
        weight: f64,
        least: f64,
        most: f64,
        exact: bool,
    },
    #[error("all {slots} slots of job {job} are in use; send the update again in a second")]
    NoSlot { job: Name, slots: u32 },
    #[error(
        "others wait for a slot, and this update's client was the slowest of those that have one: {received} bytes had \
         come; send the update again in a second"
    )]
    SentAway { received: u64 },
    #[error(
        "local clients hold {most} slots of job {job}, as many as are lent at a time; \
         ask again in a second, or send the update by PUT with a body"
    )]
    NoLease { job: Name, most: u32 },
    #[error("{0}; send the update by PUT with a body")]
    NotLocal(String),
    #[error(
        "a slot is lent to who can open the segment: add &proof= with the {} bytes at byte {} of /dev/shm/{segment}, in \
         hexadecimal; or send the update by PUT with a body",
        .proof.bytes.len(), .proof.offset
    )]
    Unproven {
        segment: String,
        proof: tributary_arena::Proof,
    },
    #[error(
        "the slot was asked for by the layout of another model; names, shapes or places of job {job}'s tensors differ: \
         pull its model again, and write by that (GET /v1/jobs/{job}/model)"
    )]
    OtherLayout { job: Name },
    #[error(
        "{coordinate} has not been written since the slot was lent: write all {bytes} bytes from its offset on, then commit"
    )]
    Unwritten { coordinate: String, bytes: u64 },
    #[error("this connection holds no slot {0:?}: ask for one by POST, and write the update there")]
    UnknownSlot(String),
    #[error("weight is {given}; the slot was asked for with weight {asked}")]
    OtherWeight { asked: f64, given: f64 },
    #[error(transparent)]
    SharedMemory(#[from] tributary_arena::Error),
    #[error("job {job} takes this at {url}")]
    Elsewhere { job: String, url: String },
    #[error(
        "clients of job {job} are moving between nodes, and the one that may have an update of this client cannot be \
         asked: {error}; send the update again in a second"
    )]
    HomeUnknown { job: Name, error: String },
    #[error("{0}; docs/http.md says how an update is referred to")]
    MalformedReference(String),
    #[error("{0}")]
    ReferenceNotAllowed(String),
    #[error("{0}")]
    ReferenceNotFound(String),
    #[error("{0}; try again in a second")]
    ReferenceUnreachable(String),
    #[error(
        "the file's digest is {found}, and not {told}: is it another file, or was it written again?"
    )]
    OtherDigest { told: Digest, found: Digest },
    #[error(
        "{FETCHES_MAX} files are being fetched, as many as the node fetches at a time; try again in a second"
    )]
    TooManyFetches,
    #[error("round {given} of job {job} is not open: {}", told(.refusal, *.given))]
    Job {
        job: Name,
        given: u64,
        refusal: job::Refusal,
    },
}

fn other_way(by_windows: bool, encoding: Encoding) -> String {
    if by_windows && matches!(encoding, Encoding::I8 | Encoding::Sparse) {
        return "give the job fewer slots (spec.arena.slots): its arena is larger than what a function sees at once, \
                where nothing with a table is folded"
            .into();
    }
    format!("use a function or a configuration that takes {encoding}")
}

fn told(refusal: &job::Refusal, given: u64) -> String {
    match refusal {
        job::Refusal::WrongRound { open } => {
            format!("round {open} is; pull the newest model and train from it")
        }
        job::Refusal::Stale {
            open,
            staleness,
            max,
        } => format!(
            "round {open} is, {staleness} versions later, and at most {max} are allowed \
             (spec.round.staleness.max); pull the newest model and train from it"
        ),
        job::Refusal::Forgotten { open, since } => format!(
            "round {open} is, and of rounds before {since} this node does not know who contributed, \
             so this update might count twice; pull the newest model and train from it"
        ),
        job::Refusal::Closing { round } if *round != given => {
            format!("the model of round {round} is being made; send the update again in a second")
        }
        job::Refusal::Closing { .. } => "its model is being made; pull the next one".into(),
        job::Refusal::Completed { version } => {
            format!("the job has done all its rounds; its last model is version {version}")
        }
        job::Refusal::OtherBytes => String::new(),
        job::Refusal::Function(why) | job::Refusal::Failed(why) => why.clone(),
        job::Refusal::Stopped => "the job is being deleted".into(),
        job::Refusal::Moved => "the client's home has moved; send the update again".into(),
    }
}

impl Refusal {
    /// Local clients' requests are not for this one; why.
    pub(super) fn not_local(why: impl Into<String>) -> Self {
        Self::NotLocal(why.into())
    }

    /// Whether what the client did may have left the connection unusable.
    pub(crate) fn spoils_connection(&self) -> bool {
        matches!(
            self,
            Self::Truncated { .. }
                | Self::Stalled { .. }
                | Self::Slow { .. }
                | Self::SentAway { .. }
        )
    }

    /// Seconds after which trying again makes sense, for the `Retry-After` header.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        let closing = matches!(
            self,
            Self::Job {
                refusal: job::Refusal::Closing { .. },
                ..
            }
        );
        let full = matches!(
            self,
            Self::NoSlot { .. }
                | Self::NoLease { .. }
                | Self::SentAway { .. }
                | Self::SharedMemory(_)
                | Self::TooManyFetches
                | Self::ReferenceUnreachable(_)
                | Self::Starting(_)
        );
        let moving = matches!(
            self,
            Self::HomeUnknown { .. }
                | Self::Job {
                    refusal: job::Refusal::Moved,
                    ..
                }
        );
        (closing || full || moving).then_some(1)
    }

    /// The same refusal, with the query of the request at the place where it belongs.
    pub(super) fn with_query(self, query: &str) -> Self {
        match self {
            Self::Elsewhere { job, url } if !query.is_empty() => Self::Elsewhere {
                job,
                url: format!("{url}?{query}"),
            },
            other => other,
        }
    }

    /// Where the request belongs, for the `Location` header.
    pub(crate) fn location(&self) -> Option<&str> {
        match self {
            Self::Elsewhere { url, .. } => Some(url),
            _ => None,
        }
    }

    /// The document that the client gets; its slug is the metrics' outcome.
    pub(crate) fn problem(&self) -> Problem {
        let (status, slug, title) = match self {
            Self::Malformed(_) | Self::Header(_) => (400, "malformed-update", "Malformed update"),
            Self::Truncated { .. } => (400, "truncated-update", "Truncated update"),
            Self::UnknownJob(_) => (404, "unknown-job", "Unknown job"),
            Self::Starting(_) => (503, "job-starting", "The job is being started"),
            Self::Stalled { .. } => (408, "stalled-update", "Stalled update"),
            Self::Slow { .. } => (408, "slow-update", "Slow update"),
            Self::TooLarge(_) => (413, "update-too-large", "Update too large"),
            Self::Layout {
                mismatch: LayoutMismatch::DoesNotFit { .. },
                ..
            } => (413, "update-too-large", "Update too large"),
            Self::Layout { .. } | Self::OtherLayout { .. } => (
                422,
                "layout-mismatch",
                "The update does not match the model",
            ),
            Self::NonFinite { .. } => (422, "non-finite", "The update is not finite"),
            Self::OutOfRange { .. } => (422, "out-of-range", "The update is out of range"),
            Self::BadWeight(_) | Self::WeightBeyond { .. } | Self::OtherWeight { .. } => {
                (422, "bad-weight", "Bad weight")
            }
            Self::Encoding { .. } => (415, "unsupported-encoding", "Unsupported encoding"),
            Self::BadScale { .. } => (422, "bad-scale", "Bad scale"),
            Self::BadIndex { .. } => (422, "bad-index", "Bad index"),
            Self::Unwritten { .. } => (422, "unwritten-slot", "The slot was not written"),
            Self::NotLocal(_) | Self::Unproven { .. } => {
                (403, "not-local", "Not on the local path")
            }
            Self::UnknownSlot(_) => (404, "unknown-slot", "Unknown slot"),
            Self::NoSlot { .. } | Self::NoLease { .. } | Self::SentAway { .. } => {
                (429, "no-slot", "No free slot")
            }
            Self::SharedMemory(_) => (507, "shared-memory-full", "Shared memory is full"),
            Self::Elsewhere { .. } => (307, "elsewhere", "At another node"),
            Self::HomeUnknown { .. } => (503, "home-unknown", "Homes are moving"),
            Self::MalformedReference(_) => (400, "malformed-reference", "Malformed reference"),
            Self::ReferenceNotAllowed(_) => {
                (403, "reference-not-allowed", "The reference is not allowed")
            }
            Self::ReferenceNotFound(_) => {
                (422, "reference-not-found", "The reference leads to no file")
            }
            Self::ReferenceUnreachable(_) => {
                (502, "reference-unreachable", "The file cannot be fetched")
            }
            Self::OtherDigest { .. } => (422, "digest-mismatch", "Another digest"),
            Self::TooManyFetches => (429, "too-many-fetches", "Too many fetches"),
            Self::Job { refusal, .. } => return self.job_problem(refusal),
        };
        let problem = Problem::new(status, slug, title, self.to_string());
        match self {
            Self::Unproven { segment, proof } => problem
                .with("segment", segment.as_str())
                .with("proof_offset", proof.offset)
                .with("proof_bytes", proof.bytes.len()),
            _ => problem,
        }
    }

    fn job_problem(&self, refusal: &job::Refusal) -> Problem {
        use job::Refusal as R;
        let (status, slug, title) = match refusal {
            R::WrongRound { .. } => (409, "wrong-round", "Wrong round"),
            R::Stale { .. } | R::Forgotten { .. } => (409, "stale-update", "The update is too old"),
            R::Closing { .. } => (409, "round-closing", "The round is closing"),
            R::Completed { .. } => (409, "job-completed", "The job is completed"),
            R::Failed(_) => (409, "job-failed", "The job has failed"),
            R::OtherBytes => (
                409,
                "other-bytes",
                "The client has sent another update for this round",
            ),
            R::Function(_) => (422, "function-failed", "The function failed on this update"),
            R::Stopped => (404, "unknown-job", "Unknown job"),
            R::Moved => (503, "home-unknown", "Homes are moving"),
        };
        let detail = match (self, refusal) {
            (Self::Job { job, given, .. }, R::OtherBytes) => format!(
                "this client has sent other bytes for round {given} of job {job}; the first update counts"
            ),
            (_, R::Function(why)) => why.clone(),
            _ => self.to_string(),
        };
        let problem = Problem::new(status, slug, title, detail);
        match refusal {
            R::WrongRound { open } | R::Forgotten { open, .. } => problem.with("round", *open),
            R::Stale {
                open,
                staleness,
                max,
            } => problem
                .with("round", *open)
                .with("staleness", *staleness)
                .with("max", *max),
            R::Closing { round } => problem.with("round", *round),
            R::Completed { version } => problem.with("version", *version),
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_and_alerts_count_the_same_as_rejections() {
        let rules = include_str!("../../../../manifests/prometheus/alerts.yml");
        assert!(rules.contains(&format!("outcome!~\"{}\"", NO_REJECTIONS.join("|"))));
        assert!(NO_REJECTIONS.iter().all(|name| OUTCOMES.contains(name)));
    }
}
