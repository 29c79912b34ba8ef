//! `tributary up`: controller and node in one process.

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::watch};
use tributary_controller::{Controller, State, routes};
use tributary_node::{events::Events, identity::Identity};

use crate::{
    args::UpOptions,
    logging,
    machine::{self, Setting, raise_open_files},
    network::Ending,
    state_dir::state_dir,
};

pub(crate) fn run(options: UpOptions) -> anyhow::Result<()> {
    logging::start();
    raise_open_files();
    tokio::runtime::Runtime::new()?.block_on(up(options))
}

async fn up(options: UpOptions) -> anyhow::Result<()> {
    let directory = state_dir(options.machine.state_dir.clone())?;
    let identity = Identity::take(&directory)?;
    let listener = TcpListener::bind(options.listen).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {}; give --listen", options.listen))?;
    // The port may have been left to the system (`--listen 127.0.0.1:0`).
    let address = listener.local_addr()?;
    // From here on: a stop that comes before the door is open must leave nothing behind either.
    let mut ending = Ending::new()?;
    let state = State::open(&directory).await?;
    let events = Events::new(identity.name());
    let setting = Setting {
        checkpoints: state.checkpoints(),
        // Nobody but this process can put anything into its store.
        updates: None,
        events,
    };
    let node = machine::start(identity, &options.machine, setting)?;
    let controller = Controller::start(state, node.clone()).await?;
    let (stop, stopped) = watch::channel(false);
    let hosts = options.hosts.hosts(address, None);
    let server = node.serve(listener, hosts, routes(controller.clone()), stopped);
    tracing::info!("listening on http://{address}");
    if !address.ip().is_loopback() {
        tracing::warn!("{address} is not a loopback address, and there is no authentication yet");
    }
    tokio::select! {
        () = controller.run_alone() => {}
        () = ending.come() => {}
    }
    // Nobody listens any more if the server has ended by itself.
    let _ = stop.send(true);
    server.await.context("the gateway ended abnormally")?;
    node.shutdown().await;
    Ok(())
}
