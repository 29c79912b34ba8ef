//! What can go wrong, and how HTTP says it.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tributary_api::{
    Digest, Name,
    manifest::Kind,
    problem::{self, FieldError, Problem},
};

/// Why the control plane does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Manifests are wrong; nothing was applied.
    #[error("{}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// The request itself is wrong.
    #[error("{0}")]
    Malformed(String),
    /// There is no such thing.
    #[error("there is no {} {name:?}", kind.as_str().to_lowercase())]
    Unknown {
        /// What kind of thing.
        kind: Kind,
        /// Its name, which may be no possible name.
        name: String,
    },
    /// There is no such blob.
    #[error("there is no blob {0}")]
    UnknownBlob(Digest),
    /// A function or tenant cannot be deleted while jobs use it.
    #[error(
        "{} {name} is used by {}; {} first",
        kind.as_str().to_lowercase(),
        listed(jobs),
        way_out(*kind)
    )]
    InUse {
        /// What kind of thing.
        kind: Kind,
        /// Its name.
        name: Name,
        /// The jobs that use it.
        jobs: Vec<Name>,
    },
    /// The tenant of jobs that name none cannot be deleted.
    #[error("tenant {0} always exists; apply it with `weight: 1` to have it as it was at first")]
    DefaultTenant(Name),
    /// The bytes of a blob are not those that its name promises.
    #[error("the body's digest is {actual}, not {promised}; nothing was stored")]
    DigestMismatch {
        /// The digest in the URL.
        promised: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// A blob has more bytes than are taken.
    #[error("the body has more than {max} bytes")]
    TooLarge {
        /// The greatest number of bytes.
        max: u64,
    },
    /// The state directory cannot be used by two processes.
    #[error("{0} is in use by another process; stop that one or give another --state-dir")]
    Locked(String),
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(#[from] tributary_store::Error),
    /// A newer version of the program has written desired state in a layout of its own.
    #[error(
        "the store holds desired state in layout {found}, which a newer version has written; this one knows layouts up \
         to {known}: start the newer version in its place"
    )]
    Format {
        /// The layout that was found.
        found: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// Desired state is gone, and what it led to is still there.
    #[error(
        "there is no desired state in the store, but placements of {placements} jobs: restore the bucket `desired` from a \
         back-up; or, to begin without jobs, delete the buckets `desired` and `placements` and start the controllers anew"
    )]
    Headless {
        /// How many jobs have a placement.
        placements: usize,
    },
    /// A stored record cannot be read.
    #[error("the store holds a damaged record: {0}; restore the bucket `desired` from a back-up")]
    Record(#[from] serde_json::Error),
    /// What an earlier version of the program kept could not be taken over.
    #[error("the state of an earlier version in {path} cannot be taken over: {reason}")]
    Legacy {
        /// The file or directory.
        path: String,
        /// Why.
        reason: String,
    },
    /// The state directory could not be made.
    #[error("the state directory {path}: {error}")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Another controller leads, or none does.
    #[error("{}", not_leading(leader.as_deref()))]
    NotLeading {
        /// The URL of the one that does.
        leader: Option<String>,
    },
    /// This controller has the lease, and something is in the way.
    #[error("no controller leads at the moment, and this one, whose turn it is, cannot yet: {0}")]
    CannotLead(String),
    /// There is no node that could check what is applied.
    #[error("no node can check this now: {0}")]
    NoNode(String),
    /// There is no such node.
    #[error("there is no node {0:?}; `tributary get nodes` lists them")]
    UnknownNode(String),
    /// Another process is a node of the same name.
    #[error(
        "another process at {url} is node {node} already; give each node a --name of its own, and a --state-dir if it is \
         on the same machine"
    )]
    NameTaken {
        /// The name.
        node: String,
        /// The other one's gateway.
        url: String,
    },
    /// A task of this process died.
    #[error("an internal task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// The same as a problem document.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (status, slug, title) = match self {
            Self::Invalid(_) => (422, "invalid-manifest", "Invalid manifest"),
            Self::Malformed(_) => (400, "malformed-request", "Malformed request"),
            Self::Unknown {
                kind: Kind::Job, ..
            } => (404, "unknown-job", "Unknown job"),
            Self::Unknown {
                kind: Kind::Tenant, ..
            } => (404, "unknown-tenant", "Unknown tenant"),
            Self::Unknown { .. } => (404, "unknown-function", "Unknown function"),
            Self::UnknownNode(_) => (404, "unknown-node", "Unknown node"),
            Self::NotLeading { .. } | Self::CannotLead(_) => (503, "not-leading", "Not leading"),
            Self::NoNode(_) => (503, "no-node", "No node"),
            Self::Store(error) if error.is_unavailable() => {
                (503, "store-unavailable", "Store unavailable")
            }
            Self::Store(tributary_store::Error::Full { .. }) => (507, "store-full", "Store full"),
            Self::UnknownBlob(_) => (404, "unknown-blob", "Unknown blob"),
            Self::InUse { .. } | Self::DefaultTenant(_) => (409, "in-use", "In use"),
            Self::NameTaken { .. } => (409, "name-taken", "Name taken"),
            Self::DigestMismatch { .. } => (422, "digest-mismatch", "Digest mismatch"),
            Self::TooLarge { .. } => (413, "too-large", "Too large"),
            Self::Locked(_)
            | Self::Store(_)
            | Self::Format { .. }
            | Self::Headless { .. }
            | Self::Record(_)
            | Self::Legacy { .. }
            | Self::Directory { .. }
            | Self::Task(_) => (500, "internal", "Internal error"),
        };
        let mut problem = Problem::new(status, slug, title, self.to_string());
        if let Self::Invalid(errors) = self {
            problem.errors.clone_from(errors);
        }
        problem
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let problem = self.problem();
        if problem.status == 500 {
            tracing::error!(error = %self, "request failed");
        }
        let mut response = problem_response(&problem);
        if problem.status == 503 {
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
        }
        response
    }
}

/// An HTTP response that carries a problem.
#[must_use]
pub fn problem_response(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    (
        status,
        [(header::CONTENT_TYPE, problem::CONTENT_TYPE)],
        body,
    )
        .into_response()
}

fn not_leading(leader: Option<&str>) -> String {
    match leader {
        Some(url) => format!("this controller does not lead, {url} does; ask that one"),
        None => "no controller leads at the moment; ask again".into(),
    }
}

fn summary(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        [] => "the manifests are wrong".into(),
    }
}

/// What makes jobs let go of it.
const fn way_out(kind: Kind) -> &'static str {
    match kind {
        Kind::Tenant => "delete the jobs, or give them another tenant,",
        Kind::Function | Kind::Job => "delete the jobs",
    }
}

fn listed(jobs: &[Name]) -> String {
    let names: Vec<_> = jobs.iter().map(Name::as_str).collect();
    format!(
        "{} {}",
        if names.len() == 1 { "job" } else { "jobs" },
        names.join(", ")
    )
}
