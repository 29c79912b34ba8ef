//! Requests within the process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::bus::{Request, Respond};
use crate::{Error, Stream, names};

/// Requests that may wait for one who serves.
const WAITING_MAX: usize = 1024;

/// Who serves what.
#[derive(Debug, Default)]
pub(super) struct Requests {
    servers: Mutex<Vec<(String, mpsc::Sender<Request>)>>,
}

impl Requests {
    pub(super) fn serve(&self, filter: &str) -> Result<Stream<Request>, Error> {
        names::filter(filter)?;
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        self.lock().push((filter.to_owned(), sender));
        let requests = stream::unfold(receiver, |mut receiver| async move {
            let request = receiver.recv().await?;
            Some((request, receiver))
        });
        Ok(requests.boxed())
    }

    pub(super) async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        after: Duration,
    ) -> Result<Bytes, Error> {
        names::subject(subject)?;
        names::payload(subject, payload.len(), usize::MAX)?;
        let (answer, answered) = oneshot::channel();
        let server = self.next(subject).ok_or_else(|| Error::NoResponder {
            subject: subject.to_owned(),
        })?;
        let request = Request::new(subject.to_owned(), payload, Box::new(Answer(answer)));
        let exchange = async {
            // A request that is dropped unanswered looks like one that takes for ever.
            if server.send(request).await.is_ok()
                && let Ok(payload) = answered.await
            {
                return payload;
            }
            std::future::pending().await
        };
        timeout(after, exchange).await.map_err(|_| Error::Timeout {
            subject: subject.to_owned(),
            after,
        })
    }

    /// One who serves the subject; another one the next time.
    fn next(&self, subject: &str) -> Option<mpsc::Sender<Request>> {
        let mut servers = self.lock();
        servers.retain(|(_, sender)| !sender.is_closed());
        let serves = |(filter, _): &(String, _)| names::matches(filter, subject);
        let index = servers.iter().position(serves)?;
        let chosen = servers.remove(index);
        let sender = chosen.1.clone();
        servers.push(chosen);
        Some(sender)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, mpsc::Sender<Request>)>> {
        // The list is whole after every operation on it.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Answer(oneshot::Sender<Bytes>);

#[async_trait]
impl Respond for Answer {
    async fn respond(self: Box<Self>, payload: Bytes) -> Result<(), Error> {
        names::payload("the answer", payload.len(), usize::MAX)?;
        // Who asked may have gone.
        let _ = self.0.send(payload);
        Ok(())
    }
}
