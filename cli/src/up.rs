//! `tributary up`: controller and node in one process.

use std::{env, sync::Arc, thread};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tributary_controller::{Controller, State, routes};
use tributary_node::{Node, Options, events::Events, identity::Identity, metrics::Metrics};

use crate::{args::UpOptions, logging, state_dir::state_dir};

pub(crate) fn run(options: UpOptions) -> anyhow::Result<()> {
    logging::start();
    raise_open_files();
    tokio::runtime::Runtime::new()?.block_on(up(options))
}

async fn up(options: UpOptions) -> anyhow::Result<()> {
    let directory = state_dir(options.state_dir)?;
    let identity = Identity::take(&directory)?;
    let listener = TcpListener::bind(options.listen).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {}; give --listen", options.listen))?;
    // The port may have been left to the system (`--listen 127.0.0.1:0`).
    let address = listener.local_addr()?;
    // From here on: a stop that comes before the door is open must leave nothing behind either.
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let state = State::open(&directory)?;
    let events = Events::new(identity.name());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let node_options = Options {
        sidecar: options.sidecar.into(),
        workers: options
            .workers
            .unwrap_or(u32::try_from(cores).unwrap_or(u32::MAX)),
        worker_program: env::current_exe().context("cannot find this program's own file")?,
    };
    let node = Node::start(
        identity,
        node_options,
        state.checkpoints(),
        Arc::new(Metrics::new()),
        events,
    )?;
    let node = Arc::new(node);
    match node.sidecar() {
        (kind, None) => tracing::info!(sidecar = %kind, "descriptors are routed"),
        (kind, Some(reason)) => {
            tracing::warn!(sidecar = %kind, reason, "descriptors are not routed in the kernel");
        }
    }

    let controller = Controller::start(state, node.clone()).await?;
    let (stop, stopped) = watch::channel(false);
    let server = node.serve(listener, routes(controller.clone()), stopped);
    tracing::info!("listening on http://{address}");
    if !address.ip().is_loopback() {
        tracing::warn!("{address} is not a loopback address, and there is no authentication yet");
    }
    tokio::select! {
        () = controller.run() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    // Nobody listens any more if the server has ended by itself.
    let _ = stop.send(true);
    server.await.context("the gateway ended abnormally")?;
    node.shutdown().await;
    Ok(())
}

/// Every client is a connection: uses all the descriptors that the process may have.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
