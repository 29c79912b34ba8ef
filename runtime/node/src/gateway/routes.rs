//! Everything over HTTP but the fast path of updates.

use super::body::HyperBody;
use super::ingest::{self, Address, Taken};
use super::refusal::Refusal;
use super::{Gateway, lease, members, model, pace, reference};
use crate::events::Told;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, RawQuery, State};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde::Deserialize;
use std::convert::Infallible;
use tokio_stream::wrappers::BroadcastStream;
use tributary_api::ClientName;
use tributary_api::problem::{self, Problem};

pub(super) fn routes(gateway: Gateway) -> Router {
    Router::new()
        .route(
            "/v1/jobs/{job}/updates/{client}",
            pace::bounded_method(axum::routing::post(reference::post))
                .put(update)
                .get(held),
        )
        .route(
            "/v1/jobs/{job}/updates/{client}/slot",
            axum::routing::post(slot).delete(slot),
        )
        .route("/v1/jobs/{job}/model", get(model::get))
        .route("/v1/jobs/{job}/rounds", get(rounds))
        .route("/v1/jobs/{job}/rounds/{round}", get(round))
        .merge(members::routes())
        .route("/v1/events", get(events))
        .route("/metrics", get(metrics))
        .route("/live", get(async || "live\n"))
        // The door opens when the controller has brought the node to its desired state.
        .route("/ready", get(async || "ready\n"))
        .with_state(gateway)
}

/// What answers a path that nobody serves, and a method that a path does not know.
pub(super) fn with_fallbacks(routes: Router) -> Router {
    let unknown = async |uri: Uri| {
        let detail = format!(
            "nothing is served at {}; docs/http.md lists what is",
            uri.path()
        );
        problem(&Problem::new(404, "unknown-path", "Unknown path", detail))
    };
    let wrong_method = async |method: Method, uri: Uri| {
        let detail = format!(
            "{method} is not served at {}; docs/http.md lists what is",
            uri.path()
        );
        problem(&Problem::new(405, "wrong-method", "Wrong method", detail))
    };
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

/// A problem document as a response.
pub(super) fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(problem)).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(problem::CONTENT_TYPE),
    );
    response
}

pub(super) fn unknown_job(name: &str) -> Problem {
    let detail = format!("no job {name} runs on this node; `tributary get jobs` lists them");
    Problem::new(404, "unknown-job", "Unknown job", detail)
}

/// An update that does not come over plaintext HTTP/1.1 with a length.
async fn update(
    State(gateway): State<Gateway>,
    Path((job, client)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let address = Address {
        job,
        client,
        query: query.unwrap_or_default(),
    };
    if headers.contains_key(header::CONTENT_ENCODING) {
        let detail = "updates are sent as they are; content-encoding is not supported";
        return problem(&Problem::new(
            415,
            "encoded-update",
            "Encoded update",
            detail,
        ));
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|l| l.to_str().ok()?.parse().ok());
    let mut body = HyperBody::new(body, length);
    taken(ingest::put(&gateway, &address, &mut body).await)
}

/// What a client is told of its update.
pub(super) fn taken(outcome: Result<Taken, Refusal>) -> Response {
    match outcome {
        Ok((accepted, receipt)) => {
            let status = if accepted.repeated {
                StatusCode::OK
            } else {
                StatusCode::ACCEPTED
            };
            (status, Json(receipt)).into_response()
        }
        Err(refusal) => refused(&refusal),
    }
}

/// What belongs to the local path and comes by a way that cannot hold a lease.
async fn slot(
    State(gateway): State<Gateway>,
    Path((job, client)): Path<(String, String)>,
) -> Response {
    let address = Address {
        job,
        client,
        query: String::new(),
    };
    refused(&lease::refuse(&gateway, &address))
}

fn refused(refusal: &Refusal) -> Response {
    let mut response = problem(&refusal.problem());
    if let Some(seconds) = refusal.retry_after() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(Ok(location)) = refusal.location().map(HeaderValue::from_str) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The query of `GET /v1/jobs/{job}/updates/{client}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    round: u64,
}

/// Whether an update of the client is in the round: it may have been lost with its node.
async fn held(
    State(gateway): State<Gateway>,
    Path((name, client)): Path<(String, ClientName)>,
    asked: Result<Query<Asked>, QueryRejection>,
    uri: Uri,
) -> Response {
    let Some(job) = gateway.jobs.get(&name) else {
        return not_here(&gateway, &name, &uri);
    };
    let Query(Asked { round }) = match asked {
        Ok(asked) => asked,
        Err(error) => return bad_query(&error),
    };
    if let Some(receipt) = job.receipt(&client, round) {
        return Json(receipt).into_response();
    }
    match gateway.check_home(&job, &client, Some(round)).await {
        Err(refusal) => refused(&refusal.with_query(uri.query().unwrap_or_default())),
        Ok(()) => {
            let detail = format!("no update of client {client} is in round {round} of job {name}");
            problem(&Problem::new(404, "not-held", "Not held", detail))
        }
    }
}

async fn rounds(State(gateway): State<Gateway>, Path(name): Path<String>, uri: Uri) -> Response {
    match gateway.jobs.get(&name) {
        None => not_here(&gateway, &name, &uri),
        Some(job) => match job.leader_url() {
            Some(leader) => elsewhere(&name, &leader, &uri),
            None => Json(job.rounds()).into_response(),
        },
    }
}

/// A job that does not run here: the way to where it runs, if that is known.
pub(super) fn not_here(gateway: &Gateway, name: &str, uri: &Uri) -> Response {
    match gateway.jobs.elsewhere(name) {
        Some(url) => elsewhere(name, &url, uri),
        None if gateway.jobs.is_starting(name) => refused(&Refusal::Starting(name.to_owned())),
        None => problem(&unknown_job(name)),
    }
}

/// The same request at another gateway.
fn elsewhere(name: &str, url: &str, uri: &Uri) -> Response {
    let target = uri
        .path_and_query()
        .map_or_else(|| uri.path(), |target| target.as_str());
    refused(&Refusal::Elsewhere {
        job: name.to_owned(),
        url: format!("{url}{target}"),
    })
}

pub(super) fn bad_query(rejection: &QueryRejection) -> Response {
    problem(&Problem::new(
        400,
        "bad-query",
        "Bad query",
        rejection.body_text(),
    ))
}

async fn round(
    State(gateway): State<Gateway>,
    Path((name, round)): Path<(String, String)>,
    uri: Uri,
) -> Response {
    let Some(job) = gateway.jobs.get(&name) else {
        return not_here(&gateway, &name, &uri);
    };
    // Who leads knows of all.
    if let Some(leader) = job.leader_url() {
        return elsewhere(&name, &leader, &uri);
    }
    let status = round
        .parse()
        .ok()
        .and_then(|number| job.round_status(number));
    match status {
        Some(status) => Json(status).into_response(),
        None => {
            let open = job.model().version;
            let detail = format!(
                "job {name} has no round {round}, or has forgotten it; round {open} is the newest"
            );
            problem(&Problem::new(404, "unknown-round", "Unknown round", detail))
        }
    }
}

/// The query of `GET /v1/events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Heard {
    /// Only this job's events.
    job: Option<String>,
}

async fn events(
    State(gateway): State<Gateway>,
    Query(heard): Query<Heard>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let subject = heard.job.map(|job| format!("jobs/{job}"));
    let events = BroadcastStream::new(gateway.events.listen()).filter_map(move |event| {
        let sse = match event.as_deref() {
            Ok(Told { event, .. }) if subject.is_some() && event.subject != subject => None,
            Ok(Told { event, .. }) => serde_json::to_string(event).ok().map(|data| {
                SseEvent::default()
                    .id(&event.id)
                    .event(event.kind.as_str())
                    .data(data)
            }),
            Err(missed) => Some(SseEvent::default().comment(missed.to_string())),
        };
        std::future::ready(sse.map(Ok))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn metrics(State(gateway): State<Gateway>) -> Response {
    gateway.jobs.all().iter().for_each(|job| job.observe());
    match gateway.metrics.render() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => problem(&Problem::new(
            500,
            "metrics",
            "Metrics failed",
            error.to_string(),
        )),
    }
}
