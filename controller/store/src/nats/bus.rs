//! The bus: streams for what is stored, plain NATS for requests.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::{RequestErrorKind, Subject, header};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Connection;
use super::consume::Consumer;
use super::failure::{Failure, told};
use super::follow::Follower;
use super::{read, streams};
use crate::bus::Respond;
use crate::names::{self, Family};
use crate::{Bus, Delivery, Error, Message, Request, Stream as Boxed};

/// Between two attempts to take a stream up again.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct NatsBus {
    connection: Arc<Connection>,
    events: Stream,
    updates: Stream,
}

impl NatsBus {
    /// Makes the streams, if they are not there.
    pub(super) async fn open(connection: Arc<Connection>) -> Result<Self, Error> {
        let events = shared(&connection, Family::Events).await?;
        let updates = shared(&connection, Family::Updates).await?;
        Ok(Self {
            connection,
            events,
            updates,
        })
    }

    fn full(&self, subject: &str) -> String {
        format!("{}.{subject}", self.connection.options.prefix)
    }

    fn stream(&self, family: Family) -> &Stream {
        match family {
            Family::Events => &self.events,
            Family::Updates => &self.updates,
        }
    }
}

/// The stream of a family, made if it is not there.
async fn shared(connection: &Connection, family: Family) -> Result<Stream, Error> {
    let (prefix, retention) = (&connection.options.prefix, connection.options.retention);
    let plan = streams::messages(prefix, family, retention);
    connection.shared(&plan).await
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, subject: &str, id: &str, payload: Bytes) -> Result<(), Error> {
        names::subject(subject)?;
        names::id(id)?;
        let family = Family::of(subject)?;
        self.connection.fits(subject, payload.len())?;
        let full = self.full(subject);
        let message = PublishMessage::build().message_id(id).payload(payload);
        let stored = self.connection.publish(&full, &message).await;
        let lost = matches!(stored, Err(Error::Unavailable { .. }));
        if lost && self.connection.state().borrow().up {
            // Perhaps the stream is gone: made anew, it takes the message when it is offered again.
            if let Err(error) = shared(&self.connection, family).await {
                tracing::debug!(%error, "a stream of messages is not made anew yet");
            }
        }
        stored.map(drop)
    }

    async fn subscribe(&self, filter: &str) -> Result<Boxed<Result<Message, Error>>, Error> {
        names::filter(filter)?;
        if Family::of(filter)? != Family::Events {
            return Err(names::not_live(filter));
        }
        let after = read::newest(&self.connection, &self.events).await?;
        let mut subscription = Subscription {
            connection: self.connection.clone(),
            stream: self.events.clone(),
            filter: self.full(filter),
            after,
            follower: None,
        };
        subscription.begin().await?;
        let messages = stream::unfold(subscription, |mut subscription| async move {
            let message = subscription.next().await;
            Some((message, subscription))
        });
        Ok(messages.boxed())
    }

    async fn consume(
        &self,
        durable: &str,
        filter: &str,
    ) -> Result<Boxed<Result<Delivery, Error>>, Error> {
        names::word("consumer", durable)?;
        names::filter(filter)?;
        let family = Family::of(filter)?;
        let stream = self.stream(family).clone();
        let filter = (family, self.full(filter));
        Consumer::begin(self.connection.clone(), stream, durable, filter).await
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        after: Duration,
    ) -> Result<Bytes, Error> {
        names::subject(subject)?;
        self.connection.fits(subject, payload.len())?;
        let deadline = Instant::now() + after;
        let patience = Instant::now() + after.min(self.connection.options.call_timeout);
        if !self.connection.wait_up(patience).await {
            let why = format!("no connection to {}", self.connection.options.shown());
            return Err(Error::unavailable(subject, why));
        }
        // The deadline below is the only one.
        let request = client::Request::new().payload(payload).timeout(None);
        let answer = self
            .connection
            .client
            .send_request(self.full(subject), request);
        let subject = subject.to_owned();
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => Error::NoResponder { subject },
                RequestErrorKind::TimedOut => Error::Timeout { subject, after },
                _ => Error::unavailable(subject, told(&error)),
            }),
            Err(_) if !self.connection.state().borrow().up => {
                Err(Error::unavailable(subject, "the connection was lost"))
            }
            Err(_) => Err(Error::Timeout { subject, after }),
        }
    }

    async fn serve(&self, subject: &str) -> Result<Boxed<Request>, Error> {
        names::filter(subject)?;
        let (full, prefix) = (self.full(subject), &self.connection.options.prefix);
        let subscribe = || async {
            let client = &self.connection.client;
            let requests = client.queue_subscribe(full.clone(), prefix.clone()).await;
            requests.map_err(|error| Failure::of(subject, &error))
        };
        let requests = self.connection.call(subject, subscribe).await?;
        // The server takes what one connection says in order: once it has answered, it knows of the subscription.
        read::newest(&self.connection, &self.events).await?;
        let (connection, cut) = (self.connection.clone(), prefix.len() + 1);
        let requests = requests.filter_map(move |message| {
            let connection = connection.clone();
            async move {
                let answer = Answer {
                    connection,
                    to: message.reply?,
                };
                let subject = message.subject.get(cut..)?.to_owned();
                Some(Request::new(subject, message.payload, Box::new(answer)))
            }
        });
        Ok(requests.boxed())
    }
}

struct Answer {
    connection: Arc<Connection>,
    to: Subject,
}

#[async_trait]
impl Respond for Answer {
    async fn respond(self: Box<Self>, payload: Bytes) -> Result<(), Error> {
        self.connection.fits("the answer", payload.len())?;
        let sent = self.connection.client.publish(self.to, payload).await;
        sent.map_err(|error| Error::unavailable("the answer", told(&error)))
    }
}

/// Events from one number on, over lost connections.
struct Subscription {
    connection: Arc<Connection>,
    stream: Stream,
    filter: String,
    after: u64,
    follower: Option<Follower>,
}

impl Subscription {
    async fn begin(&mut self) -> Result<(), Error> {
        let follower =
            Follower::begin(&self.connection, &self.stream, &self.filter, self.after).await?;
        self.follower = Some(follower);
        Ok(())
    }

    async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let Some(follower) = &mut self.follower else {
                if let Err(error) = self.begin().await {
                    tracing::debug!(%error, "a subscription is not taken up yet");
                    sleep(PAUSE).await;
                }
                continue;
            };
            match follower.next().await {
                Ok((number, message)) => {
                    self.after = number;
                    return Ok(read_message(&self.connection, message.message));
                }
                Err(error) => {
                    self.follower = None;
                    return Err(error);
                }
            }
        }
    }
}

/// A message as callers know it: without the prefix.
pub(super) fn read_message(connection: &Connection, message: async_nats::Message) -> Message {
    let id = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(header::NATS_MESSAGE_ID));
    let cut = connection.options.prefix.len() + 1;
    Message {
        subject: message.subject.get(cut..).unwrap_or_default().to_owned(),
        id: id.map(|id| id.as_str().to_owned()).unwrap_or_default(),
        payload: message.payload,
    }
}
