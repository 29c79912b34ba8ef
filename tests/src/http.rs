//! Plain requests, and answers of any origin.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tributary_api::problem::{self, Problem};
use ureq::{Agent, http::Request};

/// Far above any wait that a scenario asks for.
const TIMEOUT: Duration = Duration::from_secs(90);
/// A host whose link is cut never answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const BODY_BYTES_MAX: u64 = 256 << 20;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The same answer, if it has that status.
    ///
    /// # Panics
    /// If it has another one.
    #[must_use]
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        let shown: String = self.text().chars().take(600).collect();
        assert_eq!(self.status, status, "{shown}");
        self
    }

    /// The body's JSON.
    ///
    /// # Panics
    /// If the answer is no success, or not of that type.
    #[must_use]
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert!(
            (200..300).contains(&self.status),
            "{}: {}",
            self.status,
            self.text()
        );
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The problem that the answer tells.
    ///
    /// # Panics
    /// If it tells none, or another one.
    #[must_use]
    #[track_caller]
    pub fn refused(&self, status: u16, slug: &str) -> Problem {
        let problem = self.problem();
        assert_eq!(
            (self.status, problem.slug()),
            (status, slug),
            "{}",
            self.text()
        );
        problem
    }

    /// The problem that the answer tells, whichever it is.
    ///
    /// # Panics
    /// If it is no whole problem document.
    #[must_use]
    #[track_caller]
    pub fn problem(&self) -> Problem {
        assert_eq!(
            self.header("content-type"),
            Some(problem::CONTENT_TYPE),
            "{}: {}",
            self.status,
            self.text()
        );
        let problem: Problem = serde_json::from_slice(&self.body).expect("a problem document");
        assert_eq!(problem.status, self.status, "{}", self.text());
        assert!(
            !problem.detail.is_empty() && !problem.title.is_empty(),
            "{}",
            self.text()
        );
        problem
    }
}

/// A server's door.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    agent: Agent,
}

impl Client {
    /// The door at `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self::patient(address, TIMEOUT)
    }

    /// The door at `address`, for requests that wait so long for their answer and no longer.
    #[must_use]
    pub fn patient(address: SocketAddr, patience: Duration) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(patience))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            // A connection for each request: what a kept one does is tested by hand.
            .max_idle_connections(0)
            .proxy(None)
            .max_redirects(0);
        Self {
            address,
            agent: config.build().into(),
        }
    }

    /// The server's address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request; an error if no whole answer comes.
    ///
    /// # Errors
    /// What the network says.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answered = match method {
            "PUT" | "POST" => self
                .agent
                .run(request.body(body.to_vec()).expect("a request")),
            _ => self.agent.run(request.body(()).expect("a request")),
        };
        let mut response = answered.map_err(|error| error.to_string())?;
        let names = response.headers().iter();
        let headers = names.map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        });
        let (status, headers) = (response.status().as_u16(), headers.collect());
        let body = response
            .body_mut()
            .with_config()
            .limit(BODY_BYTES_MAX)
            .read_to_vec();
        Ok(Answer {
            status,
            headers,
            body: body.map_err(|error| error.to_string())?,
        })
    }

    /// Sends a request.
    ///
    /// # Panics
    /// If no whole answer comes.
    #[must_use]
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        match self.try_send(method, path, headers, body) {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// Fetches.
    ///
    /// # Panics
    /// As [`Self::send`].
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &[])
    }

    /// Puts.
    ///
    /// # Panics
    /// As [`Self::send`].
    #[must_use]
    #[track_caller]
    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.send("PUT", path, &[], body)
    }

    /// An event stream's lines, one by one.
    ///
    /// # Panics
    /// If the server does not begin one.
    #[must_use]
    pub fn stream(&self, path: &str) -> Box<dyn std::io::Read + Send> {
        let request = Request::builder()
            .uri(self.url(path))
            .body(())
            .expect("a request");
        let response = self.agent.run(request).expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{path}");
        let kind = response
            .headers()
            .get("content-type")
            .expect("a content type");
        assert!(
            kind.as_bytes().starts_with(b"text/event-stream"),
            "{kind:?}"
        );
        Box::new(response.into_body().into_reader())
    }
}
