//! A `tributary up` of one's own: on a free port, with its own state, gone when dropped.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, Tree};
use crate::{Connection, Model, Update, manifest, place};

/// How long a server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// Lines of its log that are kept for when it fails.
const LOG_LINES: usize = 40;

/// A running server; it and its workers are killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    node: String,
    binary: PathBuf,
    log: Log,
    home: TempDir,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Server {
    /// Starts a server with default options, and waits until its door is open.
    ///
    /// # Errors
    /// If it does not start: with what it said.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with more options of `tributary up`, such as `--workers`.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(options: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("tributary-bench-")
            .tempdir()?;
        let binary = place::binary()?;
        let mut child = Command::new(&binary)
            .args(["up", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(home.path().join("state"))
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| binary.display().to_string())?;
        let log = listen(child.stderr.take().context("a pipe")?);
        let mut server = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            node: String::new(),
            binary,
            log,
            home,
        };
        server.address = server.wait_for_address()?;
        let nodes: Value = server.json("/v1/nodes")?;
        let node = nodes[0]["name"].as_str().context("the node has no name")?;
        server.node = node.to_owned();
        Ok(server)
    }

    fn wait_for_address(&mut self) -> Result<SocketAddr> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(address) = address(&self.last_words()) {
                return Ok(address);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status}):\n{}", self.last_words());
            }
            thread::sleep(PAUSE);
        }
        bail!("the server did not start:\n{}", self.last_words());
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its processes and its shared memory.
    #[must_use]
    pub fn tree(&self) -> Tree {
        Tree::of(self.child.id()).with_segments(format!("tributary-{}-", self.node))
    }

    /// A folder for files of the benchmark; the server's state is in it.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// What the network says.
    pub fn connect(&self) -> Result<Connection> {
        Connection::open(self.address)
    }

    /// Fetches a JSON document.
    ///
    /// # Errors
    /// What the network says, an answer that is no success, or no JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        let answer = self.connect()?.get(path)?.success();
        let body = answer.with_context(|| path.to_owned())?.body;
        serde_json::from_slice(&body).with_context(|| path.to_owned())
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// What the network says, or an answer that is no success.
    pub fn scrape(&self) -> Result<Scrape> {
        let answer = self.connect()?.get("/metrics")?.success()?;
        Ok(Scrape(String::from_utf8(answer.body)?))
    }

    /// The status of a round, once it is completed.
    ///
    /// # Errors
    /// If it fails, or takes longer than a minute.
    pub fn completed_round(&self, job: &str, round: u64) -> Result<Value> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let status = self.json(&format!("/v1/jobs/{job}/rounds/{round}"))?;
            match status["phase"].as_str() {
                Some("completed") => return Ok(status),
                Some("failed") => bail!("round {round} of {job} failed: {}", status["error"]),
                _ => thread::sleep(PAUSE),
            }
        }
        bail!("round {round} of {job} is not completed");
    }

    /// Applies manifests; files that they name are uploaded.
    ///
    /// # Errors
    /// If the server refuses them: with what it says.
    pub fn apply(&self, manifests: &[Value]) -> Result<()> {
        let file = self.home().join("manifests.yaml");
        // JSON is YAML.
        let documents: Vec<String> = manifests.iter().map(Value::to_string).collect();
        fs::write(&file, documents.join("\n---\n"))?;
        let output = Command::new(&self.binary)
            .args(["apply", "-f"])
            .arg(&file)
            .env("TRIBUTARY_SERVER", format!("http://{}", self.address))
            .output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("not applied: {}", String::from_utf8_lossy(&said));
        }
        Ok(())
    }

    /// Writes a file into the server's folder, for a manifest to name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, name: &str, pieces: &[&[u8]]) -> Result<PathBuf> {
        let path = self.home().join(name);
        let mut file = File::create(&path)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        Ok(path)
    }

    /// Applies `fedavg` and a job named `bench` that averages `expected` updates of a model a round, in f32; `adjust`
    /// may change its manifest.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn deploy(
        &self,
        model: &Model,
        expected: u32,
        adjust: impl FnOnce(&mut Value),
    ) -> Result<()> {
        let initial = self.write("initial.safetensors", &Update::f32(model, 0).pieces())?;
        let mut job = manifest::job("bench", &initial, expected);
        adjust(&mut job);
        self.apply(&[manifest::function("fedavg")?, job])
    }

    /// Stops it as an operator would.
    ///
    /// # Errors
    /// If it ends with an error, or not at all.
    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the server ended ({status}):\n{}", self.last_words()),
                None => thread::sleep(PAUSE),
            }
        }
        bail!("the server did not stop:\n{}", self.last_words());
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Best effort: there is nobody left to tell.
            let _ = process::end_tree(&mut self.child);
        }
        if !self.node.is_empty() {
            for segment in process::segments(&format!("tributary-{}-", self.node)) {
                let _ = fs::remove_file(segment);
            }
        }
    }
}

/// Keeps the last lines of a process's log.
fn listen(stderr: ChildStderr) -> Log {
    let log = Log::default();
    let kept = log.clone();
    // Ends when the server and its workers have: they share the pipe.
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut lines = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LOG_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    });
    log
}

/// The first address that is told is that of the door.
fn address(text: &str) -> Option<SocketAddr> {
    let (_, after) = text.split_once("http://")?;
    let end = after.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
    after[..end].parse().ok()
}

/// Metrics in Prometheus' text format.
#[derive(Clone, Debug)]
pub struct Scrape(pub(crate) String);

impl Scrape {
    /// What a door answered to `/metrics`.
    #[must_use]
    pub const fn of(text: String) -> Self {
        Self(text)
    }

    /// The series of a family: their labels as they are written, and their values.
    pub fn series<'a>(&'a self, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            (name == family).then(|| Some((labels, value.parse().ok()?)))?
        })
    }

    /// The sum of a family's series whose labels hold `labels`, such as `fl_job="bench"`; 0 if there is none.
    #[must_use]
    pub fn sum(&self, family: &str, labels: &str) -> f64 {
        let series = self.series(family);
        series
            .filter(|(have, _)| have.contains(labels))
            .map(|(_, value)| value)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_is_taken() {
        let text = "INFO up: listening on http://127.0.0.1:4321\nmore http://127.0.0.1:1\n";
        assert_eq!(address(text), "127.0.0.1:4321".parse().ok());
        assert_eq!(address("listening on http://127.0.0.1:43"), None);
        assert_eq!(address("not yet"), None);
    }

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let scrape = Scrape(
            "# HELP a_total x\na_total{job=\"b\",level=\"leaf\"} 3\na_total{job=\"b\",level=\"top\"} 4\n\
             a_total_other 9\nplain 2.5\n"
                .into(),
        );
        assert_eq!(scrape.sum("a_total", r#"job="b""#), 7.0);
        assert_eq!(scrape.sum("a_total", r#"level="top""#), 4.0);
        assert_eq!(scrape.sum("plain", ""), 2.5);
        assert_eq!(scrape.sum("none", ""), 0.0);
    }
}
