//! Says in one line why the kernel refused something.

use std::{error, io};

use aya::maps::MapError;
use rustix::thread::{CapabilitySet, capabilities};

use crate::Error;

/// The longest reason that is shown; a verifier's log has thousands of lines, of which the first says most.
const REASON_CHARS_MAX: usize = 400;

/// Why loading failed at `step`: the capabilities that lack, or else what the kernel said.
pub(super) fn explain(step: &'static str, error: &(dyn error::Error + 'static)) -> Error {
    if let Some(missing) = missing_capabilities() {
        return Error::Privileges { missing };
    }
    let release = release();
    let hint = if older_than(&release, 6, 2) {
        "; the sidecar needs Linux 6.2 or newer"
    } else if is_permission_denied(error) {
        "; the process has the capabilities, but a container or the kernel's lockdown withholds what they allow"
    } else {
        ""
    };
    Error::Refused {
        release,
        step,
        reason: one_line(error),
        hint,
    }
}

/// For `map_err`: a map that cannot be read or changed.
pub(super) fn map(map: &'static str, action: &'static str) -> impl Fn(MapError) -> Error {
    move |error| Error::Map {
        map,
        action,
        reason: one_line(&error),
    }
}

/// The kernel's version.
pub(super) fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn missing_capabilities() -> Option<String> {
    let effective = capabilities(None).ok()?.effective;
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        // It stands for both.
        return None;
    }
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(bit, _)| !effective.contains(*bit))
        .map(|(_, name)| *name)
        .collect();
    (!missing.is_empty()).then(|| missing.join(" and "))
}

fn older_than(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(second))) => (first, second) < (major, minor),
        _ => false,
    }
}

fn is_permission_denied(error: &(dyn error::Error + 'static)) -> bool {
    chain(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

fn chain<'a>(
    error: &'a (dyn error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn error::Error + 'static)> {
    std::iter::successors(Some(error), |cause| cause.source())
}

/// An error and its causes. Some of aya's errors repeat their cause: each text is said once.
pub(super) fn one_line(error: &(dyn error::Error + 'static)) -> String {
    let mut line = String::new();
    for cause in chain(error) {
        let text = cause
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        if !line.contains(&text) {
            let separator = if line.is_empty() { "" } else { ": " };
            line = line + separator + &text;
        }
    }
    match line.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(older_than("6.1.0-44-amd64", 6, 2));
        assert!(older_than("5.19.17", 6, 2));
        assert!(!older_than("6.2.0", 6, 2));
        assert!(!older_than("6.18.44-fc-v669", 6, 2));
        assert!(!older_than("unknown", 6, 2));
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        let error = io::Error::other(format!("first\n second\t{}", "x".repeat(9000)));
        let line = one_line(&error);
        assert!(line.starts_with("first second x"), "{line}");
        assert!(line.len() < 500, "{}", line.len());
    }
}
