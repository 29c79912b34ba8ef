//! Which URLs may be fetched: a comparison without I/O.
//!
//! A URL is read strictly: whatever different programs might read differently is no URL here. What was compared is
//! what is asked for, byte by byte, so nobody reads it a second time.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The longest URL.
const BYTES_MAX: usize = 4096;

/// A URL that can be fetched, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(super) secure: bool,
    /// In lower case; an address of IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Begins with a slash.
    path: String,
    query: Option<String>,
}

/// A beginning of URLs that may be fetched: an origin, and the first segments of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Target);

/// Why a text is no URL that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no URL that can be fetched: {why}")]
pub struct UrlError {
    why: &'static str,
}

impl FromStr for Target {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let bad = |why| UrlError { why };
        if text.len() > BYTES_MAX {
            return Err(bad("it is longer than 4096 characters"));
        }
        let plain = |byte: u8| byte.is_ascii_graphic() && !br#"\"<>^`{|}#"#.contains(&byte);
        if !text.bytes().all(plain) {
            return Err(bad(
                "it has characters that have to be percent-encoded, or a fragment",
            ));
        }
        let (secure, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(bad("it begins with neither http:// nor https://")),
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (rest, None),
        };
        let (host, port) = authority_of(authority, if secure { 443 } else { 80 })?;
        if !path.split('/').all(is_plain_segment) {
            return Err(bad(
                "its path has dots for segments, or something encoded that is no part of a name",
            ));
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            secure,
            host,
            port,
            path: path.to_owned(),
            query,
        })
    }
}

/// Host and port.
fn authority_of(text: &str, usual: u16) -> Result<(String, u16), UrlError> {
    let bad = |why| UrlError { why };
    if text.contains('@') {
        return Err(bad("it names a user; leave that out"));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest
            .split_once(']')
            .ok_or(bad("its host has no closing bracket"))?;
        let address: Ipv6Addr = address.parse().map_err(|_| bad("its host is no address"))?;
        return Ok((address.to_string(), port_of(port, usual)?));
    }
    let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || !host.bytes().all(letter) {
        return Err(bad("its host is neither a name nor an address"));
    }
    Ok((host.to_ascii_lowercase(), port_of(port, usual)?))
}

/// Nothing, or a colon and a number.
fn port_of(text: &str, usual: u16) -> Result<u16, UrlError> {
    if text.is_empty() {
        return Ok(usual);
    }
    let digits = text.strip_prefix(':').unwrap_or_default();
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| plain && *port > 0);
    port.ok_or(UrlError {
        why: "its port is no number from 1 to 65535",
    })
}

/// A segment that every server takes for a name, and none for a way up or for two segments.
fn is_plain_segment(segment: &str) -> bool {
    let Some(decoded) = decoded(segment) else {
        return false;
    };
    // Some servers cut parameters off before they look for dots.
    let name = decoded
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    !matches!(name, b"." | b"..")
        && !decoded
            .iter()
            .any(|byte| byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | b'%'))
}

/// With percent-encoded bytes as themselves; `None` if a percent sign begins none.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            (high * 16 + low) as u8
        } else {
            byte
        });
    }
    Some(decoded)
}

impl Target {
    /// Host and port as a request names them.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// What a request asks for.
    pub(super) fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// Without the query: it may be a signature.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl FromStr for Prefix {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let mut target: Target = text.parse()?;
        if target.query.is_some() {
            let why = "a prefix has no query: every query is allowed";
            return Err(UrlError { why });
        }
        // `/a` and `/a/` are the same beginning.
        target
            .path
            .truncate(target.path.trim_end_matches('/').len());
        Ok(Self(target))
    }
}

impl Prefix {
    /// Whether a URL is one of those: of the same origin, and below the same segments.
    pub(crate) fn allows(&self, target: &Target) -> bool {
        let Self(own) = self;
        let origin = (own.secure, own.host.as_str(), own.port);
        let below = target.path.strip_prefix(own.path.as_str());
        origin == (target.secure, target.host.as_str(), target.port)
            && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether it is about `https`.
    pub(super) fn is_secure(&self) -> bool {
        self.0.secure
    }
}

#[cfg(test)]
mod tests;
