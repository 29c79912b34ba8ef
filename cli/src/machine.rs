//! What every process with a node does with its machine.

use std::{env, fs, path::Path, sync::Arc, thread};

use anyhow::Context as _;
use tributary_api::{control::Checkpoints, reference::UpdateObjects};
use tributary_node::{
    Autoscaler as Config, FetchOptions, Node, Options, events::Events, identity::Identity,
    metrics::Metrics,
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
        autoscaler: match &options.autoscaler {
            Some(file) => {
                autoscaler(file).with_context(|| format!("--autoscaler {}", file.display()))?
            }
            None => Config::default(),
        },
        autoscaler_trace: options.autoscaler_trace.clone(),
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

/// The autoscaler's parameters; what the file leaves out is built in.
fn autoscaler(file: &Path) -> anyhow::Result<Config> {
    let text = fs::read_to_string(file)?;
    let config: Config = serde_saphyr::from_str(&text)?;
    config.check()?;
    Ok(config)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        autoscaler(file.path()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_autoscalers_parameters_are_yaml_or_json_and_may_be_left_out() {
        let yaml = read("period_seconds: 1\nwarm: { start_seconds: 0.5 }\n").unwrap();
        let json = read(r#"{"period_seconds": 1, "warm": {"start_seconds": 0.5}}"#).unwrap();
        assert_eq!(yaml, json);
        assert_eq!((yaml.period_seconds, yaml.warm.start_seconds), (1.0, 0.5));
        assert_eq!(yaml.stable_seconds, Config::default().stable_seconds);
    }

    #[test]
    fn what_is_wrong_in_them_is_named() {
        let unknown = read("warm: { start: 1 }\n").unwrap_err();
        assert!(unknown.contains("start"), "{unknown}");
        let wrong = read("updates_per_worker: 0\n").unwrap_err();
        assert!(wrong.contains("updates_per_worker is 0"), "{wrong}");
    }
}
