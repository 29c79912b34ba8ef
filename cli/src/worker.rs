//! `tributary worker`: the process that hosts aggregators, and `tributary prove`: the one that checks a function.

/// Whether the command line is the one with which the agent starts workers. Clients wait for a worker's
/// start: it does without the description of all commands and options.
pub(crate) fn is_asked_for() -> bool {
    let mut words = std::env::args_os().skip(1);
    words.next().is_some_and(|word| word == "worker") && words.next().is_none()
}

pub(crate) fn run() -> anyhow::Result<()> {
    crate::logging::start();
    Ok(tributary_node::worker::run()?)
}

/// Logs nothing: what a function says of made-up updates is nobody's concern, and what is wrong with it is in the answer.
pub(crate) fn prove() -> anyhow::Result<()> {
    Ok(tributary_node::proving::run()?)
}
