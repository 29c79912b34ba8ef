//! A node among several: takes orders from the bus, and shows that it lives.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tributary_store::{Backend, Change, Request};

use super::{Answer, Link, NODES, Order, Refusal, Station, in_hand::InHand, pulse::Pulse, subject};
use crate::Error;

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

/// Beats that follow each other at once, where one does not tell of all jobs.
const BEATS_MAX: usize = 4;

/// The time after which what the bus refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Takes orders for `station` and shows that it lives, until `stop` is over; then says that it leaves.
///
/// # Errors
/// [`Error::NameTaken`] if another process beats under the node's name; as the store fails at the beginning, while later
/// failures are waited out.
pub async fn serve_node(
    backend: &dyn Backend,
    station: Arc<Station>,
    beat: Beat,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let name = station.node().node_status().await.name;
    let keys = backend.keys(NODES, Some(beat.believed)).await?;
    let mut stop = pin!(stop);
    let mut pulse = Pulse::new(&*keys, &name, &station);
    tokio::select! {
        claimed = pulse.claim(beat.believed) => claimed?,
        () = &mut stop => return Ok(()),
    }
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
        () = follow_placements(&station, &name) => {}
        taken = live(&mut pulse, beat.every) => return Err(taken),
        () = &mut stop => {}
    }
    station.leave();
    pulse.farewell().await;
    Ok(())
}

/// Keeps the node informed of where jobs are that it does not run, for ever.
async fn follow_placements(station: &Station, name: &str) {
    loop {
        match station.placements().watch("").await {
            Ok(mut changes) => {
                while let Some(change) = changes.next().await {
                    let (job, gateway) = match change {
                        Ok(Change::Put(job, entry)) => (job, gateway(&entry.value, name)),
                        Ok(Change::Deleted(job)) => (job, None),
                        Ok(Change::UpToDate) | Err(_) => continue,
                    };
                    if let Ok(job) = job.parse() {
                        station.direct(&job, gateway).await;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "placements cannot be followed yet"),
        }
        sleep(RETRY).await;
    }
}

/// The gateway of the node that leads by a placement in which `node` has no part.
fn gateway(placed: &[u8], node: &str) -> Option<String> {
    let Route { placement } = serde_json::from_slice(placed).ok()?;
    let is_member = placement.members.iter().any(|member| member.node == node);
    let leads = |member: &Way| member.node == placement.leader;
    let leader = placement.members.into_iter().find(leads);
    leader.filter(|_| !is_member).map(|leader| leader.url)
}

/// What of a stored placement says where to go.
#[derive(Deserialize)]
struct Route {
    placement: Ways,
}

#[derive(Deserialize)]
struct Ways {
    leader: String,
    members: Vec<Way>,
}

#[derive(Deserialize)]
struct Way {
    node: String,
    url: String,
}

async fn answer(station: Arc<Station>, in_hand: Arc<InHand>, request: Request) {
    let (command, answer) = match serde_json::from_slice::<Order>(&request.payload) {
        Ok(order) => {
            let (id, command) = (order.id.clone(), order.command.as_str());
            let answer = in_hand.answer(&id, carry_out(&station, order));
            (command, answer.await)
        }
        Err(error) => {
            tracing::warn!(%error, "an order cannot be read; is the controller of another version?");
            let (node, why) = (station.node().node_status().await.name, error.to_string());
            (
                "unknown",
                written("unknown", &Err(Refusal::Unsupported { node, why })),
            )
        }
    };
    let Some(answer) = answer else { return };
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
    written(command, &answer)
}

fn written(command: &str, answer: &Result<Answer, Refusal>) -> Option<Bytes> {
    match serde_json::to_vec(answer) {
        Ok(json) => Some(json.into()),
        Err(error) => {
            tracing::error!(command, %error, "the answer to an order cannot be written");
            None
        }
    }
}

/// Beats, until somebody else does so under the same name.
async fn live(pulse: &mut Pulse<'_>, every: Duration) -> Error {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        match pulse.beats(BEATS_MAX).await {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("beats arrive again");
            }
            Ok(()) => {}
            Err(taken @ Error::NameTaken { .. }) => return taken,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "beats do not arrive; jobs go on meanwhile");
            }
            Err(_) => {}
        }
    }
}
