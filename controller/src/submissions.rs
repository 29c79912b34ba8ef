//! Updates that are submitted by events: work for the nodes that run their job.
//!
//! `updates.<job>` is a work queue, which the job's nodes share under one name. Whoever gets an event brings the update
//! to its client's home and acknowledges when that has taken it, or has refused it for good; what is refused for good
//! is told by an event. What passes is tried again, later, wherever it is delivered then. An event may be delivered
//! more than once: the home knows the client's update.

mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tributary_api::{
    Digest, Name,
    event::{Event, EventKind},
    problem::Problem,
    reference::{Intake, MalformedEvent, Submission},
};
use tributary_store::{Bus, Delivery, Error, IN_HAND_MAX, Retention};

use crate::Publisher;
use verdict::Verdict;

/// The time after which what the bus refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The most that is repeated of what a foreign event says.
const TEXT_CHARS_MAX: usize = 1000;

/// Takes what events submit to the jobs that run on a node, for ever.
pub async fn take(bus: Arc<dyn Bus>, intake: Arc<dyn Intake>, publisher: &Publisher) {
    let mut consumers = BTreeMap::new();
    let mut known = BTreeSet::new();
    loop {
        known = intake.running(&known).await;
        consumers.retain(|job, _| known.contains(job));
        for job in &known {
            consumers.entry(job.clone()).or_insert_with(|| {
                let consumer = Consumer {
                    job: job.clone(),
                    bus: Arc::clone(&bus),
                    intake: Arc::clone(&intake),
                    publisher: publisher.clone(),
                };
                Running(tokio::spawn(consumer.run()))
            });
        }
    }
}

/// A consumer's task. Ends when it is dropped, with what it has in hand: that is delivered again.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes what is submitted to one job.
#[derive(Clone)]
struct Consumer {
    job: Name,
    bus: Arc<dyn Bus>,
    intake: Arc<dyn Intake>,
    publisher: Publisher,
}

impl Consumer {
    async fn run(self) {
        let mut failing = false;
        loop {
            match self.consume().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(job = %self.job, %error, "events that submit updates are not heard");
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    /// Takes what comes until the stream ends, so much at a time.
    async fn consume(&self) -> Result<(), Error> {
        let filter = format!("updates.{}", self.job);
        let mut deliveries = self.bus.consume(self.job.as_str(), &filter).await?;
        let mut hands = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = hands.join_next(), if !hands.is_empty() => {}
                delivery = deliveries.next(), if hands.len() < IN_HAND_MAX => match delivery {
                    Some(Ok(delivery)) => {
                        let consumer = self.clone();
                        hands.spawn(async move { consumer.handle(delivery).await });
                    }
                    // The stream goes on by itself when the connection is there again.
                    Some(Err(error)) => tracing::debug!(job = %self.job, %error, "events wait"),
                    None => return Ok(()),
                },
            }
        }
    }

    async fn handle(&self, delivery: Delivery) {
        let done = match self.judge(&delivery).await {
            Verdict::Done => delivery.ack().await,
            Verdict::Again(delay) => delivery.nak(delay).await,
            Verdict::Refused(refused) => match self.publisher.publish(&refused).await {
                Ok(()) => delivery.ack().await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            // It comes again by itself.
            tracing::debug!(job = %self.job, %error, "an event is not acknowledged");
        }
    }

    /// What is to become of an event; takes the update that it submits.
    async fn judge(&self, delivery: &Delivery) -> Verdict {
        let submission = match Submission::read(&self.job, &delivery.message.payload) {
            Ok(submission) => submission,
            Err(malformed) => return Verdict::Refused(self.malformed(delivery, &malformed)),
        };
        let taking = self.intake.submit(&self.job, &submission);
        let Err(problem) = at_work(delivery, taking).await else {
            return Verdict::Done;
        };
        let (round, attempt) = (submission.round, delivery.attempt);
        match verdict::delay(&problem, round, attempt) {
            Some(delay) => {
                tracing::debug!(job = %self.job, %problem, "a submitted update is put off");
                Verdict::Again(delay)
            }
            None => Verdict::Refused(self.refused(delivery, &submission, &problem)),
        }
    }

    fn malformed(&self, delivery: &Delivery, malformed: &MalformedEvent) -> Event {
        let mut problem = malformed.problem();
        problem.detail = brief(&problem.detail);
        self.told(delivery, json!({ "problem": problem }))
    }

    fn refused(&self, delivery: &Delivery, submission: &Submission, problem: &Problem) -> Event {
        let Submission {
            id,
            source,
            client,
            round,
            ..
        } = submission;
        let event = json!({ "id": brief(id), "source": brief(source) });
        let data = json!({ "event": event, "client": client, "round": round, "problem": problem });
        self.told(delivery, data)
    }

    /// A refusal. Whichever node tells it, and however often, it is the same event.
    fn told(&self, delivery: &Delivery, data: serde_json::Value) -> Event {
        let digest = Digest::new(Sha256::digest(&delivery.message.payload).into());
        let id = format!("refused-{}", digest.hex());
        let mut event = Event::new(
            "",
            id,
            EventKind::UpdateRefused,
            Some(self.job.as_str()),
            data,
        );
        event.source = format!("/jobs/{}", self.job);
        event
    }
}

/// What others have written, cut to what an event has room for.
fn brief(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// Waits for something that may take long, and lets the bus know meanwhile that it is worked at.
async fn at_work<T>(delivery: &Delivery, work: impl Future<Output = T>) -> T {
    let beat = Retention::default().acknowledge / 4;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(beat) => {
                if let Err(error) = delivery.progress().await {
                    // It is delivered to somebody else in the meantime, and counts once.
                    tracing::debug!(%error, "work in hand may be delivered again");
                }
            }
        }
    }
}
