use super::*;

fn hosts(address: &str) -> Hosts {
    let given = ["models.example.org".parse().unwrap()];
    Hosts::new(address.parse().unwrap(), given)
}

fn check(hosts: &Hosts, method: &str, headers: &[(&str, &str)]) -> Result<(), Unwelcome> {
    hosts.check(Visit {
        posts: method == "POST",
        has_body: headers
            .iter()
            .any(|(name, value)| *name == "Content-Length" && *value != "0"),
        names_host: true,
        authority: None,
        headers: headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes())),
    })
}

fn called(hosts: &Hosts, host: &str) -> Result<(), Unwelcome> {
    check(hosts, "GET", &[("host", host)])
}

#[test]
fn a_server_answers_to_addresses_and_its_own_names_alone() {
    let (near, far) = (hosts("127.0.0.1"), hosts("0.0.0.0"));
    for own in [
        "localhost",
        "LocalHost:7878",
        "localhost.",
        "a.localhost:1",
        "127.0.0.1:7878",
        "127.0.0.1",
        "127.0.0.1:",
        "10.0.0.1:8470",
        "[::1]:7878",
        "[::1]",
        "[::ffff:127.0.0.1]:80",
        "[fe80::1%25eth0]:80",
        "models.example.org:443",
        "MODELS.example.org.",
    ] {
        assert_eq!(called(&near, own), Ok(()), "{own}");
        assert_eq!(called(&far, own), Ok(()), "{own}");
    }
    for foreign in [
        "evil.example",
        "localhost.evil.example",
        "models.example.org.evil.example",
        "127.0.0.1.evil.example:7878",
        "notlocalhost.example",
        "127.1.evil.com",
    ] {
        let refused = Err(Unwelcome::Host(foreign.split(':').next().unwrap().into()));
        assert_eq!(called(&near, foreign), refused, "{foreign}");
        assert_eq!(called(&far, foreign), refused, "{foreign}");
    }
    // Names that only the own network can give.
    for private in [
        "node-1",
        "tributary.fl.svc:8470",
        "n.fl.svc.cluster.local",
        "ip-10-0-0-1.ec2.internal",
    ] {
        assert!(called(&near, private).is_err(), "{private}");
        assert_eq!(called(&far, private), Ok(()), "{private}");
    }
}

#[test]
fn a_host_is_named_once_and_properly() {
    let near = hosts("::1");
    let malformed = |headers: &[(&str, &str)]| {
        let refused = check(&near, "GET", headers);
        assert!(
            matches!(refused, Err(Unwelcome::Hosts(_))),
            "{headers:?}: {refused:?}"
        );
    };
    malformed(&[]);
    malformed(&[("Host", "localhost"), ("host", "localhost")]);
    for bad in [
        "",
        ":80",
        "localhost:http",
        "localhost:99999",
        "localhost:80:80",
        "user@localhost",
        "[::1",
        "::1",
        "a b",
        "localhost/",
    ] {
        malformed(&[("Host", bad)]);
    }
    // HTTP/1.0 knows no Host; a target that names one is looked at as well.
    let visit = |authority| Visit {
        posts: false,
        has_body: false,
        names_host: false,
        authority,
        headers: [("host", &b"localhost"[..])]
            .into_iter()
            .filter(move |_| authority.is_some()),
    };
    assert_eq!(near.check(visit(None)), Ok(()));
    assert_eq!(near.check(visit(Some("127.0.0.1:1"))), Ok(()));
    assert!(near.check(visit(Some("evil.example"))).is_err());
}

#[test]
fn pages_of_other_origins_are_refused() {
    let near = hosts("127.0.0.1");
    let from =
        |name: &str, value: &str| check(&near, "GET", &[("Host", "127.0.0.1:7878"), (name, value)]);
    for own in ["http://127.0.0.1:7878", "https://127.0.0.1:7878"] {
        assert_eq!(from("Origin", own), Ok(()), "{own}");
    }
    for foreign in [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1:3000",
        "http://localhost:7878",
        "127.0.0.1:7878",
    ] {
        assert!(
            matches!(from("origin", foreign), Err(Unwelcome::Origin(_))),
            "{foreign}"
        );
    }
    for site in ["same-origin", "none"] {
        assert_eq!(from("Sec-Fetch-Site", site), Ok(()), "{site}");
    }
    for site in ["cross-site", "same-site", ""] {
        assert!(
            matches!(from("sec-fetch-site", site), Err(Unwelcome::Origin(_))),
            "{site}"
        );
    }
}

#[test]
fn what_is_posted_is_json() {
    let near = hosts("127.0.0.1");
    let post = |headers: &[(&str, &str)]| {
        check(&near, "POST", &[&[("Host", "localhost")], headers].concat())
    };
    let length = ("Content-Length", "2");
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_eq!(post(&[length, ("Content-Type", kind)]), Ok(()), "{kind}");
    }
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "application/jsonp",
        "",
    ] {
        assert_eq!(
            post(&[("Content-Type", kind)]),
            Err(Unwelcome::NotJson),
            "{kind}"
        );
    }
    assert_eq!(post(&[length]), Err(Unwelcome::NotJson));
    // Nothing is nothing.
    assert_eq!(post(&[("Content-Length", "0")]), Ok(()));
}

#[test]
fn names_are_given_without_ports() {
    for good in ["models.example.org", "node-1", "a_b"] {
        assert!(good.parse::<HostName>().is_ok(), "{good}");
    }
    for bad in ["", "http://a", "a:80", "a/b", "*", "a b"] {
        assert!(bad.parse::<HostName>().is_err(), "{bad}");
    }
    let name = |url| HostName::of_url(url).map(|name| name.0);
    assert_eq!(
        name("http://n1.example:7879").as_deref(),
        Some("n1.example")
    );
    assert_eq!(name("n1:7879"), None);
}
