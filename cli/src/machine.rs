//! What every process with a node does with its machine.

use std::{env, sync::Arc, thread};

use anyhow::Context as _;
use tributary_api::{control::Checkpoints, reference::UpdateObjects};
use tributary_node::{
    FetchOptions, Node, Options, events::Events, identity::Identity, metrics::Metrics,
};

use crate::args::MachineOptions;

/// What the node of a process is connected with.
pub(crate) struct Setting {
    /// Where models go.
    pub(crate) checkpoints: Arc<dyn Checkpoints>,
    /// Where updates may be fetched from, beside URLs.
    pub(crate) updates: Option<Arc<dyn UpdateObjects>>,
    pub(crate) events: Events,
}

/// Starts the node of this process.
pub(crate) fn start(
    identity: Identity,
    options: &MachineOptions,
    setting: Setting,
) -> anyhow::Result<Arc<Node>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let node_options = Options {
        sidecar: options.sidecar.into(),
        workers: options
            .workers
            .unwrap_or(u32::try_from(cores).unwrap_or(u32::MAX)),
        worker_program: env::current_exe().context("cannot find this program's own file")?,
        fetch: FetchOptions {
            from: options.fetch_from.clone(),
            objects: setting.updates,
        },
    };
    let metrics = Arc::new(Metrics::new());
    let Setting {
        checkpoints,
        events,
        ..
    } = setting;
    let node = Node::start(identity, node_options, checkpoints, metrics, events)?;
    match node.sidecar() {
        (kind, None) => tracing::info!(sidecar = %kind, "descriptors are routed"),
        (kind, Some(reason)) => {
            tracing::warn!(sidecar = %kind, reason, "descriptors are not routed in the kernel");
        }
    }
    Ok(Arc::new(node))
}

/// Every client is a connection: uses all the descriptors that the process may have.
pub(crate) fn raise_open_files() {
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
