//! What a failed attempt means: try again, or tell who asked.

use std::error::Error as StdError;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode, stream::ConsumerErrorKind};

use crate::Error;

/// Why an attempt has failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may succeed in a moment: nobody led, nobody answered.
    Again(String),
    /// It will not.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// Reads an error of the client library.
    pub(super) fn of(what: &str, error: &(dyn StdError + 'static)) -> Self {
        match refusal(error) {
            Some(refusal) => Self::refused(what, refusal),
            None => Self::Again(told(error)),
        }
    }

    /// Reads a refusal of the server.
    pub(super) fn refused(what: &str, refusal: &jetstream::Error) -> Self {
        match refusal.error_code() {
            ErrorCode::STREAM_NOT_FOUND => {
                let what = format!("the stream of {what}");
                return Self::Final(Error::NotFound { what });
            }
            // The server's storage, or a limit of the stream's.
            ErrorCode::INSUFFICIENT_RESOURCES | ErrorCode::STREAM_STORE_FAILED => {
                let what = what.to_owned();
                return Self::Final(Error::Full { what });
            }
            _ => {}
        }
        let passing = refusal.code() == 503
            || matches!(
                refusal.error_code(),
                // A cluster that is not complete; a copy of the message that is being stored.
                ErrorCode::CLUSTER_NO_PEERS | ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
            );
        if passing {
            Self::Again(refusal.to_string())
        } else {
            Self::Final(Error::malformed(what, refusal))
        }
    }

    /// Reads an error about a consumer.
    pub(super) fn of_consumer(what: &str, error: &jetstream::stream::ConsumerError) -> Self {
        match error.kind() {
            ConsumerErrorKind::JetStream(refusal) => Self::refused(what, &refusal),
            _ => Self::of(what, error),
        }
    }
}

/// What the server has said, if it has said anything.
fn refusal<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a jetstream::Error> {
    let mut chain = Some(error);
    while let Some(link) = chain {
        if let Some(refusal) = link.downcast_ref() {
            return Some(refusal);
        }
        chain = link.source();
    }
    None
}

/// Whether a message was refused because it expects another newest message of its subject.
pub(super) fn expects_another(error: &PublishError) -> bool {
    // A cluster answers so while another message of the subject is on its way; the library has no kind for that.
    let constant = ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT;
    error.kind() == PublishErrorKind::WrongLastSequence
        || refusal(error).is_some_and(|refusal| refusal.error_code() == constant)
}

/// An error with its causes.
pub(super) fn told(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
