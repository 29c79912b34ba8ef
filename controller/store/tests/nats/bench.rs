//! Patience, and shorthand.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;
use tributary_store::nats::{self, Nats, Options};
use tributary_store::{Error, Retention, Stream};
use tributary_tests::nats::NatsServer;

/// Nothing that works takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn options(servers: Vec<String>) -> Options {
    Options {
        servers,
        call_timeout: Duration::from_secs(3),
        retention: Retention {
            acknowledge: Duration::from_secs(2),
            ..Retention::default()
        },
        ..Options::default()
    }
}

pub(crate) async fn connect(server: &NatsServer) -> Nats {
    nats::connect(options(vec![server.url()])).await.unwrap()
}

/// Something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("waited in vain")
}

/// The next of a stream, over lost connections.
pub(crate) async fn next<T>(stream: &mut Stream<Result<T, Error>>) -> T {
    loop {
        match soon(stream.next()).await.expect("it ended") {
            Ok(item) => return item,
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
    }
}

/// Tries until the store can be reached.
pub(crate) async fn persist<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    soon(async {
        loop {
            match attempt().await {
                Err(Error::Unavailable { .. }) => {}
                other => return other,
            }
        }
    })
    .await
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
