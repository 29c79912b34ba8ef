use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// What comes next, and all at once.
fn next(bytes: &[u8]) -> Next {
    super::next(bytes, &mut Search::default(), &hosts())
}

fn hosts() -> Hosts {
    Hosts::new(Ipv4Addr::LOCALHOST.into(), [])
}

fn update(head: &str) -> Option<UpdateHead> {
    match next(head.as_bytes()) {
        Next::Update(head) => Some(head),
        _ => None,
    }
}

#[test]
fn an_update_is_recognised() {
    let text = "PUT /v1/jobs/digits/updates/c-1?round=2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\nb\0\ny";
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
    assert_eq!(&text[head_bytes..], "b\0\ny");
}

#[test]
fn a_partial_is_recognised() {
    let put = |path: &str, headers: &str| {
        let text = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\nbody");
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
        format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes(),
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
    let put = |headers: &str| {
        format!("PUT /v1/jobs/a/updates/b HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
    };
    for other in [
        put("Transfer-Encoding: chunked\r\n"),
        put("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        put("Content-Length: 3\r\nContent-Length: 4\r\n"),
        put("Content-Length: +3\r\n"),
        put(""),
        "PUT /v1/jobs/a/updates/b HTTP/1.0\r\nContent-Length: 3\r\n\r\n".into(),
        "PUT /v1/jobs/a/updates/b%2fc HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n"
            .into(),
        "GET /v1/jobs/a/model HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
    ] {
        assert!(
            matches!(next(other.as_bytes()), Next::Other { .. }),
            "{other}"
        );
    }
    assert_eq!(
        next(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        Next::Other { bytes: None }
    );
}

#[test]
fn a_body_whose_length_is_not_told_plainly_is_the_connections_last() {
    let kept = |headers: &str| {
        let head = format!("PUT /v1/apply HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let bytes = next(head.as_bytes()).bytes();
        bytes.map(|bytes| bytes - head.len() as u64)
    };
    assert_eq!(
        (kept(""), kept("Content-Length: 7\r\n")),
        (Some(0), Some(7))
    );
    for headers in [
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert_eq!(kept(headers), None, "{headers}");
    }
}

#[test]
fn what_is_no_head_is_refused() {
    let refused = |bytes: &str| match next(bytes.as_bytes()) {
        Next::Refused(problem) => Some((problem.status, problem.slug().to_owned())),
        _ => None,
    };
    let get = "GET / HTTP/1.1\r\nHost: localhost\r\n";
    let malformed = || Some((400, "malformed-request".to_owned()));
    for bad in [
        "\x16\x03\x01 not http",
        "GET / HTTP/1.1\nHost: localhost\n\n",
        "GET / HTTP/1.1\r\nHost: localhost\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\n",
        "\nGET",
        "GET / HTTP/1.1\r\nA: b\rHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(refused(bad), malformed(), "{bad:?}");
    }
    assert_eq!(refused(&format!("\r\n\r\n{get}\r\n")), None);
    let many = format!("{get}{}\r\n", "a: b\r\n".repeat(HEADERS_MAX));
    assert_eq!(refused(&many), Some((431, "head-too-large".to_owned())));
    let there = "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(refused(there), Some((403, "foreign-host".to_owned())));
    let form = "POST /v1/apply HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(refused(form), Some((415, "not-json".to_owned())));
}

#[test]
fn a_head_is_the_same_in_pieces() {
    let text =
        "\r\nPUT /v1/jobs/a/updates/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n";
    let (mut search, hosts) = (Search::default(), hosts());
    for end in 0..text.len() {
        let next = super::next(&text.as_bytes()[..end], &mut search, &hosts);
        assert_eq!(next, Next::Incomplete, "{end}");
    }
    let whole = super::next(text.as_bytes(), &mut search, &hosts);
    assert!(
        matches!(&whole, Next::Update(head) if head.framing.head_bytes == text.len()),
        "{whole:?}"
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
