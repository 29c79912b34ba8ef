//! `tributary worker`: the process that hosts aggregators.

pub(crate) fn run() -> anyhow::Result<()> {
    Ok(tributary_node::worker::run()?)
}
