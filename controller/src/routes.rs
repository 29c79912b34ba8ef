//! The HTTP interface of the control plane.
//!
//! A process that is controller and node merges these routes with the node's own: updates, rounds and models.

mod elsewhere;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde_json::{Value, json};
use tributary_api::{
    Digest,
    apply::ApplyResult,
    fleet::{NodeEntry, PlacementDescription},
    manifest::JobManifest,
    status::{FunctionStatus, JobStatus, TenantStatus},
};

use crate::{Controller, Error, files::blobs::BLOB_BYTES_MAX};
pub use elsewhere::{controller_routes, node_routes};

/// The largest body of an apply: manifests are small, large things are blobs.
const APPLY_BYTES_MAX: usize = 16 << 20;

type Api = State<Arc<Controller>>;

/// The routes of `controller`:
/// `POST /v1/apply`, `PUT|HEAD /v1/blobs/{digest}`, `GET /v1/jobs`, `GET|DELETE /v1/jobs/{job}`,
/// `GET /v1/jobs/{job}/manifest`, `GET /v1/jobs/{job}/placement`, `GET /v1/functions`,
/// `GET|DELETE /v1/functions/{function}`, `GET /v1/tenants`, `GET|DELETE /v1/tenants/{tenant}`, `GET /v1/nodes`,
/// `PUT|DELETE /v1/nodes/{node}/drain`.
///
/// A controller that does not lead answers what it can, and sends writes to the one that does.
pub fn routes(controller: Arc<Controller>) -> Router {
    Router::new()
        .route(
            "/v1/apply",
            post(apply).layer(DefaultBodyLimit::max(APPLY_BYTES_MAX)),
        )
        .route("/v1/blobs/{digest}", put(put_blob).head(head_blob))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{job}", get(job).delete(delete_job))
        .route("/v1/jobs/{job}/manifest", get(manifest))
        .route("/v1/jobs/{job}/placement", get(placement))
        .route("/v1/functions", get(functions))
        .route(
            "/v1/functions/{function}",
            get(function).delete(delete_function),
        )
        .route("/v1/tenants", get(tenants))
        .route("/v1/tenants/{tenant}", get(tenant).delete(delete_tenant))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{node}/drain", put(drain).delete(undrain))
        .layer(from_fn_with_state(
            Arc::clone(&controller),
            elsewhere::to_leader,
        ))
        .with_state(controller)
}

async fn apply(
    State(controller): Api,
    RawQuery(query): RawQuery,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Json<Vec<ApplyResult>>, Error> {
    let dry_run = match query.as_deref() {
        None | Some("" | "dryRun=false") => false,
        Some("dryRun=true") => true,
        Some(other) => {
            return Err(Error::Malformed(format!(
                "unknown query {other:?}; only dryRun=true is known"
            )));
        }
    };
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge {
            max: APPLY_BYTES_MAX as u64,
        },
        _ => Error::Malformed(rejection.body_text()),
    })?;
    let manifests: Vec<Value> = serde_json::from_slice(&body).map_err(|error| {
        Error::Malformed(format!(
            "the body must be a JSON array of manifests: {error}"
        ))
    })?;
    // An apply that has begun is finished even if the client goes away.
    let task = tokio::spawn(async move { controller.apply(&manifests, dry_run).await });
    Ok(Json(task.await??))
}

async fn put_blob(
    State(controller): Api,
    Path(digest): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let digest = parse(&digest)?;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > BLOB_BYTES_MAX)
    {
        return Err(Error::TooLarge {
            max: BLOB_BYTES_MAX,
        });
    }
    controller
        .blobs()
        .put(digest, body.into_data_stream())
        .await?;
    controller.ask_for(digest);
    Ok((StatusCode::CREATED, Json(json!({ "digest": digest }))).into_response())
}

async fn head_blob(State(controller): Api, Path(digest): Path<String>) -> Result<Response, Error> {
    let digest = parse(&digest)?;
    let size = controller.blobs().size(digest).await?;
    controller.ask_for(digest);
    Ok((StatusCode::OK, [(header::CONTENT_LENGTH, size)]).into_response())
}

async fn jobs(State(controller): Api) -> Result<Json<Vec<JobStatus>>, Error> {
    Ok(Json(controller.jobs().await?))
}

async fn job(State(controller): Api, Path(job): Path<String>) -> Result<Json<JobStatus>, Error> {
    Ok(Json(controller.job(&job).await?))
}

async fn placement(
    State(controller): Api,
    Path(job): Path<String>,
) -> Result<Json<PlacementDescription>, Error> {
    Ok(Json(controller.placement(&job).await?))
}

async fn nodes(State(controller): Api) -> Result<Json<Vec<NodeEntry>>, Infallible> {
    Ok(Json(controller.nodes().await))
}

async fn drain(State(controller): Api, Path(node): Path<String>) -> Result<StatusCode, Error> {
    set_drained(controller, node, true).await
}

async fn undrain(State(controller): Api, Path(node): Path<String>) -> Result<StatusCode, Error> {
    set_drained(controller, node, false).await
}

async fn set_drained(
    controller: Arc<Controller>,
    node: String,
    drained: bool,
) -> Result<StatusCode, Error> {
    let task = tokio::spawn(async move { controller.drain(&node, drained).await });
    task.await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn manifest(
    State(controller): Api,
    Path(job): Path<String>,
) -> Result<Json<JobManifest>, Error> {
    Ok(Json(controller.manifest(&job)?))
}

async fn delete_job(State(controller): Api, Path(job): Path<String>) -> Result<StatusCode, Error> {
    let task = tokio::spawn(async move { controller.delete_job(&job).await });
    task.await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn functions(State(controller): Api) -> Result<Json<Vec<FunctionStatus>>, Infallible> {
    Ok(Json(controller.functions()))
}

async fn function(
    State(controller): Api,
    Path(name): Path<String>,
) -> Result<Json<FunctionStatus>, Error> {
    Ok(Json(controller.function(&name)?))
}

async fn delete_function(
    State(controller): Api,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    let task = tokio::spawn(async move { controller.delete_function(&name).await });
    task.await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn tenants(State(controller): Api) -> Result<Json<Vec<TenantStatus>>, Infallible> {
    Ok(Json(controller.tenants()))
}

async fn tenant(
    State(controller): Api,
    Path(name): Path<String>,
) -> Result<Json<TenantStatus>, Error> {
    Ok(Json(controller.tenant(&name)?))
}

async fn delete_tenant(
    State(controller): Api,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    let task = tokio::spawn(async move { controller.delete_tenant(&name).await });
    task.await??;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(digest: &str) -> Result<Digest, Error> {
    digest
        .parse()
        .map_err(|error| Error::Malformed(format!("{error}")))
}
