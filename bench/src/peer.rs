//! Peers in Python: a process each, that holds its arrays and runs when told to.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{Model, place, process};

/// A peer that waits for its turn. Its process ends when this is dropped.
#[derive(Debug)]
pub struct Peer {
    name: String,
    child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `bench/peers/SCRIPT` with its arrays: the [`values`](crate::model::values) of so many clients in the
    /// shapes of `model`, with weights 1, 2, 3 and so on. Returns when they are there.
    ///
    /// # Errors
    /// If it cannot be started, or says that something is missing.
    pub fn start(script: &str, model: &Model, clients: usize) -> Result<Self> {
        Self::start_with(script, model, clients, &[])
    }

    /// As [`Self::start`], with variables in its environment.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        script: &str,
        model: &Model,
        clients: usize,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let mut command = python()?;
        command
            .arg(scripts().join(script))
            .envs(variables.iter().copied());
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("starting {script}; `cargo xtask bench` installs what it needs")
            })?;
        let mut child = child;
        let words = child.stdin.take().context("a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("a pipe")?);
        let name = script.to_owned();
        let mut peer = Self {
            name,
            child,
            words,
            answers,
        };
        let shapes: Vec<_> = model
            .tensors
            .iter()
            .map(|tensor| json!([tensor.name, tensor.shape]))
            .collect();
        let ready = peer.ask(&json!({ "tensors": shapes, "clients": clients }).to_string())?;
        if ready != "ready" {
            bail!("{script} said {ready:?} instead of being ready");
        }
        Ok(peer)
    }

    /// Lets it do its work once; the seconds that took, by its own clock.
    ///
    /// # Errors
    /// If it has ended, or says anything else.
    pub fn run(&mut self) -> Result<f64> {
        let answer = self.ask("run")?;
        answer
            .parse()
            .with_context(|| format!("{} said {answer:?}", self.name))
    }

    /// Lets it write its last result, as raw elements in the model's order.
    ///
    /// # Errors
    /// If it has ended, or says that it cannot.
    pub fn write_result(&mut self, path: &Path) -> Result<()> {
        let mut words = String::from("result ");
        write!(words, "{}", path.display())?;
        match self.ask(&words)?.as_str() {
            "written" => Ok(()),
            other => bail!("{} said {other:?}", self.name),
        }
    }

    fn ask(&mut self, words: &str) -> Result<String> {
        writeln!(self.words, "{words}").with_context(|| format!("{} has ended", self.name))?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            bail!("{} has ended; it says why above", self.name);
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Best effort: there is nobody left to tell.
        let _ = process::end_tree(&mut self.child);
    }
}

/// The folder with the peers' scripts.
#[must_use]
pub fn scripts() -> PathBuf {
    place::root().join("bench/peers")
}

/// The Python into which `cargo xtask bench` has installed the peers.
///
/// # Errors
/// If it is not there.
pub fn python() -> Result<Command> {
    let mut command = Command::new(program("python3")?);
    // The client is taken as it lies there, without installing it.
    command.env("PYTHONPATH", place::root().join("python/src"));
    // What frameworks would tell their makers.
    command
        .env("FLWR_TELEMETRY_ENABLED", "0")
        .env("FLWR_DISABLE_UPDATE_CHECK", "1");
    Ok(command)
}

/// A program that was installed with the peers.
///
/// # Errors
/// If it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = place::peers()?.join("venv/bin").join(name);
    if !path.exists() {
        bail!(
            "{} is not there: `cargo xtask bench` installs the peers",
            path.display()
        );
    }
    Ok(path)
}
