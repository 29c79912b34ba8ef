//! Answers to requests that this gateway reads itself.

use super::ingest::Taken;
use super::refusal::Refusal;
use http::StatusCode;
use serde::Serialize;
use std::io;
use tributary_api::problem::{self, Problem};

/// A problem as it is answered.
pub(super) struct Refused {
    problem: Problem,
    /// Headers that only refusals have.
    headers: String,
}

impl Refused {
    pub(super) fn new(problem: Problem) -> Self {
        Self {
            problem,
            headers: String::new(),
        }
    }

    /// A problem that may be gone in a second.
    pub(super) fn for_a_moment(problem: Problem) -> Self {
        Self {
            headers: "retry-after: 1\r\n".into(),
            ..Self::new(problem)
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            headers: headers_of(&refusal),
            ..Self::new(refusal.problem())
        }
    }
}

/// What a client whose update was taken is told.
pub(super) fn taken(
    outcome: Result<Taken, Refusal>,
) -> Result<(StatusCode, Option<impl Serialize>), Refusal> {
    outcome.map(|(accepted, receipt)| {
        let status = if accepted.repeated {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        };
        (status, Some(receipt))
    })
}

/// An answer's bytes: a status with or without a document, or a problem.
pub(super) fn answer(
    outcome: Result<(StatusCode, Option<impl Serialize>), Refused>,
    keep: bool,
) -> io::Result<Vec<u8>> {
    let (status, content_type, text, more) = match outcome {
        Ok((status, document)) => {
            let text = document.map(|document| serde_json::to_vec(&document));
            (status, "application/json", text.transpose()?, String::new())
        }
        Err(Refused { problem, headers }) => {
            let status =
                StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let text = serde_json::to_vec(&problem)?;
            (status, problem::CONTENT_TYPE, Some(text), headers)
        }
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
    if let Some(text) = &text {
        let length = text.len();
        head += &format!("content-type: {content_type}\r\ncontent-length: {length}\r\n");
    }
    head += &more;
    head += if keep {
        "\r\n"
    } else {
        "connection: close\r\n\r\n"
    };
    let mut answer = head.into_bytes();
    answer.extend(text.unwrap_or_default());
    Ok(answer)
}

/// Headers that only refusals have.
fn headers_of(refusal: &Refusal) -> String {
    let retry_after = refusal
        .retry_after()
        .map(|seconds| format!("retry-after: {seconds}\r\n"));
    let location = refusal.location().map(|url| format!("location: {url}\r\n"));
    retry_after.into_iter().chain(location).collect()
}
