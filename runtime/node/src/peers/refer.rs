//! Updates by reference, handed to the gateway of their client's home.

use super::{Peers, text, unreachable};
use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use std::time::Duration;
use tributary_api::problem::Problem;
use tributary_api::reference::Reference;
use tributary_api::status::UpdateReceipt;

/// Homes may be moving; they do not move for ever.
const HOPS_MAX: usize = 4;
/// The home fetches the file before it answers. That it is alive, its connection shows.
const PATIENCE: Duration = Duration::from_secs(600);

impl Peers {
    /// Sends a reference to `url`, and on to where the update belongs.
    pub(crate) async fn refer(
        &self,
        mut url: String,
        reference: &Reference,
    ) -> Result<UpdateReceipt, Problem> {
        for _ in 0..HOPS_MAX {
            let answer = tokio::time::timeout(PATIENCE, self.post(&url, reference)).await;
            let Ok(answer) = answer else {
                return Err(away(&url, "it does not answer"));
            };
            let answer = answer?;
            if answer.status() != StatusCode::TEMPORARY_REDIRECT {
                return receipt(&url, answer).await;
            }
            let location = answer.headers().get(header::LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            url = location
                .ok_or_else(|| away(&url, "it does not say where the update belongs"))?
                .to_owned();
        }
        Err(away(&url, "the update was sent from home to home"))
    }

    async fn post(
        &self,
        url: &str,
        reference: &Reference,
    ) -> Result<http::Response<Incoming>, Problem> {
        let document = serde_json::to_vec(reference).map_err(|error| away(url, error))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(document))
            .map_err(|error| away(url, error))?;
        let answer = self.client.request(request).await;
        answer.map_err(|error| away(url, unreachable(url, &error)))
    }
}

async fn receipt(url: &str, answer: http::Response<Incoming>) -> Result<UpdateReceipt, Problem> {
    let taken = answer.status().is_success();
    let text = text(answer).await.map_err(|why| away(url, why))?;
    if taken {
        return serde_json::from_slice(&text).map_err(|error| away(url, error));
    }
    Err(serde_json::from_slice(&text).unwrap_or_else(|error| away(url, error)))
}

/// The home could not be asked: trying again may help.
fn away(url: &str, why: impl std::fmt::Display) -> Problem {
    let detail = format!("the client's home cannot be asked at {url}: {why}");
    Problem::new(503, "home-unknown", "Homes are moving", detail)
}
