//! Updates by reference: a small document says where the file lies, and the gateway fetches it.

use super::Gateway;
use super::ingest::{self, Address, Taken};
use super::refusal::Refusal;
use super::routes;
use super::told::Told;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use tributary_api::reference::Reference;

/// The longest document.
const DOCUMENT_BYTES_MAX: usize = 16 << 10;

pub(super) async fn post(
    State(gateway): State<Gateway>,
    Path((job, client)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    let query = query.unwrap_or_default();
    let address = Address { job, client, query };
    routes::taken(match read(body).await {
        Ok(reference) => take(&gateway, &address, &reference).await,
        Err(refusal) => Err(refusal),
    })
}

async fn read(body: Body) -> Result<Reference, Refusal> {
    let malformed = |why: String| {
        Refusal::MalformedReference(format!(
            "the body is no reference to an update, of at most {DOCUMENT_BYTES_MAX} bytes of JSON ({why}); \
             an update itself is sent with PUT"
        ))
    };
    let document = to_bytes(body, DOCUMENT_BYTES_MAX).await;
    let document = document.map_err(|error| malformed(error.to_string()))?;
    serde_json::from_slice(&document).map_err(|error| malformed(error.to_string()))
}

/// Takes an update whose file lies elsewhere: fetches it, and takes it as a body.
pub(crate) async fn take(
    gateway: &Gateway,
    address: &Address,
    reference: &Reference,
) -> Result<Taken, Refusal> {
    if Told::from_query(&address.query)?.round.is_none() {
        // It decides whether anything is fetched.
        let why = "an update by reference names its round in the URL: add ?round=R";
        return Err(Refusal::MalformedReference(why.into()));
    }
    let mut file = gateway.fetcher.refer(reference);
    let outcome = ingest::put(gateway, address, &mut file).await;
    if let Some(job) = gateway.jobs.get(&address.job) {
        job.count_reference(&ingest::outcome(&outcome), file.fetched);
    }
    outcome
}
