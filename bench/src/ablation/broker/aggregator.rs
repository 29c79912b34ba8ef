//! One aggregator: reads its inputs from the object store, combines them, and puts what came of them there.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::{self, consumer};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt as _;

use super::Client;
use super::combiner::{Combiner, Item, Room};
use super::message::{Message, STREAM, model_subject};

/// Objects that are read side by side.
const FETCHES_MAX: usize = 3;

/// Which aggregator to be.
#[derive(Clone, Debug)]
pub struct Aggregation {
    /// The broker.
    pub nats: String,
    /// Where its inputs are told.
    pub subject: String,
}

/// Aggregates, and ends.
///
/// # Errors
/// If the broker is lost, or the function fails.
pub async fn aggregate(aggregation: Aggregation) -> Result<()> {
    let context = jetstream::new(async_nats::connect(&aggregation.nats).await?);
    let stream = context.get_stream(STREAM).await?;
    let config = consumer::pull::OrderedConfig {
        filter_subject: aggregation.subject,
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut next = async || -> Result<Message> {
        let message = messages
            .next()
            .await
            .context("the broker's last message")??;
        Ok(serde_json::from_slice(&message.payload)?)
    };
    let first = next().await?;
    let Message { work, to, .. } = first.clone();
    let client = Client::connect(&aggregation.nats, &work.run).await?;
    let mut combiner = Combiner::new(&work, &to)?;
    let segment = Arc::clone(combiner.segment());
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    // The server sends an object as fast as it can, and gives up a connection on which too much waits.
    let turns = Arc::new(Semaphore::new(FETCHES_MAX));
    let begin = |slot: usize, message: Message| {
        let (client, arrived, segment) = (client.clone(), arrived.clone(), Arc::clone(&segment));
        let turns = Arc::clone(&turns);
        tokio::spawn(async move {
            // It is never closed.
            let _turn = turns.acquire().await;
            let fetched = fetch(&client, &message, Room::take(&segment, slot)).await;
            // Nobody listens any more when another has failed.
            let _ = arrived.send(fetched.map(|()| Item {
                slot,
                weight: message.weight,
                contributors: message.contributors,
            }));
        });
    };
    begin(0, first);
    let (mut begun, mut missing, mut waiting) = (1, to.expected, Vec::new());
    while missing > 0 {
        tokio::select! {
            message = next(), if begun < to.expected => {
                begin(begun, message?);
                begun += 1;
                continue;
            }
            Some(item) = arrivals.recv() => waiting.push(item?),
        }
        while let Ok(item) = arrivals.try_recv() {
            waiting.push(item?);
        }
        if work.eager || waiting.len() == missing {
            missing -= waiting.len();
            let items = std::mem::take(&mut waiting);
            tokio::task::block_in_place(|| combiner.combine(&items))?;
        }
    }
    let object = format!("{}-{}", to.host, to.name);
    match to.parent {
        Some(parent) => {
            client.put(&object, &mut combiner.partial()).await?;
            let message = Message {
                work,
                to: *parent,
                object,
                weight: 0.0,
                contributors: combiner.contributors(),
            };
            client.tell(&message).await
        }
        None => {
            let mut model = tokio::task::block_in_place(|| combiner.finish())?;
            client.put(&object, &mut model).await?;
            let subject = model_subject(&work.run);
            client.client.publish(subject, object.into()).await?;
            Ok(client.client.flush().await?)
        }
    }
}

/// Reads an object straight into a slot.
async fn fetch(client: &Client, message: &Message, mut room: Room) -> Result<()> {
    let mut object = client.store.get(&message.object).await?;
    if message.to.merges {
        object.read_exact(room.slot()).await?;
        return Ok(());
    }
    let length = usize::try_from(object.read_u64_le().await?)?;
    if length > 1 << 20 {
        bail!("a header of {length} bytes");
    }
    let mut header = vec![0; length];
    object.read_exact(&mut header).await?;
    object.read_exact(room.vector()).await?;
    Ok(())
}
