//! The clients: a thread each, which does what a device would do.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use digits::data_plane::Published;
use digits::federated::local_update;
use digits::{DataPlane, Image, JOB, ROUNDS, client_name, tensors};

/// How long a client tries to get one call through.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a client lets the server keep it waiting for the next model.
const LONG_POLL: Duration = Duration::from_secs(30);

/// What the clients tell.
pub(super) enum Event {
    /// A client's update has been accepted.
    Sent,
    /// A round has given a model. Told by the first client alone.
    Model(Published),
    /// A client has given up.
    Failed {
        /// Its index.
        client: usize,
        /// Why.
        error: anyhow::Error,
    },
}

/// Starts a client for every shard. They end by themselves after the last round.
pub(super) fn start(server: &str, shards: &Arc<Vec<Vec<Image>>>) -> Receiver<Event> {
    let (sender, events) = channel();
    let plane = DataPlane::new(server, JOB, PATIENCE);
    for client in 0..shards.len() {
        let (plane, shards, sender) = (plane.clone(), Arc::clone(shards), sender.clone());
        thread::spawn(move || {
            if let Err(error) = participate(&plane, client, &shards[client], &sender) {
                // Nobody listens any more when the demonstration has been given up.
                let _ = sender.send(Event::Failed { client, error });
            }
        });
    }
    events
}

fn participate(
    plane: &DataPlane,
    client: usize,
    shard: &[Image],
    sender: &Sender<Event>,
) -> Result<()> {
    let mut global = plane.model()?;
    while global.version <= ROUNDS {
        let round = global.version;
        let model = local_update(&global.model, shard, client, round);
        let update = tensors::encode(&model)?;
        plane.push(&client_name(client), round, shard.len() as f64, &update)?;
        let _ = sender.send(Event::Sent);
        global = next(plane, round)?;
        if global.version != round + 1 {
            bail!(
                "version {} follows version {round}: a round went on without this client",
                global.version
            );
        }
        if client == 0 {
            let _ = sender.send(Event::Model(global.clone()));
        }
    }
    Ok(())
}

/// Waits for the model after `version`, for as long as it takes: the demonstration watches the time.
fn next(plane: &DataPlane, version: u64) -> Result<Published> {
    loop {
        if let Some(published) = plane.model_after(version, LONG_POLL)? {
            return Ok(published);
        }
    }
}
