//! The server's HTTP interface, from the client's side.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use serde::{Serialize, de::DeserializeOwned};
use tributary_api::problem::{self, Problem};
use ureq::{
    Agent, Body, SendBody,
    http::{Request, Response, StatusCode, header},
};

use crate::failure::Failure;

/// No address needs longer to say whether somebody listens.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The longest answer that is held in memory; models are streamed.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Servers that send a request on, one after the other.
const REDIRECTS_MAX: usize = 5;

/// How long a server may say that it will do as asked in a moment: another controller takes over, stores elect a leader.
const PATIENCE: Duration = Duration::from_secs(20);

/// The time until a server is asked again that another one has sent to where nobody answers.
const PAUSE: Duration = Duration::from_secs(1);

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

    /// Whether there is something at `path`, as far as the server can say.
    pub(crate) fn exists(&self, path: &str) -> Result<bool, Failure> {
        let response = self.follow("HEAD", path, Payload::None)?;
        // An answer to HEAD cannot say why it is none: what is sent next will be told.
        let status = response.status();
        if status.is_success() {
            return Ok(true);
        }
        if status == StatusCode::NOT_FOUND || status.is_server_error() {
            return Ok(false);
        }
        Err(self.problem(response))
    }

    /// Sends a request, and again while the server asks for a moment; another answer that is no success is a failure.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Payload<'_>,
    ) -> Result<Response<Body>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut told = false;
        loop {
            let (failure, again) = match self.follow(method, path, body) {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let again = asks_for_a_moment(&response);
                    (self.problem(response), again)
                }
                Err(failure) => {
                    let again = self.sent_astray(&failure).then_some(PAUSE);
                    (failure, again)
                }
            };
            match again {
                Some(pause) if Instant::now() + pause < deadline => {
                    if !told {
                        // With stderr gone nobody is there to be told.
                        let _ = writeln!(io::stderr(), "waiting: {failure}");
                    }
                    told = true;
                    thread::sleep(pause);
                }
                _ => return Err(failure),
            }
        }
    }

    /// Of several processes not every one can answer everything: where one names another, that one is asked.
    fn follow(
        &self,
        method: &str,
        path: &str,
        body: Payload<'_>,
    ) -> Result<Response<Body>, Failure> {
        let mut url = format!("{}{path}", self.server);
        for _ in 0..REDIRECTS_MAX {
            let response = self.send_once(method, &url, body)?;
            let elsewhere = match response.status() {
                StatusCode::TEMPORARY_REDIRECT => response.headers().get(header::LOCATION),
                _ => None,
            };
            match elsewhere.and_then(|location| location.to_str().ok()) {
                Some(location) => url = location.to_owned(),
                None => return Ok(response),
            }
        }
        Err(anyhow!("{} sends requests for {path} in a circle", self.server).into())
    }

    /// Whether it was another server that did not answer: the first one will learn that it is gone.
    fn sent_astray(&self, failure: &Failure) -> bool {
        matches!(failure, Failure::Unreachable { server, .. } if *server != self.server)
    }

    fn send_once(
        &self,
        method: &str,
        url: &str,
        body: Payload<'_>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(url);
        if method == "POST" {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let mut broken = None;
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
                let mut file = Watched(file, &mut broken);
                let body = SendBody::from_reader(&mut file);
                let request = request.header("content-length", size);
                self.agent.run(request.body(body).context("the request")?)
            }
        };
        match (sent, broken, body) {
            (Err(_), Some(error), Payload::File(path)) => Err(anyhow!(error)
                .context(format!("cannot read {}", path.display()))
                .into()),
            (sent, ..) => sent.map_err(|error| unreachable(origin(url), &error)),
        }
    }

    fn json<T: DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T, Failure> {
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec();
        let body = body.map_err(|error| unreachable(&self.server, &error))?;
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
}

/// A file that is being sent, and why it could not be read: the network is not to blame for that.
struct Watched<'a>(File, &'a mut Option<io::Error>);

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).inspect_err(|error| {
            *self.1 = Some(
                error
                    .raw_os_error()
                    .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error),
            );
        })
    }
}

/// The time after which to ask again, if the server has said that then it may do as asked.
fn asks_for_a_moment(response: &Response<Body>) -> Option<Duration> {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// A URL without its path.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |end| end + 3);
    let path = url[host..].find('/');
    path.map_or(url, |path| &url[..host + path])
}

fn unreachable(server: &str, error: &ureq::Error) -> Failure {
    let reason = match error {
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    Failure::Unreachable {
        server: server.to_owned(),
        reason,
    }
}
