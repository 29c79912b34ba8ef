//! A bus that loses every request once, and then its answer once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, future::ready};
use tokio::sync::watch;
use tributary_store::{
    Backend, Bus, Delivery, Error, Keys, Message, Objects, Request, Respond, Stream,
};

#[derive(Debug)]
pub(crate) struct Lossy(pub(crate) Arc<dyn Backend>);

#[async_trait]
impl Backend for Lossy {
    async fn keys(&self, name: &str, ttl: Option<Duration>) -> Result<Arc<dyn Keys>, Error> {
        self.0.keys(name, ttl).await
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, Error> {
        Ok(Arc::new(LossyBus(self.0.bus().await?)))
    }

    async fn objects(&self, name: &str) -> Result<Arc<dyn Objects>, Error> {
        self.0.objects(name).await
    }

    fn connection(&self) -> watch::Receiver<bool> {
        self.0.connection()
    }
}

#[derive(Debug)]
struct LossyBus(Arc<dyn Bus>);

#[async_trait]
impl Bus for LossyBus {
    async fn publish(&self, subject: &str, id: &str, payload: Bytes) -> Result<(), Error> {
        self.0.publish(subject, id, payload).await
    }

    async fn subscribe(&self, filter: &str) -> Result<Stream<Result<Message, Error>>, Error> {
        self.0.subscribe(filter).await
    }

    async fn consume(
        &self,
        durable: &str,
        filter: &str,
    ) -> Result<Stream<Result<Delivery, Error>>, Error> {
        self.0.consume(durable, filter).await
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, Error> {
        self.0.request(subject, payload, timeout).await
    }

    async fn serve(&self, subject: &str) -> Result<Stream<Request>, Error> {
        let requests = self.0.serve(subject).await?;
        let times = Mutex::new(HashMap::<Bytes, usize>::new());
        let arrive = requests.filter_map(move |request| {
            let mut times = times.lock().unwrap();
            let time = times.entry(request.payload.clone()).or_default();
            *time += 1;
            ready(match *time {
                1 => None,
                2 => {
                    let Request {
                        subject, payload, ..
                    } = request;
                    Some(Request::new(subject, payload, Box::new(Nowhere)))
                }
                _ => Some(request),
            })
        });
        Ok(arrive.boxed())
    }
}

/// Where answers are lost.
struct Nowhere;

#[async_trait]
impl Respond for Nowhere {
    async fn respond(self: Box<Self>, _: Bytes) -> Result<(), Error> {
        Ok(())
    }
}
