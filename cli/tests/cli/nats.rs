//! Processes that find NATS, or do not.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use tempfile::tempdir;
use tributary_tests::nats::{NatsServer, available};

use crate::run::{command, run};

/// A process that is ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self(piped.spawn().unwrap())
    }

    /// The lines of its log, as they come.
    fn log(&mut self) -> Receiver<String> {
        let log = BufReader::new(self.0.stderr.take().unwrap());
        let (sender, receiver) = channel();
        thread::spawn(move || {
            // Read to its end, whoever listens: a process whose log nobody reads stops, or fails.
            for line in log.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        receiver
    }
}

/// Waits for a line of a log that contains this.
fn says(log: &Receiver<String>, text: &str) -> String {
    let found = log.iter().find(|line| line.contains(text));
    found.unwrap_or_else(|| panic!("the process has ended without saying {text:?}"))
}

#[test]
fn who_is_not_let_in_ends_and_names_the_option() {
    if !available() {
        return;
    }
    let server = NatsServer::with("authorization { user: right, password: right }");
    let url = server.url().replace("nats://", "nats://wrong:wrong@");
    let outcome = run(&["controller", "--nats", &url, "--listen", "127.0.0.1:0"]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.contains("error: --nats: "),
        "{}",
        outcome.stderr
    );
    assert!(
        !outcome.stderr.contains("wrong:wrong"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_process_waits_for_nats_and_says_so_once() {
    if !available() {
        return;
    }
    let mut server = NatsServer::start();
    server.stop();
    let url = server.url();
    let directory = tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let mut node = Process::start(&mut command(&[
        "node",
        "--nats",
        &url,
        "--listen",
        "127.0.0.1:0",
        "--name",
        "n1",
        "--state-dir",
        state,
        "--sidecar",
        "userspace",
    ]));
    let log = node.log();
    let line = says(&log, "this process waits for it");
    assert!(line.contains(&server.port().to_string()), "{line}");
    let mut controller = Process::start(&mut command(&[
        "controller",
        "--nats",
        &url,
        "--listen",
        "127.0.0.1:0",
    ]));
    server.start_again();
    says(&controller.log(), "dev.tributary.node.joined node=n1");
}
