//! A server of one's own: started for the measurement, ended with it.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The `tributary` binary.
    pub binary: PathBuf,
    /// A directory for state and manifests; made, and removed in the end.
    pub directory: PathBuf,
    /// `auto`, `ebpf` or `userspace`.
    pub sidecar: String,
    /// The most worker processes.
    pub workers: u32,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    child: Child,
    address: SocketAddr,
}

/// Processor time that a server has used, user and system.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuTime {
    /// Of `tributary up` itself.
    pub server: Duration,
    /// Of its workers, those that have ended included.
    pub workers: Duration,
}

impl CpuTime {
    /// What was used since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            server: self.server.saturating_sub(before.server),
            workers: self.workers.saturating_sub(before.workers),
        }
    }
}

impl Server {
    /// Starts a server on a free port and waits until its door is open.
    ///
    /// # Errors
    /// If it does not start; what it said is on stderr.
    pub fn start(setup: Setup) -> Result<Self> {
        fs::create_dir_all(&setup.directory)?;
        let mut child = Command::new(&setup.binary)
            .arg("up")
            .arg("--state-dir")
            .arg(setup.directory.join("state"))
            .args(["--listen", "127.0.0.1:0", "--sidecar", &setup.sidecar])
            .args(["--workers", &setup.workers.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", setup.binary.display()))?;
        let stderr = child.stderr.take().context("a pipe was asked for")?;
        let mut lines = BufReader::new(stderr).lines();
        for line in lines.by_ref().map_while(Result::ok) {
            eprintln!("server: {line}");
            if let Some(address) = address(&line) {
                // Its pipe must not fill up.
                let wanted = std::env::var_os("RUST_LOG").is_some();
                std::thread::spawn(move || {
                    for line in lines.map_while(Result::ok).filter(|_| wanted) {
                        eprintln!("server: {line}");
                    }
                });
                return Ok(Self {
                    setup,
                    child,
                    address,
                });
            }
        }
        bail!("the server ended: {}", child.wait()?);
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A directory for the measurement's own files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.setup.directory
    }

    /// Runs the command line against it.
    ///
    /// # Errors
    /// If the command fails.
    pub fn command(&self, arguments: &[&str]) -> Result<()> {
        let server = format!("http://{}", self.address);
        let status = Command::new(&self.setup.binary)
            .args(arguments)
            .args(["--server", &server])
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status()?;
        if !status.success() {
            bail!("tributary {arguments:?}: {status}");
        }
        Ok(())
    }

    /// Processor time used up to now.
    ///
    /// # Errors
    /// If /proc cannot be read.
    pub fn cpu_time(&self) -> Result<CpuTime> {
        let own = stat(self.child.id()).context("the server has ended")?;
        let mut workers = own.children;
        for entry in fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_string_lossy().parse();
            let child = pid.ok().and_then(stat);
            if let Some(child) = child.filter(|child| child.parent == self.child.id()) {
                workers += child.own;
            }
        }
        let server = own.own;
        Ok(CpuTime { server, workers })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.setup.directory);
    }
}

struct Stat {
    parent: u32,
    own: Duration,
    children: Duration,
}

/// Reads `/proc/<pid>/stat`; `None` if there is no such process.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; field 3 follows it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = |first: usize| {
        let hertz = rustix::param::clock_ticks_per_second().max(1);
        let ticks = number(first)? + number(first + 1)?;
        Some(Duration::from_nanos(ticks * 1_000_000_000 / hertz))
    };
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        own: ticks(14)?,
        children: ticks(16)?,
    })
}

/// The address in the line that says where the server listens.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on http://")?;
    let end = after.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
    after[..end.unwrap_or(after.len())].parse().ok()
}
