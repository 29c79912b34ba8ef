//! What the next request on a plaintext connection is: an update or a partial, which this gateway reads itself, or
//! anything else, which hyper serves.

use super::ingest::Address;
use super::members::Handing;
use tributary_api::stages::FOLD_HEADER;

/// Headers that are looked at; a request with more is hyper's.
const HEADERS_MAX: usize = 64;
/// What an HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection's buffer begins with.
#[derive(Debug, PartialEq, Eq)]
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
    /// Any other HTTP/1 request, well-formed or not.
    Other {
        /// The connection may serve another request afterwards.
        keep_alive: bool,
    },
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

/// Looks at the beginning of a connection's unread bytes.
pub(super) fn next(buffer: &[u8]) -> Next {
    if !buffer.is_empty()
        && HTTP2_PREFACE.starts_with(&buffer[..buffer.len().min(HTTP2_PREFACE.len())])
    {
        return if buffer.len() >= HTTP2_PREFACE.len() {
            Next::Http2
        } else {
            Next::Incomplete
        };
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(buffer) {
        Ok(httparse::Status::Partial) => Next::Incomplete,
        Ok(httparse::Status::Complete(head_bytes)) => classify(&request, head_bytes),
        // hyper answers what cannot be parsed, and closes.
        Err(_) => Next::Other { keep_alive: false },
    }
}

fn classify(request: &httparse::Request<'_, '_>, head_bytes: usize) -> Next {
    let keep_alive = request.version == Some(1) && !mentions(request, "connection", "close");
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
        return Next::Other { keep_alive };
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
        None => Next::Other { keep_alive },
    }
}

/// What a local client wants, if it asks for it without a body.
fn local(request: &httparse::Request<'_, '_>) -> Option<(Wish, Address)> {
    let lengthless = || !has(request, "content-length") && !has(request, "transfer-encoding");
    if request.version != Some(1) || !(content_length(request) == Some(0) || lengthless()) {
        return None;
    }
    let target = request.path?;
    match request.method? {
        "POST" => Some((Wish::Ask, slot_address(target)?)),
        "DELETE" => Some((Wish::GiveBack, slot_address(target)?)),
        "PUT" => {
            let address = address(target)?;
            let mut parameters = address.query.split('&');
            let committed = parameters.any(|pair| pair.starts_with("slot="));
            committed.then_some((Wish::Commit, address))
        }
        _ => None,
    }
}

fn has(request: &httparse::Request<'_, '_>, name: &str) -> bool {
    let mut headers = request.headers.iter();
    headers.any(|header| header.name.eq_ignore_ascii_case(name))
}

/// The one length of a body that is not encoded; `None` for anything less plain.
fn content_length(request: &httparse::Request<'_, '_>) -> Option<u64> {
    if has(request, "transfer-encoding") || has(request, "content-encoding") {
        return None;
    }
    let headers = request.headers.iter();
    let mut lengths = headers.filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = std::str::from_utf8(lengths.next()?.value).ok()?;
    let plain = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    if lengths.next().is_some() || !plain {
        None
    } else {
        length.parse().ok()
    }
}

fn mentions(request: &httparse::Request<'_, '_>, name: &str, token: &str) -> bool {
    let values = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name));
    let mut tokens = values.flat_map(|header| header.value.split(|byte| *byte == b','));
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
    let mut headers = request.headers.iter();
    let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
    String::from_utf8(header.value.to_vec()).ok()
}

fn plain(part: &str) -> bool {
    !part.is_empty() && !part.contains(['/', '%'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn update(head: &str) -> Option<UpdateHead> {
        match next(head.as_bytes()) {
            Next::Update(head) => Some(head),
            _ => None,
        }
    }

    #[test]
    fn an_update_is_recognised() {
        let text = "PUT /v1/jobs/digits/updates/c-1?round=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\nbody";
        let head = update(text).unwrap();
        assert_eq!(
            (head.address.job.as_str(), head.address.client.as_str()),
            ("digits", "c-1")
        );
        assert_eq!(head.address.query, "round=2");
        let Framing {
            content_length,
            expects_continue,
            keep_alive,
            head_bytes,
        } = head.framing;
        assert_eq!(
            (content_length, expects_continue, keep_alive),
            (12, true, true)
        );
        assert_eq!(&text[head_bytes..], "body");
    }

    #[test]
    fn a_partial_is_recognised() {
        let put = |path: &str, headers: &str| {
            let text = format!("PUT {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\nbody");
            match next(text.as_bytes()) {
                Next::Partial(head) => Some(head),
                _ => None,
            }
        };
        let path = "/v1/jobs/digits/members/n-2/partial?version=3";
        let headers =
            "Content-Length: 12\r\nAuthorization: Bearer s\r\nTributary-Fold-Microseconds: 7\r\n";
        let head = put(path, headers).unwrap();
        let expected = Handing {
            job: "digits".into(),
            node: "n-2".into(),
            query: "version=3".into(),
            authorization: Some("Bearer s".into()),
            fold: Some("7".into()),
        };
        assert_eq!(head.handing, expected);
        assert_eq!(head.framing.content_length, 12);
        let bare = put(
            "/v1/jobs/digits/members/n-2/partial",
            "Content-Length: 1\r\n",
        )
        .unwrap();
        assert_eq!(
            (bare.handing.authorization, bare.handing.fold),
            (None, None)
        );
        for (path, headers) in [
            (path, "Transfer-Encoding: chunked\r\n"),
            (
                "/v1/jobs/digits/members/n-2/report",
                "Content-Length: 1\r\n",
            ),
            (
                "/v1/jobs/digits/members/n%32/partial",
                "Content-Length: 1\r\n",
            ),
            ("/v1/jobs/digits/members//partial", "Content-Length: 1\r\n"),
        ] {
            assert_eq!(put(path, headers), None, "{path} {headers}");
        }
    }

    #[test]
    fn the_local_paths_requests_are_recognised() {
        let path = "/v1/jobs/digits/updates/c-1";
        let wish = |line: String, headers: &str| match next(
            format!("{line} HTTP/1.1\r\n{headers}\r\n").as_bytes(),
        ) {
            Next::Slot(head) => Some((head.wish, head.address.client, head.address.query)),
            _ => None,
        };
        let told = |wish, query: &str| Some((wish, "c-1".to_owned(), query.to_owned()));
        let empty = "Content-Length: 0\r\n";
        for headers in [empty, ""] {
            let asked = wish(format!("POST {path}/slot?round=2"), headers);
            assert_eq!(asked, told(Wish::Ask, "round=2"));
            let given_back = wish(format!("DELETE {path}/slot?ticket=1"), headers);
            assert_eq!(given_back, told(Wish::GiveBack, "ticket=1"));
            let committed = wish(format!("PUT {path}?round=2&slot=1"), headers);
            assert_eq!(committed, told(Wish::Commit, "round=2&slot=1"));
        }
        for (line, headers) in [
            (format!("PUT {path}?round=2"), empty),
            (
                format!("PUT {path}?round=2&slot=1"),
                "Content-Length: 4\r\n",
            ),
            (format!("PUT {path}/slot?round=2"), empty),
            (format!("POST {path}/slot"), "Content-Length: 4\r\n"),
            (
                format!("POST {path}/slot"),
                "Transfer-Encoding: chunked\r\n",
            ),
            (format!("POST {path}"), empty),
            ("POST /v1/jobs/digits/updates/slot".into(), empty),
            (format!("GET {path}/slot"), ""),
        ] {
            assert_eq!(wish(line.clone(), headers), None, "{line}");
        }
    }

    #[test]
    fn everything_else_is_hypers() {
        let put = |headers: &str| format!("PUT /v1/jobs/a/updates/b HTTP/1.1\r\n{headers}\r\n");
        for other in [
            put("Transfer-Encoding: chunked\r\n"),
            put("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            put("Content-Length: 3\r\nContent-Length: 4\r\n"),
            put("Content-Length: +3\r\n"),
            put(""),
            "PUT /v1/jobs/a/updates/b HTTP/1.0\r\nContent-Length: 3\r\n\r\n".into(),
            "PUT /v1/jobs/a/updates/b%2fc HTTP/1.1\r\nContent-Length: 3\r\n\r\n".into(),
            "GET /v1/jobs/a/model HTTP/1.1\r\n\r\n".into(),
        ] {
            assert!(
                matches!(next(other.as_bytes()), Next::Other { .. }),
                "{other}"
            );
        }
        assert_eq!(
            next(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"),
            Next::Other { keep_alive: false }
        );
        assert_eq!(
            next(b"\x16\x03\x01 not http"),
            Next::Other { keep_alive: false }
        );
    }

    #[test]
    fn http2_is_recognised_in_pieces() {
        for end in 1..HTTP2_PREFACE.len() {
            assert_eq!(next(&HTTP2_PREFACE[..end]), Next::Incomplete, "{end}");
        }
        assert_eq!(next(HTTP2_PREFACE), Next::Http2);
        assert_eq!(next(b""), Next::Incomplete);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = next(&bytes);
        }
    }
}
