//! Errors as the HTTP interface tells them: RFC 9457 problem details.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The media type of a [`Problem`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// A problem document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the kind of problem; programs may tell problems apart by it.
    #[serde(rename = "type", default = "blank")]
    pub kind: String,
    /// What kind of problem it is, the same for every occurrence.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What happened, to what, and what to do.
    #[serde(default)]
    pub detail: String,
    /// The wrong fields, when manifests are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// More for programs, such as the open round.
    #[serde(flatten)]
    pub extensions: Map<String, Value>,
}

/// A wrong field of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The manifest's place in the request's array, from 0.
    #[serde(default)]
    pub manifest: usize,
    /// The field, as in `spec.round.quorum` or `spec.list[2]`; empty for the manifest as a whole.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem of the kind `slug`, such as `wrong-round`.
    pub fn new(status: u16, slug: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("https://tributary.dev/problems/{slug}"),
            title: title.into(),
            status,
            detail: detail.into(),
            errors: Vec::new(),
            extensions: Map::new(),
        }
    }

    /// The same problem with one more member for programs.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(member.into(), value.into());
        self
    }

    /// The last part of the type: `wrong-round`.
    #[must_use]
    pub fn slug(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            write!(f, "{}", self.title)
        } else {
            write!(f, "{}", self.detail)
        }
    }
}

impl std::error::Error for Problem {}

impl FieldError {
    /// An error of the first or only manifest.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            manifest: 0,
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}", self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

fn blank() -> String {
    "about:blank".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_members_of_the_document() {
        let problem =
            Problem::new(409, "wrong-round", "Wrong round", "round 3 is open").with("round", 3);
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "https://tributary.dev/problems/wrong-round", "title": "Wrong round",
                "status": 409, "detail": "round 3 is open", "round": 3
            })
        );
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
        assert_eq!(problem.slug(), "wrong-round");
    }
}
