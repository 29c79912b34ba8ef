//! hyper on a borrowed socket.
//!
//! For anything but an update, hyper serves *one* request and gives the socket back, so that an
//! update that follows on the same connection is again read straight into its slot. It works by
//! hyper's own means: when the response's body has been handed over, the connection is told to shut
//! down gracefully, which for an idle HTTP/1 connection means to be done; `into_parts` then returns
//! the socket and what was read beyond the request.

mod streams;

use super::connection::{HEAD_TIME, STALL};
use super::door::Door;
use super::guests::Guest;
use axum::Router;
use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tower::ServiceExt;

type BoxedResponse = Pin<Box<dyn Future<Output = Result<Response<Watched>, Infallible>> + Send>>;

/// A connection behind a request.
pub(super) struct Behind {
    pub stream: TcpStream,
    /// What was read there.
    pub rest: BytesMut,
    /// Whether another request may follow: not if the request's body was not read to its end (then nobody can say where
    /// the next request begins), nor if the response has announced that the connection closes.
    pub goes_on: bool,
}

/// Serves one HTTP/1 request, and gives the socket back. hyper sees `bytes` of it, or, if that is not known, all that
/// comes and closes.
pub(super) async fn http1(
    stream: TcpStream,
    buffer: BytesMut,
    bytes: Option<u64>,
    routes: Router,
) -> io::Result<Behind> {
    let answered = Arc::new(AtomicBool::new(false));
    let request_read = Arc::new(AtomicBool::new(false));
    let closes = Arc::new(AtomicBool::new(false));
    let (done, read, ends) = (answered.clone(), request_read.clone(), closes.clone());
    let service = service_fn(move |request: Request<Incoming>| -> BoxedResponse {
        let request =
            request.map(|body| Body::new(Watched::new(Body::new(body), read.clone(), Ends::Read)));
        let (routes, done, ends) = (routes.clone(), done.clone(), ends.clone());
        Box::pin(async move {
            let response = routes.oneshot(request).await?;
            ends.store(announces_end(response.headers()), Ordering::Relaxed);
            Ok(response.map(|body| Watched::new(body, done, Ends::ReadOrDropped)))
        })
    });
    let io = TokioIo::new(Rewound::new(stream, buffer, bytes));
    let mut connection = http1::Builder::new()
        .keep_alive(bytes.is_some())
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(io, service);
    let running = &mut connection;
    std::future::poll_fn(move |context| {
        loop {
            match running.poll_without_shutdown(context) {
                Poll::Pending if answered.swap(false, Ordering::Relaxed) => {
                    Pin::new(&mut *running).graceful_shutdown();
                }
                other => return other,
            }
        }
    })
    .await
    .map_err(io::Error::other)?;
    let parts = connection.into_parts();
    let Rewound { ahead, stream, .. } = parts.io.into_inner();
    let mut rest = BytesMut::from(&parts.read_buf[..]);
    rest.extend_from_slice(&ahead);
    Ok(Behind {
        stream,
        rest,
        goes_on: bytes.is_some()
            && request_read.load(Ordering::Relaxed)
            && !closes.load(Ordering::Relaxed),
    })
}

fn announces_end(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Serves an HTTP/2 connection to its end.
pub(super) async fn http2(
    stream: TcpStream,
    buffer: BytesMut,
    door: &Door,
    guest: &Guest,
) -> io::Result<()> {
    streams::serve(
        TokioIo::new(Rewound::new(stream, buffer, None)),
        door,
        guest,
    )
    .await
}

/// When a [`Watched`] body counts as ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// A request's: when all of it has been read.
    Read,
    /// A response's: also when nobody wants it (the answer to HEAD has no body).
    ReadOrDropped,
}

/// A body that says when it has ended.
struct Watched {
    body: Body,
    ended: Arc<AtomicBool>,
    ends: Ends,
}

impl Watched {
    fn new(body: Body, ended: Arc<AtomicBool>, ends: Ends) -> Self {
        ended.store(body.is_end_stream(), Ordering::Relaxed);
        Self { body, ended, ends }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.ends == Ends::ReadOrDropped {
            self.ended.store(true, Ordering::Relaxed);
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let last = matches!(frame, Poll::Ready(None)) || self.body.is_end_stream();
        if last && self.ends == Ends::Read {
            self.ended.store(true, Ordering::Relaxed);
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

/// A socket of which some bytes have been read ahead. Writing to a client that takes nothing for [`STALL`] fails.
struct Rewound {
    ahead: Bytes,
    stream: TcpStream,
    /// What may still be read; all, if there is no bound.
    left: Option<u64>,
    /// Since a write has been waiting.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Rewound {
    fn new(stream: TcpStream, ahead: BytesMut, left: Option<u64>) -> Self {
        Self {
            ahead: ahead.freeze(),
            stream,
            left,
            stalled: None,
        }
    }

    /// The outcome of a write, unless that has waited for too long.
    fn bound(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let most = match this.left {
            // What comes is another request; only its end is news.
            Some(0) if !this.ahead.is_empty() => return Poll::Pending,
            Some(0) => {
                let mut byte = [0];
                let peeked = this.stream.poll_peek(context, &mut ReadBuf::new(&mut byte));
                return match ready!(peeked)? {
                    0 => Poll::Ready(Ok(())),
                    _ => Poll::Pending,
                };
            }
            Some(left) => into
                .remaining()
                .min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => into.remaining(),
        };
        let read = if this.ahead.is_empty() {
            let mut piece = ReadBuf::new(into.initialize_unfilled_to(most));
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut piece))?;
            let read = piece.filled().len();
            into.advance(read);
            read
        } else {
            let ready = this.ahead.len().min(most);
            into.put_slice(&this.ahead[..ready]);
            this.ahead.advance(ready);
            ready
        };
        this.left = this.left.map(|left| left - read as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.bound(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
