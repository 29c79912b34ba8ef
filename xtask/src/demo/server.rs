//! A server for the demonstration: started on a free port, asked over HTTP, stopped without a trace.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use ureq::Agent;

use super::Sidecar;
use super::traces::{self, Leftovers, Traces};
use crate::command;
use crate::workspace::Workspace;

/// How long the server may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks at something that takes its time.
const PAUSE: Duration = Duration::from_millis(20);

/// Lines of the server's log that are shown when it fails.
const LOG_LINES: usize = 30;

/// The manifests that the demonstration applies, in the workspace.
const MANIFESTS: [&str; 2] = ["manifests/functions.yaml", "manifests/digits.yaml"];

/// A running server. It leads a process group of its own, so that Ctrl-C reaches only the demonstration,
/// and is killed with its workers when dropped.
pub(super) struct Server {
    child: Child,
    group: Pid,
    url: String,
    binary: PathBuf,
    agent: Agent,
    state: TempDir,
}

/// A node, as far as the demonstration shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    sidecar: String,
    sidecar_reason: Option<String>,
    kernel: String,
}

/// A round, as far as the demonstration shows it.
#[derive(Debug, Deserialize)]
pub(super) struct RoundStatus {
    pub(super) phase: String,
    pub(super) contributors: u64,
    pub(super) aggregation_seconds: Option<f64>,
    pub(super) bytes_copied: u64,
    pub(super) bytes_read_in_place: u64,
    pub(super) error: Option<String>,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(super) fn start(
        workspace: &Workspace,
        sidecar: Sidecar,
        interrupted: &AtomicBool,
    ) -> Result<Self> {
        let state = tempfile::Builder::new()
            .prefix("tributary-demo-")
            .tempdir()?;
        let address = free_address()?;
        let log = File::create(state.path().join("server.log"))?;
        let binary = workspace.binary();
        let mut command = Command::new(&binary);
        command.args([
            "up",
            "--listen",
            &address,
            "--sidecar",
            name(sidecar).as_str(),
        ]);
        command.arg("--state-dir").arg(state.path().join("state"));
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run `{}`", command::line(&command)))?;
        let group = Pid::from_child(&child);
        let config = Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(PATIENCE))
            .build();
        let url = format!("http://{address}");
        let mut server = Self {
            child,
            group,
            url,
            binary,
            agent: config.new_agent(),
            state,
        };
        server.wait_until_ready(interrupted)?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, interrupted: &AtomicBool) -> Result<()> {
        let started = Instant::now();
        while self.get("/ready").is_err() {
            self.check_alive()?;
            if started.elapsed() > PATIENCE {
                bail!(
                    "the server was not ready after {} s; its last words:\n{}",
                    PATIENCE.as_secs(),
                    self.last_words()
                );
            }
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Fails when the server has ended by itself.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "the server ended ({status}); its last words:\n{}",
                self.last_words()
            );
        }
        Ok(())
    }

    /// The server's address, as clients call it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// How a person calls the command line on this server.
    pub(super) fn command(&self, arguments: &str) -> String {
        format!(
            "{} --server {} {arguments}",
            self.binary.display(),
            self.url
        )
    }

    /// Applies the manifests; gives what the command line says, talk first.
    pub(super) fn apply(&self, workspace: &Workspace) -> Result<Vec<String>> {
        let mut command = workspace.command(&self.binary);
        command.arg("apply").env("TRIBUTARY_SERVER", &self.url);
        for manifest in MANIFESTS {
            command.args(["-f", manifest]);
        }
        let output = command.output()?;
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        if !output.status.success() {
            bail!(
                "`{}` failed ({}):\n{said}",
                command::line(&command),
                output.status
            );
        }
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// The node of this server.
    pub(super) fn node(&self) -> Result<Node> {
        let nodes: Vec<Node> = self.json("/v1/nodes")?;
        nodes.into_iter().next().context("the server has no node")
    }

    /// A round's status, once it is completed.
    pub(super) fn round(&self, job: &str, round: u64) -> Result<RoundStatus> {
        let started = Instant::now();
        loop {
            let status: RoundStatus = self.json(&format!("/v1/jobs/{job}/rounds/{round}"))?;
            match status.phase.as_str() {
                "completed" => return Ok(status),
                "failed" => bail!("round {round} failed: {}", status.error.unwrap_or_default()),
                phase if started.elapsed() > PATIENCE => {
                    bail!("round {round} has a model and is still {phase}")
                }
                _ => thread::sleep(PAUSE),
            }
        }
    }

    /// The metrics, in Prometheus' text format.
    pub(super) fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// Tells the server to stop, waits, and looks at what is left.
    pub(super) fn stop(mut self) -> Result<Leftovers> {
        let before = Traces::of(self.group)?;
        kill_process(self.group, Signal::TERM)?;
        let exit = self.wait()?;
        Leftovers::of(self.group, before, exit)
    }

    /// Waits for the server's end; `None` when it does not come.
    fn wait(&mut self) -> Result<Option<ExitStatus>> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(PAUSE);
        }
        Ok(None)
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut response = self
            .agent
            .get(format!("{}{path}", self.url))
            .call()
            .with_context(|| path.to_owned())?;
        Ok(response.body_mut().read_to_string()?)
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let text = self.get(path)?;
        serde_json::from_str(&text).with_context(|| format!("{path} answers {text}"))
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.state.path().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    /// Whatever happened before: no process stays.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(self.group, Signal::TERM);
            let _ = self.wait();
        }
        if traces::members(self.group).is_ok_and(|left| !left.is_empty()) {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Node {
    /// The node in a few words.
    pub(super) fn describe(&self) -> String {
        let Self {
            sidecar,
            sidecar_reason,
            kernel,
        } = self;
        match sidecar_reason {
            Some(reason) => format!("sidecar {sidecar}, because {reason}; kernel {kernel}"),
            None => format!("sidecar {sidecar}, kernel {kernel}"),
        }
    }
}

fn name(sidecar: Sidecar) -> String {
    // `Sidecar` skips no value, so each has a name.
    sidecar
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// An address that nobody listens on. Somebody else could take it before the server does; it would say so.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
