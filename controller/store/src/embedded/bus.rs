//! The bus within one process. What is published is on the disk when `publish` returns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use redb::{ReadTransaction, WriteTransaction};
use tokio::sync::oneshot;

use super::engine::{Effect, Engine, Written};
use super::messages;
use super::requests::Requests;
use super::state::State;
use super::streams::Taken;
use crate::bus::{Acknowledge, Delivery};
use crate::names::Family;
use crate::{Bus, Error, Message, Request, Retention, Stream, names};

/// The bus.
#[derive(Debug)]
pub(super) struct EmbeddedBus {
    engine: Arc<Engine>,
    requests: Arc<Requests>,
    retention: Retention,
}

impl EmbeddedBus {
    pub(super) fn new(engine: Arc<Engine>, requests: Arc<Requests>, retention: Retention) -> Self {
        Self {
            engine,
            requests,
            retention,
        }
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn publish(&self, subject: &str, id: &str, payload: Bytes) -> Result<(), Error> {
        names::subject(subject)?;
        names::id(id)?;
        let family = Family::of(subject)?;
        names::payload(subject, payload.len(), usize::MAX)?;
        let window = self.retention.duplicates;
        let message = Message {
            subject: subject.to_owned(),
            id: id.to_owned(),
            payload,
        };
        let change = move |transaction: &WriteTransaction| {
            let Some(number) = messages::store(transaction, family, &message, window)? else {
                return Ok(Written::quietly(()));
            };
            let subject = message.subject;
            let effect: Effect =
                Box::new(move |state| state.streams.of(family).stored(number, subject));
            let answer = ();
            Ok(Written { answer, effect })
        };
        self.engine.write(change).await
    }

    async fn subscribe(&self, filter: &str) -> Result<Stream<Result<Message, Error>>, Error> {
        names::filter(filter)?;
        if Family::of(filter)? != Family::Events {
            return Err(names::not_live(filter));
        }
        let last =
            |_: &ReadTransaction, state: &mut State| Ok(state.streams.of(Family::Events).last);
        let after = self.engine.look(last).await?;
        let reader = (self.engine.clone(), filter.to_owned(), after);
        let messages = stream::unfold(reader, |(engine, filter, after)| async move {
            let (sender, receiver) = oneshot::channel();
            let wanted = filter.clone();
            let wait = move |_: &ReadTransaction, state: &mut State| {
                state.streams.of(Family::Events).read(wanted, after, sender);
                Ok(())
            };
            engine.look(wait).await.ok()?;
            let next = receiver.await.ok()?;
            Some((Ok(next.message), (engine, filter, next.number)))
        });
        Ok(messages.boxed())
    }

    async fn consume(
        &self,
        durable: &str,
        filter: &str,
    ) -> Result<Stream<Result<Delivery, Error>>, Error> {
        names::word("consumer", durable)?;
        names::filter(filter)?;
        let family = Family::of(filter)?;
        let (name, wanted) = (durable.to_owned(), filter.to_owned());
        let remember = move |transaction: &WriteTransaction| {
            messages::remember(transaction, family, &name, &wanted)?;
            Ok(Written::quietly(()))
        };
        self.engine.write(remember).await?;
        let (name, wanted) = (durable.to_owned(), filter.to_owned());
        let begin = move |transaction: &ReadTransaction, state: &mut State| {
            let stream = state.streams.of(family);
            stream.consume(transaction, &name, &wanted)
        };
        self.engine.look(begin).await?;
        let consumer = Consumer {
            engine: self.engine.clone(),
            family,
            durable: durable.to_owned(),
            acknowledge: self.retention.acknowledge,
        };
        let deliveries = stream::unfold(consumer, |consumer| async move {
            let delivery = consumer.next().await?;
            Some((Ok(delivery), consumer))
        });
        Ok(deliveries.boxed())
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, Error> {
        self.requests.request(subject, payload, timeout).await
    }

    async fn serve(&self, subject: &str) -> Result<Stream<Request>, Error> {
        self.requests.serve(subject)
    }
}

#[derive(Clone)]
struct Consumer {
    engine: Arc<Engine>,
    family: Family,
    durable: String,
    acknowledge: Duration,
}

impl Consumer {
    async fn next(&self) -> Option<Delivery> {
        let (sender, receiver) = oneshot::channel();
        let (family, durable) = (self.family, self.durable.clone());
        let wait = move |_: &ReadTransaction, state: &mut State| {
            state.streams.of(family).take(&durable, sender);
            Ok(())
        };
        self.engine.look(wait).await.ok()?;
        let Taken {
            number,
            attempt,
            message,
        } = receiver.await.ok()?;
        let consumer = self.clone();
        let handle = Handle { consumer, number };
        Some(Delivery::new(message, attempt, Box::new(handle)))
    }
}

struct Handle {
    consumer: Consumer,
    number: u64,
}

#[async_trait]
impl Acknowledge for Handle {
    async fn ack(self: Box<Self>) -> Result<(), Error> {
        let number = self.number;
        let Consumer {
            engine,
            family,
            durable,
            ..
        } = self.consumer;
        let change = move |transaction: &WriteTransaction| {
            let gone = messages::acknowledge(transaction, family, &durable, number)?;
            let effect: Effect = Box::new(move |state| {
                state
                    .streams
                    .of(family)
                    .acknowledged(&durable, number, gone);
            });
            let answer = ();
            Ok(Written { answer, effect })
        };
        engine.write(change).await
    }

    async fn nak(self: Box<Self>, delay: Duration) -> Result<(), Error> {
        self.put_off(delay).await
    }

    async fn progress(&self) -> Result<(), Error> {
        self.put_off(self.consumer.acknowledge).await
    }
}

impl Handle {
    /// It does not come again before `delay` is over.
    async fn put_off(&self, delay: Duration) -> Result<(), Error> {
        let number = self.number;
        let Consumer {
            engine,
            family,
            durable,
            ..
        } = self.consumer.clone();
        let until = Instant::now() + delay;
        let put_off = move |_: &ReadTransaction, state: &mut State| {
            state.streams.of(family).put_off(&durable, number, until);
            Ok(())
        };
        engine.look(put_off).await
    }
}
