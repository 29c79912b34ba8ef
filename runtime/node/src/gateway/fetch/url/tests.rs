//! Whatever is allowed is where the prefix says, in the eyes of another reader as well.

use super::*;
use proptest::prelude::*;
use url::Url;

fn allows(prefix: &str, url: &str) -> bool {
    let prefix: Prefix = prefix.parse().unwrap();
    url.parse().is_ok_and(|target| prefix.allows(&target))
}

#[test]
fn a_prefix_is_an_origin_and_whole_segments() {
    for (prefix, url, expected) in [
        ("http://files.example", "http://files.example", true),
        (
            "http://files.example",
            "http://files.example/a/b?sig=1",
            true,
        ),
        ("http://files.example/", "http://FILES.example:80/a", true),
        ("http://files.example:81", "http://files.example/a", false),
        ("http://files.example", "https://files.example/a", false),
        ("https://files.example", "https://files.example:443/a", true),
        (
            "http://files.example",
            "http://files.example.evil.com/a",
            false,
        ),
        (
            "http://files.example",
            "http://files.example@evil.com/a",
            false,
        ),
        (
            "http://files.example",
            "http://evil.com/http://files.example/",
            false,
        ),
        (
            "http://files.example",
            "http://evil.com#http://files.example/",
            false,
        ),
        (
            "http://files.example",
            "http://files.example\\@evil.com/",
            false,
        ),
        ("http://files.example", "http://files.example.", false),
        ("http://files.example", "//files.example/a", false),
        ("http://files.example", "file:///etc/passwd", false),
        ("http://h/updates", "http://h/updates", true),
        ("http://h/updates", "http://h/updates/a", true),
        ("http://h/updates", "http://h/updates?a", true),
        ("http://h/updates", "http://h/updates2/a", false),
        ("http://h/updates/", "http://h/updates/a", true),
        ("http://h/updates", "http://h/updates/../secret", false),
        ("http://h/updates", "http://h/updates/%2e%2E/secret", false),
        ("http://h/updates", "http://h/updates/..;x/secret", false),
        ("http://h/updates", "http://h/updates/..%2fsecret", false),
        ("http://h/updates", "http://h/updates/..%5csecret", false),
        (
            "http://h/updates",
            "http://h/updates/%252e%252e/secret",
            false,
        ),
        (
            "http://h/updates",
            "http://h/updates/a\r\nhost: evil",
            false,
        ),
        ("http://h/updates", "http://h/%75pdates/a", false),
        ("http://[::1]:8000", "http://[0:0::1]:8000/a", true),
        ("http://[::1]:8000", "http://[::2]:8000/a", false),
        ("http://127.0.0.1", "http://2130706433/", false),
    ] {
        assert_eq!(allows(prefix, url), expected, "{prefix} {url}");
    }
}

#[test]
fn what_is_no_prefix_says_why() {
    for (text, part) in [
        ("files.example", "neither http:// nor https://"),
        ("ftp://files.example", "neither http:// nor https://"),
        ("http://", "neither a name nor an address"),
        ("http://user@files", "names a user"),
        ("http://files:0", "no number"),
        ("http://files:70000", "no number"),
        ("http://files:+80", "no number"),
        ("http://[::1", "closing bracket"),
        ("http://files/a?b", "has no query"),
        ("http://files/a/../b", "dots"),
        ("http://files/*.x y", "percent-encoded"),
    ] {
        let error = text.parse::<Prefix>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_query_is_not_shown() {
    let target: Target = "https://files:444/a?signature=secret".parse().unwrap();
    assert_eq!(target.to_string(), "https://files:444/a");
    assert_eq!(target.path_and_query(), "/a?signature=secret");
}

/// Parts of URLs, as one would put them together to get through.
fn tricky() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("http://".to_owned()),
        Just("https://".to_owned()),
        Just("good.example".to_owned()),
        Just("evil.com".to_owned()),
        Just("[::1]".to_owned()),
        Just("updates".to_owned()),
        "[/.:@?#;\\\\%&=]{1,2}",
        "(%2e|%2E|%2f|%5c|%40|%00|%25)",
        "[a-z0-9\t\r\n \u{e9}]{0,3}",
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// Mostly below the prefix, with something behind it.
fn near() -> impl Strategy<Value = String> {
    let beginning = prop_oneof![
        Just("http://good.example/updates"),
        Just("http://good.example"),
        Just("http://"),
        Just("")
    ];
    (beginning, tricky()).prop_map(|(beginning, rest)| format!("{beginning}{rest}"))
}

proptest! {
    /// The other reader is the one of browsers: it decodes, resolves dots, and drops what it takes for noise.
    #[test]
    fn what_is_allowed_is_there_for_every_reader(text in near()) {
        let prefix: Prefix = "http://good.example/updates".parse().unwrap();
        let Ok(target) = text.parse::<Target>() else { return Ok(()) };
        let read = Url::parse(&text).unwrap();
        prop_assert_eq!(read.username(), "");
        prop_assert_eq!(read.password(), None);
        prop_assert_eq!(read.port_or_known_default(), Some(target.port));
        prop_assert_eq!(read.path(), target.path.as_str(), "nothing is resolved");
        prop_assert_eq!(read.query(), target.query.as_deref());
        if prefix.allows(&target) {
            prop_assert_eq!(read.scheme(), "http");
            prop_assert_eq!(read.host_str(), Some("good.example"));
            prop_assert_eq!(read.port_or_known_default(), Some(80));
            let segments: Vec<_> = read.path_segments().unwrap().collect();
            prop_assert_eq!(segments[0], "updates");
        }
    }

    /// What is asked for is what was compared.
    #[test]
    fn what_is_asked_for_reads_as_the_same(text in near()) {
        let Ok(target) = text.parse::<Target>() else { return Ok(()) };
        let scheme = if target.secure { "https" } else { "http" };
        let asked = format!("{scheme}://{}{}", target.authority(), target.path_and_query());
        prop_assert_eq!(asked.parse::<Target>().unwrap(), target);
    }

    #[test]
    fn everything_below_a_prefix_is_allowed_and_nothing_beside_it(
        path in "(/[a-z]{1,3}){0,3}", below in "(/[a-z]{0,3}){0,3}", beside in "[a-z.-]{1,3}",
    ) {
        let prefix = format!("http://h:81{path}");
        let url = format!("{prefix}{}{}", path, below);
        prop_assert!(allows(&prefix, &url));
        let url = format!("{prefix}{below}");
        prop_assert!(allows(&prefix, &url));
        if !path.is_empty() {
            let url = format!("{prefix}{beside}");
            prop_assert!(!allows(&prefix, &url));
        }
    }
}
