//! Messages: stored and live ones, work, requests.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, Stream};

/// How long what is kept, and awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Messages older than this are forgotten, consumed or not.
    pub age: Duration,
    /// Within this time, a second message with the same id is dropped.
    pub duplicates: Duration,
    /// A delivery that is not acknowledged within this time is delivered again; [`Delivery::progress`] begins it anew.
    pub acknowledge: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(24 * 60 * 60),
            duplicates: Duration::from_secs(2 * 60),
            acknowledge: Duration::from_secs(10),
        }
    }
}

/// The most pieces of work that all who consume under one name have in hand, or have put off. What is more waits.
pub const IN_HAND_MAX: usize = 256;

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it was published on.
    pub subject: String,
    /// The publisher's name for it; empty if a foreign publisher gave none.
    pub id: String,
    /// The content.
    pub payload: Bytes,
}

/// Messages between processes.
///
/// Two kinds are stored, and only these can be published: `events.>`, kept for [`Retention::age`] whoever has read
/// them; and `updates.>`, work that is gone once somebody has acknowledged it.
#[async_trait]
pub trait Bus: Debug + Send + Sync + 'static {
    /// Stores a message; `id` is counted once within [`Retention::duplicates`], so publishing again is safe.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Malformed`] if the subject begins with neither `events.` nor `updates.`.
    async fn publish(&self, subject: &str, id: &str, payload: Bytes) -> Result<(), Error>;

    /// The events that are published from now on, in order, each once. `filter` begins with `events.`.
    ///
    /// When the connection is lost the stream says so once, as an error, and then goes on where it was.
    async fn subscribe(&self, filter: &str) -> Result<Stream<Result<Message, Error>>, Error>;

    /// Messages, old ones first, at least once, and each to one of all who consume under the name `durable`.
    ///
    /// What was acknowledged is remembered under that name, over restarts. `filter` begins with `events.` or `updates.`;
    /// filters of work must not overlap, because each piece of work is done once. The stream reports a lost connection
    /// as [`Bus::subscribe`] does.
    async fn consume(
        &self,
        durable: &str,
        filter: &str,
    ) -> Result<Stream<Result<Delivery, Error>>, Error>;

    /// Asks whoever serves the subject, and waits for the answer. Nothing is stored.
    ///
    /// # Errors
    /// [`Error::NoResponder`] at once if nobody serves; [`Error::Timeout`] if nobody has answered in time.
    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, Error>;

    /// The requests to a subject, which may have wildcards. If several serve it, each request reaches one of them. It is
    /// served when this returns, and until the stream is dropped; of several NATS servers, the others hear of it a moment
    /// later.
    async fn serve(&self, subject: &str) -> Result<Stream<Request>, Error>;
}

/// Takes the answer to a [`Delivery`]. For implementations.
#[async_trait]
pub trait Acknowledge: Send + Sync {
    /// The message is done with, and this is known when it returns.
    async fn ack(self: Box<Self>) -> Result<(), Error>;
    /// The message is to come again, not before `delay` is over.
    async fn nak(self: Box<Self>, delay: Duration) -> Result<(), Error>;
    /// The message is being worked at.
    async fn progress(&self) -> Result<(), Error>;
}

/// A message that waits for its acknowledgement. Dropped without one, it comes again after [`Retention::acknowledge`].
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// How often it has been delivered, this time included.
    pub attempt: u64,
    handle: Box<dyn Acknowledge>,
}

impl Delivery {
    /// A delivery whose answer goes to `handle`. For implementations.
    #[must_use]
    pub fn new(message: Message, attempt: u64, handle: Box<dyn Acknowledge>) -> Self {
        Self {
            message,
            attempt,
            handle,
        }
    }

    /// Done: it does not come again. Returns when the store has confirmed it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: it may come again.
    pub async fn ack(self) -> Result<(), Error> {
        self.handle.ack().await
    }

    /// Not done: it is to come again, after `delay` at the earliest.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: it comes again when its time is over.
    pub async fn nak(self, delay: Duration) -> Result<(), Error> {
        self.handle.nak(delay).await
    }

    /// Still worked at: it does not come again for another [`Retention::acknowledge`].
    ///
    /// # Errors
    /// [`Error::Unavailable`]: it may come again.
    pub async fn progress(&self) -> Result<(), Error> {
        self.handle.progress().await
    }
}

impl Debug for Delivery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Delivery")
            .field("message", &self.message)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Takes the answer to a [`Request`]. For implementations.
#[async_trait]
pub trait Respond: Send + Sync {
    /// Sends the answer to who asked.
    async fn respond(self: Box<Self>, payload: Bytes) -> Result<(), Error>;
}

/// A request that waits for its answer. Dropped without one, who asked waits in vain.
pub struct Request {
    /// What it was sent to.
    pub subject: String,
    /// The content.
    pub payload: Bytes,
    handle: Box<dyn Respond>,
}

impl Request {
    /// A request whose answer goes to `handle`. For implementations.
    #[must_use]
    pub fn new(subject: String, payload: Bytes, handle: Box<dyn Respond>) -> Self {
        Self {
            subject,
            payload,
            handle,
        }
    }

    /// Answers. Whether the answer arrived is not known here: who asked will ask again.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::TooLarge`].
    pub async fn respond(self, payload: Bytes) -> Result<(), Error> {
        self.handle.respond(payload).await
    }
}

impl Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("subject", &self.subject)
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}
