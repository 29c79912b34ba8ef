//! A client's side of the HTTP interface: fetch the global model, send an update.
//!
//! The whole protocol of a client is these two calls. An update may be sent again at will: the server takes
//! identical bytes once. So everything that may be a passing trouble is answered with patience here: a lost
//! connection, 429, with which the server says that all its slots are taken for the moment, and 503 while clients
//! move between nodes. Where a job has several nodes, 307 says at which one an update belongs.

use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::model::Model;
use crate::tensors;

/// Largest answer that is read, in bytes; the model is about 10 kB.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Pause after a lost connection, and after a 429 that does not say how long to wait.
const PAUSE: Duration = Duration::from_millis(100);

/// Redirections that one update follows.
const HOPS: usize = 5;

/// Longest pause that a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The data plane of one job on one server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct DataPlane {
    agent: Agent,
    job: String,
    patience: Duration,
}

/// A global model as the server published it.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The model's version, which is also the round that is open for updates to it.
    pub version: u64,
    /// The model.
    pub model: Model,
}

/// The server's answer to an update.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Accepted {
    /// The round that the update counts in.
    pub round: u64,
    /// Clients in the round so far, this one included.
    pub contributors: u64,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not be reached, or hung up, for longer than the client's patience.
    #[error("{url}: {reason}")]
    Unreachable {
        /// What was called.
        url: String,
        /// What the last attempt met.
        reason: Box<ureq::Error>,
    },
    /// The server had no free slot for longer than the client's patience.
    #[error("{url}: the server had no free slot for {} s", waited.as_secs())]
    Busy {
        /// What was called.
        url: String,
        /// How long the client tried.
        waited: Duration,
    },
    /// The server refused.
    #[error("{url}: {status}: {problem}")]
    Refused {
        /// What was called.
        url: String,
        /// HTTP status code.
        status: u16,
        /// Title and detail of the server's problem report.
        problem: String,
    },
    /// The server's answer makes no sense.
    #[error("{url}: {problem}")]
    Answer {
        /// What was called.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl DataPlane {
    /// The data plane of `job` on `server`, for example `http://127.0.0.1:7878`. Each call is tried for as
    /// long as `patience`.
    pub fn new(server: &str, job: &str, patience: Duration) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .max_idle_connections_per_host(crate::CLIENTS)
            .build();
        let job = format!("{}/v1/jobs/{job}", server.trim_end_matches('/'));
        Self {
            agent: config.new_agent(),
            job,
            patience,
        }
    }

    /// Fetches the current global model.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn model(&self) -> Result<Published, Error> {
        let url = format!("{}/model", self.job);
        self.fetch(&url, PAUSE_MAX)?.ok_or_else(|| Error::Answer {
            url,
            problem: "no model".to_owned(),
        })
    }

    /// Waits up to `wait` for a model newer than `version`; `None` when none came.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn model_after(&self, version: u64, wait: Duration) -> Result<Option<Published>, Error> {
        self.fetch(
            &format!(
                "{}/model?after={version}&wait={}s",
                self.job,
                wait.as_secs()
            ),
            wait + PAUSE_MAX,
        )
    }

    /// Sends an update, a safetensors file; `weight` is usually the number of examples behind it.
    ///
    /// # Errors
    /// See [`Error`]. A refusal with status 409 means that the round has closed.
    pub fn push(
        &self,
        client: &str,
        round: u64,
        weight: f64,
        update: &[u8],
    ) -> Result<Accepted, Error> {
        let mut url = format!(
            "{}/updates/{client}?round={round}&weight={weight}",
            self.job
        );
        let mut response = self.send(&url, update)?;
        for _ in 0..HOPS {
            let Some(home) = location(&response) else {
                break;
            };
            url = home;
            response = self.send(&url, update)?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::ACCEPTED => response
                .body_mut()
                .read_json()
                .map_err(|error| answer(&url, &error)),
            _ => Err(refused(&url, &mut response)),
        }
    }

    fn send(&self, url: &str, update: &[u8]) -> Result<Response<Body>, Error> {
        let send = || {
            let request = self
                .agent
                .put(url)
                .config()
                .timeout_global(Some(self.patience))
                // Where an update belongs is found here: it is sent once more, body and all.
                .max_redirects(0)
                .build();
            request
                .content_type("application/octet-stream")
                .send(update)
        };
        self.patiently(url, send)
    }

    fn fetch(&self, url: &str, timeout: Duration) -> Result<Option<Published>, Error> {
        let get = || {
            self.agent
                .get(url)
                .config()
                .timeout_global(Some(timeout))
                .build()
                .call()
        };
        let mut response = self.patiently(url, get)?;
        match response.status() {
            StatusCode::OK => {
                let version = version(&response)
                    .ok_or_else(|| answer(url, &"no tributary-version header"))?;
                let body = response
                    .body_mut()
                    .with_config()
                    .limit(ANSWER_BYTES_MAX)
                    .read_to_vec();
                let body = body.map_err(|error| answer(url, &error))?;
                let model = tensors::decode(&body).map_err(|error| answer(url, &error))?;
                Ok(Some(Published { version, model }))
            }
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Ok(None),
            _ => Err(refused(url, &mut response)),
        }
    }

    /// Calls until there is an answer other than 429, or the patience is at its end.
    fn patiently(
        &self,
        url: &str,
        call: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Error> {
        let started = Instant::now();
        loop {
            let (pause, error) = match call() {
                Ok(response) if is_busy(response.status()) => {
                    let waited = started.elapsed();
                    (
                        retry_after(&response),
                        Error::Busy {
                            url: url.to_owned(),
                            waited,
                        },
                    )
                }
                Ok(response) => return Ok(response),
                Err(error) => {
                    let reason = Box::new(error);
                    (
                        PAUSE,
                        Error::Unreachable {
                            url: url.to_owned(),
                            reason,
                        },
                    )
                }
            };
            if started.elapsed() + pause > self.patience {
                return Err(error);
            }
            thread::sleep(pause);
        }
    }
}

/// Whether the same request may be taken a little later.
fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// Where an update belongs, if not where it was sent.
fn location(response: &Response<Body>) -> Option<String> {
    let there = response.status() == StatusCode::TEMPORARY_REDIRECT;
    let location = response.headers().get("location").filter(|_| there)?;
    location.to_str().ok().map(str::to_owned)
}

fn version(response: &Response<Body>) -> Option<u64> {
    response
        .headers()
        .get("tributary-version")?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// The pause that a 429 asks for. Only the form in seconds is understood; the server sends no other.
fn retry_after(response: &Response<Body>) -> Duration {
    let header = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok());
    let seconds = header.and_then(|value| value.parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs).min(PAUSE_MAX)
}

fn answer(url: &str, problem: &impl ToString) -> Error {
    Error::Answer {
        url: url.to_owned(),
        problem: problem.to_string(),
    }
}

fn refused(url: &str, response: &mut Response<Body>) -> Error {
    #[derive(Deserialize)]
    struct Problem {
        title: String,
        #[serde(default)]
        detail: String,
    }
    let status = response.status().as_u16();
    let text = response
        .body_mut()
        .with_config()
        .limit(ANSWER_BYTES_MAX)
        .read_to_string();
    let text = text.unwrap_or_else(|error| error.to_string());
    let problem = match serde_json::from_str::<Problem>(&text) {
        Ok(Problem { title, detail }) if detail.is_empty() => title,
        Ok(Problem { title, detail }) => format!("{title}: {detail}"),
        Err(_) => text,
    };
    Error::Refused {
        url: url.to_owned(),
        status,
        problem,
    }
}

#[cfg(test)]
mod tests;
