//! Runs the binary, and answers it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that cannot find a server by accident.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command
        .args(args)
        .env("TRIBUTARY_SERVER", "http://127.0.0.1:1")
        .stdin(Stdio::null());
    command
}

pub(crate) fn run(args: &[&str]) -> Outcome {
    outcome(&mut command(args))
}

pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn run_with_stdin(args: &[&str], input: &str) -> Outcome {
    let mut command = command(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the binary sent.
#[derive(Debug)]
pub(crate) struct Received {
    /// `PUT /v1/blobs/...`.
    pub(crate) line: String,
    pub(crate) body: Vec<u8>,
}

/// Answers each request with the next answer: status, content type, more headers, body.
pub(crate) fn server(answers: &'static [(u16, &str, &str, &str)]) -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let received = respond(stream, answer);
            sender.send(received).unwrap();
        }
    });
    (url, receiver)
}

fn respond(stream: TcpStream, (status, kind, headers, body): &(u16, &str, &str, &str)) -> Received {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let length = head.iter().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    let mut received = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut received).unwrap();
    let length = if *status == 204 {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let answer = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\n{headers}{length}Connection: close\r\n\r\n{body}"
    );
    reader.into_inner().write_all(answer.as_bytes()).unwrap();
    let line = head[0].trim_end_matches(" HTTP/1.1").to_owned();
    Received {
        line,
        body: received,
    }
}
