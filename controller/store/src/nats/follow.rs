//! Follows a stream from a number on: in order, each message once, over lost connections.
//!
//! The library's ordered consumer recognises gaps and missed heartbeats and begins again behind the last message. What
//! it does not do is done here: it forgets where to begin if nothing has arrived yet, and it does not tell that the
//! connection is lost.

use std::sync::Arc;

use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::{self, stream::Stream};
use futures_util::StreamExt;
use tokio::sync::watch;

use super::connection::{Connection, State};
use super::failure::Failure;
use crate::Error;

/// Messages of one filter, behind one number.
pub(super) struct Follower {
    messages: push::Ordered,
    state: watch::Receiver<State>,
    began: State,
    after: u64,
}

impl Follower {
    /// Begins behind the message `after`.
    pub(super) async fn begin(
        connection: &Arc<Connection>,
        stream: &Stream,
        filter: &str,
        after: u64,
    ) -> Result<Self, Error> {
        let state = connection.state();
        let begin = || async {
            // Before the first message can be lost.
            let began = *state.borrow();
            let config = push::OrderedConfig {
                deliver_subject: connection.client.new_inbox(),
                filter_subject: filter.to_owned(),
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: after + 1,
                },
                ..push::OrderedConfig::default()
            };
            let consumer = stream.create_consumer(config).await;
            let consumer = consumer.map_err(|error| Failure::of_consumer(filter, &error))?;
            let messages = consumer.messages().await;
            let messages = messages.map_err(|error| Failure::of(filter, &error))?;
            Ok((messages, began))
        };
        let (messages, began) = connection.call(filter, begin).await?;
        Ok(Self {
            messages,
            state,
            began,
            after,
        })
    }

    /// The next message, and its number.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection is, or was, lost: begin again.
    pub(super) async fn next(&mut self) -> Result<(u64, jetstream::Message), Error> {
        let lost = |why: &str| Error::unavailable("messages from NATS", why);
        loop {
            let began = self.began;
            let message = tokio::select! {
                message = self.messages.next() => message,
                _ = self.state.wait_for(|state| *state != began) => {
                    return Err(lost("the connection was lost"));
                }
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(lost(&error.to_string())),
                None => return Err(lost("the connection has ended")),
            };
            let number = match message.info() {
                Ok(info) => info.stream_sequence,
                Err(error) => return Err(lost(&error.to_string())),
            };
            if number > self.after {
                self.after = number;
                return Ok((number, message));
            }
        }
    }
}
