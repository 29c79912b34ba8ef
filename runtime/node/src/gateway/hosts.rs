//! Which requests are meant for this server, and come from no web page of somebody else's.
//!
//! A browser sends requests to any address that a page names, loopback addresses as well, and calls a server by
//! whatever name its page has resolved to it. There is no authentication that would stop them, so every request has
//! to call the server by a name that is its own, and may not come from a page of another origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use tributary_api::problem::Problem;

/// Ends of names that no stranger can have: the public name system does not know them.
const PRIVATE_ENDS: [&str; 4] = [".internal", ".local", ".svc", ".home.arpa"];

/// The names that a server answers to.
///
/// An address is always one: only a name can be pointed elsewhere than its page came from. So is `localhost`. Where
/// others reach the server, names that only the own network knows are its own as well.
#[derive(Clone, Debug)]
pub struct Hosts {
    names: Vec<String>,
    private: bool,
}

impl Hosts {
    /// The names of a server that listens on `address`, and has been given `names`.
    #[must_use]
    pub fn new(address: IpAddr, names: impl IntoIterator<Item = HostName>) -> Self {
        Self {
            names: names.into_iter().map(|name| name.0).collect(),
            private: !address.is_loopback(),
        }
    }

    /// Whether `host` is a name of this server.
    fn include(&self, host: &str) -> bool {
        let name = host.strip_suffix('.').unwrap_or(host);
        is_address(name)
            || name.eq_ignore_ascii_case("localhost")
            || ends_in(name, ".localhost")
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
            || self.private && is_private(name)
    }

    /// Refuses a request that is not meant for this server, or that another server's page has made.
    pub(super) fn check<'a, H>(&self, visit: Visit<'a, H>) -> Result<(), Unwelcome>
    where
        H: Iterator<Item = (&'a str, &'a [u8])>,
    {
        let (mut host, mut origin, mut json) = (None, None, None);
        for (name, value) in visit.headers {
            if name.eq_ignore_ascii_case("host") {
                if host.replace(text(value)?).is_some() {
                    return Err(Unwelcome::Hosts("two Host headers"));
                }
            } else if name.eq_ignore_ascii_case("origin") {
                if origin.replace(value).is_some() {
                    return Err(Unwelcome::foreign(value));
                }
            } else if name.eq_ignore_ascii_case("sec-fetch-site") {
                if !matches!(value.trim_ascii(), b"same-origin" | b"none") {
                    return Err(Unwelcome::foreign(value));
                }
            } else if name.eq_ignore_ascii_case("content-type") {
                json = Some(json.unwrap_or(true) && is_json(value));
            }
        }
        if host.is_none() && visit.authority.is_none() && visit.names_host {
            return Err(Unwelcome::Hosts("no Host header"));
        }
        for authority in host.into_iter().chain(visit.authority) {
            let called =
                host_of(authority).ok_or(Unwelcome::Hosts("no host in its Host header"))?;
            if !self.include(called) {
                return Err(Unwelcome::Host(called.chars().take(255).collect()));
            }
        }
        if let Some(origin) = origin {
            let page = text(origin)?.split_once("://").map(|(_, page)| page);
            let own = visit.authority.or(host);
            if !page
                .zip(own)
                .is_some_and(|(page, own)| page.eq_ignore_ascii_case(own))
            {
                return Err(Unwelcome::foreign(origin));
            }
        }
        // What a form can send is refused: that needs no browser's consent.
        if visit.posts && !json.unwrap_or(!visit.has_body) {
            return Err(Unwelcome::NotJson);
        }
        Ok(())
    }
}

/// What a request's head says of itself.
pub(super) struct Visit<'a, H> {
    pub posts: bool,
    pub has_body: bool,
    /// Its version wants it to name the host.
    pub names_host: bool,
    /// The host in its target.
    pub authority: Option<&'a str>,
    pub headers: H,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unwelcome {
    #[error("the request has {0}; one names the server, as in `Host: localhost:7878`")]
    Hosts(&'static str),
    #[error(
        "this server does not answer to the name {0}: call it by its address, or start it with --host {0} if the \
         name is its own"
    )]
    Host(String),
    #[error(
        "the request comes from a web page of another origin ({0}), and those are refused: send it without a browser"
    )]
    Origin(String),
    #[error("the body of a POST is JSON: send it with `Content-Type: application/json`")]
    NotJson,
}

impl Unwelcome {
    fn foreign(origin: &[u8]) -> Self {
        let origin = String::from_utf8_lossy(origin);
        Self::Origin(origin.chars().take(255).collect())
    }

    pub(super) fn problem(&self) -> Problem {
        let (status, slug, title) = match self {
            Self::Hosts(_) => (400, "malformed-request", "Malformed request"),
            Self::Host(_) => (403, "foreign-host", "Not this server's name"),
            Self::Origin(_) => (403, "foreign-origin", "From a page of another origin"),
            Self::NotJson => (415, "not-json", "Not JSON"),
        };
        Problem::new(status, slug, title, self.to_string())
    }
}

fn text(value: &[u8]) -> Result<&str, Unwelcome> {
    let text = std::str::from_utf8(value.trim_ascii());
    text.map_err(|_| Unwelcome::Hosts("a Host or Origin header that is no text"))
}

/// The host of `HOST` or `HOST:PORT`; an address of IPv6 without its brackets.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (is_ipv6(address).then_some(address)?, port)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            (host.bytes().all(plain).then_some(host)?, port)
        }
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    let is_port =
        port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    (!host.is_empty() && is_port).then_some(host)
}

fn is_address(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok() || is_ipv6(host)
}

/// With or without the link that a link-local address belongs to.
fn is_ipv6(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

fn is_private(name: &str) -> bool {
    !name.contains('.') || PRIVATE_ENDS.iter().any(|end| ends_in(name, end))
}

fn ends_in(name: &str, end: &str) -> bool {
    let begin = name.len().checked_sub(end.len());
    begin
        .and_then(|begin| name.get(begin..))
        .is_some_and(|found| found.eq_ignore_ascii_case(end))
}

fn is_json(kind: &[u8]) -> bool {
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// A name that a server answers to, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

/// Why a text is no name of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a host; write it without scheme, port and path, as in models.example.org"
)]
pub struct HostNameError(String);

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = host_of(text).filter(|host| *host == text);
        let host = whole.ok_or_else(|| HostNameError(text.into()))?;
        Ok(Self(host.strip_suffix('.').unwrap_or(host).into()))
    }
}

impl HostName {
    /// The host of a URL such as `http://HOST:PORT`, if it has one that is a name.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        let (_, authority) = url.split_once("://")?;
        host_of(authority.trim_end_matches('/')).map(|host| Self(host.into()))
    }
}

#[cfg(test)]
mod tests;
