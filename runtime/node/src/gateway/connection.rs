//! One connection: request after request, each read by whom it suits.

use super::Gateway;
use super::body::{SocketBody, Source};
use super::head::{self, Framing, Next, PartialHead, SlotHead, UpdateHead, Wish};
use super::ingest::{self, Taken};
use super::lease::Leases;
use super::members;
use super::one_request;
use super::refusal::Refusal;
use axum::Router;
use bytes::{Buf, BytesMut};
use http::StatusCode;
use serde::Serialize;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::debug;
use tributary_api::problem::{self, Problem};

/// Room for what is read at a time while a head is waited for.
const READ_BYTES: usize = 8 << 10;
/// The longest head that is waited for.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long a connection may be silent between requests, or within a head.
const IDLE: Duration = Duration::from_secs(75);
/// An unread body up to this size is read away, so that the connection can go on.
const DRAIN_BYTES: u64 = 1 << 20;
/// How long a connection that is given up is read, so that the client sees the answer before the reset.
const LINGER: Duration = Duration::from_secs(5);

pub(super) async fn serve(stream: TcpStream, peer: IpAddr, gateway: Gateway, routes: Router) {
    let mut leases = Leases::new(peer);
    if let Err(error) = requests(stream, &gateway, &routes, &mut leases).await {
        debug!(%error, "a connection ended");
    }
    leases.end().await;
}

async fn requests(
    mut stream: TcpStream,
    gateway: &Gateway,
    routes: &Router,
    leases: &mut Leases,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut silence = Silence::new();
    loop {
        match next(&mut stream, &mut buffer, &mut silence, leases).await? {
            // `next` waits while a head is incomplete, and hands a too long one to hyper.
            None | Some(Next::Incomplete) => return Ok(()),
            Some(Next::Http2) => return one_request::http2(stream, buffer, routes.clone()).await,
            Some(Next::Update(head)) => {
                buffer.advance(head.framing.head_bytes);
                if !update(&mut stream, &mut buffer, gateway, head).await? {
                    return Ok(());
                }
            }
            Some(Next::Partial(head)) => {
                buffer.advance(head.framing.head_bytes);
                if !partial(&mut stream, &mut buffer, gateway, head).await? {
                    return Ok(());
                }
            }
            Some(Next::Slot(head)) => {
                buffer.advance(head.head_bytes);
                if !slot(&mut stream, gateway, leases, head).await? {
                    return Ok(());
                }
            }
            Some(Next::Other { keep_alive }) => {
                match one_request::http1(stream, buffer, routes.clone()).await? {
                    Some((again, rest)) if keep_alive => (stream, buffer) = (again, rest),
                    _ => return Ok(()),
                }
            }
        }
    }
}

/// Reads until it is clear what the next request is. `None` if the client is done.
async fn next(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    silence: &mut Silence,
    leases: &mut Leases,
) -> io::Result<Option<Next>> {
    loop {
        match head::next(buffer) {
            Next::Incomplete if buffer.len() >= HEAD_BYTES_MAX => {
                return Ok(Some(Next::Other { keep_alive: false }));
            }
            Next::Incomplete => {}
            known => return Ok(Some(known)),
        }
        buffer.reserve(READ_BYTES);
        let read = stream.read_buf(buffer);
        let came = if leases.are_out() {
            Some(leases.wait(read).await)
        } else {
            silence.bound(read).await
        };
        match came {
            None | Some(Ok(0)) => return Ok(None),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
        }
    }
}

/// Ends a wait of [`IDLE`]. One timer serves a connection's life: it is not set anew for every wait, but
/// looks, when it rings, for how long the connection has really been silent.
struct Silence(Pin<Box<Sleep>>);

impl Silence {
    fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(IDLE)))
    }

    /// What comes; `None` if nothing does.
    async fn bound<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let since = Instant::now();
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                biased;
                came = &mut wait => return Some(came),
                () = &mut self.0 => {
                    if since.elapsed() >= IDLE {
                        return None;
                    }
                    self.0.as_mut().reset(since + IDLE);
                }
            }
        }
    }
}

/// Serves one update; true if the connection can go on.
async fn update(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    gateway: &Gateway,
    head: UpdateHead,
) -> io::Result<bool> {
    let UpdateHead { address, framing } = head;
    let mut body = SocketBody::new(
        stream,
        buffer,
        framing.content_length,
        framing.expects_continue,
    );
    let outcome = ingest::put(gateway, &address, &mut body).await;
    let spoiled = outcome
        .as_ref()
        .err()
        .is_some_and(|refusal| refusal.spoils_connection());
    let outcome = taken(outcome).map_err(Refused::from);
    end(body, framing, spoiled, |keep| answer(outcome, keep)).await
}

/// Serves a follower's partial; true if the connection can go on.
async fn partial(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    gateway: &Gateway,
    head: PartialHead,
) -> io::Result<bool> {
    let PartialHead { handing, framing } = head;
    let mut body = SocketBody::new(
        stream,
        buffer,
        framing.content_length,
        framing.expects_continue,
    );
    let outcome = members::take(gateway, &handing, &mut body).await;
    let spoiled = outcome
        .as_ref()
        .err()
        .is_some_and(|refused| refused.spoils_connection());
    let outcome = outcome
        .map(|directive| (StatusCode::OK, Some(directive)))
        .map_err(|refused| Refused::new(refused.problem()));
    end(body, framing, spoiled, |keep| answer(outcome, keep)).await
}

/// Answers a request with a body; true if the connection can go on. `answer` is told so.
async fn end(
    mut body: SocketBody<'_>,
    framing: Framing,
    spoiled: bool,
    answer: impl FnOnce(bool) -> io::Result<Vec<u8>>,
) -> io::Result<bool> {
    let unread = body.remaining();
    // A client that was not told to go on may send its body or not: only closing is unambiguous.
    let keep = framing.keep_alive && !spoiled && !body.is_held_back() && unread <= DRAIN_BYTES;
    let answer = answer(keep)?;
    if keep {
        drain(&mut body, unread).await?;
        body.socket().write_all(&answer).await?;
        return Ok(true);
    }
    let stream = body.socket();
    stream.write_all(&answer).await?;
    stream.shutdown().await?;
    linger(stream).await;
    Ok(false)
}

/// A problem as it is answered.
struct Refused {
    problem: Problem,
    /// Headers that only refusals have.
    headers: String,
}

impl Refused {
    fn new(problem: Problem) -> Self {
        Self {
            problem,
            headers: String::new(),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            headers: headers_of(&refusal),
            ..Self::new(refusal.problem())
        }
    }
}

/// Serves a request of the local path; true if the connection can go on.
async fn slot(
    stream: &mut TcpStream,
    gateway: &Gateway,
    leases: &mut Leases,
    head: SlotHead,
) -> io::Result<bool> {
    let (address, keep) = (&head.address, head.keep_alive);
    let answer = match head.wish {
        Wish::Ask => {
            let lease = leases.ask(gateway, address, stream, keep).await;
            let lease = lease.map(|lease| (StatusCode::CREATED, Some(lease)));
            answer(lease.map_err(Refused::from), keep)?
        }
        Wish::Commit => {
            let outcome = taken(leases.commit(gateway, address).await);
            answer(outcome.map_err(Refused::from), keep)?
        }
        Wish::GiveBack => {
            let nothing = (StatusCode::NO_CONTENT, None::<()>);
            let given_back = leases.give_back(address).map(|()| nothing);
            answer(given_back.map_err(Refused::from), keep)?
        }
    };
    stream.write_all(&answer).await?;
    if keep {
        return Ok(true);
    }
    stream.shutdown().await?;
    linger(stream).await;
    Ok(false)
}

/// What a client whose update was taken is told.
fn taken(outcome: Result<Taken, Refusal>) -> Result<(StatusCode, Option<impl Serialize>), Refusal> {
    outcome.map(|(accepted, receipt)| {
        let status = if accepted.repeated {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        };
        (status, Some(receipt))
    })
}

/// An answer's bytes: a status with or without a document, or a problem.
fn answer(
    outcome: Result<(StatusCode, Option<impl Serialize>), Refused>,
    keep: bool,
) -> io::Result<Vec<u8>> {
    let (status, content_type, text, more) = match outcome {
        Ok((status, document)) => {
            let text = document.map(|document| serde_json::to_vec(&document));
            (status, "application/json", text.transpose()?, String::new())
        }
        Err(Refused { problem, headers }) => {
            let status =
                StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let text = serde_json::to_vec(&problem)?;
            (status, problem::CONTENT_TYPE, Some(text), headers)
        }
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
    if let Some(text) = &text {
        let length = text.len();
        head += &format!("content-type: {content_type}\r\ncontent-length: {length}\r\n");
    }
    head += &more;
    head += if keep {
        "\r\n"
    } else {
        "connection: close\r\n\r\n"
    };
    let mut answer = head.into_bytes();
    answer.extend(text.unwrap_or_default());
    Ok(answer)
}

/// Headers that only refusals have.
fn headers_of(refusal: &Refusal) -> String {
    let retry_after = refusal
        .retry_after()
        .map(|seconds| format!("retry-after: {seconds}\r\n"));
    let location = refusal.location().map(|url| format!("location: {url}\r\n"));
    retry_after.into_iter().chain(location).collect()
}

async fn drain(body: &mut SocketBody<'_>, unread: u64) -> io::Result<()> {
    let mut scratch = vec![0; 16 << 10];
    let all = async {
        let mut left = unread;
        while left > 0 {
            match body.read(&mut scratch).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => left -= read as u64,
            }
        }
        Ok(())
    };
    tokio::time::timeout(LINGER, all)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}

async fn linger(stream: &mut TcpStream) {
    let mut scratch = vec![0; 64 << 10];
    let rest = async { while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}
