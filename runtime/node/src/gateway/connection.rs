//! One connection: request after request, each read by whom it suits.

use super::Gateway;
use super::body::{SocketBody, Source};
use super::head::{self, Next, UpdateHead};
use super::ingest;
use super::one_request;
use axum::Router;
use bytes::{Buf, BytesMut};
use http::StatusCode;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::debug;
use tributary_api::problem;

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

pub(super) async fn serve(stream: TcpStream, gateway: Gateway, routes: Router) {
    if let Err(error) = requests(stream, &gateway, &routes).await {
        debug!(%error, "a connection ended");
    }
}

async fn requests(mut stream: TcpStream, gateway: &Gateway, routes: &Router) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut silence = Silence::new();
    loop {
        match next(&mut stream, &mut buffer, &mut silence).await? {
            // `next` waits while a head is incomplete, and hands a too long one to hyper.
            None | Some(Next::Incomplete) => return Ok(()),
            Some(Next::Http2) => return one_request::http2(stream, buffer, routes.clone()).await,
            Some(Next::Update(head)) => {
                buffer.advance(head.head_bytes);
                if !update(&mut stream, &mut buffer, gateway, head).await? {
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
        match silence.bound(stream.read_buf(buffer)).await {
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
    let mut body = SocketBody::new(stream, buffer, head.content_length, head.expects_continue);
    let outcome = ingest::put(gateway, &head.address, &mut body).await;
    let spoiled = outcome
        .as_ref()
        .err()
        .is_some_and(|refusal| refusal.spoils_connection());
    let unread = body.remaining();
    // A client that was not told to go on may send its body or not: only closing is unambiguous.
    let keep = head.keep_alive && !spoiled && !body.is_held_back() && unread <= DRAIN_BYTES;
    let answer = match &outcome {
        Ok((accepted, receipt)) => {
            let status = if accepted.repeated {
                StatusCode::OK
            } else {
                StatusCode::ACCEPTED
            };
            answer(
                status,
                "application/json",
                &serde_json::to_vec(receipt)?,
                None,
                keep,
            )
        }
        Err(refusal) => {
            let document = refusal.problem();
            let status =
                StatusCode::from_u16(document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let text = serde_json::to_vec(&document)?;
            answer(
                status,
                problem::CONTENT_TYPE,
                &text,
                refusal.retry_after(),
                keep,
            )
        }
    };
    if keep {
        drain(&mut body, unread).await?;
        stream.write_all(&answer).await?;
        return Ok(true);
    }
    stream.write_all(&answer).await?;
    stream.shutdown().await?;
    linger(stream).await;
    Ok(false)
}

fn answer(
    status: StatusCode,
    content_type: &str,
    text: &[u8],
    retry_after: Option<u32>,
    keep: bool,
) -> Vec<u8> {
    let retry =
        retry_after.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
    let close = if keep { "" } else { "connection: close\r\n" };
    let reason = status.canonical_reason().unwrap_or_default();
    let mut answer = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{retry}{close}\r\n",
        status.as_u16(),
        text.len()
    )
    .into_bytes();
    answer.extend_from_slice(text);
    answer
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
