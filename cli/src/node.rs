//! `tributary node`: a node of several.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
    sync::watch,
};
use tributary_controller::{
    Agreement, Publisher, State, Station, node_routes, serve_node, submissions,
};
use tributary_node::{events::Events, identity::Identity};
use tributary_store::{Backend, Leadership};

use crate::{
    args::NodeOptions,
    logging,
    machine::{self, Setting, raise_open_files},
    network::{Ending, listen},
    publishing::publish,
    state_dir::state_dir,
};

/// How long a process that ends waits for its newest models to be stored.
const DELIVERY: Duration = Duration::from_secs(5);

pub(crate) fn run(options: NodeOptions) -> anyhow::Result<()> {
    logging::start();
    raise_open_files();
    let data = Runtime::new()?;
    // Beats and orders have threads of their own: a node that is busy with many updates must not be taken for dead.
    let control = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let door = data.block_on(listen(options.listen, &options.served))?;
    control.block_on(serve(options, data.handle(), door))
}

/// Runs the node on the runtime `data`, and everything between it and the controllers on the one that runs this.
async fn serve(
    options: NodeOptions,
    data: &Handle,
    (listener, url): (TcpListener, String),
) -> anyhow::Result<()> {
    let directory = state_dir(options.machine.state_dir.clone())?;
    let identity = Identity::take(&directory)?;
    let identity = match &options.served.name {
        Some(name) => identity.named(name.as_str()),
        None => identity,
    };
    let name = identity.name().to_owned();
    let mut ending = Ending::new()?;
    let (backend, state, agreement) = tokio::select! {
        () = ending.come() => return Ok(()),
        joined = join(&options, &name) => joined?,
    };
    let spool = state.spool(directory.join("spool")).await?;
    let events = Events::new(&name);
    let heard = events.listen();
    let updates = || state.updates(&options.fetch_bucket);
    let updates = options.nats.waited(updates).await?;
    let setting = Setting {
        checkpoints: spool.clone(),
        updates: Some(updates),
        events,
    };
    let node = {
        let _on_data = data.enter();
        machine::start(identity, &options.machine, setting)?
    };
    let beat = agreement.beat();
    let office = || Leadership::open(&*backend, "leader", agreement.lease());
    let office = options.nats.waited(office).await?;
    let (stop, stopped) = watch::channel(false);
    let hosts = options
        .served
        .hosts
        .hosts(listener.local_addr()?, Some(&url));
    let server = node.serve(listener, hosts, node_routes(office), stopped);
    let labels: BTreeMap<_, _> = options.labels.iter().cloned().collect();
    let started = || {
        Station::new(
            node.clone(),
            state.clone(),
            Some(url.clone()),
            labels.clone(),
            Some(spool.clone()),
            options.capacity,
        )
    };
    let station = options.nats.waited(started).await?;
    let bus = options.nats.waited(|| backend.bus()).await?;
    let publisher = Publisher::new(bus.clone(), format!("/nodes/{name}"));
    tracing::info!(name, url, "this node takes part");
    let served = async {
        let ended = async {
            ending.come().await;
            // Who goes on with the jobs finds their newest models.
            if !spool.flush(None, DELIVERY).await {
                tracing::warn!("models stay on this node's disk: the store does not take them");
            }
        };
        let ended = ended.shared();
        options
            .nats
            .waited(|| serve_node(&*backend, Arc::clone(&station), beat, ended.clone()))
            .await
    };
    let served = tokio::select! {
        served = served => served,
        () = publish(&publisher, heard, |missed| node.count_dropped_events(missed)) => Ok(()),
        () = submissions::take(bus, node.clone(), &publisher) => Ok(()),
    };
    // Nobody listens any more if the server has ended by itself.
    let _ = stop.send(true);
    server.await.context("the gateway ended abnormally")?;
    node.shutdown().await;
    served
}

async fn join(
    options: &NodeOptions,
    name: &str,
) -> anyhow::Result<(Arc<dyn Backend>, State, Agreement)> {
    let nats = options.nats.connect(name).await?;
    let agreement = options.nats.found(&nats, &options.served).await?;
    let opened = || State::on(nats.clone());
    let state = options.nats.waited(opened).await?;
    let backend: Arc<dyn Backend> = nats;
    Ok((backend, state, agreement))
}
