//! Durable consumers: pulled, acknowledged one by one, taken up again after every interruption.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, AckKind};
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::bus::{PAUSE, read_message};
use super::connection::{Connection, State};
use super::failure::Failure;
use crate::bus::{Acknowledge, IN_HAND_MAX};
use crate::names::Family;
use crate::{Delivery, Error, Stream as Boxed};

/// Messages that are fetched ahead. What is fetched by one who dies comes again only when its time is over.
const AHEAD: usize = 16;

/// The server says this often that nothing has come. Two missed ones mean that it has forgotten who waits.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long one request for messages is good for.
const EXPIRY: Duration = Duration::from_secs(30);

/// One who consumes under a durable name.
pub(super) struct Consumer {
    connection: Arc<Connection>,
    stream: Stream,
    config: pull::Config,
    session: Option<Session>,
}

struct Session {
    messages: pull::Stream,
    state: watch::Receiver<State>,
    began: State,
}

impl Consumer {
    pub(super) async fn begin(
        connection: Arc<Connection>,
        stream: Stream,
        durable: &str,
        (family, filter): (Family, String),
    ) -> Result<Boxed<Result<Delivery, Error>>, Error> {
        let config = pull::Config {
            durable_name: Some(durable.to_owned()),
            filter_subject: filter,
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: connection.options.retention.acknowledge,
            max_ack_pending: IN_HAND_MAX as i64,
            // A work queue keeps what is not done, so a consumer that nobody needs any more may go. One of events may
            // not: it knows what was read.
            inactive_threshold: match family {
                Family::Events => Duration::ZERO,
                Family::Updates => connection.options.retention.age,
            },
            ..pull::Config::default()
        };
        let mut consumer = Self {
            connection,
            stream,
            config,
            session: None,
        };
        consumer.session = Some(consumer.session().await?);
        let deliveries = stream::unfold(consumer, |mut consumer| async move {
            let delivery = consumer.next().await;
            Some((delivery, consumer))
        });
        Ok(deliveries.boxed())
    }

    async fn session(&self) -> Result<Session, Error> {
        let state = self.connection.state();
        let what = &self.config.filter_subject;
        let begin = || async {
            // Before the first message can be lost.
            let began = *state.borrow();
            let consumer = self.stream.create_consumer(self.config.clone()).await;
            let consumer = consumer.map_err(|error| Failure::of_consumer(what, &error))?;
            let messages = consumer
                .stream()
                .max_messages_per_batch(AHEAD)
                .heartbeat(HEARTBEAT)
                .expires(EXPIRY)
                .messages()
                .await;
            let messages = messages.map_err(|error| Failure::of(what, &error))?;
            Ok((messages, began))
        };
        let (messages, began) = self.connection.call(what, begin).await?;
        Ok(Session {
            messages,
            state,
            began,
        })
    }

    async fn next(&mut self) -> Result<Delivery, Error> {
        loop {
            let Some(session) = &mut self.session else {
                self.take_up().await;
                continue;
            };
            match session.next().await {
                Ok(message) => return Ok(self.delivery(message)),
                Err(error) => {
                    self.session = None;
                    return Err(error);
                }
            }
        }
    }

    async fn take_up(&mut self) {
        match self.session().await {
            Ok(session) => self.session = Some(session),
            Err(error) => {
                tracing::debug!(%error, "a consumer is not taken up yet");
                sleep(PAUSE).await;
            }
        }
    }

    fn delivery(&self, message: jetstream::Message) -> Delivery {
        let delivered = message.info().map_or(1, |info| info.delivered);
        let attempt = u64::try_from(delivered).unwrap_or(1);
        let (message, acker) = message.split();
        let handle = Handle {
            connection: self.connection.clone(),
            acker,
        };
        let message = read_message(&self.connection, message);
        Delivery::new(message, attempt, Box::new(handle))
    }
}

impl Session {
    async fn next(&mut self) -> Result<jetstream::Message, Error> {
        let lost = |why: &str| Error::unavailable("messages from NATS", why);
        let began = self.began;
        let message = tokio::select! {
            message = self.messages.next() => message,
            _ = self.state.wait_for(|state| *state != began) => {
                return Err(lost("the connection was lost"));
            }
        };
        match message {
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => Err(lost(&error.to_string())),
            None => Err(lost("the consumer has ended")),
        }
    }
}

struct Handle {
    connection: Arc<Connection>,
    acker: jetstream::message::Acker,
}

#[async_trait]
impl Acknowledge for Handle {
    async fn ack(self: Box<Self>) -> Result<(), Error> {
        let what = "the acknowledgement";
        let ack = || async {
            let done = self.acker.double_ack().await;
            done.map_err(|error| Failure::Again(error.to_string()))
        };
        self.connection.call(what, ack).await
    }

    async fn nak(self: Box<Self>, delay: Duration) -> Result<(), Error> {
        let what = "the refusal";
        let nak = || async {
            let kind = AckKind::Nak(Some(delay));
            let done = self.acker.double_ack_with(kind).await;
            done.map_err(|error| Failure::Again(error.to_string()))
        };
        self.connection.call(what, nak).await
    }

    async fn progress(&self) -> Result<(), Error> {
        let what = "word of progress";
        let tell = || async {
            let told = self.acker.double_ack_with(AckKind::Progress).await;
            told.map_err(|error| Failure::Again(error.to_string()))
        };
        self.connection.call(what, tell).await
    }
}
