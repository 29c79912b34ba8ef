//! One connection: request after request, each read by whom it suits.

use super::Gateway;
use super::answer::{Refused, answer, taken};
use super::body::{SocketBody, Source};
use super::door::Door;
use super::guests::Guest;
use super::head::{self, Framing, Next, PartialHead, Search, SlotHead, UpdateHead, Wish};
use super::ingest;
use super::lease::Leases;
use super::members;
use super::one_request;
use bytes::{Buf, BytesMut};
use http::StatusCode;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout, timeout_at};
use tracing::debug;
use tributary_api::problem::Problem;

/// Room for what is read at a time while a head is waited for.
const READ_BYTES: usize = 8 << 10;
/// The longest head that is waited for.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The time that a head has, from its first byte to its last.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection may be silent between requests.
pub(super) const IDLE: Duration = Duration::from_secs(75);
/// How long a client may take nothing of what is sent to it.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// An unread body up to this size is read away, so that the connection can go on.
const DRAIN_BYTES: u64 = 1 << 20;
/// How long a connection that is given up is read, so that the client sees the answer before the reset.
const LINGER: Duration = Duration::from_secs(5);

pub(super) async fn serve(stream: TcpStream, peer: IpAddr, door: &Door, guest: &Guest) {
    let mut leases = Leases::new(peer);
    if let Err(error) = requests(stream, door, guest, &mut leases).await {
        debug!(%error, "a connection ended");
    }
    leases.end().await;
}

async fn requests(
    mut stream: TcpStream,
    door: &Door,
    guest: &Guest,
    leases: &mut Leases,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut waiting = Waiting::new(guest);
    loop {
        let next = next(&mut stream, &mut buffer, door, &mut waiting, leases).await?;
        let goes_on = match (next, &door.gateway) {
            // `next` waits while a head is incomplete.
            (None | Some(Next::Incomplete), _) => false,
            (Some(Next::Http2), _) => {
                return one_request::http2(stream, buffer, door, guest).await;
            }
            (Some(Next::Refused(problem)), _) => {
                refuse(&mut stream, Refused::new(*problem)).await?
            }
            (Some(Next::Update(head)), Some(gateway)) => {
                buffer.advance(head.framing.head_bytes);
                update(&mut stream, &mut buffer, gateway, head).await?
            }
            (Some(Next::Partial(head)), Some(gateway)) => {
                buffer.advance(head.framing.head_bytes);
                partial(&mut stream, &mut buffer, gateway, head).await?
            }
            (Some(Next::Slot(head)), Some(gateway)) => {
                buffer.advance(head.head_bytes);
                slot(&mut stream, gateway, leases, head).await?
            }
            (Some(other), _) => {
                let routes = door.routes.clone();
                let behind = one_request::http1(stream, buffer, other.bytes(), routes).await?;
                (stream, buffer) = (behind.stream, behind.rest);
                behind.goes_on || close(&mut stream).await?
            }
        };
        if !goes_on {
            return Ok(());
        }
    }
}

/// Reads until it is clear what the next request is. `None` if the client is done.
async fn next(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    door: &Door,
    waiting: &mut Waiting<'_>,
    leases: &mut Leases,
) -> io::Result<Option<Next>> {
    let mut search = Search::default();
    let mut deadline = None;
    loop {
        match head::next(buffer, &mut search, &door.hosts) {
            Next::Incomplete if buffer.len() >= HEAD_BYTES_MAX => {
                let problem = head::too_large(format_args!("more than {HEAD_BYTES_MAX} bytes"));
                return Ok(Some(Next::Refused(problem.into())));
            }
            Next::Incomplete => {}
            known => return Ok(Some(known)),
        }
        let begun = !buffer.is_empty();
        buffer.reserve(READ_BYTES);
        let read = stream.read_buf(buffer);
        let came = match (begun, leases.are_out()) {
            (true, _) => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + HEAD_TIME);
                match timeout_at(deadline, read).await {
                    Ok(came) => Some(came),
                    Err(_) => return Ok(Some(Next::Refused(slow_head().into()))),
                }
            }
            (false, true) => Some(leases.wait(read).await),
            (false, false) => waiting.bound(read).await,
        };
        match came {
            None | Some(Ok(0)) => return Ok(None),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
        }
    }
}

fn slow_head() -> Problem {
    let seconds = HEAD_TIME.as_secs();
    let detail = format!("the request's head was not whole {seconds} s after its first byte");
    Problem::new(408, "slow-request", "Slow request", detail)
}

/// Ends a wait for a request after [`IDLE`], or when somebody else needs the room. One timer serves a connection's
/// life: it is not set anew for every wait, but looks, when it rings, for how long the connection has really been
/// silent.
struct Waiting<'a> {
    guest: &'a Guest,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Waiting<'a> {
    fn new(guest: &'a Guest) -> Self {
        Self {
            guest,
            timer: Box::pin(tokio::time::sleep(IDLE)),
        }
    }

    /// What comes; `None` if nothing does.
    async fn bound<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let since = Instant::now();
        let mut wait = std::pin::pin!(wait);
        let _idle = self.guest.idle();
        loop {
            tokio::select! {
                biased;
                came = &mut wait => return Some(came),
                () = self.guest.sent_away() => return None,
                () = &mut self.timer => {
                    if since.elapsed() >= IDLE {
                        return None;
                    }
                    self.timer.as_mut().reset(since + IDLE);
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
    // The answer first: the client may send the rest only when it has read it.
    write(body.socket(), &answer).await?;
    if keep {
        drain(&mut body, unread).await?;
        return Ok(true);
    }
    close(body.socket()).await
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
    write(stream, &answer).await?;
    if keep {
        return Ok(true);
    }
    close(stream).await
}

/// Answers what is no request, or is not let in, and closes.
pub(super) async fn refuse(stream: &mut TcpStream, refused: Refused) -> io::Result<bool> {
    let refused = Err::<(StatusCode, Option<()>), _>(refused);
    write(stream, &answer(refused, false)?).await?;
    close(stream).await
}

/// Sends an answer, to a client that reads it.
async fn write(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    timeout(STALL, stream.write_all(answer)).await?
}

async fn drain(body: &mut SocketBody<'_>, unread: u64) -> io::Result<()> {
    let mut scratch = vec![0; unread.min(16 << 10) as usize];
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
    timeout(LINGER, all).await?
}

/// Closes a connection behind its last answer. Never true: it cannot go on.
async fn close(stream: &mut TcpStream) -> io::Result<bool> {
    stream.shutdown().await?;
    let mut scratch = vec![0; 64 << 10];
    let rest = async { while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
    // What still comes is of no interest.
    let _ = timeout(LINGER, rest).await;
    Ok(false)
}
