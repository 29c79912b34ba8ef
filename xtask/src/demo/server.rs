//! A server for the demonstration: started on free ports, asked over HTTP, stopped without a trace.
//!
//! It is one process (`tributary up`), or several, each on a host of its own: see [`super::cluster`].

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
use tributary_hosts::Network;
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

/// A running server. Its processes are a process group of their own, so that Ctrl-C reaches only the demonstration,
/// and are killed with their workers when it is dropped.
pub(super) struct Server {
    /// In the order of their start.
    parts: Vec<Part>,
    group: Pid,
    /// What operators call.
    url: String,
    /// What clients call.
    door: String,
    binary: PathBuf,
    agent: Agent,
    pub(super) state: TempDir,
    /// The hosts, if there are several. They go after the processes.
    pub(super) network: Option<Network>,
}

/// A process of the server.
struct Part {
    name: String,
    child: Child,
    /// What makes it stop.
    stop: Signal,
    /// It ends with 0 when it is told to stop.
    ends_well: bool,
}

/// A node, as far as the demonstration shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) name: String,
    #[serde(default)]
    pub(super) state: String,
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
    #[serde(default)]
    pub(super) shares: Vec<Share>,
}

/// A node's part in a round.
#[derive(Debug, Deserialize)]
pub(super) struct Share {
    pub(super) node: String,
    pub(super) contributors: u64,
    pub(super) bytes: u64,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(super) fn start(
        workspace: &Workspace,
        sidecar: Sidecar,
        interrupted: &AtomicBool,
    ) -> Result<Self> {
        let address = free_address()?;
        let mut server = Self::nothing(workspace, format!("http://{address}"))?;
        let mut command = Command::new(&server.binary);
        command.args([
            "up",
            "--listen",
            &address,
            "--sidecar",
            name(sidecar).as_str(),
        ]);
        command
            .arg("--state-dir")
            .arg(server.state.path().join("state"));
        server.run("server", command)?;
        server.wait("ready", interrupted, |server| server.get("/ready").is_ok())?;
        Ok(server)
    }

    /// A server without a process yet, which operators will find at `url`, and clients as well.
    pub(super) fn nothing(workspace: &Workspace, url: String) -> Result<Self> {
        let config = Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(PATIENCE))
            .build();
        Ok(Self {
            parts: Vec::new(),
            group: rustix::process::getpgrp(),
            door: url.clone(),
            url,
            binary: workspace.binary(),
            agent: config.new_agent(),
            state: tempfile::Builder::new()
                .prefix("tributary-demo-")
                .tempdir()?,
            network: None,
        })
    }

    /// Where clients find it, if not where operators do.
    pub(super) fn set_door(&mut self, door: String) {
        self.door = door;
    }

    /// Runs one of its processes.
    pub(super) fn run(&mut self, name: &str, command: Command) -> Result<()> {
        self.run_until(name, command, Signal::TERM, true)
    }

    /// Runs a process of somebody else's that a signal stops.
    pub(super) fn run_foreign(&mut self, name: &str, command: Command) -> Result<()> {
        self.run_until(name, command, Signal::INT, false)
    }

    fn run_until(
        &mut self,
        name: &str,
        mut command: Command,
        stop: Signal,
        ends_well: bool,
    ) -> Result<()> {
        let log = File::create(self.log(name))?;
        let leader = self
            .parts
            .first()
            .map_or(0, |_| self.group.as_raw_nonzero().get());
        command
            .process_group(leader)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run `{}`", command::line(&command)))?;
        if self.parts.is_empty() {
            self.group = Pid::from_child(&child);
        }
        let name = name.to_owned();
        self.parts.push(Part {
            name,
            child,
            stop,
            ends_well,
        });
        Ok(())
    }

    /// Waits until something is so.
    pub(super) fn wait(
        &mut self,
        what: &str,
        interrupted: &AtomicBool,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        while !is_so(self) {
            self.check_alive()?;
            if started.elapsed() > PATIENCE {
                let names: Vec<&str> = self.parts.iter().map(|part| part.name.as_str()).collect();
                let words: Vec<String> = names.iter().map(|name| self.last_words(name)).collect();
                bail!(
                    "the server was not {what} after {} s; its last words:\n{}",
                    PATIENCE.as_secs(),
                    words.join("\n")
                );
            }
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Fails when a process of the server has ended by itself.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        for part in &mut self.parts {
            if let Some(status) = part.child.try_wait()? {
                let name = part.name.clone();
                bail!(
                    "{name} ended ({status}); its last words:\n{}",
                    self.last_words(&name)
                );
            }
        }
        Ok(())
    }

    /// The server's address, as operators call it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The server's address, as clients call it.
    pub(super) fn door(&self) -> &str {
        &self.door
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
    pub(super) fn apply(&self, workspace: &Workspace, manifests: &[&str]) -> Result<Vec<String>> {
        let mut command = workspace.command(&self.binary);
        command.arg("apply").env("TRIBUTARY_SERVER", &self.url);
        for manifest in manifests {
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

    /// The nodes of this server.
    pub(super) fn nodes(&self) -> Result<Vec<Node>> {
        self.json("/v1/nodes")
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
        let exits = self.end()?;
        Leftovers::of(self.group, before, &exits)
    }

    /// Stops the processes, the last one first; gives how those ended that should end well, `None` for one that did
    /// not.
    fn end(&mut self) -> Result<Vec<Option<ExitStatus>>> {
        let mut exits = Vec::new();
        for part in self.parts.iter_mut().rev() {
            if part.child.try_wait()?.is_none() {
                kill_process(Pid::from_child(&part.child), part.stop)?;
            }
            let exit = part.wait()?;
            if part.ends_well || exit.is_none() {
                exits.push(exit);
            }
        }
        Ok(exits)
    }

    pub(super) fn get(&self, path: &str) -> Result<String> {
        let mut response = self
            .agent
            .get(format!("{}{path}", self.url))
            .call()
            .with_context(|| path.to_owned())?;
        Ok(response.body_mut().read_to_string()?)
    }

    pub(super) fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let text = self.get(path)?;
        serde_json::from_str(&text).with_context(|| format!("{path} answers {text}"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.state.path().join(format!("{name}.log"))
    }

    fn last_words(&self, name: &str) -> String {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    /// Whatever happened before: no process stays.
    fn drop(&mut self) {
        if self.parts.is_empty() {
            return;
        }
        let _ = self.end();
        if traces::members(self.group).is_ok_and(|left| !left.is_empty()) {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        for part in &mut self.parts {
            let _ = part.child.wait();
        }
    }
}

impl Part {
    /// Waits for its end; `None` when it does not come.
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
}

impl Node {
    /// The node in a few words.
    pub(super) fn describe(&self) -> String {
        let Self {
            sidecar,
            sidecar_reason,
            kernel,
            ..
        } = self;
        match sidecar_reason {
            Some(reason) => format!("sidecar {sidecar}, because {reason}; kernel {kernel}"),
            None => format!("sidecar {sidecar}, kernel {kernel}"),
        }
    }
}

pub(super) fn name(sidecar: Sidecar) -> String {
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
