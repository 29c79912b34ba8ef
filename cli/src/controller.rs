//! `tributary controller`: a controller of many nodes.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tributary_controller::{Beat, Controller, Options, State, controller_routes};

use crate::{
    args::ControllerOptions,
    logging,
    network::{Ending, listen},
};

pub(crate) fn run(options: ControllerOptions) -> anyhow::Result<()> {
    logging::start();
    tokio::runtime::Runtime::new()?.block_on(control(options))
}

async fn control(options: ControllerOptions) -> anyhow::Result<()> {
    let (listener, url) = listen(options.listen, &options.served).await?;
    let mut ending = Ending::new()?;
    let name = match &options.served.name {
        Some(name) => name.to_string(),
        None => url.trim_start_matches("http://").to_owned(),
    };
    let controller = tokio::select! {
        () = ending.come() => return Ok(()),
        controller = join(&options, &name) => controller?,
    };
    let (stop, mut stopped) = watch::channel(false);
    let routes = controller_routes(Arc::clone(&controller));
    let server = tokio::spawn(async move {
        let stopped = async move {
            // An end of the channel is a stop as well.
            let _ = stopped.changed().await;
        };
        axum::serve(listener, routes)
            .with_graceful_shutdown(stopped)
            .await
    });
    let lease = options.served.lease.duration();
    controller
        .run_among(&Options { url, lease }, ending.come())
        .await?;
    // Nobody listens any more if the server has ended by itself.
    let _ = stop.send(true);
    server.await.context("the server ended abnormally")??;
    Ok(())
}

async fn join(options: &ControllerOptions, name: &str) -> anyhow::Result<Arc<Controller>> {
    let backend = options.nats.connect(name).await?;
    let beat = Beat {
        believed: options.served.beat_believed.duration(),
        ..Beat::default()
    };
    let started = || async {
        let state = State::on(Arc::clone(&backend)).await?;
        Controller::join(state, name, beat).await
    };
    options.nats.waited(started).await
}
