//! Handing a model out.

use super::Gateway;
use crate::job::{Job, ModelSlot};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use serde::Deserialize;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tributary_api::quantity::Interval;

/// Bytes that are copied out of the slot at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// The longest wait for a newer version.
const WAIT_MAX: Duration = Duration::from_secs(60);

const LAYOUT: HeaderName = HeaderName::from_static("tributary-layout");
const VERSION: HeaderName = HeaderName::from_static("tributary-version");

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
        let wait = wanted.wait.map_or(Duration::ZERO, Interval::duration);
        if let Some(version) = nothing_else(&job, after, wait.min(WAIT_MAX)).await {
            return (StatusCode::NO_CONTENT, [(VERSION, version.to_string())]).into_response();
        }
        if job.is_stopped() {
            return super::routes::not_here(&gateway, &name, &uri);
        }
    }
    let model = job.model();
    let tag = format!("\"{}\"", model.version);
    if is_known(&headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    safetensors(&job, model, tag)
}

/// Whether the client has the version of that tag. Weak tags count: a proxy that compresses makes them so.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).into_iter();
    let mut tags = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tags.any(|known| {
        let known = known.trim_ascii();
        known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes()
    })
}

/// Waits for another model than a client has; gives the version that is here if none has come.
///
/// A version that is greater than any of the job's is another life's: the job was made anew, or goes on from an older
/// state. No newer one may ever come, and the model that is here is new to the client: it does not wait.
async fn nothing_else(job: &Job, after: u64, wait: Duration) -> Option<u64> {
    let greater = job.model().version < after;
    let lag = job.lag_max(after);
    let wait = if greater { wait.min(lag) } else { wait };
    let mut versions = job.versions();
    let newer = versions.wait_for(|version| *version > after || job.is_stopped());
    if tokio::time::timeout(wait, newer).await.is_ok() {
        return None;
    }
    let version = job.model().version;
    let may_come = version == after || (version < after && wait < lag);
    may_come.then_some(version)
}

fn safetensors(job: &Arc<Job>, model: ModelSlot, tag: String) -> Response {
    let head = job.model_header(model.version);
    let data = job.layout.data_bytes();
    let length = head.len() as u64 + data;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ETAG, tag),
        (VERSION, model.version.to_string()),
        (LAYOUT, job.fingerprint.clone()),
    ];
    let body = Body::from_stream(pieces(Arc::downgrade(job), model, head, data));
    (headers, body).into_response()
}

/// Header, then the data. Neither the slot is pinned nor the job: a client so slow that two further rounds have
/// completed, or that the job has ended, gets a broken body instead of holding memory.
fn pieces(
    job: Weak<Job>,
    model: ModelSlot,
    head: Vec<u8>,
    data: u64,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    let first = Some(Bytes::from(head));
    stream::try_unfold((job, first, 0u64), move |(job, first, offset)| async move {
        if let Some(head) = first {
            return Ok(Some((head, (job, None, offset))));
        }
        let left = data - offset;
        if left == 0 {
            return Ok(None);
        }
        let bytes = PIECE_BYTES.min(left);
        let piece = piece(&job, model, offset, bytes as usize)?;
        Ok(Some((piece, (job, None, offset + bytes))))
    })
}

fn piece(job: &Weak<Job>, model: ModelSlot, offset: u64, bytes: usize) -> io::Result<Bytes> {
    let running = job.upgrade().filter(|job| !job.is_stopped());
    let job = running.ok_or_else(|| io::Error::other("the job has ended"))?;
    let piece = job.read_model(model, offset, bytes);
    piece.map(Bytes::from).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(values: &[&'static str]) -> bool {
        let values = values.iter().map(|value| {
            let value = http::HeaderValue::from_static(value);
            (header::IF_NONE_MATCH, value)
        });
        is_known(&values.collect(), "\"4\"")
    }

    #[test]
    fn tags_are_weak_or_not_one_or_many() {
        for known in [
            &["\"4\""][..],
            &["W/\"4\""],
            &["\"3\", W/\"4\" ,\"5\""],
            &["\"3\"", "\"4\""],
            &["*"],
        ] {
            assert!(knows(known), "{known:?}");
        }
        for other in [
            &[][..],
            &["\"44\""],
            &["4"],
            &["W/4"],
            &["w/\"4\""],
            &["\"3\",\"5\""],
        ] {
            assert!(!knows(other), "{other:?}");
        }
    }
}
