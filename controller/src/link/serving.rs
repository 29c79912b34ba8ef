//! A node among several: takes orders from the bus, and shows that it lives.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tributary_store::{Backend, Error as StoreError, Keys, Request};

use super::{Link, NODES, Order, Station, in_hand::InHand, subject};

/// How often a node shows that it lives, and how long that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The time between two beats.
    pub every: Duration,
    /// The time after the last beat after which the node counts as lost. The same for all controllers and nodes.
    pub believed: Duration,
}

impl Default for Beat {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(1),
            believed: Duration::from_secs(3),
        }
    }
}

/// The time after which what the bus refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Takes orders for `station` and shows that it lives, until `stop` is over; then says that it leaves.
///
/// # Errors
/// As the store fails at the beginning; later failures are waited out.
pub async fn serve_node(
    backend: &dyn Backend,
    station: Arc<Station>,
    beat: Beat,
    stop: impl Future<Output = ()>,
) -> Result<(), StoreError> {
    let name = station.node().node_status().await.name;
    let keys = backend.keys(NODES, Some(beat.believed)).await?;
    let bus = backend.bus().await?;
    let mut requests = bus.serve(&subject(&name)).await?;
    let orders = async {
        let mut tasks = JoinSet::new();
        let in_hand = Arc::new(InHand::default());
        loop {
            while let Some(request) = requests.next().await {
                tasks.spawn(answer(Arc::clone(&station), Arc::clone(&in_hand), request));
                while tasks.try_join_next().is_some() {}
            }
            // The stream ends with the bus itself; orders may come again when it is back.
            sleep(RETRY).await;
            match bus.serve(&subject(&name)).await {
                Ok(again) => requests = again,
                Err(error) => tracing::warn!(%error, "no orders can be taken"),
            }
        }
    };
    tokio::select! {
        () = orders => {}
        () = live(&*keys, &name, &station, beat) => {}
        () = stop => {}
    }
    station.leave();
    farewell(&*keys, &name, &station).await;
    Ok(())
}

async fn answer(station: Arc<Station>, in_hand: Arc<InHand>, request: Request) {
    let order: Order = match serde_json::from_slice(&request.payload) {
        Ok(order) => order,
        Err(error) => {
            tracing::warn!(%error, "an order cannot be read; is the controller of another version?");
            return;
        }
    };
    let (id, command) = (order.id.clone(), order.command.as_str());
    let Some(answer) = in_hand.answer(&id, carry_out(&station, order)).await else {
        return;
    };
    if let Err(error) = request.respond(answer).await {
        tracing::warn!(command, %error, "the answer to an order cannot be sent");
    }
}

async fn carry_out(station: &Station, order: Order) -> Option<Bytes> {
    let command = order.command.as_str();
    let answer = station.give(order).await;
    if let Err(refusal) = &answer {
        tracing::warn!(command, "{refusal}");
    }
    match serde_json::to_vec(&answer) {
        Ok(json) => Some(json.into()),
        Err(error) => {
            tracing::error!(command, %error, "the answer to an order cannot be written");
            None
        }
    }
}

/// Beats for ever.
async fn live(keys: &dyn Keys, name: &str, station: &Station, beat: Beat) {
    let mut ticks = interval(beat.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let Some(report) = report(station).await else {
            return pending().await;
        };
        match keys.put(name, report).await {
            Ok(_) if failing => {
                failing = false;
                tracing::info!("beats arrive again");
            }
            Ok(_) => {}
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "beats do not arrive; jobs go on meanwhile");
            }
            Err(_) => {}
        }
    }
}

/// Lets everybody know at once that the node leaves.
async fn farewell(keys: &dyn Keys, name: &str, station: &Station) {
    let Some(report) = report(station).await else {
        return;
    };
    // Who hears neither learns it from the silence.
    let told = async {
        keys.put(name, report).await?;
        keys.delete(name).await
    };
    if let Err(error) = told.await {
        tracing::warn!(%error, "nobody could be told that this node leaves");
    }
}

async fn report(station: &Station) -> Option<Bytes> {
    match serde_json::to_vec(&station.report().await) {
        Ok(json) => Some(json.into()),
        Err(error) => {
            tracing::error!(%error, "reports cannot be written");
            None
        }
    }
}
