//! What other nodes of a job ask of this one; [`crate::peers`] lists the requests.

use super::Gateway;
use super::body::{HyperBody, Source};
use super::routes::{problem, unknown_job};
use crate::job::{Job, MemberRefusal, WholePartial};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::{HeaderMap, header};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tributary_api::placement::{Directive, Report};
use tributary_api::problem::Problem;
use tributary_api::quantity::Interval;
use tributary_api::{ClientName, Name};

/// The longest wait for another directive.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest silence in the middle of a partial.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes of a partial that are read at a time.
const PIECE_BYTES: usize = 1 << 20;

pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/v1/jobs/{job}/members/{node}/report", post(report))
        .route("/v1/jobs/{job}/members/{node}/directive", get(directive))
        .route("/v1/jobs/{job}/members/{node}/partial", put(partial))
        .route("/v1/jobs/{job}/members/{node}/claims/{client}", post(claim))
}

/// A request that is refused.
enum Refused {
    UnknownJob(String),
    Forbidden(String),
    Query(QueryRejection),
    Member(MemberRefusal),
    Body(String),
    Memory(tributary_arena::Error),
}

impl From<MemberRefusal> for Refused {
    fn from(refusal: MemberRefusal) -> Self {
        Self::Member(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, slug, title, detail) = match self {
            Self::UnknownJob(job) => return unknown_job(&job),
            Self::Forbidden(job) => {
                let detail =
                    format!("only members of job {job} may ask this, and this is not their secret");
                (403, "not-a-member", "Not a member", detail)
            }
            Self::Query(rejection) => (400, "bad-query", "Bad query", rejection.body_text()),
            Self::Member(refusal) => (
                409,
                "other-part",
                "Another part in the job",
                refusal.to_string(),
            ),
            Self::Body(detail) => (400, "malformed-partial", "Malformed partial", detail),
            Self::Memory(error) => (
                507,
                "shared-memory-full",
                "Shared memory is full",
                error.to_string(),
            ),
        };
        problem(&Problem::new(status, slug, title, detail))
    }
}

/// The job, if the request shows its placement's secret.
fn job(gateway: &Gateway, name: &str, headers: &HeaderMap) -> Result<Arc<Job>, Refused> {
    let job = gateway
        .jobs
        .get(name)
        .ok_or_else(|| Refused::UnknownJob(name.to_owned()))?;
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let placement = job.placement();
    let secret = placement
        .as_ref()
        .map(|placement| placement.secret.as_str());
    match (shown, secret) {
        (Some(shown), Some(secret)) if same(shown.as_bytes(), secret.as_bytes()) => Ok(job),
        _ => Err(Refused::Forbidden(name.to_owned())),
    }
}

/// Compares in a time that does not tell where the difference is.
fn same(shown: &[u8], secret: &[u8]) -> bool {
    let differences = shown
        .iter()
        .zip(secret)
        .fold(0, |all, (a, b)| all | (a ^ b));
    shown.len() == secret.len() && differences == 0
}

async fn report(
    State(gateway): State<Gateway>,
    Path((name, node)): Path<(String, Name)>,
    headers: HeaderMap,
    Json(report): Json<Report>,
) -> Result<Json<Directive>, Refused> {
    let job = job(&gateway, &name, &headers)?;
    if report.node != node {
        return Err(MemberRefusal::Stranger(node).into());
    }
    if job.hear(report)? {
        gateway.catch_up(&job, &node);
    }
    Ok(Json(job.directive(&node)?))
}

/// What the follower knows, and how long it waits for something else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    wait: Option<Interval>,
    generation: Option<u64>,
    version: Option<u64>,
    attempt: Option<u32>,
    closed: Option<bool>,
    taken: Option<bool>,
}

impl Known {
    fn is(&self, directive: &Directive) -> bool {
        let Directive {
            generation,
            version,
            attempt,
            closed,
            taken,
        } = *directive;
        self.generation == Some(generation)
            && self.version == Some(version)
            && self.attempt == Some(attempt)
            && self.closed == Some(closed)
            && self.taken == Some(taken)
    }
}

async fn directive(
    State(gateway): State<Gateway>,
    Path((name, node)): Path<(String, Name)>,
    headers: HeaderMap,
    known: Result<Query<Known>, QueryRejection>,
) -> Result<Json<Directive>, Refused> {
    let job = job(&gateway, &name, &headers)?;
    let Query(known) = known.map_err(Refused::Query)?;
    let wait = known
        .wait
        .map_or(Duration::ZERO, Interval::duration)
        .min(WAIT_MAX);
    let mut changes = job.changes();
    let another = async {
        while job
            .directive(&node)
            .is_ok_and(|directive| known.is(&directive))
        {
            // The job's end is a change, too.
            let _ = changes.changed().await;
        }
    };
    let _ = tokio::time::timeout(wait, another).await;
    Ok(Json(job.directive(&node)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Handed {
    version: u64,
    attempt: u32,
    contributors: u32,
}

async fn partial(
    State(gateway): State<Gateway>,
    Path((name, node)): Path<(String, Name)>,
    headers: HeaderMap,
    handed: Result<Query<Handed>, QueryRejection>,
    body: Body,
) -> Result<Json<Directive>, Refused> {
    let job = job(&gateway, &name, &headers)?;
    let Query(Handed {
        version,
        attempt,
        contributors,
    }) = handed.map_err(Refused::Query)?;
    let mut body = HyperBody::new(body, None);
    if !job.wants_partial(&node, version, attempt)? {
        return Ok(Json(job.directive(&node)?));
    }
    let filling = job.claim_partial().await.map_err(Refused::Memory)?;
    let mut filling = filling.ok_or(MemberRefusal::Stopped)?;
    let bytes = job.partial_content_bytes() as usize;
    for piece in filling.content_mut()[..bytes].chunks_mut(PIECE_BYTES) {
        fill(&mut body, piece).await.map_err(Refused::Body)?;
    }
    if !matches!(body.read(&mut [0; 1]).await, Ok(0)) {
        return Err(Refused::Body(format!(
            "the partial has more than {bytes} bytes; do both nodes run the same revision?"
        )));
    }
    let partial = WholePartial {
        version,
        attempt,
        contributors,
        slot: filling.slot(),
        generation: filling.generation(),
    };
    job.enter_partial(&node, &partial, filling)?;
    Ok(Json(job.directive(&node)?))
}

async fn fill(body: &mut HyperBody, into: &mut [u8]) -> Result<(), String> {
    let mut filled = 0;
    while filled < into.len() {
        let read = tokio::time::timeout(SILENCE, body.read(&mut into[filled..])).await;
        match read {
            Ok(Ok(0)) => {
                return Err(
                    "the body ends before the partial does; do both nodes run the same revision?"
                        .into(),
                );
            }
            Ok(Ok(read)) => filled += read,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no byte came for {} s", SILENCE.as_secs())),
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claimed {
    round: u64,
}

async fn claim(
    State(gateway): State<Gateway>,
    Path((name, _, client)): Path<(String, Name, ClientName)>,
    headers: HeaderMap,
    claimed: Result<Query<Claimed>, QueryRejection>,
) -> Result<Response, Refused> {
    let job = job(&gateway, &name, &headers)?;
    let Query(Claimed { round }) = claimed.map_err(Refused::Query)?;
    Ok(Json(job.holds(&client, round)).into_response())
}
