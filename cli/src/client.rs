//! The server's HTTP interface, from the client's side.

use std::{fs::File, path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use serde::{Serialize, de::DeserializeOwned};
use tributary_api::problem::{self, Problem};
use ureq::{
    Agent, Body,
    http::{Request, Response, StatusCode},
};

use crate::failure::Failure;

/// No address needs longer to say whether somebody listens.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The longest answer that is held in memory; models are streamed.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Servers that send a request on, one after the other.
const REDIRECTS_MAX: usize = 5;

/// Smaller bodies are sent without asking first.
const PATIENT_BYTES: u64 = 1 << 20;

/// What a request carries; it may have to be sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    File(&'a Path),
}

/// A server.
pub(crate) struct Client {
    server: String,
    agent: Agent,
}

impl Client {
    pub(crate) fn new(server: &str) -> Result<Self, Failure> {
        if server.starts_with("https://") {
            return Err(Failure::Usage(format!(
                "{server}: this version speaks plain HTTP only; write http://"
            )));
        }
        let host = server
            .strip_prefix("http://")
            .unwrap_or(server)
            .trim_end_matches('/');
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(Failure::Usage(format!(
                "{server:?} is no address of a server; write http://HOST:PORT"
            )));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .proxy(None)
            .max_redirects(0)
            .user_agent(concat!("tributary/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            server: format!("http://{host}"),
            agent: config.build().into(),
        })
    }

    /// Fetches JSON.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(self.send("GET", path, Payload::None)?)
    }

    /// Sends JSON and fetches JSON.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).context("the request")?;
        self.json(self.send("POST", path, Payload::Bytes(&body))?)
    }

    /// Sends a body and fetches JSON.
    pub(crate) fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Payload<'_>,
    ) -> Result<T, Failure> {
        self.json(self.send("PUT", path, body)?)
    }

    /// Deletes what is at `path`.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send("DELETE", path, Payload::None).map(drop)
    }

    /// Whether there is something at `path`.
    pub(crate) fn exists(&self, path: &str) -> Result<bool, Failure> {
        match self.send("HEAD", path, Payload::None) {
            Ok(_) => Ok(true),
            Err(Failure::Problem(problem)) if problem.status == 404 => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a request; an answer that is no success is a failure.
    ///
    /// Of several processes not every one can answer everything: where one names another, that one is asked.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Payload<'_>,
    ) -> Result<Response<Body>, Failure> {
        let mut url = format!("{}{path}", self.server);
        for _ in 0..REDIRECTS_MAX {
            let response = self.send_once(method, &url, body)?;
            let elsewhere = match response.status() {
                StatusCode::TEMPORARY_REDIRECT => response.headers().get("location"),
                _ => None,
            };
            match elsewhere.and_then(|location| location.to_str().ok()) {
                Some(location) => url = location.to_owned(),
                None if response.status().is_success() => return Ok(response),
                None => return Err(self.problem(response)),
            }
        }
        Err(anyhow!("{} sends requests for {path} in a circle", self.server).into())
    }

    fn send_once(
        &self,
        method: &str,
        url: &str,
        body: Payload<'_>,
    ) -> Result<Response<Body>, Failure> {
        let request = Request::builder().method(method).uri(url);
        let sent = match body {
            Payload::None => self.agent.run(request.body(()).context("the request")?),
            Payload::Bytes(bytes) => self.agent.run(request.body(bytes).context("the request")?),
            Payload::File(path) => {
                let unreadable = || format!("cannot read {}", path.display());
                let file = File::open(path).with_context(unreadable)?;
                let size = file.metadata().with_context(unreadable)?.len();
                // A body that is large and not wanted here should not travel.
                let request = if size > PATIENT_BYTES {
                    request.header("expect", "100-continue")
                } else {
                    request
                };
                self.agent.run(request.body(file).context("the request")?)
            }
        };
        sent.map_err(|error| self.unreachable(&error))
    }

    fn json<T: DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T, Failure> {
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec();
        let body = body.map_err(|error| self.unreachable(&error))?;
        let foreign = || format!("{} does not answer like a Tributary server", self.server);
        Ok(serde_json::from_slice(&body).with_context(foreign)?)
    }

    fn problem(&self, mut response: Response<Body>) -> Failure {
        let status = response.status();
        let is_problem = response.body().mime_type() == Some(problem::CONTENT_TYPE);
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .unwrap_or_default();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem => problem.into(),
            _ => Problem::new(
                status.as_u16(),
                "unknown",
                "Unknown",
                self.unexplained(status),
            )
            .into(),
        }
    }

    fn unexplained(&self, status: StatusCode) -> String {
        format!(
            "{} answered {status} without saying why; is it a Tributary server?",
            self.server
        )
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let reason = match error {
            ureq::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        Failure::Unreachable {
            server: self.server.clone(),
            reason,
        }
    }
}
