//! `tributary completions`.

use clap::CommandFactory as _;

use crate::{args::Args, failure::Failure, output};

pub(crate) fn run(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "tributary", &mut script);
    output::write(&script)
}
