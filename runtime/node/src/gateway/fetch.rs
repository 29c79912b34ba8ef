//! Files of updates that lie elsewhere: fetched for clients that send a reference in place of a body.
//!
//! Nothing is fetched that the operator has not allowed, redirects are not followed, and no more than
//! [`FETCHES_MAX`] are fetched at a time. What comes is read by [`ingest`](super::ingest) as a body is.

mod tls;
mod url;

use super::body::{HyperBody, Source};
use super::refusal::Refusal;
use axum::body::{Body, Bytes};
use futures_util::stream;
use http::{Request, StatusCode, header};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tributary_api::Digest;
use tributary_api::reference::{
    ObjectError, ObjectName, OpenObject, Place, Reference, UpdateObjects,
};
use url::Target;

pub use url::{Prefix, UrlError};

/// Files that the node fetches at a time.
pub(super) const FETCHES_MAX: usize = 32;
/// How long a file waits for another to be fetched before its sender is told to come again.
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// What may be fetched; nothing, if nobody says more.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    /// Beginnings of URLs.
    pub from: Vec<Prefix>,
    /// The object store, where there is one that clients can reach.
    pub objects: Option<Arc<dyn UpdateObjects>>,
}

/// Fetches what is allowed.
pub(crate) struct Fetcher {
    options: FetchOptions,
    tls: Tls,
    turns: Semaphore,
}

/// A file that is referred to. It is asked for when the update's head is found good.
pub(super) struct Referred<'a> {
    fetcher: &'a Fetcher,
    reference: &'a Reference,
    open: Option<Open<'a>>,
    /// What broke the file off.
    broken: Option<String>,
    /// Bytes that have come.
    pub(super) fetched: u64,
}

/// A file that is being read.
struct Open<'a> {
    body: HyperBody,
    length: Option<u64>,
    hash: Option<Sha256>,
    /// Drives the connection, for as long as the file is read.
    _connection: JoinSet<()>,
    _turn: SemaphorePermit<'a>,
}

/// What a file is read from.
struct Content {
    body: Body,
    length: Option<u64>,
    connection: JoinSet<()>,
}

impl Fetcher {
    pub(crate) fn new(options: FetchOptions) -> Self {
        let tls = Tls::new(options.from.iter().any(Prefix::is_secure));
        Self {
            options,
            tls,
            turns: Semaphore::new(FETCHES_MAX),
        }
    }

    pub(super) fn refer<'a>(&'a self, reference: &'a Reference) -> Referred<'a> {
        Referred {
            fetcher: self,
            reference,
            open: None,
            broken: None,
            fetched: 0,
        }
    }

    async fn open(&self, place: &Place) -> Result<Content, Refusal> {
        match place {
            Place::Url(text) => {
                let target: Target = text
                    .parse()
                    .map_err(|error| Refusal::MalformedReference(format!("the URL: {error}")))?;
                self.open_url(&target).await
            }
            Place::Object(object) => self.open_object(object).await,
        }
    }

    async fn open_url(&self, target: &Target) -> Result<Content, Refusal> {
        if !self.options.from.iter().any(|prefix| prefix.allows(target)) {
            return Err(Refusal::ReferenceNotAllowed(format!(
                "{target} is not below any URL that this server may fetch; its operator names those by --fetch-from"
            )));
        }
        let unreachable = |why: &dyn std::fmt::Display| unreachable(target, why);
        let stream = self.connect(target).await.map_err(|e| unreachable(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(&e))?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // What it ends with is told by the body.
            let _ = connection.await;
        });
        let request = Request::get(target.path_and_query())
            .header(header::HOST, target.authority())
            .header(
                header::USER_AGENT,
                concat!("tributary/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::<Bytes>::new())
            .map_err(|error| Refusal::MalformedReference(format!("the URL: {error}")))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| unreachable(&e))?;
        content(target, answer, task)
    }

    async fn connect(&self, target: &Target) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
        stream.set_nodelay(true)?;
        if target.secure {
            Ok(Box::new(self.tls.connect(&target.host, stream).await?))
        } else {
            Ok(Box::new(stream))
        }
    }

    async fn open_object(&self, object: &ObjectName) -> Result<Content, Refusal> {
        let Some(objects) = &self.options.objects else {
            return Err(Refusal::ReferenceNotAllowed(format!(
                "{object}: this server has no object store that clients can write to, which nodes have by NATS; \
                 refer to a URL"
            )));
        };
        let OpenObject { bytes, content } =
            objects.open(object).await.map_err(|error| match error {
                ObjectError::NotAllowed(why) => Refusal::ReferenceNotAllowed(why),
                ObjectError::NotFound(why) => Refusal::ReferenceNotFound(why),
                ObjectError::Unavailable(why) => Refusal::ReferenceUnreachable(why),
            })?;
        let pieces = stream::unfold(content, |mut content| async move {
            let piece = content.next().await?;
            Some((piece.map_err(io::Error::other), content))
        });
        Ok(Content {
            body: Body::from_stream(pieces),
            length: Some(bytes),
            connection: JoinSet::new(),
        })
    }
}

/// A connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The file in an answer, if it is one.
fn content(
    target: &Target,
    answer: http::Response<Incoming>,
    connection: JoinSet<()>,
) -> Result<Content, Refusal> {
    let status = answer.status();
    let passing = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    if status.is_server_error() || passing.contains(&status) {
        return Err(unreachable(target, &format!("it answers {status}")));
    }
    let not_found = |why: &str| {
        Err(Refusal::ReferenceNotFound(format!(
            "{target} answers {why}"
        )))
    };
    if status.is_redirection() {
        return not_found(&format!("{status}, and redirects are not followed"));
    }
    if status != StatusCode::OK {
        return not_found(&status.to_string());
    }
    if answer.headers().contains_key(header::CONTENT_ENCODING) {
        return not_found("with a content-encoding; serve the file as it is");
    }
    let body = answer.into_body();
    Ok(Content {
        length: body.size_hint().exact(),
        body: Body::new(body),
        connection,
    })
}

fn unreachable(place: &dyn std::fmt::Display, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::ReferenceUnreachable(format!("{place}: {why}"))
}

impl Referred<'_> {
    fn unreachable(&self, why: &str) -> Refusal {
        let place: &dyn std::fmt::Display = match &self.reference.place {
            // It was read before.
            Place::Url(text) => match text.parse::<Target>() {
                Ok(target) => return unreachable(&target, &why),
                Err(_) => &"the URL",
            },
            Place::Object(object) => object,
        };
        unreachable(place, &why)
    }
}

impl Source for Referred<'_> {
    const COPIES: u64 = 2;

    fn length(&self) -> Option<u64> {
        self.open.as_ref()?.length
    }

    async fn proceed(&mut self, idle: Duration) -> Result<(), Refusal> {
        let fetcher = self.fetcher;
        let turn = timeout(TURN_PATIENCE, fetcher.turns.acquire()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(Refusal::TooManyFetches);
        };
        let content = timeout(idle, fetcher.open(&self.reference.place)).await;
        let Content {
            body,
            length,
            connection,
        } = content.unwrap_or_else(|_| {
            Err(self.unreachable(&format!("no answer for {} s", idle.as_secs_f64())))
        })?;
        self.open = Some(Open {
            body: HyperBody::new(body, length),
            length,
            hash: self.reference.digest.map(|_| Sha256::new()),
            _connection: connection,
            _turn: turn,
        });
        Ok(())
    }

    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(open) = &mut self.open else {
            return Ok(0);
        };
        match open.body.read(into).await {
            Ok(bytes) => {
                self.fetched += bytes as u64;
                if let Some(hash) = &mut open.hash {
                    hash.update(&into[..bytes]);
                }
                Ok(bytes)
            }
            Err(error) => {
                self.broken = Some(error.to_string());
                Err(error)
            }
        }
    }

    fn verify(&mut self) -> Result<(), Refusal> {
        let hash = self.open.as_mut().and_then(|open| open.hash.take());
        let found = hash.map(|hash| Digest::new(hash.finalize().into()));
        match (self.reference.digest, found) {
            (Some(told), Some(found)) if told != found => Err(Refusal::OtherDigest { told, found }),
            _ => Ok(()),
        }
    }

    /// What a client would have done wrong in a body of its own is the file's, or its server's.
    fn blame(&self, refusal: Refusal) -> Refusal {
        match (refusal, &self.broken) {
            (Refusal::Stalled { seconds, received }, _) => self.unreachable(&format!(
                "no byte came for {seconds} s, after {received} bytes"
            )),
            (
                Refusal::Slow {
                    seconds, received, ..
                },
                _,
            ) => self.unreachable(&format!("only {received} bytes came in {seconds:.1} s")),
            (Refusal::Truncated { received, .. }, Some(why)) => {
                self.unreachable(&format!("it broke off after {received} bytes: {why}"))
            }
            (other, _) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_allowed_if_nobody_says_so() {
        let fetcher = Fetcher::new(FetchOptions::default());
        let object = ObjectName {
            bucket: "updates".into(),
            name: "a".into(),
        };
        let url = Place::Url("http://127.0.0.1:1/a".into());
        for place in [url, Place::Object(object)] {
            let opened = fetcher.open(&place).await;
            assert!(matches!(opened, Err(Refusal::ReferenceNotAllowed(_))));
        }
    }
}
