//! Starting the process, and hearing what it says.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::Ran;
use crate::place;
use crate::wait::eventually;

/// What a process has said so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn listen(stderr: ChildStderr) -> Self {
        let log = Self::default();
        let lines = log.0.clone();
        // Ends when the server and its workers have: they share the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        log
    }

    pub(super) fn text(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

/// A process that is killed if it is given up.
struct Guarded(Option<Child>);

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a server on a free port; gives its address.
pub(super) fn start(
    sidecar: &str,
    how: How,
    workers: u32,
    state: &Path,
) -> (Child, SocketAddr, Log) {
    let child = command(sidecar, how, state)
        .args(["--listen", "127.0.0.1:0", "--workers", &workers.to_string()])
        .spawn();
    let mut guarded = Guarded(Some(child.expect("the binary runs")));
    let child = guarded.0.as_mut().expect("it was put there");
    let log = Log::listen(child.stderr.take().expect("a pipe"));
    let address = eventually("the server says where it listens", || {
        if let Some(address) = address(&log.text()) {
            return Some(address);
        }
        if let Some(ended) = child.try_wait().expect("a child") {
            // The pipe's last lines may still be on their way.
            std::thread::sleep(std::time::Duration::from_millis(50));
            panic!("the server ended ({ended}):\n{}", log.text());
        }
        None
    });
    (guarded.0.take().expect("it is there"), address, log)
}

/// How a server is started.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// As the test itself runs.
    Ordinary,
    /// Without the privileges that the kernel's sidecar needs.
    NoBpf,
    /// The program with failpoints.
    WithFailpoints,
}

/// Where the fates of a server's workers wait: beside its state directory.
pub(super) fn fates(state: &Path) -> PathBuf {
    state.with_file_name("fates")
}

/// The parameters of a server's autoscaler, if the test gives any, and the record of its decisions.
pub(super) fn autoscaler(state: &Path) -> (PathBuf, PathBuf) {
    let beside = |name| state.with_file_name(name);
    (beside("autoscaler.yaml"), beside("decisions.jsonl"))
}

/// What the kernel asks of those who load programs for sockets.
const CAPABILITIES: &str = "-bpf,-net_admin,-sys_admin";

/// `tributary up`, ready to be started.
fn command(sidecar: &str, how: How, state: &Path) -> Command {
    let mut command = match how {
        How::Ordinary => Command::new(place::binary()),
        How::WithFailpoints => {
            let mut command = Command::new(place::binary_with_failpoints());
            command.env("TRIBUTARY_FAILPOINTS", fates(state));
            command
        }
        How::NoBpf => {
            let mut command = Command::new(place::tool("setpriv"));
            command.args(["--bounding-set", CAPABILITIES, "--inh-caps", CAPABILITIES]);
            command.arg(place::binary());
            command
        }
    };
    command.arg("up").arg("--state-dir").arg(state);
    command.args(["--sidecar", sidecar]);
    let (parameters, decisions) = autoscaler(state);
    if parameters.exists() {
        command.arg("--autoscaler").arg(parameters);
        command.arg("--autoscaler-trace").arg(decisions);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Starts a server that must refuse to start, and hears why.
pub(super) fn refused(sidecar: &str, how: How, state: &Path, listen: &str) -> Ran {
    let mut child = command(sidecar, how, state)
        .args(["--listen", listen])
        .spawn()
        .expect("the binary runs");
    let log = Log::listen(child.stderr.take().expect("a pipe"));
    let ended = eventually("the server ends or starts", || {
        let started = address(&log.text()).is_some();
        if started {
            let _ = child.kill();
        }
        child.try_wait().expect("a child")
    });
    // The pipe is closed with the process; its last lines may still be on their way.
    let stderr = eventually("the server says why", || {
        Some(log.text()).filter(|text| !text.is_empty())
    });
    assert!(address(&stderr).is_none(), "it started: {stderr}");
    Ran {
        code: ended.code().unwrap_or(-1),
        stdout: String::new(),
        stderr,
    }
}

/// The first address that is told is that of the door.
fn address(text: &str) -> Option<SocketAddr> {
    let (_, after) = text.split_once("http://")?;
    let end = after.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
    after[..end].parse().ok()
}
