//! The connection: whether it is up, and calls that are tried again until their time is over.

use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, Event};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::failure::{Failure, expects_another, told};
use super::options::Options;
use crate::{Error, names};

/// Attempts that a call's time is divided into.
const ATTEMPTS: u32 = 3;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A server that says nothing for so long is asked whether it is there; the third time without an answer, it is not.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The longest wait between two attempts to connect again.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);

/// The oldest server that tells watchers when a key has expired.
const SERVER: (i64, i64, i64) = (2, 11, 0);

/// What of a server's largest message is left for headers.
const HEADER_BYTES: usize = 4 << 10;

pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    pub(super) options: Options,
    /// The copies that what is missing is made with; 0 until that is known.
    pub(super) replicas: AtomicUsize,
    /// The room that servers have for all of it, in bytes; 0 until that is known.
    pub(super) room: AtomicI64,
    state: watch::Receiver<State>,
    connected: watch::Receiver<bool>,
}

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// It has this number.
    At(u64),
    /// The newest message of its subject is not the one that it expects. If it was sent repeatedly, that may be itself.
    Refused { repeated: bool },
}

/// Whether the connection is up, and how often it has been.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) up: bool,
    pub(super) times: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("servers", &self.options.shown())
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) async fn open(options: Options) -> Result<Self, Error> {
        options.check()?;
        let addresses = options.addresses()?;
        let (state, receiver) = watch::channel(State::default());
        let (up, connected) = watch::channel(false);
        let attempt = options.call_timeout / ATTEMPTS;
        let connect = options
            .connect_options()?
            // Of several servers, one that is silent leaves time for another.
            .connection_timeout(attempt)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(options.call_timeout))
            .reconnect_delay_callback(delay)
            .event_callback(move |event| {
                heard(&event, &state, &up);
                async {}
            });
        let what = format!("NATS at {}", options.shown());
        let client = connect
            .connect(addresses)
            .await
            .map_err(|error| Error::unavailable(&what, told(&error)))?;
        let (major, minor, patch) = SERVER;
        if !client.is_server_compatible(major, minor, patch) {
            let why = format!("the server is older than {major}.{minor}; use a newer one");
            return Err(Error::malformed(what, why));
        }
        let context = ContextBuilder::new()
            .timeout(attempt)
            .ack_timeout(attempt)
            .build(client.clone());
        let room = options.room.unwrap_or(0);
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        let connection = Self {
            client,
            context,
            replicas: AtomicUsize::new(options.replicas.unwrap_or(0)),
            room: AtomicI64::new(room),
            options,
            state: receiver,
            connected,
        };
        // The event arrives by a task of the client's; a call before it would think that the connection is lost.
        connection.wait_up(Instant::now() + attempt).await;
        Ok(connection)
    }

    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Whether the connection came up in time.
    pub(super) async fn wait_up(&self, deadline: Instant) -> bool {
        let mut state = self.state.clone();
        let up = state.wait_for(|state| state.up);
        matches!(timeout_at(deadline, up).await, Ok(Ok(_)))
    }

    /// Calls until it succeeds, fails for good, or [`Options::call_timeout`] is over.
    pub(super) async fn call<T, F>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.options.call_timeout;
        let mut why = "no answer in time".to_owned();
        loop {
            // What is sent while there is no connection would be kept, and happen after it was reported as failed.
            if !self.wait_up(deadline).await {
                why = format!("no connection to {}", self.options.shown());
                return Err(Error::unavailable(what, why));
            }
            match timeout_at(deadline, self.attempt(attempt())).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Failure::Final(error))) => return Err(error),
                Ok(Err(Failure::Again(reason))) => why = reason,
                Err(_) => return Err(Error::unavailable(what, why)),
            }
            let next = Instant::now() + PAUSE;
            if next >= deadline {
                return Err(Error::unavailable(what, why));
            }
            sleep_until(next).await;
        }
    }

    /// Waits for an answer, but not for one that was lost with its connection.
    async fn attempt<T>(
        &self,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut state = self.state.clone();
        let began = *state.borrow_and_update();
        tokio::select! {
            answer = answer => answer,
            _ = state.wait_for(|state| *state != began) => {
                Err(Failure::Again("the connection was lost".to_owned()))
            }
        }
    }

    /// Stores a message. Has to have an id, because it may be sent repeatedly.
    pub(super) async fn publish(
        &self,
        subject: &str,
        message: &PublishMessage,
    ) -> Result<Stored, Error> {
        let mut attempts = 0;
        let send = || {
            attempts += 1;
            self.send(subject, message)
        };
        let number = self.call(subject, send).await?;
        let repeated = attempts > 1;
        Ok(number.map_or(Stored::Refused { repeated }, Stored::At))
    }

    async fn send(&self, subject: &str, message: &PublishMessage) -> Result<Option<u64>, Failure> {
        let sent = self
            .context
            .send_publish(subject.to_owned(), message.clone());
        let stored = match sent.await {
            Ok(stored) => stored.await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) => Ok(Some(stored.sequence)),
            Err(error) if expects_another(&error) => Ok(None),
            Err(error) => Err(Failure::of(subject, &error)),
        }
    }

    /// A payload that fits.
    pub(super) fn fits(&self, what: &str, bytes: usize) -> Result<(), Error> {
        names::payload(what, bytes, self.payload_bytes_max())
    }

    /// The most that the server takes.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADER_BYTES)
    }
}

fn delay(attempts: usize) -> Duration {
    let doublings =
        u32::try_from(attempts.saturating_sub(1)).map_or(8, |doublings| doublings.min(8));
    (Duration::from_millis(20) * 2_u32.pow(doublings)).min(RECONNECT_DELAY_MAX)
}

fn heard(event: &Event, state: &watch::Sender<State>, up: &watch::Sender<bool>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            state.send_modify(|state| {
                state.up = true;
                state.times += 1;
            });
            up.send_replace(true);
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!("NATS is away");
            state.send_modify(|state| state.up = false);
            up.send_replace(false);
        }
        other => tracing::debug!(event = %other, "NATS"),
    }
}
