//! Handing a model out.

use super::Gateway;
use crate::job::{Job, ModelSlot};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tributary_api::quantity::Interval;

/// Bytes that are copied out of the slot at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// The longest wait for a newer version.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The query of `GET /v1/jobs/{job}/model`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only a version newer than this.
    after: Option<u64>,
    /// How long to wait for it.
    wait: Option<Interval>,
}

pub(super) async fn get(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Query(wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return super::routes::bad_query(&error),
    };
    let Some(job) = gateway.jobs.get(&name) else {
        return super::routes::not_here(&gateway, &name, &uri);
    };
    if let Some(after) = wanted.after {
        let wait = wanted
            .wait
            .map_or(Duration::ZERO, Interval::duration)
            .min(WAIT_MAX);
        let mut versions = job.versions();
        let newer = versions.wait_for(|version| *version > after || job.is_stopped());
        if tokio::time::timeout(wait, newer).await.is_err() && job.model().version <= after {
            return StatusCode::NO_CONTENT.into_response();
        }
        if job.is_stopped() {
            return super::routes::problem(&super::routes::unknown_job(&name));
        }
    }
    let model = job.model();
    let tag = format!("\"{}\"", model.version);
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|value| value.as_bytes() == tag.as_bytes());
    if known {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    safetensors(job, model, tag)
}

fn safetensors(job: Arc<Job>, model: ModelSlot, tag: String) -> Response {
    let head = job.model_header(model.version);
    let length = head.len() as u64 + job.layout.data_bytes();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ETAG, tag),
        (
            header::HeaderName::from_static("tributary-version"),
            model.version.to_string(),
        ),
    ];
    (headers, Body::from_stream(pieces(job, model, head))).into_response()
}

/// Header, then the data. The slot is not pinned: a client so slow that two further rounds have
/// completed gets a broken body instead of holding memory, and fetches the newest version.
fn pieces(
    job: Arc<Job>,
    model: ModelSlot,
    head: Vec<u8>,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    let first = Some(Bytes::from(head));
    stream::try_unfold((job, first, 0u64), move |(job, first, offset)| async move {
        if let Some(head) = first {
            return Ok(Some((head, (job, None, offset))));
        }
        let left = job.layout.data_bytes() - offset;
        if left == 0 {
            return Ok(None);
        }
        let bytes = PIECE_BYTES.min(left);
        let piece = job
            .read_model(model, offset, bytes as usize)
            .map_err(io::Error::other)?;
        Ok(Some((Bytes::from(piece), (job, None, offset + bytes))))
    })
}
