//! Errors and exit codes.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use tributary_api::{manifest::source::SourceError, problem::Problem};

/// Why a command did not succeed; each variant has its exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Everything else.
    #[error("{}", chain(.0))]
    Failed(#[from] anyhow::Error),
    /// Manifests are wrong.
    #[error("{}", lines(.0))]
    Manifests(Vec<SourceError>),
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The server cannot be reached.
    #[error(
        "cannot reach a Tributary server at {server}: {reason}\nStart one with `tributary up`, or name another with --server or TRIBUTARY_SERVER."
    )]
    Unreachable {
        /// Its address.
        server: String,
        /// What the network says.
        reason: String,
    },
    /// The server refuses.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Data could not be written to stdout.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl Failure {
    /// Says what happened on stderr, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // Whoever reads only the beginning, as `head` does, has what it wants.
        if matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        // With stderr gone nobody is there to be told.
        let _ = match self {
            // One line each, as compilers write them, so that editors find the place.
            Self::Manifests(_) => writeln!(io::stderr(), "{self}"),
            _ => writeln!(io::stderr(), "error: {self}"),
        };
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Stdout(_) => 1,
            Self::Usage(_) | Self::Manifests(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::NotFound(_) => 4,
            Self::Problem(problem) => match problem.status {
                404 => 4,
                409 => 5,
                _ => 1,
            },
        }
    }
}

/// An error and its causes, each once: some errors' texts have their cause's.
fn chain(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    causes.fold(error.to_string(), |text, cause| {
        if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

fn lines(errors: &[SourceError]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
