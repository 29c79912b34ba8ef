//! Updates by reference: where the file of an update lies, who fetches it, and events that submit one.

use std::{collections::BTreeSet, fmt, fmt::Debug};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ClientName, Digest, Name, event::EventKind, problem::Problem, status::UpdateReceipt};

/// Where an update's file lies, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Members", into = "Members")]
pub struct Reference {
    /// Where it lies.
    pub place: Place,
    /// What its bytes must hash to.
    pub digest: Option<Digest>,
}

/// Where a file lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a URL.
    Url(String),
    /// In the object store.
    Object(ObjectName),
}

/// An object of the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectName {
    /// Its bucket, without the prefix of all names.
    pub bucket: String,
    /// Its name there.
    pub name: String,
}

/// A reference as it stands in a document: one of `url` and `object`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<ObjectName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

/// A document that says not where, or says two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("say where the update is: either \"url\", or \"object\" with its \"bucket\" and \"name\"")]
pub struct NoPlace;

impl TryFrom<Members> for Reference {
    type Error = NoPlace;

    fn try_from(members: Members) -> Result<Self, NoPlace> {
        let place = match (members.url, members.object) {
            (Some(url), None) => Place::Url(url),
            (None, Some(object)) => Place::Object(object),
            _ => return Err(NoPlace),
        };
        let digest = members.digest;
        Ok(Self { place, digest })
    }
}

impl From<Reference> for Members {
    fn from(Reference { place, digest }: Reference) -> Self {
        let (url, object) = match place {
            Place::Url(url) => (Some(url), None),
            Place::Object(object) => (None, Some(object)),
        };
        Self {
            url,
            object,
            digest,
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {} of bucket {}", self.name, self.bucket)
    }
}

/// An event that submits an update by reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The event's id, unique for its source.
    pub id: String,
    /// Who tells the event.
    pub source: String,
    /// Whose update it is.
    pub client: ClientName,
    /// The round that it was trained for.
    pub round: u64,
    /// Its weight; without one the file says it, or it is 1.
    pub weight: Option<f64>,
    /// Where its file lies.
    pub reference: Reference,
}

/// What is looked at in a CloudEvent; it may have more.
#[derive(Deserialize)]
struct CloudEvent {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmissionData {
    client: ClientName,
    round: u64,
    #[serde(default)]
    weight: Option<f64>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    object: Option<ObjectName>,
    #[serde(default)]
    digest: Option<Digest>,
}

/// Why a message submits no update. Sending it again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEvent {
    /// Not what CloudEvents are in their JSON form.
    #[error("it is no CloudEvent in JSON: {0}")]
    NoEvent(String),
    /// Of another version.
    #[error("its specversion is {0:?}; write \"1.0\"")]
    Version(String),
    /// Of another type.
    #[error("its type is {0:?}; updates are submitted by {kind:?}", kind = EventKind::UpdateSubmitted.as_str())]
    Kind(String),
    /// About something else than the job that it was sent to.
    #[error("its subject is {found:?}, and it was published to job {job}; write \"jobs/{job}\"")]
    Subject {
        /// What it says.
        found: String,
        /// The job of the subject on which it was published.
        job: Name,
    },
    /// Its data say no update.
    #[error("its data: {0}")]
    Data(String),
}

impl MalformedEvent {
    /// The document that tells it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (slug, title) = ("malformed-event", "Malformed event");
        Problem::new(400, slug, title, self.to_string())
    }
}

impl Submission {
    /// Reads a message that was published for `job`: a CloudEvent 1.0 in its JSON form.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn read(job: &Name, message: &[u8]) -> Result<Self, MalformedEvent> {
        let event: CloudEvent = serde_json::from_slice(message)
            .map_err(|error| MalformedEvent::NoEvent(error.to_string()))?;
        if event.specversion != "1.0" {
            return Err(MalformedEvent::Version(event.specversion));
        }
        if event.kind != EventKind::UpdateSubmitted.as_str() {
            return Err(MalformedEvent::Kind(event.kind));
        }
        let found = event.subject.unwrap_or_default();
        if found.strip_prefix("jobs/") != Some(job.as_str()) {
            let job = job.clone();
            return Err(MalformedEvent::Subject { found, job });
        }
        let wrong = |why: String| MalformedEvent::Data(why);
        let data: SubmissionData =
            serde_json::from_value(event.data).map_err(|error| wrong(error.to_string()))?;
        let members = Members {
            url: data.url,
            object: data.object,
            digest: data.digest,
        };
        let reference = members
            .try_into()
            .map_err(|error: NoPlace| wrong(error.to_string()))?;
        Ok(Self {
            id: event.id,
            source: event.source,
            client: data.client,
            round: data.round,
            weight: data.weight,
            reference,
        })
    }
}

/// Takes updates that are submitted by reference.
#[async_trait]
pub trait Intake: Send + Sync {
    /// The jobs that run here, as soon as they are others than `known`.
    async fn running(&self, known: &BTreeSet<Name>) -> BTreeSet<Name>;

    /// Takes an update of a job that runs here: here, or at its client's home. May be repeated.
    ///
    /// # Errors
    /// Why it is not taken, as a client is told that sends it by HTTP.
    async fn submit(&self, job: &Name, submission: &Submission) -> Result<UpdateReceipt, Problem>;
}

/// Why an object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Nobody allows it; what would have to be done.
    #[error("{0}")]
    NotAllowed(String),
    /// There is none.
    #[error("{0}")]
    NotFound(String),
    /// The store cannot be reached.
    #[error("{0}")]
    Unavailable(String),
}

/// The object store, as far as updates may be fetched from it.
#[async_trait]
pub trait UpdateObjects: Debug + Send + Sync {
    /// Begins to read an object.
    async fn open(&self, object: &ObjectName) -> Result<OpenObject, ObjectError>;
}

/// An object that is read.
pub struct OpenObject {
    /// Its size.
    pub bytes: u64,
    /// Its content.
    pub content: Box<dyn Pieces>,
}

/// A content in pieces.
#[async_trait]
pub trait Pieces: Send {
    /// The next piece; `None` at the end, an error (its reason) if the rest cannot be read.
    async fn next(&mut self) -> Option<Result<Bytes, String>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    fn job() -> Name {
        "digits".parse().unwrap()
    }

    fn event() -> Value {
        json!({
            "specversion": "1.0", "id": "7", "source": "/clients/c-1", "subject": "jobs/digits",
            "type": "dev.tributary.update.submitted", "time": "2026-11-21T09:58:16Z",
            "data": { "client": "c-1", "round": 3, "weight": 2.5, "url": "http://files/u", "digest": DIGEST }
        })
    }

    fn read(event: &Value) -> Result<Submission, MalformedEvent> {
        Submission::read(&job(), event.to_string().as_bytes())
    }

    #[test]
    fn an_event_says_whose_update_lies_where() {
        let submission = read(&event()).unwrap();
        assert_eq!((submission.id.as_str(), submission.round), ("7", 3));
        assert_eq!(submission.weight, Some(2.5));
        assert_eq!(
            submission.reference.place,
            Place::Url("http://files/u".into())
        );
        assert_eq!(submission.reference.digest, Some(DIGEST.parse().unwrap()));
        let mut other = event();
        other["data"] = json!({ "client": "c-1", "round": 3, "object": { "bucket": "updates", "name": "c-1/3" } });
        let submission = read(&other).unwrap();
        let object = ObjectName {
            bucket: "updates".into(),
            name: "c-1/3".into(),
        };
        assert_eq!(submission.reference.place, Place::Object(object));
        assert_eq!(
            (submission.weight, submission.reference.digest),
            (None, None)
        );
    }

    #[test]
    fn what_is_wrong_with_an_event_is_named() {
        let with = |member: &str, value: Value| {
            let mut event = event();
            event[member] = value;
            event
        };
        let data = |member: &str, value: Value| {
            let mut event = event();
            event["data"][member] = value;
            event
        };
        for (event, part) in [
            (json!([1]), "no CloudEvent"),
            (with("id", Value::Null), "no CloudEvent"),
            (with("specversion", json!("0.3")), "write \"1.0\""),
            (with("type", json!("io.other")), "update.submitted"),
            (
                with("subject", json!("jobs/other")),
                "write \"jobs/digits\"",
            ),
            (with("subject", Value::Null), "write \"jobs/digits\""),
            (with("data", Value::Null), "its data"),
            (data("round", Value::Null), "its data"),
            (data("client", json!("c 1")), "its data"),
            (data("wieght", json!(1)), "wieght"),
            (data("digest", json!("md5:0")), "its data"),
            (data("url", Value::Null), "either \"url\", or \"object\""),
            (
                data("object", json!({ "bucket": "b", "name": "n" })),
                "either \"url\", or \"object\"",
            ),
        ] {
            let error = read(&event).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.problem().slug(), "malformed-event");
        }
        let error = Submission::read(&job(), b"\xff{").unwrap_err();
        assert!(matches!(error, MalformedEvent::NoEvent(_)), "{error}");
    }

    #[test]
    fn a_reference_is_written_as_it_is_read() {
        for text in [
            json!({ "url": "http://a/b" }),
            json!({ "object": { "bucket": "updates", "name": "a/b" }, "digest": DIGEST }),
        ] {
            let reference: Reference = serde_json::from_value(text.clone()).unwrap();
            assert_eq!(serde_json::to_value(reference).unwrap(), text);
        }
        for wrong in [json!({}), json!({ "url": "http://a", "sha": 1 })] {
            assert!(serde_json::from_value::<Reference>(wrong).is_err());
        }
    }
}
