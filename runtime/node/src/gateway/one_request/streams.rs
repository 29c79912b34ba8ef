//! The streams of an HTTP/2 connection.
//!
//! A client can keep a connection alive and take nothing of one stream. hyper does not ask a body for more then, so a
//! piece that was handed over long ago, with nothing asked for since, is a stream that has stalled.

use super::Rewound;
use crate::gateway::connection::{IDLE, STALL};
use crate::gateway::door::Door;
use crate::gateway::guests::{Guest, Idle};
use crate::gateway::hosts::Visit;
use crate::gateway::routes;
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};
use tower::ServiceExt;

/// Requests that a client may have open at a time.
const STREAMS_MAX: u32 = 64;
/// How often a silent client is asked whether it is there, and how long it has to answer.
const PING: Duration = Duration::from_secs(20);
/// A body of a refused request that is read away, and the time that it has.
const UNREAD_MAX: usize = 64 << 10;
const UNREAD: Duration = Duration::from_secs(1);
/// How often streams are looked at.
const LOOK: Duration = Duration::from_secs(5);

pub(super) async fn serve(io: TokioIo<Rewound>, door: &Door, guest: &Guest) -> io::Result<()> {
    let streams = Arc::new(Streams::default());
    let opened = streams.clone();
    let (routes, hosts) = (door.routes.clone(), door.hosts.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let stream = opened.open();
        let refused = hosts.check(visit(&request)).err();
        let routes = routes.clone();
        async move {
            let response = match refused {
                Some(unwelcome) => {
                    // A small body is read away: its sender may take the answer for an error before it is sent.
                    let body = Limited::new(request.into_body(), UNREAD_MAX).collect();
                    let _ = timeout(UNREAD, body).await;
                    routes::problem(&unwelcome.problem())
                }
                None => routes.oneshot(request.map(Body::new)).await?,
            };
            stream.hand_over();
            Ok::<_, Infallible>(response.map(|body| Followed { body, stream }))
        }
    });
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_concurrent_streams(STREAMS_MAX)
            .serve_connection(io, service)
    );
    let mut looks = interval(LOOK);
    let mut idle: Option<Idle<'_>> = None;
    loop {
        tokio::select! {
            ended = &mut connection => return ended.map_err(io::Error::other),
            () = guest.sent_away() => return Ok(()),
            _ = looks.tick() => {
                if streams.has_stalled() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                match streams.silent_for() {
                    Some(silence) if silence >= IDLE => return Ok(()),
                    Some(_) if idle.is_none() => idle = Some(guest.idle()),
                    Some(_) => {}
                    None => idle = None,
                }
            }
        }
    }
}

/// What a request says of where it comes from and where it goes.
fn visit(request: &Request<Incoming>) -> Visit<'_, impl Iterator<Item = (&str, &[u8])>> {
    let headers = request.headers().iter();
    Visit {
        posts: request.method() == Method::POST,
        has_body: !request.body().is_end_stream(),
        names_host: true,
        authority: request
            .uri()
            .authority()
            .map(|authority| authority.as_str()),
        headers: headers.map(|(name, value)| (name.as_str(), value.as_bytes())),
    }
}

/// The streams of a connection that have not ended.
struct Streams(Mutex<Open>);

struct Open {
    next: u64,
    /// Since when hyper has asked a stream's body for nothing, if it has been handed something.
    streams: HashMap<u64, Option<Instant>>,
    changed: Instant,
}

impl Default for Streams {
    fn default() -> Self {
        Self(Mutex::new(Open {
            next: 0,
            streams: HashMap::new(),
            changed: Instant::now(),
        }))
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(self: &Arc<Self>) -> Stream {
        let mut open = self.lock();
        open.next += 1;
        let number = open.next;
        open.streams.insert(number, None);
        Stream {
            number,
            streams: self.clone(),
        }
    }

    fn has_stalled(&self) -> bool {
        let open = self.lock();
        let mut waiting = open.streams.values().flatten();
        waiting.any(|since| since.elapsed() >= STALL)
    }

    /// For how long there has been no stream; `None` if there is one.
    fn silent_for(&self) -> Option<Duration> {
        let open = self.lock();
        open.streams.is_empty().then(|| open.changed.elapsed())
    }
}

/// One of them, until it is dropped.
struct Stream {
    number: u64,
    streams: Arc<Streams>,
}

impl Stream {
    /// It is the client's turn: it takes what it was handed.
    fn hand_over(&self) {
        self.set(Some(Instant::now()));
    }

    /// It is this side's turn: there is nothing to take.
    fn take_back(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        self.streams.lock().streams.insert(self.number, since);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.streams.remove(&self.number);
        open.changed = Instant::now();
    }
}

/// A response's body that says whose turn it is.
struct Followed {
    body: Body,
    stream: Stream,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(_) => self.stream.hand_over(),
            Poll::Pending => self.stream.take_back(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
