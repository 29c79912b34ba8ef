//! `tributary controller`: a controller of many nodes.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::sync::watch;
use tributary_controller::{Controller, Options, State, controller_routes};
use tributary_node::{DoorMetrics, serve_routes};

use crate::{
    args::ControllerOptions,
    logging,
    machine::raise_open_files,
    network::{Ending, listen},
};

pub(crate) fn run(options: ControllerOptions) -> anyhow::Result<()> {
    logging::start();
    raise_open_files();
    tokio::runtime::Runtime::new()?.block_on(control(options))
}

async fn control(options: ControllerOptions) -> anyhow::Result<()> {
    let (listener, url) = listen(options.listen, &options.served).await?;
    let mut ending = Ending::new()?;
    let name = match &options.served.name {
        Some(name) => name.to_string(),
        None => url.trim_start_matches("http://").to_owned(),
    };
    let (controller, lease) = tokio::select! {
        () = ending.come() => return Ok(()),
        joined = join(&options, &name) => joined?,
    };
    let (stop, stopped) = watch::channel(false);
    let hosts = options
        .served
        .hosts
        .hosts(listener.local_addr()?, Some(&url));
    let metrics = DoorMetrics::new(controller.registry())?;
    let routes = controller_routes(Arc::clone(&controller));
    let server = tokio::spawn(serve_routes(listener, hosts, routes, metrics, stopped));
    controller
        .run_among(&Options { url, lease }, ending.come())
        .await?;
    // Nobody listens any more if the server has ended by itself.
    let _ = stop.send(true);
    server.await.context("the server ended abnormally")?;
    Ok(())
}

async fn join(
    options: &ControllerOptions,
    name: &str,
) -> anyhow::Result<(Arc<Controller>, Duration)> {
    let nats = options.nats.connect(name).await?;
    let agreement = options.nats.agreed(&nats, &options.served).await?;
    let started = || async {
        let state = State::on(nats.clone()).await?;
        Controller::join(state, name, agreement.beat()).await
    };
    let controller = options.nats.waited(started).await?;
    Ok((controller, agreement.lease()))
}
