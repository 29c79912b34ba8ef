//! The process `tributary up`, in a state directory of its own.
//!
//! However a test ends, nothing of it stays: what still runs is killed and its segments are removed.
//! A test that ends well calls [`Server::finish`], which demands that the server itself leaves nothing.

mod evidence;
mod starting;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use rustix::process::Signal;
use tempfile::TempDir;
use tributary_api::status::NodeStatus;
use tributary_planning::autoscale::Line;

use crate::fates::Fates;
use crate::http::Client;
use crate::job::Job;
use crate::manifest::Manifest;
use crate::scrape::Scrape;
use crate::tensors::Model;
use crate::wait::{eventually, until};
use crate::{Sidecar, place, process};
use starting::How;

/// Workers, unless a scenario says otherwise: as many as the smallest machine has cores.
const WORKERS: u32 = 2;

/// A running server.
#[derive(Debug)]
pub struct Server {
    sidecar: Sidecar,
    workers: u32,
    home: TempDir,
    child: Child,
    client: Client,
    node: String,
    log: starting::Log,
}

/// How a command of the command line ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// The same, if it ended with that code.
    ///
    /// # Panics
    /// If it ended with another one.
    #[must_use]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }
}

impl Server {
    /// Starts one with two workers.
    #[must_use]
    pub fn start(sidecar: Sidecar) -> Self {
        Self::with_workers(sidecar, WORKERS)
    }

    /// Starts one.
    ///
    /// # Panics
    /// If it does not become ready, or routes in another way.
    #[must_use]
    pub fn with_workers(sidecar: Sidecar, workers: u32) -> Self {
        Self::launch(sidecar, sidecar.name(), How::Ordinary, workers)
    }

    /// Starts one that may choose its sidecar but lacks the privilege for the kernel's.
    ///
    /// # Panics
    /// As [`Self::with_workers`].
    #[must_use]
    pub fn unprivileged() -> Self {
        Self::launch(Sidecar::Userspace, "auto", How::NoBpf, WORKERS)
    }

    /// Starts one whose workers meet the fates that wait at failpoints.
    ///
    /// # Panics
    /// As [`Self::with_workers`].
    #[must_use]
    pub fn with_failpoints(sidecar: Sidecar, workers: u32) -> (Self, Fates) {
        let server = Self::launch(sidecar, sidecar.name(), How::WithFailpoints, workers);
        let fates = Fates::at(starting::fates(&server.state()));
        (server, fates)
    }

    /// Starts one whose autoscaler has these parameters, in YAML, and records its decisions.
    ///
    /// # Panics
    /// As [`Self::with_workers`].
    #[must_use]
    pub fn with_autoscaler(sidecar: Sidecar, workers: u32, parameters: &str) -> Self {
        let home = TempDir::with_prefix("tributary-test-").expect("a temporary folder");
        let (file, _) = starting::autoscaler(&home.path().join("state"));
        fs::write(file, parameters).expect("a file in the test's own folder");
        Self::launch_in(home, sidecar, sidecar.name(), How::Ordinary, workers)
    }

    fn launch(sidecar: Sidecar, choice: &str, how: How, workers: u32) -> Self {
        let home = TempDir::with_prefix("tributary-test-").expect("a temporary folder");
        Self::launch_in(home, sidecar, choice, how, workers)
    }

    fn launch_in(home: TempDir, sidecar: Sidecar, choice: &str, how: How, workers: u32) -> Self {
        let state = home.path().join("state");
        fs::create_dir(starting::fates(&state)).expect("a folder in the test's own");
        let (child, address, log) = starting::start(choice, how, workers, &state);
        let (client, node) = (Client::new(address), String::new());
        let mut server = Self {
            sidecar,
            workers,
            home,
            child,
            client,
            node,
            log,
        };
        server.node = server.greet();
        server
    }

    /// Starts another server that must refuse to start, and gives what it says.
    #[must_use]
    pub fn refused_start(sidecar: Sidecar, state: &Path, listen: &str) -> Ran {
        starting::refused(sidecar.name(), How::Ordinary, state, listen)
    }

    /// Starts a server that shall use the kernel's sidecar and lacks the privilege.
    #[must_use]
    pub fn refused_unprivileged_start(state: &Path) -> Ran {
        starting::refused(Sidecar::Ebpf.name(), How::NoBpf, state, "127.0.0.1:0")
    }

    /// Starts again in the same state directory after a kill.
    ///
    /// # Panics
    /// As [`Self::with_workers`]; also if the node has another name than before.
    pub fn start_again(&mut self) {
        let state = self.state();
        let (child, address, log) =
            starting::start(self.sidecar.name(), How::Ordinary, self.workers, &state);
        (self.child, self.client, self.log) = (child, Client::new(address), log);
        assert_eq!(self.greet(), self.node, "the node keeps its name");
    }

    /// Waits until it is ready; gives its name.
    fn greet(&self) -> String {
        until("the server is ready", || {
            self.client
                .try_send("GET", "/ready", &[], &[])
                .is_ok_and(|a| a.status == 200)
        });
        let node = self.node_status();
        assert_eq!(node.sidecar.to_string(), self.sidecar.name(), "{node:?}");
        node.name
    }

    /// Stops it cleanly and starts it again.
    ///
    /// # Panics
    /// As [`Self::finish_idle`] and [`Self::start_again`].
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    // === what it is ===

    /// Its door.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.client.address()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder for the scenario's own files; the state directory is in it.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.home().join("state")
    }

    /// The node's status.
    ///
    /// # Panics
    /// If there is not exactly one node.
    #[must_use]
    #[track_caller]
    pub fn node_status(&self) -> NodeStatus {
        let nodes: Vec<NodeStatus> = self.client.get("/v1/nodes").json();
        let [node] = nodes.try_into().expect("one node");
        node
    }

    /// Its metrics now.
    #[must_use]
    #[track_caller]
    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.client.get("/metrics").expect(200).text())
    }

    /// Its worker processes.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        process::workers_of(self.pid())
    }

    /// What its autoscaler has decided so far, and from what. Empty unless it was started with parameters for it.
    ///
    /// # Panics
    /// If the record cannot be read.
    #[must_use]
    pub fn decisions(&self) -> Vec<Line> {
        let (_, file) = starting::autoscaler(&self.state());
        let text = fs::read_to_string(file).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line| serde_json::from_str(line).expect("a decision");
        whole.lines().map(line).collect()
    }

    /// Its segments in /dev/shm.
    #[must_use]
    pub fn segments(&self) -> Vec<String> {
        process::segments(&self.segment_prefix())
    }

    /// What it has said on stderr.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    fn segment_prefix(&self) -> String {
        format!("tributary-{}-", self.node)
    }

    // === what an operator does ===

    /// Runs the command line against this server.
    ///
    /// # Panics
    /// If the binary cannot be run.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(place::binary());
        let output = command
            .args(arguments)
            .env("TRIBUTARY_SERVER", self.client.url(""))
            .output();
        Ran::of(&output.expect("the binary runs"))
    }

    /// Writes a file into the scenario's folder.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.home().join(name);
        fs::write(&file, bytes).expect("a file in the test's own folder");
        file
    }

    /// Applies a file.
    #[must_use]
    pub fn apply(&self, file: &Path) -> Ran {
        self.cli(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Applies a manifest whose first model is `initial`.
    #[must_use]
    pub fn try_deploy(&self, manifest: &Manifest, initial: &Model) -> Ran {
        let model = self.write(&format!("{}.safetensors", manifest.name()), initial.file());
        self.apply(&self.write(&format!("{}.yaml", manifest.name()), manifest.text(&model)))
    }

    /// Applies a manifest that must be right.
    #[track_caller]
    pub fn deploy(&self, manifest: &Manifest, initial: &Model) -> Job {
        let _ = self.try_deploy(manifest, initial).expect(0);
        self.job(manifest.name())
    }

    /// A job that is there.
    #[must_use]
    pub fn job(&self, name: &str) -> Job {
        Job::new(self.client.clone(), name)
    }

    // === its end ===

    /// kill -9 of the server, not of its workers.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// kill -9 of the server and its workers at once.
    pub fn kill_everything(&mut self) {
        let workers = self.worker_pids();
        process::signal(self.pid(), Signal::STOP);
        workers.iter().for_each(|worker| {
            process::kill(*worker);
        });
        self.kill();
    }

    /// Stops it as an operator would, and demands that nothing of it stays.
    ///
    /// # Panics
    /// If a worker or a segment stays, if it ends with an error, or if it never used its sidecar.
    pub fn finish(mut self) {
        evidence::write(self.sidecar, &self.node_status(), &self.scrape());
        self.stop();
    }

    /// As [`Self::finish`], for a server that had nothing to do.
    ///
    /// # Panics
    /// If a worker or a segment stays, or if it ends with an error.
    pub fn finish_idle(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let workers = self.worker_pids();
        process::signal(self.pid(), Signal::TERM);
        let ended = eventually("the server ends", || {
            self.child.try_wait().expect("a child")
        });
        assert!(ended.success(), "{ended}");
        for worker in workers {
            assert!(
                !process::is_worker(worker),
                "worker {worker} outlived a clean stop"
            );
        }
        assert_eq!(
            self.segments(),
            Vec::<String>::new(),
            "segments outlived a clean stop"
        );
        assert!(
            !self.log().contains("panicked at"),
            "a part of the server panicked"
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_everything();
        }
        // Without a name the prefix would be everybody's.
        if !self.node.is_empty() {
            for segment in self.segments() {
                let _ = fs::remove_file(Path::new("/dev/shm").join(segment));
            }
        }
        if std::thread::panicking() {
            // The test's captured output: shown if it fails.
            #[allow(clippy::print_stdout, reason = "a failed test shows it")]
            {
                println!("--- the server's stderr ---\n{}", self.log());
            }
        }
    }
}
