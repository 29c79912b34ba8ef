//! What can go wrong, for both implementations.

use std::time::Duration;

/// Why a call has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key to be created is there already.
    #[error("{key} exists already; update it at its revision, or choose another name")]
    Exists {
        /// The key.
        key: String,
    },
    /// Somebody else has written, or deleted, the key since it was read.
    #[error("{key} is not at revision {expected} any more; read it again and repeat the change")]
    Conflict {
        /// The key.
        key: String,
        /// The revision that the caller had seen.
        expected: u64,
    },
    /// What the call is about is not there.
    #[error("{what} is not there")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The store cannot be reached, or did not answer in time. Whether a change has happened is not known; asking again
    /// may help.
    #[error("{what}: unavailable: {why}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What stood in the way.
        why: String,
    },
    /// A request was received, and not answered in time.
    #[error("{subject} has not answered within {after:?}; what it was asked may have happened")]
    Timeout {
        /// The request's subject.
        subject: String,
        /// How long the caller was willing to wait.
        after: Duration,
    },
    /// Nobody serves the subject of a request.
    #[error("nobody serves {subject}; start what does, or look for a spelling mistake")]
    NoResponder {
        /// The request's subject.
        subject: String,
    },
    /// A value or a message is larger than the store takes.
    #[error("{what} has {bytes} bytes; at most {max} fit: put it into an object and refer to that")]
    TooLarge {
        /// What was to be stored.
        what: String,
        /// Its size.
        bytes: usize,
        /// The largest size that fits.
        max: usize,
    },
    /// There is no room left.
    #[error(
        "{what}: its stream in NATS is full; delete what is not needed, or give it more room: `nats stream edit --max-bytes`"
    )]
    Full {
        /// What was to be stored.
        what: String,
    },
    /// A name, a filter or a setting is not what it should be; or what is stored cannot be read.
    #[error("{what}: {why}")]
    Malformed {
        /// What it is about.
        what: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The disk under an embedded store refuses.
    #[error("{what}: {why}; look at the disk, and at who else uses the directory")]
    Storage {
        /// The file or directory.
        what: String,
        /// What the system says.
        why: String,
    },
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "`why` is a text or an error, often a fresh one"
)]
impl Error {
    /// Whether asking again, later, may help.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn unavailable(what: impl Into<String>, why: impl ToString) -> Self {
        let (what, why) = (what.into(), why.to_string());
        Self::Unavailable { what, why }
    }

    pub(crate) fn malformed(what: impl Into<String>, why: impl ToString) -> Self {
        let (what, why) = (what.into(), why.to_string());
        Self::Malformed { what, why }
    }

    pub(crate) fn storage(what: impl Into<String>, why: impl ToString) -> Self {
        let (what, why) = (what.into(), why.to_string());
        Self::Storage { what, why }
    }
}
