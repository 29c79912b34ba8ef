//! What other nodes of a job ask of this one; [`crate::peers`] lists the requests.
//!
//! A partial over plaintext HTTP/1.1 comes here straight from its socket, as updates do ([`super::connection`]): the
//! kernel's copy into the slot is the only one.

use super::Gateway;
use super::body::{HyperBody, Source};
use super::pace::{self, Pace};
use super::reader::Reader;
use super::refusal::Refusal;
use super::routes::{problem, unknown_job};
use crate::job::{Job, MemberRefusal, Travel, WholePartial};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::{HeaderMap, Uri, header};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tributary_api::placement::{Directive, GENERATION_HEADER, Report};
use tributary_api::problem::Problem;
use tributary_api::quantity::Interval;
use tributary_api::stages::FOLD_HEADER;
use tributary_api::{ClientName, Name};

/// The longest wait for another directive.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Bytes of a partial that are read at a time.
const PIECE_BYTES: usize = 1 << 20;
/// What to look at when partials are of different sizes.
const SAME_REVISION: &str = "do both nodes run the same revision?";

pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route(
            "/v1/jobs/{job}/members/{node}/report",
            pace::bounded_method(post(report)),
        )
        .route("/v1/jobs/{job}/members/{node}/directive", get(directive))
        .route("/v1/jobs/{job}/members/{node}/partial", put(partial))
        .route("/v1/jobs/{job}/members/{node}/claims/{client}", post(claim))
}

/// A request that is refused.
#[derive(Debug)]
pub(super) enum Refused {
    UnknownJob(String),
    Forbidden(String),
    Query(String),
    Member(MemberRefusal),
    /// It is not as long as a partial of the job.
    Length(String),
    /// It broke off while it was read, or went on.
    Body(String),
    Memory(tributary_arena::Error),
}

impl From<MemberRefusal> for Refused {
    fn from(refusal: MemberRefusal) -> Self {
        Self::Member(refusal)
    }
}

impl Refused {
    /// Nobody can say where the next request begins.
    pub(super) fn spoils_connection(&self) -> bool {
        matches!(self, Self::Body(_))
    }

    pub(super) fn problem(&self) -> Problem {
        let (status, slug, title, detail) = match self {
            Self::UnknownJob(job) => return unknown_job(job),
            Self::Forbidden(job) => {
                let detail =
                    format!("only members of job {job} may ask this, and this is not their secret");
                (403, "not-a-member", "Not a member", detail)
            }
            Self::Query(detail) => (400, "bad-query", "Bad query", detail.clone()),
            Self::Member(refusal) => (
                409,
                "other-part",
                "Another part in the job",
                refusal.to_string(),
            ),
            Self::Length(detail) | Self::Body(detail) => (
                400,
                "malformed-partial",
                "Malformed partial",
                detail.clone(),
            ),
            Self::Memory(error) => (
                507,
                "shared-memory-full",
                "Shared memory is full",
                error.to_string(),
            ),
        };
        Problem::new(status, slug, title, detail)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem(&self.problem())
    }
}

/// What the request shows to be a member's.
fn shown(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

/// The job, if what is shown is its placement's secret.
fn job(gateway: &Gateway, name: &str, shown: Option<&str>) -> Result<Arc<Job>, Refused> {
    let job = gateway
        .jobs
        .get(name)
        .ok_or_else(|| Refused::UnknownJob(name.to_owned()))?;
    let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
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
    let job = job(&gateway, &name, shown(&headers))?;
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
    let job = job(&gateway, &name, shown(&headers))?;
    let Query(known) = known.map_err(|error| Refused::Query(error.body_text()))?;
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

/// A partial that is handed over, as its head says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handing {
    pub job: String,
    pub node: String,
    pub query: String,
    /// What the follower shows to be one.
    pub authorization: Option<String>,
    /// What it says of its folding.
    pub fold: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Handed {
    version: u64,
    attempt: u32,
    contributors: u32,
}

impl Handing {
    fn handed(&self) -> Result<Handed, Refused> {
        let malformed = |error: String| Refused::Query(error);
        let target = format!("/?{}", self.query).parse::<Uri>();
        let target = target.map_err(|error| malformed(error.to_string()))?;
        let query = Query::try_from_uri(&target);
        let Query(handed) = query.map_err(|error| malformed(error.body_text()))?;
        Ok(handed)
    }

    fn fold(&self) -> Option<Duration> {
        let microseconds = self.fold.as_ref()?.parse().ok()?;
        Some(Duration::from_micros(microseconds))
    }
}

/// A partial that does not come over plaintext HTTP/1.1 with a length.
async fn partial(
    State(gateway): State<Gateway>,
    Path((job, node)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Directive>, Refused> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let handing = Handing {
        job,
        node,
        query: query.unwrap_or_default(),
        authorization: text(header::AUTHORIZATION.as_str()),
        fold: text(FOLD_HEADER),
    };
    let mut body = HyperBody::new(body, None);
    take(&gateway, &handing, &mut body).await.map(Json)
}

/// Takes a follower's partial.
pub(super) async fn take<S: Source>(
    gateway: &Gateway,
    handing: &Handing,
    body: &mut S,
) -> Result<Directive, Refused> {
    let job = job(gateway, &handing.job, handing.authorization.as_deref())?;
    tokio::select! {
        biased;
        taken = take_into(&job, handing, body) => taken,
        // However slowly the body comes: the slot goes with the job.
        () = job.ended() => Err(MemberRefusal::Stopped.into()),
    }
}

async fn take_into<S: Source>(
    job: &Job,
    handing: &Handing,
    body: &mut S,
) -> Result<Directive, Refused> {
    let node: Name = handing
        .node
        .parse()
        .map_err(|error| Refused::Query(format!("{error}")))?;
    let Handed {
        version,
        attempt,
        contributors,
    } = handing.handed()?;
    if !job.wants_partial(&node, version, attempt)? {
        return Ok(job.directive(&node)?);
    }
    let bytes = job.partial_content_bytes();
    if let Some(length) = body.length().filter(|length| *length != bytes) {
        return Err(Refused::Length(format!(
            "the partial has {length} bytes, and {bytes} are expected; {SAME_REVISION}"
        )));
    }
    let broken = |refusal: Refusal| {
        Refused::Body(match refusal {
            Refusal::Truncated { .. } => {
                format!("the body ends before the partial does; {SAME_REVISION}")
            }
            other => other.to_string(),
        })
    };
    let pace = Pace::from(&job.ingest());
    body.proceed(pace.idle).await.map_err(broken)?;
    let filling = job.claim_partial().await.map_err(Refused::Memory)?;
    let mut filling = filling.ok_or(MemberRefusal::Stopped)?;
    let begun = Instant::now();
    let mut reader = Reader::new(body, pace);
    for piece in filling.content_mut()[..bytes as usize].chunks_mut(PIECE_BYTES) {
        reader.fill(piece).await.map_err(broken)?;
    }
    if reader.expect_end().await.is_err() {
        return Err(Refused::Body(format!(
            "the partial has more than {bytes} bytes; {SAME_REVISION}"
        )));
    }
    let travel = Travel {
        time: begun.elapsed(),
        copies: S::COPIES,
    };
    let partial = WholePartial {
        version,
        attempt,
        contributors,
        slot: filling.slot(),
        generation: filling.generation(),
        fold: handing.fold(),
    };
    job.enter_partial(&node, &partial, travel, filling)?;
    Ok(job.directive(&node)?)
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
    let job = job(&gateway, &name, shown(&headers))?;
    let Query(Claimed { round }) = claimed.map_err(|error| Refused::Query(error.body_text()))?;
    let asked = headers.get(GENERATION_HEADER);
    let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Json(job.holds(&client, round, asked)?).into_response())
}
