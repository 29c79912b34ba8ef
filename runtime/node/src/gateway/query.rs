//! The query of a request's target.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// Keys and values, percent-decoded. A plus sign is itself: it stands in numbers such as `1e+22`.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // What is no text becomes a text that no parameter has.
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
        (decoded(key), decoded(value))
    })
}
