//! `tributary worker`: the process that hosts aggregators.

pub(crate) fn run() -> anyhow::Result<()> {
    crate::logging::start();
    Ok(tributary_node::worker::run()?)
}
