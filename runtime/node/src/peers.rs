//! Gateway to gateway: what the nodes of a job say to each other, from the asking side.
//!
//! | request | by | what it does |
//! | --- | --- | --- |
//! | `POST /v1/jobs/{job}/members/{node}/report` | follower | tells the leader what it has; the answer is a directive |
//! | `GET /v1/jobs/{job}/members/{node}/directive?...&wait=30s` | follower | waits for another directive than it knows |
//! | `PUT /v1/jobs/{job}/members/{node}/partial?version=&attempt=&contributors=` | follower | hands its partial over |
//! | `POST /v1/jobs/{job}/members/{node}/claims/{client}?round=` | any member | asks an earlier home for a client |
//! | `GET /v1/jobs/{job}/model` | any member | fetches a newer model, as clients do |
//! | `GET /v1/jobs/{job}/rounds/{round}` | any member | asks what became of a round, as clients do |
//! | `POST /v1/jobs/{job}/updates/{client}?round=` | any node | hands an update by reference to its client's home |
//!
//! All but the last two carry the placement's secret as a bearer token. Every request may be repeated.

mod follow;
mod pieces;
mod refer;

pub(crate) use follow::{fetch, run};

use crate::job::{Holding, WholePartial};
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tributary_api::placement::{Directive, GENERATION_HEADER, Report};
use tributary_api::problem::Problem;
use tributary_api::stages::{FOLD_HEADER, microseconds};
use tributary_api::status::RoundStatus;
use tributary_api::{ClientName, Name};

/// How long a follower waits for a directive at a time.
pub(crate) const WAIT: Duration = Duration::from_secs(20);
/// The longest silence after which a member counts as unreachable for now.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer that is no model.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a member does not get an answer from another one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("{url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} answers {status}: {detail}")]
    Refused {
        url: String,
        status: StatusCode,
        detail: String,
    },
    #[error("{url} gives an answer that makes no sense: {why}")]
    Malformed { url: String, why: String },
}

/// A cheap handle with the connections to other gateways.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    client: Client<HttpConnector, Body>,
}

/// A job at another member's gateway.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    peers: Peers,
    /// `http://host:port/v1/jobs/{job}`.
    job: String,
    /// The one that asks.
    node: Name,
    secret: String,
}

impl Peers {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PATIENCE));
        // A peer that has vanished while it is waited for is noticed within three times this.
        connector.set_keepalive(Some(PATIENCE));
        connector.set_keepalive_interval(Some(PATIENCE));
        connector.set_keepalive_retries(Some(2));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(WAIT * 3)
            .build(connector);
        Self { client }
    }

    pub(crate) fn at(&self, url: &str, job: &Name, node: &Name, secret: &str) -> Peer {
        Peer {
            peers: self.clone(),
            job: format!("{url}/v1/jobs/{job}"),
            node: node.clone(),
            secret: secret.to_owned(),
        }
    }
}

impl Peer {
    /// Tells the leader what this node has.
    pub(crate) async fn report(&self, report: &Report) -> Result<Directive, PeerError> {
        let url = self.member("report");
        let body = serde_json::to_vec(report).map_err(|error| malformed(&url, error))?;
        self.ask(Method::POST, &url, Body::from(body), PATIENCE)
            .await
    }

    /// Waits for a directive that differs from `known`.
    pub(crate) async fn directive(&self, known: Option<Directive>) -> Result<Directive, PeerError> {
        let known = known.map(|known| {
            let Directive { generation, version, attempt, closed, taken } = known;
            format!("&generation={generation}&version={version}&attempt={attempt}&closed={closed}&taken={taken}")
        });
        let url = self.member(&format!(
            "directive?wait={}s{}",
            WAIT.as_secs(),
            known.unwrap_or_default()
        ));
        self.ask(Method::GET, &url, Body::empty(), WAIT + PATIENCE)
            .await
    }

    /// Hands the partial over; `content` gives its bytes, `bytes` of them. Gives up after `patience`: its length decides
    /// how long it takes, and the round does not wait longer.
    pub(crate) async fn hand_over(
        &self,
        partial: &WholePartial,
        bytes: u64,
        content: Body,
        patience: Duration,
    ) -> Result<Directive, PeerError> {
        let WholePartial {
            version,
            attempt,
            contributors,
            fold,
            ..
        } = partial;
        let url = self.member(&format!(
            "partial?version={version}&attempt={attempt}&contributors={contributors}"
        ));
        let request = self
            .request(Method::PUT, &url)
            .header(header::CONTENT_LENGTH, bytes);
        let request = match fold {
            Some(fold) => request.header(FOLD_HEADER, microseconds(*fold)),
            None => request,
        };
        let request = request.body(content);
        let request = request.map_err(|error| malformed(&url, error))?;
        let exchange = async {
            let answer = self.peers.client.request(request).await;
            document(&url, answer.map_err(|error| unreachable(&url, &error))?).await
        };
        tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or_else(|_| Err(silent(&url, patience)))
    }

    /// Whether the member holds an update of the client in the round; if not, it leaves it to this node, which is the
    /// client's home by the placement `generation`.
    pub(crate) async fn holds(
        &self,
        client: &ClientName,
        round: u64,
        generation: u64,
    ) -> Result<Holding, PeerError> {
        let url = self.member(&format!("claims/{client}?round={round}"));
        let request = self
            .request(Method::POST, &url)
            .header(GENERATION_HEADER, generation);
        self.exchange(request, &url, Body::empty(), PATIENCE).await
    }

    /// What the member tells of a round that it has led. Nothing depends on it, so not to know it is no failure.
    pub(crate) async fn round(&self, number: u64) -> Option<RoundStatus> {
        let url = format!("{}/rounds/{number}", self.job);
        let told = self.ask(Method::GET, &url, Body::empty(), PATIENCE).await;
        told.ok()
    }

    /// The newest model: its version, and its file.
    pub(crate) async fn model(&self) -> Result<(u64, Incoming), PeerError> {
        let url = format!("{}/model", self.job);
        let request = self
            .request(Method::GET, &url)
            .body(Body::empty())
            .map_err(|error| malformed(&url, error))?;
        let answer = tokio::time::timeout(PATIENCE, self.peers.client.request(request)).await;
        let answer = answer
            .map_err(|_| silent(&url, PATIENCE))?
            .map_err(|error| unreachable(&url, &error))?;
        if answer.status() != StatusCode::OK {
            return Err(refused(&url, answer).await);
        }
        let version = answer
            .headers()
            .get("tributary-version")
            .and_then(|version| version.to_str().ok()?.parse().ok());
        let version = version.ok_or_else(|| malformed(&url, "it names no version"))?;
        Ok((version, answer.into_body()))
    }

    /// What came from it cannot be used.
    fn failed(&self, why: String) -> PeerError {
        malformed(&self.job, why)
    }

    fn member(&self, what: &str) -> String {
        format!("{}/members/{}/{what}", self.job, self.node)
    }

    fn request(&self, method: Method, url: &str) -> http::request::Builder {
        let token = format!("Bearer {}", self.secret);
        Request::builder()
            .method(method)
            .uri(url)
            .header(header::AUTHORIZATION, token)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &str,
        body: Body,
        patience: Duration,
    ) -> Result<T, PeerError> {
        let request = self
            .request(method, url)
            .header(header::CONTENT_TYPE, "application/json");
        self.exchange(request, url, body, patience).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        request: http::request::Builder,
        url: &str,
        body: Body,
        patience: Duration,
    ) -> Result<T, PeerError> {
        let request = request.body(body);
        let request = request.map_err(|error| malformed(url, error))?;
        let exchange = async {
            let answer = self
                .peers
                .client
                .request(request)
                .await
                .map_err(|error| unreachable(url, &error))?;
            document(url, answer).await
        };
        tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or_else(|_| Err(silent(url, patience)))
    }
}

async fn document<T: DeserializeOwned>(
    url: &str,
    answer: http::Response<Incoming>,
) -> Result<T, PeerError> {
    if !answer.status().is_success() {
        return Err(refused(url, answer).await);
    }
    let text = text(answer).await.map_err(|why| PeerError::Unreachable {
        url: url.to_owned(),
        why,
    })?;
    serde_json::from_slice(&text).map_err(|error| malformed(url, error))
}

async fn refused(url: &str, answer: http::Response<Incoming>) -> PeerError {
    let status = answer.status();
    let detail = match text(answer).await {
        Ok(text) => serde_json::from_slice(&text).map_or_else(
            |_| String::from_utf8_lossy(&text).into_owned(),
            |problem: Problem| problem.detail,
        ),
        Err(why) => why,
    };
    PeerError::Refused {
        url: url.to_owned(),
        status,
        detail,
    }
}

async fn text(answer: http::Response<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    let collected = tokio::time::timeout(PATIENCE, body)
        .await
        .map_err(|_| "the answer stops".to_owned())?;
    Ok(collected.map_err(|error| error.to_string())?.to_bytes())
}

fn unreachable(url: &str, error: &hyper_util::client::legacy::Error) -> PeerError {
    let why = std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    PeerError::Unreachable {
        url: url.to_owned(),
        why,
    }
}

fn silent(url: &str, patience: Duration) -> PeerError {
    PeerError::Unreachable {
        url: url.to_owned(),
        why: format!("no answer for {} s", patience.as_secs()),
    }
}

fn malformed(url: &str, why: impl std::fmt::Display) -> PeerError {
    PeerError::Malformed {
        url: url.to_owned(),
        why: why.to_string(),
    }
}
