//! Starting the process, and hearing what it says.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::Ran;
use crate::wait::eventually;
use crate::{Sidecar, place};

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
            .join("\n")
    }
}

/// Starts a server on a free port; gives its address.
pub(super) fn start(sidecar: Sidecar, workers: u32, state: &Path) -> (Child, SocketAddr, Log) {
    let mut child = command(sidecar, state)
        .args(["--listen", "127.0.0.1:0", "--workers", &workers.to_string()])
        .spawn()
        .expect("the binary runs");
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
    (child, address, log)
}

/// `tributary up`, ready to be started.
pub(super) fn command(sidecar: Sidecar, state: &Path) -> Command {
    let mut command = Command::new(place::binary());
    command
        .arg("up")
        .arg("--state-dir")
        .arg(state)
        .args(["--sidecar", sidecar.name()]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Starts a server that must refuse to start, and hears why.
pub(super) fn refused(sidecar: Sidecar, state: &Path, listen: &str) -> Ran {
    let mut child = command(sidecar, state)
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

fn address(text: &str) -> Option<SocketAddr> {
    let after = text.split_once("is up at http://")?.1;
    after.split_whitespace().next()?.parse().ok()
}
