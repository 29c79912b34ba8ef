//! What the next request on a plaintext connection is: an update or a partial, which this gateway reads itself, or
//! anything else, which hyper serves.

use super::hosts::{Hosts, Visit};
use super::ingest::Address;
use super::members::Handing;
use super::query;
use std::fmt::Display;
use std::mem::MaybeUninit;
use tributary_api::problem::Problem;
use tributary_api::stages::FOLD_HEADER;

/// The most headers of a request.
const HEADERS_MAX: usize = 100;
/// What an HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection's buffer begins with.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Not enough bytes to tell.
    Incomplete,
    /// The HTTP/2 preface.
    Http2,
    /// An update with a length.
    Update(UpdateHead),
    /// A follower's partial with a length.
    Partial(PartialHead),
    /// A request of the local path.
    Slot(SlotHead),
    /// What is no request, or is not let in. Nobody can say where the next one begins.
    Refused(Box<Problem>),
    /// Any other HTTP/1 request.
    Other {
        /// The bytes of the request, if the connection may serve another one afterwards.
        bytes: Option<u64>,
    },
}

impl Next {
    /// The bytes of the request, if the connection may serve another one behind it.
    pub(super) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Update(UpdateHead { framing, .. })
            | Self::Partial(PartialHead { framing, .. }) => framing.keep_alive.then(|| {
                framing
                    .content_length
                    .saturating_add(framing.head_bytes as u64)
            }),
            Self::Slot(head) => head.keep_alive.then_some(head.head_bytes as u64),
            Self::Other { bytes } => *bytes,
            Self::Incomplete | Self::Http2 | Self::Refused(_) => None,
        }
    }
}

/// The head of an update.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UpdateHead {
    pub address: Address,
    pub framing: Framing,
}

/// The head of a partial.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartialHead {
    pub handing: Handing,
    pub framing: Framing,
}

/// Where a body begins and ends, and what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    /// Bytes of the head in the buffer.
    pub head_bytes: usize,
    pub content_length: u64,
    /// The client waits for the word before it sends the body.
    pub expects_continue: bool,
    pub keep_alive: bool,
}

/// A request of the local path; none has a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SlotHead {
    pub wish: Wish,
    pub address: Address,
    /// Bytes of the head in the buffer.
    pub head_bytes: usize,
    pub keep_alive: bool,
}

/// What a local client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A slot.
    Ask,
    /// That what it has written there counts.
    Commit,
    /// To be rid of it.
    GiveBack,
}

/// Looks for the end of a head, at each byte once however they come.
#[derive(Debug, Default)]
pub(super) struct Search {
    looked: usize,
    /// Where the line begins in which that is.
    line: usize,
    /// A line before it was not empty.
    begun: bool,
}

impl Search {
    /// The bytes of the head, once it is whole.
    fn end(&mut self, buffer: &[u8]) -> Result<Option<usize>, Malformed> {
        let odd = |byte: &u8| byte.is_ascii_control() && !b"\t\r".contains(byte);
        loop {
            let fresh = &buffer[self.looked..];
            let feed = fresh.iter().position(|byte| *byte == b'\n');
            if fresh[..feed.unwrap_or(fresh.len())].iter().any(odd) {
                return Err(Malformed::Control);
            }
            let Some(feed) = feed else {
                self.looked = buffer.len();
                return Ok(None);
            };
            self.looked += feed + 1;
            let line = std::mem::replace(&mut self.line, self.looked);
            match &buffer[line..self.looked - 1] {
                b"\r" if self.begun => return Ok(Some(self.looked)),
                // Empty lines may stand before a request.
                b"\r" => {}
                [.., b'\r'] => self.begun = true,
                // Who takes it for the end of a line, and who does not, reads another request.
                _ => return Err(Malformed::BareLineFeed),
            }
        }
    }
}

/// Why a head is no request's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a line of the request's head ends in a bare line feed; lines end in CR LF")]
    BareLineFeed,
    #[error(
        "the request's head has control characters; is this a client of TLS? This server speaks plain HTTP"
    )]
    Control,
    #[error("the request's head is no HTTP/1: {0}")]
    Syntax(httparse::Error),
}

impl Malformed {
    fn problem(&self) -> Problem {
        match self {
            Self::Syntax(httparse::Error::TooManyHeaders) => {
                too_large(format!("more than {HEADERS_MAX} headers"))
            }
            _ => Problem::new(
                400,
                "malformed-request",
                "Malformed request",
                self.to_string(),
            ),
        }
    }
}

/// The refusal of a head that has `what`.
pub(super) fn too_large(what: impl Display) -> Problem {
    let detail = format!("the request's head has {what}");
    Problem::new(431, "head-too-large", "Head too large", detail)
}

/// Looks at the beginning of a connection's unread bytes; `search` is of the same head.
pub(super) fn next(buffer: &[u8], search: &mut Search, hosts: &Hosts) -> Next {
    if !buffer.is_empty()
        && HTTP2_PREFACE.starts_with(&buffer[..buffer.len().min(HTTP2_PREFACE.len())])
    {
        return if buffer.len() >= HTTP2_PREFACE.len() {
            Next::Http2
        } else {
            Next::Incomplete
        };
    }
    match search.end(buffer) {
        Ok(None) => Next::Incomplete,
        Ok(Some(head_bytes)) => whole(&buffer[..head_bytes], hosts),
        Err(malformed) => Next::Refused(malformed.problem().into()),
    }
}

fn whole(head: &[u8], hosts: &Hosts) -> Next {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let problem = match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(head_bytes)) => match hosts.check(visit(&request)) {
            Ok(()) => return classify(&request, head_bytes),
            Err(unwelcome) => unwelcome.problem(),
        },
        // It ends, so it is all there.
        Ok(httparse::Status::Partial) => Malformed::Syntax(httparse::Error::NewLine).problem(),
        Err(error) => Malformed::Syntax(error).problem(),
    };
    Next::Refused(problem.into())
}

/// What a request says of where it comes from and where it goes.
fn visit<'a>(
    request: &'a httparse::Request<'_, 'a>,
) -> Visit<'a, impl Iterator<Item = (&'a str, &'a [u8])>> {
    let target = request.path.unwrap_or_default();
    let elsewhere = Some(target).filter(|target| !target.starts_with('/'));
    let authority = elsewhere
        .and_then(|target| target.split_once("://"))
        .map(|(_, rest)| {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            &rest[..end]
        });
    Visit {
        posts: request.method == Some("POST"),
        has_body: has(request, "transfer-encoding")
            || values(request, "content-length").any(|length| length != b"0"),
        names_host: request.version == Some(1),
        authority,
        headers: request
            .headers
            .iter()
            .map(|header| (header.name, header.value)),
    }
}

fn classify(request: &httparse::Request<'_, '_>, head_bytes: usize) -> Next {
    let keep_alive = request.version == Some(1)
        && !mentions(request, "connection", "close")
        && !has(request, "transfer-encoding");
    let length = match values(request, "content-length").next() {
        None => Some(0),
        Some(_) => plain_length(request),
    };
    let bytes = length.filter(|_| keep_alive);
    let bytes = bytes.map(|length| length.saturating_add(head_bytes as u64));
    if let Some((wish, address)) = local(request) {
        return Next::Slot(SlotHead {
            wish,
            address,
            head_bytes,
            keep_alive,
        });
    }
    let target = request.path.filter(|_| request.method == Some("PUT"));
    let framed = content_length(request).filter(|_| request.version == Some(1));
    let (Some(target), Some(content_length)) = (target, framed) else {
        return Next::Other { bytes };
    };
    let framing = Framing {
        head_bytes,
        content_length,
        expects_continue: mentions(request, "expect", "100-continue"),
        keep_alive,
    };
    if let Some(address) = address(target) {
        return Next::Update(UpdateHead { address, framing });
    }
    match handing(request, target) {
        Some(handing) => Next::Partial(PartialHead { handing, framing }),
        None => Next::Other { bytes },
    }
}

/// What a local client wants, if it asks for it without a body.
fn local(request: &httparse::Request<'_, '_>) -> Option<(Wish, Address)> {
    let lengthless = || !has(request, "content-length") && !has(request, "transfer-encoding");
    let empty = content_length(request) == Some(0) || lengthless();
    // Whoever expects or announces something has a body in mind.
    let plain = ["expect", "content-encoding", "trailer", "upgrade"];
    if request.version != Some(1) || !empty || plain.iter().any(|name| has(request, name)) {
        return None;
    }
    let target = request.path?;
    match request.method? {
        "POST" => Some((Wish::Ask, slot_address(target)?)),
        "DELETE" => Some((Wish::GiveBack, slot_address(target)?)),
        "PUT" => {
            let address = address(target)?;
            let committed = query::pairs(&address.query).any(|(key, _)| key == "slot");
            committed.then_some((Wish::Commit, address))
        }
        _ => None,
    }
}

fn has(request: &httparse::Request<'_, '_>, name: &str) -> bool {
    values(request, name).next().is_some()
}

fn values<'a>(
    request: &'a httparse::Request<'_, '_>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    let headers = request.headers.iter();
    let named = headers.filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value)
}

/// The one length of a body that is not encoded; `None` for anything less plain.
fn content_length(request: &httparse::Request<'_, '_>) -> Option<u64> {
    let plain = !has(request, "transfer-encoding") && !has(request, "content-encoding");
    plain_length(request).filter(|_| plain)
}

/// The one Content-Length, if it is a number and nothing else.
fn plain_length(request: &httparse::Request<'_, '_>) -> Option<u64> {
    let mut lengths = values(request, "content-length");
    let length = std::str::from_utf8(lengths.next()?).ok()?;
    let plain = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    if lengths.next().is_some() || !plain {
        None
    } else {
        length.parse().ok()
    }
}

fn mentions(request: &httparse::Request<'_, '_>, name: &str, token: &str) -> bool {
    let mut tokens = values(request, name).flat_map(|value| value.split(|byte| *byte == b','));
    tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// `/v1/jobs/{job}/updates/{client}/slot[?query]`.
fn slot_address(target: &str) -> Option<Address> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let update = address(path.strip_suffix("/slot")?)?;
    let query = query.into();
    Some(Address { query, ..update })
}

/// `/v1/jobs/{job}/updates/{client}[?query]`. Names need no percent-encoding; one that has it is left
/// to axum, which tells what is wrong with it.
fn address(target: &str) -> Option<Address> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (job, client) = path.strip_prefix("/v1/jobs/")?.split_once("/updates/")?;
    (plain(job) && plain(client)).then(|| Address {
        job: job.into(),
        client: client.into(),
        query: query.into(),
    })
}

/// `/v1/jobs/{job}/members/{node}/partial[?query]`, as plain as an update's.
fn handing(request: &httparse::Request<'_, '_>, target: &str) -> Option<Handing> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (job, rest) = path.strip_prefix("/v1/jobs/")?.split_once("/members/")?;
    let node = rest.strip_suffix("/partial")?;
    (plain(job) && plain(node)).then(|| Handing {
        job: job.into(),
        node: node.into(),
        query: query.into(),
        authorization: value(request, "authorization"),
        fold: value(request, FOLD_HEADER),
    })
}

/// The first value of a header, if it is text.
fn value(request: &httparse::Request<'_, '_>, name: &str) -> Option<String> {
    String::from_utf8(values(request, name).next()?.to_vec()).ok()
}

fn plain(part: &str) -> bool {
    !part.is_empty() && !part.contains(['/', '%'])
}

#[cfg(test)]
mod tests;
