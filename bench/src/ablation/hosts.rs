//! Hosts of one's own, with a NATS server beside them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tributary_hosts::Network;

use crate::process::{self, Tree};
use crate::{place, process::Usage};

/// The bandwidth of a host's link, as in a cluster of the size that the trace is for. The machine's two cores move less.
const RATE: &str = "10gbit";
/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Network namespaces, a NATS server, and all processes that were started on them; gone when dropped.
#[derive(Debug)]
pub struct Hosts {
    processes: Vec<Process>,
    nats: u16,
    // In this order: processes end before their network and their files go.
    network: Network,
    home: TempDir,
}

#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Best effort: there is nobody left to tell.
        let _ = process::end_tree(&mut self.child);
    }
}

impl Hosts {
    /// So many hosts, and the server.
    ///
    /// # Errors
    /// Without the right to make network namespaces, or without `nats-server`.
    pub fn start(hosts: usize) -> Result<Self> {
        let mut started = Self {
            processes: Vec::new(),
            nats: free_port()?,
            network: Network::new(hosts, RATE)?,
            home: tempfile::Builder::new()
                .prefix("tributary-bench-")
                .tempdir()?,
        };
        let (config, store) = (
            started.home().join("nats.conf"),
            started.home().join("nats"),
        );
        // Limits raised as far as the server's makers advise; the store is on disk, as it is by default.
        let text = format!(
            "listen: \"0.0.0.0:{}\"\nmax_payload: 8MB\nmax_pending: 256MB\nwrite_deadline: \"60s\"\n\
             jetstream {{ store_dir: {store:?}, max_mem: 1GB, max_file: 60GB }}\n",
            started.nats
        );
        fs::write(&config, text)?;
        let mut command = Command::new(place::nats_server()?);
        command.arg("--config").arg(config);
        started.run("nats-server", command)?;
        started.wait("nats-server listens", |hosts| {
            TcpStream::connect(("127.0.0.1", hosts.nats)).is_ok()
        })?;
        Ok(started)
    }

    /// A folder for files of the benchmark.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The hosts' network.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Where hosts reach what is beside them.
    #[must_use]
    pub fn beside(&self) -> Ipv4Addr {
        self.network.gateway()
    }

    /// The NATS server's URL.
    #[must_use]
    pub fn nats(&self) -> String {
        format!("nats://{}:{}", self.beside(), self.nats)
    }

    /// Starts a process that lives as long as these hosts do; what it says goes to a file.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&mut self, name: impl Into<String>, mut command: Command) -> Result<()> {
        let name = name.into();
        let log = self.home().join(format!("{name}.log"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| name.clone())?;
        self.processes.push(Process { name, child, log });
        Ok(())
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// If a process has ended, or after a minute: with what all of them said last.
    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        if !self.wait_for(PATIENCE, is_so)? {
            bail!("waited for: {what}\n{}", self.last_words());
        }
        Ok(())
    }

    /// Waits for so long until something is so; whether it is.
    ///
    /// # Errors
    /// If a process has ended.
    pub fn wait_for(&mut self, patience: Duration, is_so: impl Fn(&Self) -> bool) -> Result<bool> {
        let started = Instant::now();
        while !is_so(self) {
            self.check_alive()?;
            if started.elapsed() > patience {
                return Ok(false);
            }
            thread::sleep(PAUSE);
        }
        Ok(true)
    }

    /// Whether all processes run.
    ///
    /// # Errors
    /// If one does not: with what it said last.
    pub fn check_alive(&mut self) -> Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait()? {
                let said = fs::read_to_string(&process.log).unwrap_or_default();
                bail!("{} ended ({status}):\n{said}", process.name);
            }
        }
        Ok(())
    }

    /// What all processes here, and those that they have started, have used.
    ///
    /// # Errors
    /// If one has ended.
    pub fn usage(&self) -> Result<f64> {
        let usages = self.processes.iter();
        let usages = usages.map(|process| Tree::of(process.child.id()).usage());
        let cpu = usages.map(|usage: Result<Usage>| Ok(usage?.cpu_seconds));
        cpu.sum()
    }

    /// Bytes that hosts have sent over their links.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn bytes_sent(&self, hosts: usize) -> Result<u64> {
        let sent = (0..hosts).map(|host| self.network.bytes(host));
        let sent = sent.map(|bytes| Some(bytes?.0));
        sent.sum::<Option<u64>>().context("a link's counters")
    }

    /// What all processes have said last.
    pub(super) fn last_words(&self) -> String {
        let said = self.processes.iter().map(|process| {
            let said = fs::read_to_string(&process.log).unwrap_or_default();
            let from = said.len().saturating_sub(2000);
            let end = said.get(from..).unwrap_or(&said);
            format!("== {}\n{end}\n", process.name)
        });
        said.collect()
    }
}

/// A port that nobody listens on. Somebody else could take it before its process does; that would say so.
///
/// # Errors
/// What the network says.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("0.0.0.0:0")?.local_addr()?.port())
}
